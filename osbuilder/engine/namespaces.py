"""User namespaces for the sandbox: which ids an ordinary user may map, and how a waiting child gets its map."""

from __future__ import annotations

import dataclasses
import os
import pwd
import subprocess
from pathlib import Path
from typing import Final

from osbuilder.errors import EngineError, ToolMissing

IDS_NEEDED: Final = 65536
"""A root filesystem uses ids from 0 to 65534 (nobody); fewer than this many make chown fail inside."""

_TIMEOUT_S: Final = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """One line of uid_map(5): `count` ids from `inside` on are those from `outside` on."""

    inside: int
    outside: int
    count: int


def root_map(own_id: int, subordinate: IdRange | None) -> tuple[IdRange, ...]:
    """Return the map in which the caller is uid 0 and has every other id that a root filesystem uses.

    Root of this host (`subordinate` is None) maps ids to themselves.
    """
    if subordinate is None:
        return (IdRange(inside=0, outside=0, count=IDS_NEEDED),)
    return (IdRange(inside=0, outside=own_id, count=1), subordinate)


def subordinate_range(database: Path, user: str, uid: int) -> IdRange | None:
    """Return the first large enough range that subuid(5) or subgid(5) gives a user; None if there is none."""
    try:
        text = database.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        owner, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if owner in (user, str(uid)) and start.isdecimal() and count.isdecimal() and int(count) >= IDS_NEEDED - 1:
            return IdRange(inside=1, outside=int(start), count=IDS_NEEDED - 1)
    return None


def own_ranges() -> tuple[IdRange, IdRange] | None:
    """Return the calling user's subordinate uids and gids, None for root. Raises ToolMissing if a user has too few."""
    uid = os.getuid()
    if uid == 0:
        return None
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    uids = subordinate_range(Path("/etc/subuid"), user, uid)
    gids = subordinate_range(Path("/etc/subgid"), user, uid)
    if uids is None or gids is None:
        raise ToolMissing(
            f"user {user} has no subordinate ids: expected {IDS_NEEDED} of them in /etc/subuid and /etc/subgid",
            hint=f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
        )
    return uids, gids


def write_maps(pid: int, ranges: tuple[IdRange, IdRange] | None) -> None:
    """Give a process that waits in a new user namespace its root map. Raises EngineError, ToolMissing."""
    uids, gids = ranges or (None, None)
    _write_map(pid, "uid", root_map(os.getuid(), uids))
    _write_map(pid, "gid", root_map(os.getgid(), gids))


def _write_map(pid: int, kind: str, ranges: tuple[IdRange, ...]) -> None:
    if os.geteuid() == 0:
        text = "".join(f"{each.inside} {each.outside} {each.count}\n" for each in ranges)
        try:
            Path(f"/proc/{pid}/{kind}_map").write_text(text, encoding="ascii")
        except OSError as error:
            raise EngineError(f"cannot map {kind}s into the sandbox: {error.strerror}") from error
        return
    numbers = [str(number) for each in ranges for number in (each.inside, each.outside, each.count)]
    argv = [f"new{kind}map", str(pid), *numbers]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError as error:
        raise ToolMissing(f"{argv[0]} is missing", hint="sudo apt-get install uidmap") from error
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise EngineError(f"cannot map {kind}s into the sandbox: {' '.join(argv)}: {said}") from error
