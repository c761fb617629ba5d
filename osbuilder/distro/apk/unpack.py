"""Package files put together as a tree: who owns which path, who gives way, and which numbers owners have.

Several packages may bring a path only if one of them `replaces` the other, or both were built from one source; the
rules are those of apk-tools 2.14 (apk-package(5), replaces and replaces_priority).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

from osbuilder.distro.apk.accounts import Accounts
from osbuilder.distro.apk.archive import Control, VerifiedPackage
from osbuilder.distro.apk.index import Package, Provide, parse_dependency
from osbuilder.errors import RootfsError, TreeError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind, MemoryArchive
from osbuilder.tree.tarread import Member, read_members


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A package and its own files. `sha1` has the digest of each file's content, or of a symlink's target.

    `owners` are (user, group) by name where a file does not belong to root.
    """

    package: Package
    control: Control
    tree: Tree
    sha1: Mapping[str, bytes]
    owners: Mapping[str, tuple[str, str]]

    def names(self) -> list[str]:
        """Return the package's names, folders before what is in them, without the root."""
        return [name for name in self.tree.names() if name]


def unpack(package: Package, verified: VerifiedPackage) -> Unpacked:
    """Return a verified package's files; contents stay in memory. Raises TreeError for a malformed archive."""
    data = verified.unpack()
    members = tuple(read_members(MemoryArchive(data, package.file_name)))
    tree = Tree.of_members(members, package.file_name)
    return Unpacked(
        package=package,
        control=verified.control,
        tree=tree,
        sha1={name: digest for name, entry in tree.items() if (digest := _digest(entry, data)) is not None},
        owners={member.name: member.owner for member in members if _is_named(member)},
    )


def _digest(entry: Entry, data: bytes) -> bytes | None:
    if entry.kind is Kind.SYMLINK:
        return hashlib.sha1(entry.target.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()
    if entry.kind is not Kind.FILE:
        return None
    digest = hashlib.sha1(usedforsecurity=False)
    view = memoryview(data)
    for span in entry.content.spans:
        # Not span.chunks(): that copies, and this runs over every byte that is installed.
        source = (
            view[span.offset : span.offset + span.length_bytes] if span.source is not None else bytes(span.length_bytes)
        )
        digest.update(source)
    return digest.digest()


def _is_named(member: Member) -> bool:
    return any(name not in ("", "root") for name in member.owner)


class Installation:
    """The root filesystem while packages are laid into it, one after the other."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.installed: list[Unpacked] = []
        self._owner: dict[str, int] = {}
        self._lost: dict[int, set[str]] = {}
        self._named: dict[str, tuple[str, str]] = {}

    def add(self, new: Unpacked) -> None:
        """Lay a package's files into the tree. Raises RootfsError where they are another package's."""
        number = len(self.installed)
        self.installed.append(new)
        self._lost[number] = set()
        kept = {name: place for name in new.names() if (place := self._claim(number, name)) is not None}
        own = Tree()
        own.merge(new.tree)
        own.remove_all(self._lost[number])
        try:
            self.tree.merge(own, replace=True)
        except TreeError as error:
            raise RootfsError(f"{new.package} cannot be unpacked over what is there: {error.message}") from error
        for name, place in kept.items():
            entry = new.tree.get(name)
            if entry.kind is Kind.DIR:
                self._adopt_folder(place, entry)
            if name in new.owners:
                self._named[place] = new.owners[name]

    def files_of(self, number: int) -> list[str]:
        """Return the names that the package installed as the `number`th still owns, folders among them."""
        lost = self._lost[number]
        return [name for name in self.installed[number].names() if name not in lost]

    def resolve_owners(self, accounts: Accounts) -> None:
        """Give files to the users and groups that their packages name, by the guest's own numbers."""
        for place, (user, group) in self._named.items():
            entry = self.tree.find(place)
            if entry is not None:
                uid, gid = self.owner_numbers(accounts, entry, user, group)
                self.tree.chown(place, uid=uid, gid=gid)

    @staticmethod
    def owner_numbers(accounts: Accounts, entry: Entry, user: str, group: str) -> tuple[int, int]:
        """Return the numbers of an owner: the guest's, or those of the archive for a name that the guest lacks."""
        uid, gid = accounts.uid(user), accounts.gid(group)
        return (entry.uid if uid is None else uid), (entry.gid if gid is None else gid)

    def _claim(self, number: int, name: str) -> str | None:
        """Return where a package's name lies in the tree, or None when it gives way to the owner that it has."""
        new = self.installed[number]
        place = self._place(name)
        if new.tree.get(name).kind is Kind.DIR:
            return place
        holder = self._owner.get(place)
        if holder is not None:
            old = self.installed[holder]
            if not _may_replace(new, old, place):
                self._lost[number].add(name)
                return None
            self._lost[holder].update(each for each in old.names() if self._place(each) == place)
        self._owner[place] = number
        return place

    def _place(self, name: str) -> str:
        """Return the name that a package's name has in the tree, where its folder may be a symlink's target."""
        folder, _, last = name.rpartition("/")
        if not folder or not self.tree.exists(folder):
            return name
        real = self.tree.resolve(folder)
        return f"{real}/{last}" if real else last

    def _adopt_folder(self, place: str, entry: Entry) -> None:
        """Give a folder the attributes of the package that says more than the default of it."""
        found = self.tree.find(place)
        if found is None or found.kind is not Kind.DIR or (entry.mode, entry.uid, entry.gid) == (0o755, 0, 0):
            return
        if (found.mode, found.uid, found.gid) == (0o755, 0, 0):
            self.tree.add_dir(
                place, mode=entry.mode, uid=entry.uid, gid=entry.gid, xattrs=dict(entry.xattrs), replace=True
            )


def _may_replace(new: Unpacked, old: Unpacked, place: str) -> bool:
    """Whether a new package's file takes the place of another's. Raises RootfsError when nothing says so or not."""
    if new.package.origin and new.package.origin == old.package.origin:
        return True
    new_rank, old_rank = _rank(new, old.package), _rank(old, new.package)
    if old_rank > new_rank:
        return False
    if new_rank >= 0:
        return True
    raise RootfsError(
        f"two packages bring the same file (/{place}): {old.package} and {new.package}, and neither replaces the other",
        hint="Leave one of them out (--package).",
    )


def _rank(package: Unpacked, other: Package) -> int:
    """Return the priority with which a package replaces another, -1 when it does not."""
    provide = Provide(other.name, other.version)
    replaces = (parse_dependency(word) for line in package.control.all("replaces") for word in line.split())
    if not any(dependency.is_met_by(provide) for dependency in replaces):
        return -1
    return int(package.control.one("replaces_priority") or 0)


def written_folders(unpacked: Iterable[Unpacked]) -> set[str]:
    """Return the folders that packages put something into: what triggers fire for."""
    return {
        name if each.tree.get(name).kind is Kind.DIR else name.rpartition("/")[0]
        for each in unpacked
        for name in each.names()
    }
