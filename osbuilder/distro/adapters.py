"""One adapter a package manager: what turns a recipe's choice and a package list into the step that installs them.

A further package manager is a module beside apt.py and a line here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from osbuilder.arch import host_arch
from osbuilder.distro import apt, apt_lock, archive, archive_lock, dnf, dnf_lock, foreign, none, pacman, pacman_lock
from osbuilder.distro.apk import install as apk
from osbuilder.distro.apk import lock as apk_lock
from osbuilder.distro.oci import install as oci
from osbuilder.distro.oci import lock as oci_lock
from osbuilder.distro.recipe import PackageManager
from osbuilder.errors import PlanError
from osbuilder.settings import Foreign

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock, LockedPackage
    from osbuilder.distro.order import Order
    from osbuilder.distro.pool import FetchPackages
    from osbuilder.step import Action

ADAPTERS: Mapping[PackageManager, Callable[[Order], Action]] = MappingProxyType(
    {
        PackageManager.APK: apk.bootstrap,
        PackageManager.APT: apt.bootstrap,
        PackageManager.ARCHIVE: archive.unpack,
        PackageManager.DNF: dnf.install,
        PackageManager.NONE: none.empty,
        PackageManager.OCI: oci.unpack,
        PackageManager.PACMAN: pacman.install,
    }
)

# The builder of versions.yaml that each package manager runs in. The others install packages in this process, whatever
# the engine and the guest's architecture.
BUILDERS: Mapping[PackageManager, str] = MappingProxyType(
    {
        PackageManager.APT: "rootfs",
        PackageManager.ARCHIVE: "rootfs",
        PackageManager.DNF: "rpm",
        PackageManager.PACMAN: "pacman",
    }
)

# What has to be found out before, by package manager: the name of the bootstrap's input, and the action for an order.
FIRST: Mapping[PackageManager, tuple[str, Callable[[Order], Action]]] = MappingProxyType(
    {PackageManager.OCI: (oci.INPUT, oci.resolve)}
)

# Package managers for which a foreign root takes its configuration from a native twin, and the builder for that.
CARRIERS: Mapping[PackageManager, tuple[Callable[[Order], Action], str]] = MappingProxyType(
    {PackageManager.APT: (foreign.carry_over, "foreign")}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The action that leaves rootfs.tar and the builder that it runs in, if any.

    With `twin` it has an input of that name: the same packages, installed for this machine's own architecture.
    """

    action: Action
    builder: str | None
    twin: bool = False


def plan_bootstrap(order: Order) -> Installation:
    """Return how an order's packages are installed. Raises UsageError for a bad mirror."""
    manager = order.choice.recipe.package_manager
    if manager in CARRIERS and order.foreign is Foreign.CARRIED and order.choice.arch != host_arch():
        carry, builder = CARRIERS[manager]
        return Installation(action=carry(order), builder=builder, twin=True)
    return Installation(action=ADAPTERS[manager](order), builder=BUILDERS.get(manager))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Locker:
    """What an adapter brings so that its distributions can be locked. Both return the action of a step.

    `resolve(order, requests, asked)`: for each request, a list of packages by name, what the package manager would
    install now. Leaves lock.Resolved as the file lock.RESOLVED, each package with the places of its requests. `asked`
    is different each time and belongs into the action's key: what mirrors have now is asked anew.

    `install(order, lock, packages)`: install exactly these of the lock's, without a network, from the files of the
    input `locked` (each called LockedPackage.file_name; pool.FetchPackages verified them). Leaves rootfs.tar with the
    bytes that an installation from the mirrors has, and the fact `packages`; refuses (pool.exactly) any other packages.

    `mirrors(order)`: below which addresses paths of packages are, where the recipe names mirrors of its own.

    `fetch(order, plain)`: what fetches the packages, where that takes more than their addresses.

    `in_builder`: whether what `install` returns runs in the package manager's builder.
    """

    resolve: Callable[[Order, tuple[tuple[str, ...], ...], str], Action]
    install: Callable[[Order, Lock, tuple[LockedPackage, ...]], Action]
    mirrors: Callable[[Order], tuple[str, ...]] = lambda order: order.mirrors
    fetch: Callable[[Order, FetchPackages], Action] = lambda _, plain: plain
    in_builder: bool = True


LOCKERS: Mapping[PackageManager, Locker] = MappingProxyType(
    {
        PackageManager.APK: Locker(resolve=apk_lock.resolve, install=apk_lock.install, mirrors=apk_lock.mirrors),
        PackageManager.APT: Locker(resolve=apt_lock.resolve, install=apt_lock.install),
        PackageManager.ARCHIVE: Locker(
            resolve=archive_lock.resolve,
            install=archive_lock.install,
            mirrors=archive_lock.mirrors,
            in_builder=False,
        ),
        PackageManager.DNF: Locker(resolve=dnf_lock.resolve, install=dnf_lock.install),
        PackageManager.OCI: Locker(resolve=oci_lock.resolve, install=oci_lock.install, fetch=oci_lock.fetch),
        PackageManager.PACMAN: Locker(resolve=pacman_lock.resolve, install=pacman_lock.install),
    }
)


def locker_of(order: Order) -> Locker:
    """Return what locks an order's distribution. Raises PlanError where nothing comes from a mirror."""
    recipe = order.choice.recipe
    if recipe.package_manager not in LOCKERS:
        raise PlanError(
            f"{recipe.name} has nothing to lock: its package manager is {recipe.package_manager.value}",
            hint="Build it without --locked.",
        )
    return LOCKERS[recipe.package_manager]
