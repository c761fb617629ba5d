"""What a command leaves in its output: files and folders, nothing else.

Whoever names a kernel or an agent has its build run, and what that leaves is read, moved and published on this host,
where a link leads out of the build: to anything that the caller may read.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Final, NoReturn

from osbuilder.errors import StoreError

_KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_HINT: Final = "See the step's log for what wrote it: in /out a build has to leave copies, which anybody may read."


def refuse_links(folder: Path) -> None:
    """Refuse what is neither a file nor a folder below a folder, and what cannot be looked at. Raises StoreError."""
    for top, folders, files in os.walk(folder, onerror=_unreadable):
        for name in (*folders, *files):
            _expect(Path(top, name), stat.S_IFREG, stat.S_IFDIR)


def open_left(path: Path) -> io.BufferedReader:
    """Open a file that a build left, to read it; a link is not followed. Raises StoreError for what is no file."""
    _expect(path, stat.S_IFREG)
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _expect(path: Path, *kinds: int) -> None:
    kind = stat.S_IFMT(path.lstat().st_mode)
    if kind not in kinds:
        expected = " or ".join(_KINDS[each] for each in kinds)
        raise StoreError(
            f"what was built is refused ({path}): expected {expected}, got {_KINDS[kind]}",
            hint=_HINT,
        )


def _unreadable(error: OSError) -> NoReturn:
    raise StoreError(
        f"what was built is refused ({error.filename}): expected a folder that can be read, got: {error.strerror}",
        hint=_HINT,
    ) from error
