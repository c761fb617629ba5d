"""What every recipe of distros/ must keep to, so that adding a distribution is adding a folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osbuilder.arch import ARCHES
from osbuilder.distro.adapters import adapter_of
from osbuilder.distro.choice import Selection, choose, select_packages
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import PackageManager, Packages, Recipe, find_recipe, load_recipes
from osbuilder.packageplan import order_of
from osbuilder.plan import Planner
from osbuilder.settings import load_settings
from osbuilder.step import key_of, parameters

FOLDER = Path(__file__).resolve().parents[2] / "distros"
RECIPES = load_recipes(FOLDER)
_2020 = 1577836800


@pytest.fixture(params=sorted(RECIPES))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


def test_every_folder_of_distros_is_a_recipe() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(RECIPES)


def test_every_offered_combination_can_be_planned_and_has_a_key_of_its_own(recipe: Recipe) -> None:
    keys = set()
    combinations = [
        (release, arch, init) for release in recipe.releases for arch in recipe.arches for init in recipe.inits
    ]
    offered = [each for each in combinations if not recipe.why_excluded(*each[:2])]
    for release, arch, init in offered:
        choice = choose(recipe, release=release, arch=ARCHES[arch], init=init)
        order = Order(
            choice=choice,
            packages=select_packages(choice),
            epoch=choice.release.released.epoch,
            mirrors=("https://mirror.example.org",),
            keyring=Path(__file__) if recipe.retired else None,
        )
        action = adapter_of(recipe.package_manager).install(order)
        assert action.describe()
        keys.add(key_of({"parameters": parameters(action)}))
    # Empty folders are the same for everybody.
    assert len(keys) == (1 if recipe.package_manager is PackageManager.NONE else len(offered)) > 0


def test_no_package_is_named_twice_for_the_same_guest(recipe: Recipe) -> None:
    for condition in recipe.packages.when:
        assert not set(condition.packages) & set(recipe.packages.always)
        assert list(condition.packages) == sorted(set(condition.packages))
    assert list(recipe.packages.always) == sorted(set(recipe.packages.always))


def test_the_day_of_every_release_is_a_plausible_one(recipe: Recipe) -> None:
    assert all(release.released.epoch > _2020 for release in recipe.releases.values())


def test_every_feature_brings_a_package(recipe: Recipe) -> None:
    assert set(recipe.features) == {when.feature for when in recipe.packages.when if when.feature}


def test_a_recipe_names_its_mirrors_unless_there_is_none_or_its_package_manager_has_them_built_in(
    recipe: Recipe,
) -> None:
    built_in = recipe.package_manager in (PackageManager.APT, PackageManager.NONE, PackageManager.OCI)
    assert bool(recipe.mirrors) is not (built_in or bool(recipe.retired))
    assert all(re.fullmatch(r"https://[a-z0-9.-]+(/[A-Za-z0-9._-]+)*", mirror) for mirror in recipe.mirrors)


def test_the_mirrors_of_a_recipe_are_asked_unless_the_setting_names_others(recipe: Recipe) -> None:
    other = "https://other.example.org"
    for settings, expected in (({}, recipe.mirrors), ({"mirrors": f"{recipe.name}={other}"}, (other,))):
        planner = Planner(FOLDER.parent, load_settings(settings, environment={"HOME": "/"}, folder=FOLDER))
        choice = choose(recipe, release=None, arch=ARCHES[recipe.arches[0]], init=None)
        assert order_of(planner, choice, Selection(default=(), extra=())).mirrors == expected


def test_an_architecture_is_offered_or_excluded_with_a_reason(recipe: Recipe) -> None:
    for release in recipe.releases:
        for arch in ARCHES:
            why = recipe.why_excluded(release, arch)
            assert arch in recipe.arches or why, f"{recipe.name} {release} says nothing of {arch}"
            assert why is None or len(why) > 10


def test_a_name_means_one_distribution() -> None:
    names = [name for recipe in RECIPES.values() for name in (recipe.name, *recipe.aliases)]
    assert len(names) == len(set(names))
    assert find_recipe("cbl-mariner", FOLDER).name == "azurelinux"


@pytest.mark.parametrize(
    ("distro", "text", "release"),
    [
        ("ubuntu", "24.04", "noble"),
        ("debian", "12", "bookworm"),
        ("centos", "9", "9-stream"),
        ("opensuse", "leap", "15.6"),
    ],
)
def test_a_release_is_known_by_its_version(distro: str, text: str, release: str) -> None:
    assert RECIPES[distro].canonical(text) == release


def test_what_a_release_may_be_called_is_not_ambiguous(recipe: Recipe) -> None:
    for name in recipe.releases:
        for text in recipe.other_names(name):
            assert recipe.canonical(text) == name


def test_every_architecture_of_an_apk_recipe_has_keys(recipe: Recipe) -> None:
    if recipe.apk is not None:
        assert set(recipe.arches) <= {key.arch for key in recipe.apk.keys}
        assert len({key.sha512 for key in recipe.apk.keys}) == len(recipe.apk.keys)


def test_a_guest_of_a_distribution_keeps_time_and_can_load_modules(recipe: Recipe) -> None:
    if not recipe.package_manager.installs_packages:
        assert recipe.packages == Packages(always=())
        return
    for init in recipe.inits:
        choice = choose(recipe, release=None, arch=ARCHES[recipe.arches[0]], init=init)
        assert {"chrony", "kmod"} <= set(select_packages(choice).default)
