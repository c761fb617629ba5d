from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder import decode
from osbuilder.arch import parse_arch
from osbuilder.distro.adapters import adapter_of
from osbuilder.distro.choice import Choice, choose, select_packages
from osbuilder.distro.recipe import Day, Excluded, PackageManager, Recipe, find_recipe, load_recipe
from osbuilder.errors import DecodeError, NotOffered, PlanError, UsageError
from osbuilder.pid1 import Init

KEY = "B8B8 0B5B 623E AB6A D877 5C45 B7C5 D7D6 3509 47F8"
TEXT = f"""\
name: toy
title: Toy Linux
package-manager: apt
default-release: new
keyring: /usr/share/keyrings/toy.gpg
releases:
  new: {{version: "2", released: "2025-08-09", components: [main], signed-by: [{KEY}]}}
  old: {{version: "1", released: "2023-06-10", signed-by: [{KEY}]}}
arches: [x86_64]
excluded:
  - {{release: old, arch: x86_64, why: it was never built}}
inits: [systemd]
features: {{debug: tools to look around with}}
packages:
  always: [kmod, chrony]
  when:
    - {{init: systemd, packages: [systemd, kmod]}}
    - {{init: agent, packages: [never]}}
    - {{feature: debug, arch: x86_64, packages: [strace]}}
    - {{release: old, packages: [legacy]}}
"""
X86_64 = parse_arch("x86_64")


def _recipe(text: str = TEXT) -> Recipe:
    return decode.loads(text, Recipe, where="recipe.yaml")


def _choice() -> Choice:
    return choose(_recipe(), release=None, arch=X86_64, init=None)


def _folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(TEXT.replace("name: toy", f"name: {name}"))
    return tmp_path


def test_a_choice_falls_back_to_the_recipes_defaults() -> None:
    choice = _choice()
    assert (choice.release_name, choice.init, choice.release.version) == ("new", Init.SYSTEMD, "2")


def test_packages_are_selected_by_every_condition_that_holds() -> None:
    assert select_packages(_choice()).default == ("chrony", "kmod", "systemd")
    assert select_packages(_choice(), features=("debug",)).default == ("chrony", "kmod", "strace", "systemd")


def test_the_users_packages_are_kept_apart_unless_the_recipe_has_them_anyway() -> None:
    selection = select_packages(_choice(), extra=("zsh", "bash", "kmod", "bash"))
    assert selection.extra == ("bash", "zsh")
    assert selection.everything == ("bash", "chrony", "kmod", "systemd", "zsh")


@pytest.mark.parametrize("name", ["--force", "a b", "a,b", "", "../a", "?essential"])
def test_a_package_that_could_be_an_option_or_a_pattern_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a package name"):
        select_packages(_choice(), extra=(name,))


def test_an_unknown_feature_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown feature of toy: 'debgu'") as caught:
        select_packages(_choice(), features=("debgu",))
    assert caught.value.hint == "Did you mean debug? Known: debug."


def test_an_unknown_distro_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown distro 'debain'") as caught:
        find_recipe("debain", _folder(tmp_path, "debian", "alpine"))
    assert caught.value.hint == "Did you mean debian? Known: alpine, debian."


def test_an_unknown_release_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown release 'nwe' of toy") as caught:
        choose(_recipe(), release="nwe", arch=X86_64, init=None)
    assert caught.value.hint == "Did you mean new? Known: new, old."


def test_an_excluded_pair_says_why() -> None:
    with pytest.raises(PlanError, match="toy old is not offered for x86_64: it was never built"):
        choose(_recipe(), release="old", arch=X86_64, init=None)


def test_an_exclusion_without_a_release_is_for_all_of_them() -> None:
    recipe = _recipe(TEXT.replace("  - {release: old, arch: x86_64,", "  - {arch: s390x,"))
    for release in ("new", "old"):
        with pytest.raises(NotOffered, match=f"toy {release} is not offered for s390x: it was never built"):
            choose(recipe, release=release, arch=parse_arch("s390x"), init=None)


