"""Time in a guest: chrony follows the host's clock through PTP, and asks no server on any network.

Source: chrony.conf(5), refclock PHC; the device appears with the kernel's ptp_kvm, on hosts that offer it.
"""

from __future__ import annotations

import re
from typing import Final

from osbuilder.template import render
from osbuilder.tree import Tree

_CONFIGURATIONS: Final = ("etc/chrony/chrony.conf", "etc/chrony.conf")
_SERVICES: Final = ("chrony.service", "chronyd.service")
_UNIT_FOLDERS: Final = ("usr/lib/systemd/system", "lib/systemd/system")

# makestep: a guest that was paused may be wrong by days, so it steps whenever it is off by more than a second.
_PTP: Final = "\n# The host's clock.\nrefclock PHC /dev/ptp0 poll 3 dpoll -2 offset 0\nmakestep 1 -1\n"


def set_up_time(tree: Tree, *, drop_in: str) -> tuple[str, ...]:
    """Point chrony at /dev/ptp0 and let its service start only where that exists; return the files written.

    `drop_in` is the template of the service's drop-in. A tree without chrony is left alone: its host sets its clock.
    """
    written = []
    for path in _CONFIGURATIONS:
        if tree.exists(path):
            entry = tree.get(tree.resolve(path))
            content = _bytes(configure(_text(tree.read_bytes(path))))
            tree.add_file(tree.resolve(path), content, mode=entry.mode, uid=entry.uid, gid=entry.gid, replace=True)
            written.append(path)
    for folder in _UNIT_FOLDERS:
        for service in _SERVICES:
            unit = f"{folder}/{service}"
            if tree.exists(unit) and tree.resolve(unit) == unit:
                path = f"etc/systemd/system/{service}.d/ptp.conf"
                commands = commands_without_user(_text(tree.read_bytes(unit)))
                tree.add_file(path, _bytes(render(drop_in, commands=commands)), parents_mode=0o755, replace=True)
                written.append(path)
    return tuple(written)


def configure(text: str) -> str:
    """Return a chrony.conf that follows the host: every other source, and the user to run as, commented out.

    One that does so already (of a tree that a user brings back) comes out as it is.
    """
    own = text.replace(_PTP, "\n")
    kept = re.sub(r"^(?=[ \t]*(server|pool|peer|sourcedir|user|makestep)\s)", "# ", own, flags=re.MULTILINE)
    return kept.rstrip("\n") + "\n" + _PTP


def commands_without_user(unit: str) -> tuple[str, ...]:
    """Return a service's ExecStart lines without chronyd's option -u NAME; none when no line has it."""
    commands = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    changed = [re.sub(r"\s-u\s*\S+", "", command) for command in commands]
    return tuple(changed) if changed != commands else ()


def _text(content: bytes) -> str:
    """Return a file's text; what is not UTF-8 in it comes back with `_bytes`, as it was."""
    return content.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
