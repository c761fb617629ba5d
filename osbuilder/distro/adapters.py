"""One adapter a package manager: what turns a recipe's choice and a package list into the step that installs them.

A further package manager is a module beside apt.py, and a case in `adapter_of` and in `_locker`. A package manager's
modules are imported when a recipe asks for it: a build loads one installer, not all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, assert_never

from osbuilder.arch import host_arch
from osbuilder.distro.recipe import PackageManager
from osbuilder.errors import NotOffered
from osbuilder.settings import Foreign

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock, LockedPackage
    from osbuilder.distro.order import Order
    from osbuilder.distro.pool import FetchPackages
    from osbuilder.step import Action


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What installs a package manager's packages.

    `install(order)`: the action that leaves rootfs.tar.

    `builder`: the builder of versions.yaml that it runs in. The others install packages in this process, whatever the
    engine and the guest's architecture.

    `first`: what has to be found out before: the name of the bootstrap's input, and the action for an order.

    `carry`: for a foreign root that takes its configuration from a native twin: the action, and the builder for that.
    """

    install: Callable[[Order], Action]
    builder: str | None = None
    first: tuple[str, Callable[[Order], Action]] | None = None
    carry: tuple[Callable[[Order], Action], str] | None = None


def adapter_of(manager: PackageManager) -> Adapter:
    """Return the adapter of a package manager."""
    match manager:
        case PackageManager.APK:
            from osbuilder.distro.apk import install as apk

            return Adapter(install=apk.bootstrap)
        case PackageManager.APT:
            from osbuilder.distro import apt, foreign

            return Adapter(install=apt.bootstrap, builder="rootfs", carry=(foreign.carry_over, "foreign"))
        case PackageManager.ARCHIVE:
            from osbuilder.distro import archive

            return Adapter(install=archive.unpack, builder="rootfs")
        case PackageManager.DNF:
            from osbuilder.distro import dnf

            return Adapter(install=dnf.install, builder="rpm")
        case PackageManager.NONE:
            from osbuilder.distro import none

            return Adapter(install=none.empty)
        case PackageManager.OCI:
            from osbuilder.distro.oci import install as oci
            from osbuilder.distro.oci.reference import INPUT

            return Adapter(install=oci.unpack, first=(INPUT, oci.resolve))
        case PackageManager.PACMAN:
            from osbuilder.distro import pacman

            return Adapter(install=pacman.install, builder="pacman")
        case _:
            assert_never(manager)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The action that leaves rootfs.tar and the builder that it runs in, if any.

    With `twin` it has an input of that name: the same packages, installed for this machine's own architecture. `first`
    is an input too: its name, and the action that makes it.
    """

    action: Action
    builder: str | None
    first: tuple[str, Action] | None = None
    twin: bool = False


def plan_bootstrap(order: Order) -> Installation:
    """Return how an order's packages are installed. Raises UsageError for a bad mirror."""
    adapter = adapter_of(order.choice.recipe.package_manager)
    if adapter.carry and order.foreign is Foreign.CARRIED and order.choice.arch != host_arch():
        carry, builder = adapter.carry
        return Installation(action=carry(order), builder=builder, twin=True)
    first = (adapter.first[0], adapter.first[1](order)) if adapter.first else None
    return Installation(action=adapter.install(order), builder=adapter.builder, first=first)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Locker:
    """What an adapter brings so that its distributions can be locked. All but `mirrors` return the action of a step.

    `resolve(order, requests, asked)`: for each request, a list of packages by name, what the package manager would
    install now. Leaves lock.Resolved as the file lock.RESOLVED, each package with the places of its requests. `asked`
    is different each time and belongs into the action's key: what mirrors have now is asked anew.

    `install(order, lock, packages)`: install exactly these of the lock's, without a network, from the files of the
    input `locked` (each called LockedPackage.file_name; pool.FetchPackages verified them). Leaves rootfs.tar with the
    bytes that an installation from the mirrors has, and the fact `packages`; refuses (pool.exactly) any other packages.

    `repository(packages)`: make of these files something of its own, the input `repository`, which `install` takes then
    in place of `locked`.

    `mirrors(order)`: below which addresses paths of packages are, where those are more than the setting's.

    `fetch(order, plain)`: what fetches the packages, where that takes more than their addresses.

    `in_builder`: whether what `install` returns runs in the package manager's builder.
    """

    resolve: Callable[[Order, tuple[tuple[str, ...], ...], str], Action]
    install: Callable[[Order, Lock, tuple[LockedPackage, ...]], Action]
    repository: Callable[[tuple[LockedPackage, ...]], Action] | None = None
    mirrors: Callable[[Order], tuple[str, ...]] = lambda order: order.mirrors
    fetch: Callable[[Order, FetchPackages], Action] = lambda _, plain: plain
    in_builder: bool = True


def locker_of(order: Order) -> Locker:
    """Return what locks an order's distribution. Raises NotOffered where nothing comes from a mirror."""
    recipe = order.choice.recipe
    locker = _locker(recipe.package_manager)
    if locker is None:
        raise NotOffered(
            f"{recipe.name} has nothing to lock: its package manager is {recipe.package_manager.value}",
            hint="Build it without --locked.",
        )
    return locker


def _locker(manager: PackageManager) -> Locker | None:
    match manager:
        case PackageManager.APK:
            from osbuilder.distro.apk import lock as apk

            return Locker(resolve=apk.resolve, install=apk.install)
        case PackageManager.APT:
            from osbuilder.distro import apt_lock as apt
            from osbuilder.distro.apt import addresses

            return Locker(resolve=apt.resolve, install=apt.install, repository=apt.repository, mirrors=addresses)
        case PackageManager.ARCHIVE:
            from osbuilder.distro import archive_lock as archive

            return Locker(resolve=archive.resolve, install=archive.install, in_builder=False)
        case PackageManager.DNF:
            from osbuilder.distro import dnf_lock as dnf

            return Locker(resolve=dnf.resolve, install=dnf.install)
        case PackageManager.NONE:
            return None
        case PackageManager.OCI:
            from osbuilder.distro.oci import lock as oci

            return Locker(resolve=oci.resolve, install=oci.install, fetch=oci.fetch)
        case PackageManager.PACMAN:
            from osbuilder.distro import pacman_lock as pacman

            return Locker(resolve=pacman.resolve, install=pacman.install)
        case _:
            assert_never(manager)
