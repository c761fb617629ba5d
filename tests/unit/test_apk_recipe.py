from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder import decode
from osbuilder.arch import parse_arch
from osbuilder.distro.adapters import plan_bootstrap
from osbuilder.distro.apk.declared import ApkRecipe
from osbuilder.distro.apk.install import InstallPackages
from osbuilder.distro.choice import choose, select_packages
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import Recipe
from osbuilder.errors import DecodeError, NoMirror, PlanError, UsageError
from osbuilder.step import parameters

SHA512 = "0" * 128
APK = f"""\
keys-url: https://example.org/keys
keys: [{{arch: x86_64, name: a.rsa.pub, sha512: "{SHA512}"}}, {{arch: s390x, name: b.rsa.pub, sha512: "{SHA512}"}}]
scripts: [{{package: busybox, kinds: [trigger], applets: /bin/busybox, why: x}}]
"""
RECIPE = """\
name: toy
title: Toy
package-manager: apk
default-release: "1"
releases: {"1": {version: "1", released: "2025-08-09", components: [main]}}
arches: [x86_64]
inits: [agent]
packages: {always: [base]}
apk:
""" + "".join(f"  {line}\n" for line in APK.splitlines())


def _order(text: str = RECIPE, **changes: object) -> Order:
    recipe = decode.loads(text, Recipe, where="recipe.yaml")
    choice = choose(recipe, release=None, arch=parse_arch("x86_64"), init=None)
    given = {"mirrors": ("https://one.example/alpine",), **changes}
    return Order(choice=choice, packages=select_packages(choice), epoch=7, **given)  # type: ignore[arg-type]


def _action(text: str = RECIPE, **changes: object) -> InstallPackages:
    action = plan_bootstrap(_order(text, **changes)).action
    assert isinstance(action, InstallPackages)
    return action


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SHA512, "0" * 127, "sha512: expected 128 lower-case hex digits"),
        ("a.rsa.pub", "../a.rsa.pub", "name: expected the name of a file, got '../a.rsa.pub'"),
        ("https://example.org", "ftp://example.org", "keys-url: expected an address"),
        ("[trigger]", "[post-upgrade]", "expected one of pre-install, post-install, trigger"),
        ("/bin/busybox", "bin/busybox", 'expected an absolute path, got "bin/busybox"'),
        ("/bin/busybox", "/../busybox", 'expected an absolute path, got "/../busybox"'),
    ],
)
def test_a_malformed_entry_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode.loads(APK.replace(old, new), ApkRecipe, where="recipe.yaml")
    assert message in caught.value.message


def test_a_recipe_without_keys_is_refused() -> None:
    with pytest.raises(DecodeError, match="keys: expected at least one; nothing is installed unverified"):
        decode.loads("keys-url: https://x/k\nkeys: []\n", ApkRecipe, where="recipe.yaml")


def test_only_the_architectures_own_keys_are_trusted() -> None:
    assert [key.name for key in _action().keyring.pinned] == ["a.rsa.pub"]


def test_an_architecture_without_a_key_cannot_be_planned() -> None:
    with pytest.raises(PlanError, match="no key of toy for x86_64 is pinned"):
        _action(RECIPE.replace("arch: x86_64, name", "arch: aarch64, name"))


def test_apk_without_its_entry_in_the_recipe_is_refused() -> None:
    apt = RECIPE.partition("apk:\n")[0].replace("components: [main]", f'signed-by: ["{"0" * 40}"]')
    with pytest.raises(UsageError, match="the recipe of toy has no entry apk"):
        _action(f"{apt}keyring: /k.gpg\n")


def test_the_settings_components_and_keyring_come_first(tmp_path: Path) -> None:
    (tmp_path / "ours.pub").write_bytes(b"key")
    action = _action(mirrors=("https://own.example/alpine",), components=("main", "own"), keyring=tmp_path / "ours.pub")
    assert (action.mirrors, action.components) == (("https://own.example/alpine",), ("main", "own"))
    assert (action.keyring.pinned, action.keyring.file_name) == ((), "ours.pub")


def test_without_any_mirror_it_is_said_where_one_is_named() -> None:
    with pytest.raises(NoMirror, match="no mirror of toy 1 is known: its recipe names none") as caught:
        _action(mirrors=())
    assert caught.value.hint == "Give the URL that has v1/ below it: --setting mirrors=toy=URL"


def test_what_is_no_address_of_a_mirror_is_refused() -> None:
    with pytest.raises(UsageError, match=r"not an Alpine mirror: 'example.org/alpine'"):
        _action(mirrors=("example.org/alpine",))


def test_where_keys_are_fetched_is_no_part_of_the_key_but_their_pins_are() -> None:
    moved = _action(RECIPE.replace("https://example.org/keys", "https://example.net/keys"))
    assert parameters(moved) == parameters(_action())
    assert parameters(_action(RECIPE.replace(SHA512, "1" * 128, 1))) != parameters(_action())


@pytest.mark.parametrize(
    ("mirror", "shown"),
    [
        ("https://user:secret@own.example/alpine", "https://...@own.example/alpine"),
        ("https://user:sec@ret@own.example:8443/alpine", "https://...@own.example:8443/alpine"),
        ("https://secret@own.example/alpine", "https://...@own.example/alpine"),
        ("user:secret@own.example/alpine", "...@own.example/alpine"),
    ],
)
def test_a_mirror_with_a_password_is_refused_without_showing_it(mirror: str, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        _order(mirrors=("https://one.example/alpine", mirror))
    assert caught.value.message == (
        f"setting mirrors: toy: expected an address without a name and password, got {shown}"
    )
    assert "secret" not in str(caught.value)
    assert "a proxy of your own" in caught.value.hint


def test_an_address_may_have_an_at_sign_in_its_path() -> None:
    mirrors = ("https://own.example/@team/alpine", "file:///srv/a@b")
    assert _action(mirrors=mirrors).mirrors == mirrors


def test_a_recipes_mirror_with_a_password_is_refused_with_its_place() -> None:
    text = RECIPE.replace("apk:\n", "mirrors: [https://user:secret@own.example/alpine]\napk:\n")
    with pytest.raises(DecodeError, match=r"^recipe\.yaml:\d+: mirrors: expected an address without") as caught:
        _order(text)
    assert "secret" not in str(caught.value)
