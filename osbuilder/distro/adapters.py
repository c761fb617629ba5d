"""One adapter a package manager: what turns a recipe's choice and a package list into the step that installs them.

A further package manager is a module beside apt.py and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from osbuilder.distro import apt, dnf, none
from osbuilder.distro.apk import install as apk
from osbuilder.distro.recipe import PackageManager

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.step import Action

ADAPTERS: Mapping[PackageManager, Callable[[Order], Action]] = MappingProxyType(
    {
        PackageManager.APK: apk.bootstrap,
        PackageManager.APT: apt.bootstrap,
        PackageManager.DNF: dnf.install,
        PackageManager.NONE: none.empty,
    }
)

# The builder of versions.yaml that each package manager runs in. The others install packages in this process, whatever
# the engine and the guest's architecture.
BUILDERS: Mapping[PackageManager, str] = MappingProxyType({PackageManager.APT: "rootfs", PackageManager.DNF: "rpm"})


def plan_bootstrap(order: Order) -> Action:
    """Return the action that installs an order's packages into /out/rootfs.tar. Raises UsageError for a bad mirror."""
    return ADAPTERS[order.choice.recipe.package_manager](order)
