"""What every guest's root needs whatever its init: mount points, device nodes, and files that a host or init fills in.

The root may be read-only, so whatever is mounted or bound at run time has its place in the tree already.
"""

from __future__ import annotations

from typing import Final

from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

# Modes of the folders that an init or an agent mounts on, so that what lies in them is never seen.
_MOUNT_POINTS: Final = {"dev": 0o755, "proc": 0o555, "run": 0o755, "sys": 0o555, "tmp": 0o1777}

# (major, minor, mode) as in the kernel's Documentation/admin-guide/devices.txt. An initrd's init has no devtmpfs yet
# and its standard streams are /dev/console; the others serve programs that start before one is mounted.
_DEVICES: Final = {
    "console": (5, 1, 0o600),
    "full": (1, 7, 0o666),
    "kmsg": (1, 11, 0o644),
    "null": (1, 3, 0o666),
    "random": (1, 8, 0o666),
    "tty": (5, 0, 0o666),
    "urandom": (1, 9, 0o666),
    "zero": (1, 5, 0o666),
}

_HOSTS: Final = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def set_up_mount_points(tree: Tree) -> None:
    """Make the folders that are mounted on, and empty them: what the bootstrap left there differs between hosts."""
    for name, mode in _MOUNT_POINTS.items():
        tree.remove_glob(f"{name}/*")
        tree.add_dir(name, mode=mode, replace=True)


def set_up_devices(tree: Tree) -> None:
    """Put the device nodes that an init may need before it mounts devtmpfs into the empty /dev."""
    for name, (major, minor, mode) in _DEVICES.items():
        tree.add_device(f"dev/{name}", Kind.CHAR, (major, minor), mode=mode)


def point_var_tmp_at_tmp(tree: Tree) -> None:
    """Make /var/tmp a link to /tmp: the only writable folder that a read-only root has for it."""
    if tree.exists("var/tmp"):
        tree.remove("var/tmp")
    tree.add_symlink("var/tmp", "../tmp", parents_mode=0o755)


def set_up_network_files(tree: Tree) -> None:
    """Leave an empty regular /etc/resolv.conf to bind a container's over, and name localhost."""
    tree.remove_glob("etc/resolv.conf", "etc/hostname")
    tree.add_file("etc/resolv.conf", b"", parents_mode=0o755)
    if not tree.exists("etc/hosts"):
        tree.add_file("etc/hosts", _HOSTS)


def clear_machine_id(tree: Tree) -> None:
    """Leave /etc/machine-id empty: every guest makes its own, in memory, and none takes this for a first boot.

    machine-id(5): an empty file is bound over where the root is read-only; a missing one starts the first-boot wizard.
    """
    tree.remove_glob("var/lib/dbus/machine-id")
    tree.add_file("etc/machine-id", b"", mode=0o444, replace=True)
