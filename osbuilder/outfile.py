"""Files that appear whole or not at all, and copies that keep holes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from osbuilder.errors import OsbuilderError

_BLOCK_BYTES: Final = 1 << 20
_MARK_BYTES: Final = 8
_ABANDONED_S: Final = 3600


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a free name beside a path: what is made there takes the path's place, or goes when that fails.

    What a killed process left beside it, untouched for an hour, goes as well. Raises OSError.
    """
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_MARK_BYTES)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    form = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _MARK_BYTES}}}")
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if form.fullmatch(entry.name)]
    for name in names:
        left = path.with_name(name)
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.lstat().st_ctime > _ABANDONED_S:
                left.unlink()


@contextlib.contextmanager
def replacing(path: Path, error: type[OsbuilderError]) -> Iterator[int]:
    """Yield a descriptor of a new file that takes the place of `path` when the block ends without an error.

    The mode is 0666 less the umask, as for any new file. Raises `error` when it cannot be written.
    """
    try:
        with appearing(path) as temporary:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                yield fd
            finally:
                os.close(fd)
    except OSError as cause:
        raise error(f"cannot write ({path}): {cause.strerror or cause}") from cause


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
