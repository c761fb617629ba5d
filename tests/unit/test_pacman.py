"""pacman's repositories, as the setting `components` chooses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.distro import pacman
from osbuilder.distro.choice import choose, select_packages
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import find_recipe
from osbuilder.errors import UsageError

DISTROS = Path(__file__).resolve().parents[2] / "distros"


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Order:
    monkeypatch.setattr("osbuilder.distro.order.host_arch", lambda: parse_arch("x86_64"))
    choice = choose(find_recipe("archlinux", DISTROS), release=None, arch=parse_arch("x86_64"), init=None)
    return Order(choice=choice, packages=select_packages(choice), epoch=7, mirrors=("https://one.example/repos",))


def test_components_choose_among_the_recipes_repositories(order: Order) -> None:
    assert [name for name, _ in pacman.install(order).repositories] == ["core", "extra"]
    chosen = pacman.install(dataclasses.replace(order, components=("core",)))
    assert [name for name, _ in chosen.repositories] == ["core"]


@pytest.mark.parametrize("components", [("nonesuch",), ("core", "extr")])
def test_a_repository_that_there_is_not_is_refused_with_a_suggestion(order: Order, components: tuple[str, ...]) -> None:
    with pytest.raises(
        UsageError, match=rf"unknown repository '{components[-1]}' of archlinux .* \(setting compon"
    ) as it:
        pacman.install(dataclasses.replace(order, components=components))
    assert it.value.hint.endswith("Known: core, extra.")
