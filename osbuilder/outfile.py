"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from osbuilder.errors import OsbuilderError


@contextlib.contextmanager
def replacing(path: Path, error: type[OsbuilderError]) -> Iterator[int]:
    """Yield a descriptor of a new file that takes the place of `path` when the block ends without an error.

    The mode is 0666 less the umask, as for any new file. Raises `error` when it cannot be written.
    """
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as cause:
        raise error(f"cannot write ({path}): {cause.strerror or cause}") from cause
    try:
        yield fd
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(fd, 0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as cause:
        Path(temporary).unlink(missing_ok=True)
        raise error(f"cannot write ({path}): {cause.strerror or cause}") from cause
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
