"""A tree for a foreign architecture from its packages and a native twin: the same packages, configured here.

What maintainer scripts do on a fresh root is the same for every architecture, but for names of the architecture in
paths and texts. So nothing foreign has to run: files come from the foreign packages, and what scripts added to, changed
or removed from the twin is carried over, with the names translated. Whatever this cannot know to be right is refused by
name: a package that only one side has and whose scripts would run, scripts that differ, a changed file whose original
differs, a program that a script copied, a text that still names the twin's architecture.

Owns what a file of the result is taken from. dpkg's own records are osbuilder.distro.dpkg_records'.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from osbuilder.distro.deb import Deb
from osbuilder.distro.dpkg_records import EMULATED, INFO, RUN_ON_INSTALL, Database, md5, records
from osbuilder.errors import RootfsError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Content, Entry, Kind
from osbuilder.tree.tarread import Member
from osbuilder.tree.tree import name_key

# Their scripts name the architecture's loader and the other folders of libraries that it could have. What they do with
# them, diversions, is computed from the packages (dpkg_records).
DECLARED: Final = ("base-files", "libc6")

# dpkg's and ldconfig's: made anew for the result. status-old is the state before the last package was configured.
_MADE_ANEW: Final = (
    f"{INFO}/",
    "etc/ld.so.cache",
    "var/lib/dpkg/arch",
    "var/lib/dpkg/arch-native",
    "var/lib/dpkg/diversions",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/triggers/File",
    "var/lib/apt/extended_states",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the twin's architecture and the foreign one are called: by Debian, in paths of libraries, their loaders."""

    debian: tuple[str, str]
    triplet: tuple[str, str]
    loader: tuple[str, str]

    def path(self, name: str) -> str:
        """Return the foreign name of a path of the twin."""
        return name.replace(self.triplet[0], self.triplet[1])

    def twin_path(self, name: str) -> str:
        """Return the twin's name of a foreign path."""
        return name.replace(self.triplet[1], self.triplet[0])

    def text(self, data: bytes) -> bytes:
        """Return a text of the twin with the foreign names in it."""
        pairs = (self.triplet, self.loader, *((f":{native}", f":{foreign}") for native, foreign in (self.debian,)))
        for native, foreign in pairs:
            data = data.replace(native.encode(), foreign.encode())
        return data

    def tells(self, data: bytes) -> bool:
        """Say whether a text names the twin's architecture."""
        words = (
            self.triplet[0].encode(),
            self.loader[0].encode(),
            b"\\b" + re.escape(self.debian[0]).encode() + b"\\b",
        )
        return any(re.search(word, data) for word in words)

    def neutral(self, text: str) -> str:
        """Return a script without any of the names."""
        for native, foreign in (self.triplet, self.loader, self.debian):
            text = text.replace(native, "@").replace(foreign, "@")
        return text


def carry(debs: tuple[Deb, ...], twin: Tree, names: Names) -> Tree:
    """Return the tree of foreign packages as they would be when configured. Raises RootfsError, TreeError.

    ld.so.cache is left out: the foreign ldconfig writes it.
    """
    database = Database.of(twin)
    check_scripts(debs, database, names)
    return _Carrier(debs, twin, database, names).tree()


def check_scripts(debs: tuple[Deb, ...], twin: Database, names: Names) -> None:
    """Raise RootfsError unless the scripts that ran on the twin are those that would run on the foreign root."""
    ours = {deb.name: deb for deb in debs}
    for name in sorted({*ours, *twin.packages}):
        for script in RUN_ON_INSTALL:
            foreign = ours[name].text(script) if name in ours else None
            native = twin.script(name, script)
            if name in DECLARED or names.neutral(foreign or "") == names.neutral(native or ""):
                continue
            where = f"{names.debian[1]} and {names.debian[0]}"
            raise RootfsError(
                f"what the {script} of {name} does for {names.debian[1]} cannot be told: "
                f"it is not the same for {where}",
                hint=EMULATED,
            )


