"""Puts archive members together as a tree, refusing those that escape, shadow or repeat others."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator

from osbuilder.errors import TreeError
from osbuilder.tree.entry import Entry, Kind
from osbuilder.tree.posix_acl import ACCESS, DEFAULT, encode_acl
from osbuilder.tree.tarread import Member

_ACL_XATTRS = {"SCHILY.acl.access": ACCESS, "SCHILY.acl.default": DEFAULT}
_DATABASES = {"user": "etc/passwd", "group": "etc/group"}
# A folder that the archive leaves out, the root too.
IMPLIED_FOLDER = Entry(kind=Kind.DIR, mode=0o755)


def load_members(members: Iterable[Member], label: str) -> tuple[dict[str, int], dict[int, Entry]]:
    """Return (inode number by name, entry by inode number) for an archive's members; `label` names it in errors.

    Raises TreeError, with the member's name and offset, for a name that comes twice (also as `x` and `./x`), a member
    below something that is not a folder, and a hard link to a folder or to what is not before it in the archive.
    """
    loader = _Loader(label)
    with _collector_paused():
        for member in members:
            loader.take(member)
    for inode, member in loader.acls:
        loader.take_acls(inode, member)
    return loader.names, loader.inodes


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """For making objects by the ten thousand that all stay: a search for garbage costs a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Loader:
    def __init__(self, label: str) -> None:
        self.label = label
        self.names: dict[str, int] = {"": 0}
        self.inodes: dict[int, Entry] = {0: IMPLIED_FOLDER}
        self.implied: set[str] = {""}
        self.offsets: dict[str, int] = {}
        self.acls: list[tuple[int, Member]] = []

    def refuse(self, member: Member, what: str, *, hint: str = "") -> TreeError:
        shown = member.name or "."
        return TreeError(f"bad archive ({self.label}): member {shown!r} at byte {member.offset} {what}", hint=hint)

    def take(self, member: Member) -> None:
        name = member.name
        if name in self.implied:
            if member.entry is None or member.entry.kind is not Kind.DIR:
                kind = "hard link" if member.entry is None else member.entry.kind.value
                raise self.refuse(member, f"is a {kind}, but the archive uses that name as a folder")
            self.inodes[self.names[name]] = member.entry
            self.implied.remove(name)
        elif name in self.names:
            raise self.refuse(member, f"is a duplicate: the name was there at byte {self.offsets[name]}")
        else:
            self.need_folder(member, name.rpartition("/")[0])
            if member.entry is None:
                self.names[name] = self.linked(member)
            else:
                self.insert(name, member.entry)
        self.offsets[name] = member.offset
        if member.acls:
            self.acls.append((self.names[name], member))

    def insert(self, name: str, entry: Entry) -> None:
        inode = len(self.inodes)
        self.inodes[inode] = entry
        self.names[name] = inode

    def need_folder(self, member: Member, name: str) -> None:
        missing = []
        while name not in self.names:
            missing.append(name)
            name = name.rpartition("/")[0]
        kind = self.inodes[self.names[name]].kind
        if kind is not Kind.DIR:
            raise self.refuse(member, f"lies below {name!r}, which is a {kind.value}")
        for folder in reversed(missing):
            self.insert(folder, IMPLIED_FOLDER)
            self.implied.add(folder)

    def linked(self, member: Member) -> int:
        inode = self.names.get(member.link or "")
        if inode is None:
            raise self.refuse(member, f"is a hard link to {member.link!r}, which is not in the archive before it")
        if self.inodes[inode].kind is Kind.DIR:
            raise self.refuse(member, f"is a hard link to the folder {member.link or '.'!r}")
        return inode

    def take_acls(self, inode: int, member: Member) -> None:
        entry = self.inodes[inode]
        found = dict(entry.xattrs)
        for keyword, text in member.acls:
            try:
                value = encode_acl(text, self.lookup)
            except ValueError as error:
                raise self.refuse(
                    member, f"has a malformed {keyword}: {error}", hint="Write the archive with --numeric-owner."
                ) from None
            if found.setdefault(_ACL_XATTRS[keyword], value) != value:
                raise self.refuse(member, f"has a {keyword} that differs from its xattr {_ACL_XATTRS[keyword]}")
        self.inodes[inode] = dataclasses.replace(entry, xattrs=tuple(sorted(found.items())))

    def lookup(self, kind: str, name: str) -> int | None:
        """Return the number of a user or group as the archive's own /etc/passwd or /etc/group has it."""
        inode = self.names.get(_DATABASES[kind])
        text = b"" if inode is None else self.inodes[inode].content.read()
        for line in text.decode("utf-8", "surrogateescape").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[0] == name and fields[2].isdigit():
                return int(fields[2])
        return None
