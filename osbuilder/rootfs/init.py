"""What is PID 1: systemd, brought to the agent's target and no further, or the agent itself.

Sources: systemd.unit(5), systemd.special(7), bootup(7); kernel Documentation/admin-guide/init.rst for where an init is
looked for. Which units go is the incumbent's list (Kata's -d), by name and wherever they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Final

from osbuilder.errors import RootfsError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

UNITS: Final = "usr/lib/systemd/system"
TARGET: Final = "kata-containers.target"
_ADMIN_UNITS: Final = "etc/systemd/system"
_TMP: Final = "tmp.mount"

# With these no older than /usr, systemd takes /etc and /var for up to date (systemd-update-done.service(8)) and skips
# ldconfig, sysusers and the like, which otherwise run at each start of an initrd.
_UP_TO_DATE: Final = ("etc/.updated", "var/.updated")

# A guest's root is read-only and its only log is the console: these have nothing to do, and each costs boot time.
_UNNEEDED_UNITS: Final = (
    "systemd-coredump@",
    "systemd-journald",
    "systemd-journald-dev-log",
    "systemd-journal-flush",
    "systemd-random-seed",
    "systemd-timesyncd",
    "systemd-tmpfiles-setup",
    "systemd-udevd",
    "systemd-udevd-control",
    "systemd-udevd-kernel",
    "systemd-udev-trigger",
    "systemd-update-utmp",
)
_UNNEEDED_FILES: Final = (
    "systemd-bless-boot-generator",
    "systemd-fstab-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-tmpfiles-cleanup.timer",
)

# Beyond that list: upkeep of a machine that lives for years, and mounts that no container runtime asks for.
_UPKEEP: Final = (
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "sys-fs-fuse-connections.mount",
    "systemd-pstore.service",
    "systemd-tmpfiles-clean.timer",
)


def set_up_systemd(tree: Tree, *, agent: str, files: Mapping[str, str]) -> None:
    """Bring systemd to the agent: its service and target, where they did not come with it, and /tmp on memory.

    `files` holds the contents of tmp.mount, kata-containers.target and agent.service. The runtime asks for the target
    on the kernel line; it is the default too, so that a guest started without it serves as well.
    """
    tree.add_file(f"{_ADMIN_UNITS}/{_TMP}", files[_TMP].encode(), parents_mode=0o755, replace=True)
    for unit, content in ((f"{agent}.service", files["agent.service"]), (TARGET, files[TARGET])):
        if find_unit(tree, unit) is None:
            tree.add_file(f"{UNITS}/{unit}", content.encode(), parents_mode=0o755)
    _want(tree, _TMP, by="local-fs.target", unit=f"/{_ADMIN_UNITS}/{_TMP}")
    _want(tree, TARGET, by="basic.target", unit=f"/{UNITS}/{TARGET}")
    if tree.exists(f"{UNITS}/dbus.socket"):
        _want(tree, "dbus.socket", by=TARGET, unit=f"/{UNITS}/dbus.socket")
    tree.add_symlink(f"{_ADMIN_UNITS}/default.target", f"/{UNITS}/{TARGET}", replace=True)
    for stamp in _UP_TO_DATE:
        tree.add_file(stamp, b"", replace=True)


def set_up_agent_init(tree: Tree, *, agent: str) -> None:
    """Make the agent PID 1: /sbin/init for a root on a disk, /init for an initrd."""
    tree.add_symlink("sbin/init", f"/usr/bin/{agent}", parents_mode=0o755, replace=True)
    tree.add_symlink("init", "/sbin/init", replace=True)


def remove_unneeded_units(tree: Tree) -> tuple[str, ...]:
    """Remove systemd's units and generators that a guest has no use for; return the names that went."""
    names = [f"{unit}.{kind}" for unit in _UNNEEDED_UNITS for kind in ("service", "socket")]
    # Without a journal nobody writes to its folder (nor needs the ACL on it).
    return tree.remove_glob(*(f"**/{name}" for name in (*names, *_UNNEEDED_FILES, *_UPKEEP)), "var/log/journal")


def remove_units(tree: Tree, units: Collection[str], *, needed: Collection[str]) -> tuple[str, ...]:
    """Remove units by name: their files, drop-ins and links, and the aliases that led to them; return what went.

    Raises RootfsError for a unit that the tree does not have, and for one of `needed`.
    """
    gone: tuple[str, ...] = ()
    for unit in units:
        if unit in needed:
            raise RootfsError(
                f"--without-unit {unit}: the guest cannot start without it", hint="Leave it in, or use --init agent."
            )
        names = [
            name
            for name in tree.glob("**/systemd/system/**")
            if unit in (last := name.rpartition("/")[2], last.removesuffix(".d"), _alias_of(tree, name))
        ]
        if not names:
            # All that there are would fill a screen.
            known = {name.rpartition("/")[2] for name in tree.glob("**/systemd/system/*") if _is_file(tree, name)}
            close = ", ".join(difflib.get_close_matches(unit, known))
            raise RootfsError(
                f"--without-unit {unit}: the root filesystem has no such unit",
                hint=f"Did you mean: {close}?" if close else f"Its units lie in /{UNITS} and /{_ADMIN_UNITS}.",
            )
        gone += tree.remove_all(names)
    return gone


def _is_file(tree: Tree, name: str) -> bool:
    return tree.get(name).kind is not Kind.DIR


def _alias_of(tree: Tree, name: str) -> str:
    """Return the last part of what a symlink leads to, "" for what is none."""
    return tree.get(name).target.rpartition("/")[2]


def find_unit(tree: Tree, name: str) -> str | None:
    """Return the path of a unit in a tree, None where it has none."""
    paths = (f"{folder}/{name}" for folder in (UNITS, _ADMIN_UNITS, "lib/systemd/system"))
    return next((path for path in paths if tree.exists(path)), None)


def _want(tree: Tree, name: str, *, by: str, unit: str) -> None:
    tree.add_symlink(f"{_ADMIN_UNITS}/{by}.wants/{name}", unit, parents_mode=0o755, replace=True)
