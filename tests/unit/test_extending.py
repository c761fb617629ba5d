"""Variants that extend others: what they have of them, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from osbuilder.arch import ARCHES
from osbuilder.errors import DecodeError, FragmentError
from osbuilder.kernel.catalogue import load_catalogue, load_usable, matrix
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.configure import Configure
from osbuilder.kernel.selection import select
from osbuilder.step import parameters
from tests.kernel_configs import asked, chosen, write_configs
from tests.unit.test_variants import CONSUMERS, TWO, K, variant

LESS = """\
purpose: p
consumers: [anyone]
only: [a]
excluded: [{arches: [s390x], reason: r}]
tools: [kmod]
modules: true
lines: [{line: x}]
capabilities: {own: {purpose: p, unproven: u}}
overrides: [{symbol: A, reason: r}]
"""
EXTENDED = {
    **TWO,
    "variant/less/variant.yaml": LESS,
    "variant/less/common/own.conf": "CONFIG_A=2\nCONFIG_OWN=y\n",
    "variant/less/arch/x86_64/own.conf": "CONFIG_OWN_X86=y\n",
}


def extending(text: str, files: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    return {**EXTENDED, "variant/v/variant.yaml": f"purpose: mine\nextends: less\n{text}", **files}


def test_a_variant_that_extends_another_has_all_of_it_and_adds(tmp_path: Path) -> None:
    text = "brings: [extra]\nconsumers: [vmm]\ntools: [dwarves]\ncapabilities: {further: {purpose: p, unproven: u}}\n"
    fragment = {
        "variant/v/common/further.conf": "CONFIG_FURTHER=y\n",
        "consumers.yaml": CONSUMERS.replace("capability: b", "capability: extra"),
    }
    files = extending(text, fragment)
    less, mine = (chosen(tmp_path, files, variant=name) for name in ("less", "v"))
    assert asked(less) == ["A=2", "OWN=y", "OWN_X86=y"]
    assert asked(mine) == ["A=2", "EXTRA=y", "FURTHER=y", "OWN=y", "OWN_X86=y"]
    assert (mine.owners["OWN_X86"], mine.owners["FURTHER"]) == ("own", "further")
    catalogue = load_catalogue(tmp_path)
    v = catalogue.variants["v"]
    assert (v.purpose, v.consumers, v.tools, v.modules) == ("mine", ("vmm",), ("kmod", "dwarves"), True)
    assert [line.line for line in v.lines] == ["x"]
    assert not v.on(ARCHES["s390x"])
    assert ("v", "x86_64") in set(matrix(catalogue))


def test_what_is_extended_is_not_said_again(tmp_path: Path) -> None:
    catalogue = load_catalogue(write_configs(tmp_path, extending("only: [b]\n")))
    assert catalogue.variants["v"].only == ("a", "b")
    assert catalogue.variants["v"].consumers == ("anyone",)
    assert asked(chosen(tmp_path, extending("only: [b]\n"), variant="v")) == ["A=2", "B=y", "OWN=y", "OWN_X86=y"]


def test_an_override_may_be_overridden_by_what_extends_it(tmp_path: Path) -> None:
    text = "overrides: [{symbol: A, reason: r}]\ncapabilities: {further: {purpose: p, unproven: u}}\n"
    files = extending(text, {"variant/v/common/further.conf": "CONFIG_A=3\n"})
    assert "A=3" in asked(chosen(tmp_path, files, variant="v"))
    silent = extending(text.partition("\n")[2])
    with pytest.raises(FragmentError) as refused:
        chosen(tmp_path, {**files, "variant/v/variant.yaml": silent["variant/v/variant.yaml"]}, variant="v")
    old, new = f"CONFIG_A=2 in {K}/variant/less/common/own.conf:1", f"CONFIG_A=3 in {K}/variant/v/common/further.conf:1"
    assert refused.value.message == f"contradiction: {old}, but {new}"
    told = f"To have another value than kernel variant less, add to {K}/variant/v/variant.yaml:"
    assert refused.value.hint.startswith(told)


def test_variants_extend_over_several_steps_and_a_changed_fragment_changes_them_all(tmp_path: Path) -> None:
    files = {**extending("only: [b]\n"), "variant/w/variant.yaml": "{purpose: p, extends: v}\n"}
    assert asked(chosen(tmp_path, files, variant="w")) == asked(chosen(tmp_path, files, variant="v"))
    before = Configure.of_catalogue(tmp_path, ARCHES["x86_64"], "w")
    (tmp_path / "variant/less/common/own.conf").write_text("CONFIG_A=2\nCONFIG_OTHER=y\n")
    assert parameters(Configure.of_catalogue(tmp_path, ARCHES["x86_64"], "w")) != parameters(before)


def test_a_line_is_inherited_where_the_variant_is_still_there(tmp_path: Path) -> None:
    excluded = "excluded: [{arches: [aarch64, ppc64le, riscv64], reason: r}]\n"
    variants = load_catalogue(write_configs(tmp_path, extending(excluded))).variants
    assert [(each.line, each.arches) for each in variants["v"].lines] == [("x", ("x86_64",))]
    own = load_catalogue(write_configs(tmp_path, extending("lines: [{line: y}]\n"))).variants
    assert [each.line for each in own["v"].lines] == ["y"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("only: [a]\n", "variant/v/variant.yaml:3: only: less has a already"),
        ("tools: [kmod]\n", "variant/v/variant.yaml:3: tools: less has kmod already"),
        (
            "capabilities: {own: {purpose: p, unproven: u}}\n",
            "variant/v/variant.yaml:3: capabilities: less has own already",
        ),
        (
            "drops: [{capability: a, reason: r}]\n",
            "variant/v/variant.yaml:2: extends: drops do not go with only: leave it out there",
        ),
    ],
)
def test_a_contradiction_with_what_is_extended_has_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(FragmentError) as refused:
        load_catalogue(write_configs(tmp_path, extending(text)))
    assert refused.value.message == f"{K}/{problem}"


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ("extends: two", "extends: one", "variant/two/variant.yaml:2: extends: it goes in a circle: one -> two -> one"),
        ("extends: one", "only: [a]", "variant/one/variant.yaml:2: extends: it goes in a circle: one -> one"),
        ("extends: tow", "only: [a]", "variant/one/variant.yaml:2: extends: unknown kernel variant 'tow'"),
        ("extends: two\nonly: [a]", "brings: [extra]", "variant/one/variant.yaml:3: only: two has all of the base"),
        (
            "extends: two\nbrings: [extra]",
            "drops: [{capability: extra, reason: r}]",
            "variant/one/variant.yaml:3: brings: two drops extra",
        ),
        (
            "extends: two\ndrops: [{capability: extra, reason: r}]",
            "brings: [extra]",
            "variant/one/variant.yaml:3: drops: two brings extra",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused_with_its_line(tmp_path: Path, one: str, other: str, problem: str) -> None:
    texts = {"one": one, "two": other}
    files = {
        f"variant/{name}/variant.yaml": f"purpose: p\n{text}\nconsumers: [anyone]\n" for name, text in texts.items()
    }
    with pytest.raises(FragmentError) as refused:
        load_catalogue(write_configs(tmp_path, {**TWO, **files}))
    assert refused.value.message == f"{K}/{problem}"


def test_only_a_variant_that_extends_another_may_do_without_consumers(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="expected at least one consumer"):
        load_catalogue(write_configs(tmp_path, {**TWO, "variant/v/variant.yaml": "purpose: p\n"}))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"variant/less/variant.yaml": "purpose: p\n"}, "expected at least one consumer"),
        ({"variant/less/variant.yaml": LESS.replace("[a]", "[z]")}, "less/variant.yaml: unknown capability 'z'"),
        ({"variant/less/README": ""}, "less/README has no place"),
        (
            {"variant/less/variant.yaml": f"{LESS}extends: gone\n"},
            "less/variant.yaml:10: extends: unknown kernel variant",
        ),
        ({"variant/less/variant.yaml": f"{LESS}extends: w\n"}, "extends: it goes in a circle: .*less"),
    ],
)
def test_what_extends_an_unfinished_variant_is_unfinished_and_others_are_not(
    tmp_path: Path, files: Mapping[str, str], words: str
) -> None:
    further = {"variant/w/variant.yaml": "{purpose: p, extends: v}\n", "variant/x/variant.yaml": variant("")}
    catalogue = load_usable(write_configs(tmp_path, {**extending(""), **further, **files}))
    assert list(catalogue.variants) == ["base", "more", "x"]
    for name in ("less", "v", "w"):
        with pytest.raises((DecodeError, FragmentError), match=words):
            catalogue.declared(name)
        with pytest.raises((DecodeError, FragmentError), match=words):
            Configure.of_catalogue(tmp_path, ARCHES["x86_64"], name)
    with pytest.raises((DecodeError, FragmentError), match=words):
        load_catalogue(tmp_path)
    assert select(catalogue, ARCHES["x86_64"], KernelVersion.parse("6.12.117"), "x").requests


def test_what_a_variant_overrides_of_what_it_extends_is_told_and_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    text = "overrides: [{symbol: A, reason: mine}]\ncapabilities: {further: {purpose: p, unproven: u}}\n"
    selection = chosen(tmp_path, extending(text, {"variant/v/common/further.conf": "CONFIG_A=3\n"}), variant="v")
    old, override = selection.replaced["A"]
    assert (str(old), old.where, override.reason) == ("A=2", f"{K}/variant/less/common/own.conf:1", "mine")
    first, override = select(
        load_catalogue(tmp_path), ARCHES["x86_64"], KernelVersion.parse("6.12.117"), "less"
    ).replaced["A"]
    assert (first.where, override.reason) == (f"{K}/common/a.conf:1", "r")
    files = extending(text.replace("symbol: A", "symbol: B"), {"variant/v/common/further.conf": "CONFIG_B=3\n"})
    with pytest.raises(FragmentError, match="override of B has no effect: kernel variant less does not ask for it"):
        chosen(tmp_path, files, variant="v")
