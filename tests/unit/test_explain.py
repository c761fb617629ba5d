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
        version=KernelVersion.parse("6.12.117"),
    )


def test_a_requested_symbol_is_told_with_its_line_its_dependencies_and_who_needs_it(explanation: Explanation) -> None:
    assert explanation.of("DEVICE").splitlines() == [
        "DEVICE=y   in 6.12.117 (x86_64, base)",
        "asked for       DEVICE=y in kernel/configs/common/speed.conf:3 (capability speed)",
        'defined         Kconfig:9: bool, "Device memory"',
        "depends on      BASE (holds)",
        "                  BASE=y (kernel/configs/common/speed.conf:2)",
        "because         kernel/configs/common/speed.conf:3 asks for it (capability speed)",
    ]
    assert "needed by       DEVICE (kernel/configs/common/speed.conf:3)" in explanation.of("BASE")


@pytest.mark.parametrize(
    ("symbol", "because"),
    [
        (
            "DEEP",
            "selected by HELPER: selected by BASE: kernel/configs/common/speed.conf:2 asks for it (capability speed)",
        ),
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


def test_nobody_means_another_symbol_by_small_letters(explanation: Explanation) -> None:
    with pytest.raises(UsageError, match=r"device; renamed\? candidates: DEVICE$"):
        explanation.of("device")
    with pytest.raises(UsageError, match=r"devices; renamed\? candidates: DEVICE"):
        explanation.of("devices")


def test_a_member_of_a_choice_that_nobody_asks_for_names_the_one_that_was_chosen(explanation: Explanation) -> None:
    line = KCONFIG.splitlines().index("choice") + 1
    fell = f'because         nobody asks for it; the choice "Speed" (Kconfig:{line}) fell on SLOW: '
    assert f'{fell}it is what the choice "Speed" falls on when nobody asks' in explanation.of("FAST").splitlines()
    selection = explanation.selection
    selection = dataclasses.replace(
        selection, requests=extend(selection.requests, parse("CONFIG_SLOW=y\n", "mine.conf"))
    )
    asked = dataclasses.replace(explanation, selection=selection)
    assert f"{fell}mine.conf:1 asks for it" in asked.of("FAST").splitlines()


@pytest.mark.parametrize(
    ("depends", "values", "needed"),
    [
        ("X", "CONFIG_X=y", True),
        ("X", "", True),  # the request is lost for want of it
        ("X && Y", "CONFIG_X=y\nCONFIG_Y=y", True),
        ("!X", "", False),
        ("!X || Y", "", False),
        ("Y && !X", "", False),
        ("X || Y", "CONFIG_X=y\nCONFIG_Y=y", False),
        ("X || Y", "CONFIG_X=y", True),
        ("!(X && Y)", "CONFIG_Y=y", False),
        ("!!X", "CONFIG_X=y", True),
        ("X = n", "", False),
        ("X != n", "CONFIG_X=y", True),
        ("!(X = n)", "CONFIG_X=y", True),
        ("!(X != n)", "", False),
        ("Y if X", "CONFIG_Y=y", False),
        ("X > 4", "CONFIG_X=8", True),
    ],
)
def test_a_symbol_is_needed_where_a_request_depends_on_its_being_set(
    explanation: Explanation, tmp_path: Path, depends: str, values: str, needed: bool
) -> None:
    text = f'config X\n\tbool "X"\nconfig Y\n\tbool "Y"\nconfig BASE\n\tbool "B"\n\tdepends on {depends}\n'
    (tmp_path / "Kconfig").write_text(text)
    tree = load_tree({"Kconfig": text}, X86_64)
    paragraph = dataclasses.replace(explanation, tree=tree, values=parse_config(f"{values}\nCONFIG_BASE=y\n")).of("X")
    assert ("needed by       BASE (kernel/configs/common/speed.conf:2)" in paragraph.splitlines()) is needed


HISTORY = "symbols: {LATE: {kernel: '>=6.9'}, NEW: {kernel: '>=6.9', otherwise: OLD}, HERE: {kernel: '<6.9'}}\n"


def test_a_symbol_of_other_kernels_is_told_by_its_history_and_under_its_name_here(tmp_path: Path) -> None:
    asking = "CONFIG_LATE=y\nCONFIG_NEW=y\nCONFIG_HERE=y\n"
    configs = write_configs(tmp_path, {"common/speed.conf": asking, "history.yaml": HISTORY})
    catalogue, version = load_catalogue(configs), KernelVersion.parse("6.1.192")
    explanation = Explanation(
        tree=load_tree({"Kconfig": 'config OLD\n\tbool "Old"\n'}, X86_64),
        values={"OLD": "y"},
        selection=select(catalogue, X86_64, version),
        kernel="6.1.192 (x86_64, base)",
        version=version,
        history=catalogue.history,
    )
    assert explanation.of("LATE").splitlines() == [
        "no LATE in 6.1.192 (x86_64, base): kernels >=6.9.0 have LATE (kernel/configs/history.yaml)",
        "asked for       not here; of those kernels in kernel/configs/common/speed.conf:1 (capability speed)",
    ]
    assert explanation.of("NEW").splitlines()[:2] == [
        "OLD=y   in 6.1.192 (x86_64, base); kernels >=6.9.0 have NEW (kernel/configs/history.yaml)",
        "asked for       OLD=y in kernel/configs/common/speed.conf:2 (capability speed)",
    ]
    # Of this version, but of another architecture: that tells nothing.
    silent = dataclasses.replace(explanation, selection=dataclasses.replace(explanation.selection, requests=()))
    with pytest.raises(UsageError, match="no such symbol"):
        silent.of("HERE")


def test_an_override_shows_what_the_base_asks_for_and_the_reason(tmp_path: Path, explanation: Explanation) -> None:
    declared = (
        "overrides: [{symbol: BASE, reason: its VMM has another}]\ncapabilities: {o: {purpose: p, unproven: u}}\n"
    )
    files = {
        "common/speed.conf": FRAGMENT,
        "variant/v/variant.yaml": f"purpose: p\nconsumers: [anyone]\n{declared}",
        "variant/v/common/o.conf": "CONFIG_BASE=n\n",
    }
    catalogue = load_catalogue(write_configs(tmp_path / "other", files))
    selection = select(catalogue, X86_64, explanation.version, "v")
    text = dataclasses.replace(explanation, selection=selection).of("BASE").splitlines()
    assert text[1:3] == [
        "asked for       BASE=n in kernel/configs/variant/v/common/o.conf:1 (capability o)",
        "overrides       BASE=y in kernel/configs/common/speed.conf:2: its VMM has another",
    ]


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
