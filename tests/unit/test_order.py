"""What an order refuses, whichever package manager it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.distro.adapters import plan_bootstrap
from osbuilder.distro.choice import Choice, choose, select_packages
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import PackageManager, load_recipes
from osbuilder.errors import UsageError
from osbuilder.step import parameters

RECIPES = load_recipes(Path(__file__).resolve().parents[2] / "distros")
WITHOUT_COMPONENTS = (PackageManager.ARCHIVE, PackageManager.NONE, PackageManager.OCI)
MIRROR = "https://bob:secret@mirror.corp/x"


def choice(distro: str) -> Choice:
    return choose(RECIPES[distro], release=None, arch=parse_arch("x86_64"), init=None)


def order(distro: str, **settings: tuple[str, ...]) -> Order:
    wanted = choice(distro)
    return Order(choice=wanted, packages=select_packages(wanted), epoch=7, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("distro", [name for name in RECIPES if name != "oci"])
def test_a_mirror_with_a_password_is_refused_by_every_distribution_of_packages(distro: str) -> None:
    with pytest.raises(UsageError, match=rf"setting mirrors: {distro}: expected an address without") as caught:
        order(distro, mirrors=("https://one.example/x", MIRROR))
    assert "secret" not in str(caught.value)


def test_a_registry_may_have_a_password_which_is_in_no_key_and_no_plan() -> None:
    installation = plan_bootstrap(order("oci", mirrors=(MIRROR.removesuffix("/x"),)))
    assert installation.first
    for action in (installation.action, installation.first[1]):
        assert "secret" not in str(parameters(action))
        assert "secret" not in "\n".join(action.describe())


@pytest.mark.parametrize(
    "distro", [name for name, recipe in RECIPES.items() if recipe.package_manager in WITHOUT_COMPONENTS]
)
def test_components_are_refused_where_there_are_none(distro: str) -> None:
    with pytest.raises(UsageError, match=f"setting components: {distro} has none: its package manager is") as caught:
        order(distro, components=("main",))
    assert caught.value.hint == f"Leave components={distro}=main out."


@pytest.mark.parametrize(
    "distro", [name for name, recipe in RECIPES.items() if recipe.package_manager is not PackageManager.APT]
)
def test_archives_are_apts_alone(distro: str) -> None:
    with pytest.raises(UsageError, match=f"setting archives: they are apt's, and {distro} has"):
        order(distro, archives=("none",))
