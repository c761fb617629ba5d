"""What every adapter is asked for: a choice of recipe, release, architecture and init, its packages and its mirrors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.arch import host_arch
from osbuilder.distro.recipe import PackageManager
from osbuilder.distro.told import refuse_password
from osbuilder.errors import NotOffered, UsageError
from osbuilder.settings import Foreign

if TYPE_CHECKING:
    from osbuilder.distro.choice import Choice, Selection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Packages to install into an empty root filesystem.

    `mirrors` are the setting's, else the recipe's, tried in order; none means the package manager's own. `archives` are
    lines of what is used beside them (osbuilder.distro.archives). `components` replaces the recipe's unless empty,
    `keyring` (a file of this host) the keys that the recipe pins. `epoch` (seconds since 1970) is the latest time that
    a file may bear; `foreign` says how a guest of another architecture is configured. A mirror that sends nothing for
    `timeout_s` is given up after `attempts` tries. Raises UsageError for settings that the package manager has no use
    for, and for a mirror's password: only registries are asked in a way that shows it to nobody.
    """

    choice: Choice
    packages: Selection
    epoch: int
    mirrors: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    keyring: Path | None = None
    foreign: Foreign = Foreign.CARRIED
    timeout_s: int = 30
    attempts: int = 3

    def __post_init__(self) -> None:
        recipe = self.choice.recipe
        manager = recipe.package_manager
        if self.archives and manager is not PackageManager.APT:
            raise UsageError(
                f"setting archives: they are apt's, and {recipe.name} has {manager.value}",
                hint="Name its mirror alone (setting mirrors).",
            )
        if self.components and not manager.installs_packages:
            raise UsageError(
                f"setting components: {recipe.name} has none: its package manager is {manager.value}",
                hint=f"Leave components={recipe.name}={','.join(self.components)} out.",
            )
        if manager is not PackageManager.OCI:
            for mirror in self.mirrors:
                refuse_password(mirror, f"setting mirrors: {recipe.name}")


def refuse_packages(order: Order, *further: str) -> None:
    """Raise UsageError when packages are asked for, by the order or besides, where none can be installed."""
    if wanted := (*order.packages.everything, *further):
        raise UsageError(
            f"{order.choice.recipe.name} installs no packages: got {', '.join(wanted)}",
            hint="Name a distribution that has them (`inv distros`).",
        )


def refuse_foreign(choice: Choice) -> None:
    """Raise NotOffered for a guest of another architecture than this machine's, where packages bring scripts."""
    if choice.arch != host_arch():
        raise NotOffered(
            f"{choice.recipe.name} {choice.release_name} cannot be installed for {choice.arch.name} on "
            f"{host_arch().name}: its packages' scripts would need emulation",
            hint=f"Build it on a machine that is {choice.arch.name}.",
        )
