"""What `inv kernel.explain` and `inv kernel.diff` say: where from, what it is, why, and what differs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import UsageError
from osbuilder.kernel.catalogue import load_catalogue
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.contract import load_tree, parse_config
from osbuilder.kernel.difference import Side, render_difference
from osbuilder.kernel.explain import Explanation
from osbuilder.kernel.fragments import extend, parse
from osbuilder.kernel.selection import select
from tests.kernel_configs import write_configs
from tests.kernel_sources import read_tree

X86_64 = parse_arch("x86_64")
KCONFIG = """\
config BASE
	bool "Base"
	select HELPER if DEVICE
config HELPER
	bool
	select DEEP
config DEEP
	bool
config DEVICE
	bool "Device memory"
	depends on BASE
config USER
	bool "User of memory"
	depends on DEVICE && ABSENT
config ABSENT
	bool "Nobody asks"
config PLAIN
	def_bool y if BASE
config EAGER
	bool "Eager"
	imply EASY
config EASY
	bool "Easy"
choice
	prompt "Speed"
config SLOW
	bool "Slow"
config FAST
	bool "Fast"
endchoice
config 64BIT
	def_bool y
config LATER
	bool "Conditional"
	depends on ABSENT if DEVICE
"""
RESOLVED = "CONFIG_BASE=y\nCONFIG_HELPER=y\nCONFIG_DEEP=y\nCONFIG_DEVICE=y\nCONFIG_PLAIN=y\nCONFIG_EAGER=y\n"
RESOLVED += "CONFIG_EASY=y\nCONFIG_SLOW=y\nCONFIG_64BIT=y\n"
FRAGMENT = "# what for\nCONFIG_BASE=y\nCONFIG_DEVICE=y\nCONFIG_EAGER=y\n"


@pytest.fixture
def explanation(tmp_path: Path) -> Explanation:
    configs = write_configs(tmp_path / "configs", {"common/speed.conf": FRAGMENT})
    (tmp_path / "Kconfig").write_text(KCONFIG)
    return Explanation(
        tree=load_tree(read_tree(tmp_path), X86_64),
        values=parse_config(RESOLVED),
        selection=select(load_catalogue(configs), X86_64, KernelVersion.parse("6.12.117")),
        kernel="6.12.117 (x86_64, base)",
    )


def test_a_requested_symbol_is_told_with_its_line_its_dependencies_and_who_needs_it(explanation: Explanation) -> None:
    assert explanation.of("DEVICE").splitlines() == [
        "DEVICE=y   in 6.12.117 (x86_64, base)",
        "asked for       DEVICE=y in common/speed.conf:3 (capability speed)",
        'defined         Kconfig:9: bool, "Device memory"',
        "depends on      BASE (holds)",
        "                  BASE=y (common/speed.conf:2)",
        "because         common/speed.conf:3 asks for it (capability speed)",
    ]
    assert "needed by       DEVICE (common/speed.conf:3)" in explanation.of("BASE")


@pytest.mark.parametrize(
    ("symbol", "because"),
    [
        ("DEEP", "selected by HELPER: selected by BASE: common/speed.conf:2 asks for it (capability speed)"),
        ("PLAIN", "its default: y if BASE (holds) (Kconfig:17)"),
        ("EASY", "implied by EAGER"),
        ("SLOW", 'it is what the choice "Speed" falls on when nobody asks'),
        ("64BIT", "its default: y (Kconfig:31)"),
        ("ABSENT", "nobody asks for it"),
        ("USER", "nobody asks for it; a request would be dropped: depends on ABSENT, which is n (not requested)"),
        (
            "LATER",
            (
                "nobody asks for it; a request would be dropped: "
                "depends on ABSENT || DEVICE = n: none holds (not requested)"
            ),
        ),
    ],
)
def test_every_value_has_its_reason(explanation: Explanation, symbol: str, because: str) -> None:
    lines = explanation.of(symbol).splitlines()
    assert f"because         {because}" in lines


def test_who_selects_a_symbol_is_listed_with_its_condition_at_the_other_end(explanation: Explanation) -> None:
    assert "selected by     BASE" in explanation.of("HELPER").splitlines()
    assert "selects         HELPER if DEVICE (holds)" in explanation.of("BASE").splitlines()


def test_an_unknown_symbol_comes_with_candidates(explanation: Explanation) -> None:
    with pytest.raises(UsageError) as refused:
        explanation.of("DEVICES")
    assert refused.value.message == ("no such symbol in 6.12.117 (x86_64, base): DEVICES; renamed? candidates: DEVICE")


def lost(explanation: Explanation, *losses: str) -> Explanation:
    """The same with a request that is lost, and one of a symbol that there is not."""
    selection = explanation.selection
    mine = parse("CONFIG_USER=y\nCONFIG_GONE=y\n", "mine.conf")
    selection = dataclasses.replace(selection, requests=extend(selection.requests, mine))
    return dataclasses.replace(explanation, selection=selection, broken=losses)


def test_a_contract_that_does_not_hold_is_told_with_every_symbol_and_the_loss_with_its_reason(
    explanation: Explanation,
) -> None:
    broken = lost(explanation, "mine.conf:1: USER=y dropped: ...", "mine.conf:2: GONE=y: ...")
    told = ["contract        does not hold: mine.conf:1: USER=y dropped: ...", f"{' ' * 16}mine.conf:2: GONE=y: ..."]
    assert broken.of("USER").splitlines()[:2] == [
        "USER=n   in 6.12.117 (x86_64, base)",
        "asked for       USER=y in mine.conf:1",
    ]
    because = "because         USER=y dropped: depends on ABSENT, which is n (not requested)"
    assert broken.of("USER").splitlines()[-3:] == [because, *told]
    assert broken.of("BASE").splitlines()[-2:] == told
    assert broken.of("GONE").splitlines() == [
        "GONE=n   in 6.12.117 (x86_64, base)",
        "asked for       GONE=y in mine.conf:2",
        "because         GONE=y: no such symbol in 6.12.117 (x86_64, base), nor one with a similar name",
        *told,
    ]
    assert "contract" not in explanation.of("BASE")
    many = lost(explanation, *(f"{number}" for number in range(10)))
    assert many.of("BASE").splitlines()[-1].strip() == "and 2 more: inv kernel.config lists them"


def test_a_difference_lists_what_only_one_side_has_what_changed_and_the_sizes() -> None:
    one = Side(name="base", values={"A": "y", "N": "4", "X": "y"}, sizes_bytes={"vmlinux": 200})
    other = Side(name="minimal", values={"B": "y", "N": "2", "X": "y"}, sizes_bytes={"vmlinux": 100})
    assert render_difference(one, other).splitlines() == [
        "--- base",
        "+++ minimal",
        "-A=y",
        "+B=y",
        "-N=4",
        "+N=2",
        "",
        "3 symbols differ; options =y: 2 and 2",
        "vmlinux: 200 and 100 bytes, 0.50 of it",
    ]


def test_a_difference_says_whose_contract_does_not_hold() -> None:
    one = Side(name="base", values={"A": "y"}, sizes_bytes={})
    other = Side(name="mine", values={}, sizes_bytes={}, broken=("mine.conf:1: A=y dropped: ...",))
    assert render_difference(one, other).splitlines()[2:] == [
        "-A=y",
        "",
        "1 symbols differ; options =y: 1 and 0",
        "base is not built: no sizes of it",
        "the contract of mine does not hold; this is the configuration that came out:",
        "  mine.conf:1: A=y dropped: ...",
    ]


def test_a_difference_says_which_side_is_not_built() -> None:
    one = Side(name="base", values={}, sizes_bytes={"vmlinux": 200})
    other = Side(name="minimal", values={}, sizes_bytes={})
    assert render_difference(one, other).splitlines()[-1] == "minimal is not built: no sizes of it"
