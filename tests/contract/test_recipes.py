"""What every recipe of distros/ must keep to, so that adding a distribution is adding a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import ARCHES
from osbuilder.distro.adapters import adapter_of
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import PackageManager, Packages, Recipe, choose, load_recipes, select_packages
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
    excluded = {(pair.release, pair.arch) for pair in recipe.excluded}
    offered = [each for each in combinations if each[:2] not in excluded]
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


def test_a_recipe_names_mirrors_only_where_its_package_manager_has_none_built_in(recipe: Recipe) -> None:
    text = (FOLDER / recipe.name / "recipe.yaml").read_text()
    assert ("://" in text) is (recipe.package_manager in (PackageManager.APK, PackageManager.ARCHIVE))


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