class _Carrier:
    """One run of `carry`."""

    def __init__(self, debs: tuple[Deb, ...], twin: Tree, database: Database, names: Names) -> None:
        self.debs = debs
        self.twin = twin
        self.database = database
        self.names = names
        self.members: dict[str, Member] = {}
        self.brought: dict[str, str] = {}
        self.accounts = {kind: read_ids(twin, f"etc/{file}") for kind, file in (("u", "passwd"), ("g", "group"))}
        # Folders of the root that are links where /usr is merged: packages may still name what is below them.
        self.merged = {
            name: entry.target for name, entry in twin.items() if "/" not in name and entry.kind is Kind.SYMLINK
        }
        self.used: set[str] = set()

    def tree(self) -> Tree:
        for deb in self.debs:
            for member in deb.members():
                self.unpack(deb.name, member)
        self.remove_gone()
        self.carry_made()
        for name, entry in records(self.debs, self.twin, self.names.text, self.names.debian[1]):
            self.members[name] = _member(name, entry)
        # A folder before what is in it, and a hard link after the file that it names.
        rows = sorted(self.members.values(), key=lambda member: (member.link is not None, name_key(member.name)))
        return Tree.of_members(self.dated(rows), "packages of a foreign root")

    def unpack(self, package: str, member: Member) -> None:
        folder = _is_folder(member)
        name = self.place(member.name, folder=folder)
        there = self.members.get(name)
        if there is not None:
            if folder and _is_folder(there):
                return
            raise RootfsError(f"/{name} comes with {self.brought[name]} and with {package}", hint=EMULATED)
        self.brought[name] = package
        if member.entry is None:
            self.members[name] = dataclasses.replace(member, name=name, link=self.place(member.link or ""))
        else:
            entry = self.configured(name, self.owned(member.entry, member.owner))
            self.members[name] = dataclasses.replace(member, name=name, entry=entry)

    def place(self, name: str, *, folder: bool = False) -> str:
        """Return where a package's name leads to in the merged root."""
        top, slash, rest = name.partition("/")
        if top in self.merged and (slash or folder):
            self.used.add(top)
            return f"{self.merged[top]}{slash}{rest}"
        return name

    def configured(self, name: str, entry: Entry) -> Entry:
        """Return a package's file with what scripts did to it in the twin."""
        twin_name = self.names.twin_path(name)
        native = self.twin.find(twin_name)
        if native is None:
            return entry
        if native.kind is not entry.kind:  # replaced by a script: /var/run is a link in the end
            return self.foreign(twin_name, native)
        entry = dataclasses.replace(entry, mode=native.mode, uid=native.uid, gid=native.gid, xattrs=native.xattrs)
        if entry.kind is not Kind.FILE or not self.database.changed(twin_name, native):
            return entry
        if self.database.original(twin_name) != md5(entry.content):
            if _same(native.content, entry.content):
                return entry
            raise RootfsError(
                f"a script changed /{twin_name}, which is not the same for {' and '.join(self.names.debian)}",
                hint=EMULATED,
            )
        return dataclasses.replace(entry, content=self.translated(twin_name, native), mtime_s=native.mtime_s)

    def owned(self, entry: Entry, owner: tuple[str, str]) -> Entry:
        """Return a package's file with its owner by the numbers that the twin gave to names (dpkg looks them up)."""
        user, group = owner
        return dataclasses.replace(
            entry, uid=self.accounts["u"].get(user, entry.uid), gid=self.accounts["g"].get(group, entry.gid)
        )

    def remove_gone(self) -> None:
        """Leave out what a package brings and a script removed."""
        for name in list(self.members):
            twin_name = self.names.twin_path(name)
            if self.database.brings(twin_name) and not self.twin.exists(twin_name):
                del self.members[name]

    def carry_made(self) -> None:
        """Take over what scripts (and mmdebstrap) made."""
        for twin_name, entry in self.twin.items():
            top = "/" not in twin_name and entry.kind is Kind.SYMLINK and twin_name in self.used
            name = self.names.path(twin_name)
            if not twin_name or name in self.members or twin_name.startswith(_MADE_ANEW):
                continue
            if self.database.brings(twin_name) and not top:
                continue
            self.members[name] = _member(name, self.foreign(twin_name, entry))

    def foreign(self, name: str, entry: Entry) -> Entry:
        """Return what a script made in the twin as it would have made it in the foreign root."""
        if entry.kind is Kind.SYMLINK:
            return dataclasses.replace(entry, target=self.names.path(entry.target))
        return dataclasses.replace(entry, content=self.translated(name, entry)) if entry.kind is Kind.FILE else entry

    def translated(self, name: str, entry: Entry) -> Content:
        data = entry.content.read()
        text = self.names.text(data)
        if data.startswith(b"\x7fELF") or self.names.tells(text):
            raise RootfsError(
                f"a script made /{name} for {self.names.debian[0]}, and what it would be for {self.names.debian[1]} "
                "cannot be told",
                hint=EMULATED,
            )
        return entry.content if text == data else Content.of(text)

    def dated(self, rows: Iterable[Member]) -> Iterator[Member]:
        """Yield the members, folders with the times that they have in the twin, where something was put into them."""
        filled = {row.name.rpartition("/")[0] for row in self.members.values()}
        for row in rows:
            if row.entry is None or row.entry.kind is not Kind.DIR:
                yield row
                continue
            native = self.twin.find(self.names.twin_path(row.name))
            now = None if row.name in filled else row.entry.mtime_s
            mtime = native.mtime_s if native is not None and native.kind is Kind.DIR else now
            yield dataclasses.replace(row, entry=dataclasses.replace(row.entry, mtime_s=mtime))


def read_ids(tree: Tree, database: str) -> Mapping[str, int]:
    """Return the numbers of a passwd(5) or group(5) by name."""
    rows = [line.split(":") for line in tree.read_bytes(database).decode().splitlines()]
    return {row[0]: int(row[2]) for row in rows}


def _is_folder(member: Member) -> bool:
    return member.entry is not None and member.entry.kind is Kind.DIR


def _member(name: str, entry: Entry) -> Member:
    return Member(name=name, offset=0, entry=entry)


def _same(one: Content, other: Content) -> bool:
    return one.size_bytes == other.size_bytes and one.read() == other.read()
