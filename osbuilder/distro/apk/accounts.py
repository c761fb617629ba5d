"""Users and groups of a guest: its /etc/passwd, /etc/group and /etc/shadow, read and added to as busybox would.

Source: busybox 1.36 loginutils (adduser, addgroup: numbers of system accounts, the fields that they write), passwd(5),
group(5), shadow(5).
"""

from __future__ import annotations

import dataclasses
from typing import Final

from osbuilder.errors import RootfsError
from osbuilder.tree import Tree

USERS: Final = "etc/passwd"
GROUPS: Final = "etc/group"
SHADOW: Final = "etc/shadow"
_SYSTEM_NUMBERS: Final = range(100, 1000)
_NOGROUP: Final = "nogroup"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    """`addgroup -S`: a system group, with the first free number unless `gid` says one."""

    name: str
    gid: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """`adduser -S`: a system user with no password. `home` is made where `make_home` says so."""

    name: str
    uid: int | None = None
    group: str = _NOGROUP
    gecos: str = "Linux User,,,"
    home: str
    shell: str = "/sbin/nologin"
    make_home: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewMember:
    """`addgroup USER GROUP`: a user joins a group."""

    user: str
    group: str


class Accounts:
    """The accounts of a tree. What exists already is left alone, as the programs do that this stands for."""

    def __init__(self, tree: Tree, *, epoch: int) -> None:
        self._tree = tree
        self._day = epoch // 86400

    def uid(self, user: str) -> int | None:
        """Return a user's number."""
        return self._number(USERS, user)

    def gid(self, group: str) -> int | None:
        """Return a group's number."""
        return self._number(GROUPS, group)

    def add_group(self, new: NewGroup) -> None:
        """Add a group. Raises RootfsError where there is no /etc/group, or the number is taken."""
        if self.gid(new.name) is None:
            number = self._free(GROUPS, new.gid, f"group {new.name}")
            self._append(GROUPS, f"{new.name}:x:{number}:")

    def add_user(self, new: NewUser) -> None:
        """Add a user. Raises RootfsError for a group that does not exist, and as `add_group`."""
        if self.uid(new.name) is not None:
            return
        gid = self.gid(new.group)
        if gid is None:
            raise RootfsError(f"user {new.name} cannot be added: there is no group {new.group} in /{GROUPS}")
        uid = self._free(USERS, new.uid, f"user {new.name}")
        self._append(USERS, f"{new.name}:x:{uid}:{gid}:{new.gecos}:{new.home}:{new.shell}")
        if self._tree.exists(SHADOW):
            self._append(SHADOW, f"{new.name}:!:{self._day}:0:99999:7:::")
        if new.group != _NOGROUP:
            self.add_member(NewMember(user=new.name, group=new.group))
        if new.make_home and not self._tree.exists(new.home):
            self._tree.add_dir(new.home, uid=uid, gid=gid, parents_mode=0o755)

    def add_member(self, new: NewMember) -> None:
        """Put a user into a group. Raises RootfsError for a group that does not exist."""
        lines = self._lines(GROUPS, f"group {new.group}")
        for number, line in enumerate(lines):
            name, _, rest = line.partition(":")
            if name == new.group:
                members = [member for member in rest.rpartition(":")[2].split(",") if member]
                if new.user not in members:
                    lines[number] = f"{line.rpartition(':')[0]}:{','.join([*members, new.user])}"
                self._write(GROUPS, lines)
                return
        raise RootfsError(f"user {new.user} cannot join group {new.group}: /{GROUPS} has no such group")

    def _number(self, path: str, name: str) -> int | None:
        for line in self._lines(path, "") if self._tree.exists(path) else ():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2 and fields[2].isdigit():
                return int(fields[2])
        return None

    def _free(self, path: str, wanted: int | None, what: str) -> int:
        fields = [line.split(":") for line in self._lines(path, what)]
        taken = {int(line[2]) for line in fields if len(line) > 2 and line[2].isdigit()}
        free = [number for number in _SYSTEM_NUMBERS if number not in taken] if wanted is None else [wanted]
        if not free or free[0] in taken:
            raise RootfsError(f"{what} cannot be added to /{path}: no free number (asked for {wanted or 'any'})")
        return free[0]

    def _lines(self, path: str, what: str) -> list[str]:
        if not self._tree.exists(path):
            raise RootfsError(
                f"{what} cannot be added: there is no /{path}",
                hint="Install the package that brings it (Alpine: alpine-baselayout-data).",
            )
        return self._tree.read_bytes(path).decode("utf-8", "surrogateescape").splitlines()

    def _append(self, path: str, line: str) -> None:
        self._write(path, [*self._lines(path, line.partition(":")[0]), line])

    def _write(self, path: str, lines: list[str]) -> None:
        entry = self._tree.get(path)
        content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        self._tree.add_file(path, content, mode=entry.mode, uid=entry.uid, gid=entry.gid, replace=True)