@pytest.mark.parametrize(("text", "name"), [("old", "old"), ("1", "old"), ("2", "new"), ("stable", "new")])
def test_a_release_is_found_by_its_name_its_version_and_its_aliases(text: str, name: str) -> None:
    recipe = _recipe(
        TEXT.replace('{version: "2",', '{version: "2", aliases: [stable],').replace(
            "arch: x86_64, why", "arch: s390x, why"
        )
    )
    assert choose(recipe, release=text, arch=X86_64, init=None).release_name == name


def test_a_version_of_several_releases_is_refused() -> None:
    recipe = _recipe(TEXT.replace('version: "1"', 'version: "2"'))
    with pytest.raises(UsageError, match="release '2' of toy is several: new, old"):
        choose(recipe, release="2", arch=X86_64, init=None)


def test_a_distro_is_found_by_an_alias(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "debian", "alpine")
    path = folder / "alpine/recipe.yaml"
    path.write_text(path.read_text().replace("title:", "aliases: [mountain]\ntitle:"))
    assert find_recipe("mountain", folder).name == "alpine"


def test_an_architecture_that_the_recipe_lacks_is_refused() -> None:
    recipe = _recipe(TEXT.replace("arches: [x86_64]", "arches: []").replace("arch: x86_64, packages", "packages"))
    with pytest.raises(PlanError, match="toy has no architecture 'x86_64'"):
        choose(recipe, release=None, arch=X86_64, init=None)


def test_an_init_that_the_recipe_lacks_is_refused() -> None:
    with pytest.raises(PlanError, match="toy has no init 'agent'") as caught:
        choose(_recipe(), release=None, arch=X86_64, init=Init.AGENT)
    assert caught.value.hint == "Known: systemd."


def test_the_day_of_a_release_is_midnight_utc() -> None:
    assert Day.parse("2025-08-09").epoch == 1754697600


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("default-release: new", "default-release: nwe", "default-release: no release 'nwe'"),
        ('released: "2025-08-09"', "released: 2025-08-09", "2025-08-09 is a date in YAML; write it in quotes"),
        ('released: "2025-08-09"', 'released: "last week"', 'expected a day such as "2025-08-09", got "last week"'),
        (f"[{KEY}]", "[]", "releases.new.signed-by: expected at least one key; nothing is installed unverified"),
        (f", signed-by: [{KEY}]", "", "releases.new.signed-by: expected at least one key"),
        ("keyring: /usr/share/keyrings/toy.gpg\n", "", "keyring: expected the place of the distribution's keys"),
        (KEY, "B8B8 0B5B", 'expected a fingerprint of 40 hex digits, got "B8B8 0B5B"'),
        ("package-manager: apt", "package-manager: atp", 'got the text "atp"'),
        ("inits: [systemd]", "inits: []", "inits: expected at least one of systemd, agent"),
        ("arches: [x86_64]", "arches: [x86-64]", "arches: no architecture 'x86-64'"),
        ("{feature: debug, arch", "{feature: dbg, arch", "packages.when: no feature 'dbg'"),
        ("{release: old, packages", "{release: odl, packages", "packages.when: no release 'odl'"),
        ("{release: old, packages", "{packages", "list these under always instead"),
        ("why: it was never built", "because: x", "unknown key 'because'"),
        ("[kmod, chrony]", "[kmod, -y]", "not a package name: '-y'"),
        ("release: old, arch: x86_64, why", "release: oldest, arch: x86_64, why", "excluded: no release 'oldest'"),
        ("release: old, arch: x86_64, why", "arch: x86_64, why", "excluded: x86_64 is among arches"),
    ],
)
def test_a_malformed_recipe_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        _recipe(TEXT.replace(old, new, 1))
    assert message in caught.value.message
    assert caught.value.message.startswith("recipe.yaml:")


def test_a_recipe_must_be_called_as_its_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/recipe.yaml").write_text(TEXT)
    with pytest.raises(DecodeError, match="name: expected 'other' as the folder is called, got 'toy'"):
        load_recipe(tmp_path / "other/recipe.yaml")


@pytest.mark.parametrize("manager", PackageManager)
def test_every_package_manager_has_an_adapter_of_its_own(manager: PackageManager) -> None:
    others = {adapter_of(other).install for other in PackageManager if other is not manager}
    assert adapter_of(manager).install not in others


def test_an_exclusion_is_data() -> None:
    assert _recipe().excluded == (Excluded(release="old", arch="x86_64", why="it was never built"),)
