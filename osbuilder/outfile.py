"""Files that appear whole or not at all, and copies that keep holes."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from osbuilder.errors import OsbuilderError

_BLOCK_BYTES = 1 << 20


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


def copy_data(source: int, target: int) -> None:
    """Copy what is not a hole from one open file into another, to the same place (lseek(2), SEEK_DATA).

    Raises OSError, also when the source ends early because another process writes to it.
    """
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        at = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, at - start)


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    """Copy in the kernel where it can, which shares blocks on file systems that share."""
    while length:
        try:
            done = os.copy_file_range(source, target, length, offset, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            done = os.pwrite(target, os.pread(source, min(length, _BLOCK_BYTES), offset), offset)
        if not done:
            raise OSError(errno.ESTALE, "the content ended early while it was copied")
        offset += done
        length -= done
