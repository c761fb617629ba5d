"""No package manager: an empty root filesystem, for guests that are nothing but their agent.

Runs no command and needs no network, so it works for every architecture on every host. The agent must not need a
library: rootfs.check refuses one that does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from osbuilder.distro.order import refuse_packages
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"

# Where an agent, its settings and its state have their places (hier(7)); mount points come with every root filesystem.
_FOLDERS: Final = ("etc", "root", "usr/bin", "usr/lib", "usr/sbin", "var/lib")
_LINKS: Final = {"bin": "usr/bin", "lib": "usr/lib", "sbin": "usr/sbin"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmptyRoot:
    """Leave a rootfs.tar with folders and nothing in them, dated `epoch` (seconds since 1970)."""

    epoch: int

    def describe(self) -> tuple[str, ...]:
        return (f"write {ROOTFS_TAR} with empty folders: {', '.join(_FOLDERS)}",)

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree()
        for folder in _FOLDERS:
            tree.add_dir(folder, parents_mode=0o755)
        for name, target in _LINKS.items():
            tree.add_symlink(name, target)
        tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {"packages": []}


def empty(order: Order) -> EmptyRoot:
    """Return the action for an order (the adapter of package manager none). Raises UsageError for any package."""
    refuse_packages(order)
    return EmptyRoot(epoch=order.epoch)
