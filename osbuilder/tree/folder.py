"""Reads a folder of this host as a tree, without root, the same for whoever owns it.

Owners: who owns the top folder is root in the tree, user and group each; every other number is kept. So a tree that an
ordinary user unpacked is root's, and one that root made keeps its users. Of extended attributes only those come along
that belong to the files; labels and hashes that this host's kernel put there stay behind.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from osbuilder.errors import TreeError
from osbuilder.tree.entry import EMPTY, Content, Entry, Kind, Span
from osbuilder.tree.posix_acl import ACCESS, DEFAULT
from osbuilder.tree.tarread import Member
from osbuilder.tree.tree import Tree

_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIR,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
# Numbers from here on are a user namespace's (subuid(5)), as this host sees them; no distribution's files have them.
_FIRST_MAPPED: Final = 65536
_AS_TAR: Final = "Make a tar of it (as root, or in its user namespace: podman unshare tar ...) and name that."


def read_folder(top: Path) -> Tree:
    """Return the tree in a folder. Contents are read when it is written; what changed until then raises TreeError.

    Raises TreeError for what cannot be read, a socket, a mounted filesystem below, and an owner of a user namespace.
    """
    return Tree.of_members(_Walk(top).members(), str(top))


class _Walk:
    def __init__(self, top: Path) -> None:
        self.top = top
        self.status = _look(top)
        self.first_names: dict[int, str] = {}

    def members(self) -> Iterator[Member]:
        yield self.member("", self.top, self.status)
        # Not a call for each folder: a tree may be deeper than Python's stack.
        pending = _below("", self.top)
        while pending:
            name, path = pending.pop()
            status = _look(path)
            if status.st_dev != self.status.st_dev:
                raise TreeError(
                    f"something is mounted in the tree ({path}): expected one filesystem", hint=f"umount {path}"
                )
            yield self.member(name, path, status)
            if stat.S_ISDIR(status.st_mode):
                pending += _below(f"{name}/", path)

    def member(self, name: str, path: Path, status: os.stat_result) -> Member:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            raise TreeError(f"a socket in the tree ({path}): no archive can hold one", hint="Remove it.")
        if status.st_nlink > 1 and kind is not Kind.DIR:
            first = self.first_names.setdefault(status.st_ino, name)
            if first != name:
                return Member(name=name, offset=0, entry=None, link=first)
        is_device = kind in (Kind.CHAR, Kind.BLOCK)
        entry = Entry(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=_owner(path, status.st_uid, root=self.status.st_uid),
            gid=_owner(path, status.st_gid, root=self.status.st_gid),
            mtime_s=status.st_mtime_ns // 10**9,
            content=_content(path, status.st_size) if kind is Kind.FILE else EMPTY,
            target=str(path.readlink()) if kind is Kind.SYMLINK else "",
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
            xattrs=_xattrs(path),
        )
        return Member(name=name, offset=0, entry=entry)


def _below(prefix: str, folder: Path) -> list[tuple[str, Path]]:
    """Return the names and paths of what is in a folder, the last one first."""
    try:
        with os.scandir(folder) as found:
            paths = sorted((Path(entry.path) for entry in found), reverse=True)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return [(prefix + path.name, path) for path in paths]


def _look(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> TreeError:
    return TreeError(f"cannot read the tree ({path}): {error.strerror}", hint=_AS_TAR)


def _owner(path: Path, number: int, *, root: int) -> int:
    if number == root:
        return 0
    if number >= _FIRST_MAPPED:
        raise TreeError(
            f"an owner of a user namespace ({path}): expected a number below {_FIRST_MAPPED}, got {number}",
            hint=_AS_TAR,
        )
    return number


def _content(path: Path, size_bytes: int) -> Content:
    if not size_bytes:
        return EMPTY
    return Content(size_bytes=size_bytes, spans=(Span(source=path, length_bytes=size_bytes),))


def _xattrs(path: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        kept = sorted(
            name for name in names if name.startswith("user.") or name in (ACCESS, DEFAULT, "security.capability")
        )
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in kept)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise _unreadable(path, error) from error
