"""The contract: every way in which a request gets lost, with the reason that a person reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import ContractError, SourceError
from osbuilder.kernel import contract, fragments, kconfig
from osbuilder.kernel.conditions import ArchName, KernelVersion
from osbuilder.kernel.exemptions import Waiver
from osbuilder.kernel.ranges import SomeRange
from tests.kernel_sources import read_tree

X86_64 = parse_arch("x86_64")
V6_12 = KernelVersion.parse("6.12.117")

KCONFIG = r"""
mainmenu "Linux/$(ARCH) Configuration"
comment "Compiler: $(CC_VERSION_TEXT)"
source "arch/$(SRCARCH)/Kconfig"

config MODULES
	bool "Loadable modules"
	modules
	help
		Not on. The next line belongs to this text:

		config NOT_A_SYMBOL

config EXPERT
	bool "Expert"

config BASE
	bool "Base"

menu "Memory"
	depends on BASE

config HOTPLUG
	bool "Hotplug"

config ZONE_DEVICE
	bool "Device memory"
	depends on HOTPLUG && \
		64BIT
	select HELPER if BASE

endmenu

config HELPER
	bool

if BASE
config FS_DAX
	bool "DAX" if EXPERT || 64BIT
	depends on ZONE_DEVICE # this first
config FUSE_DAX
	bool "FUSE DAX"
	depends on FS_DAX
endif

config BOTH_WAYS
	bool "Needs one"
	depends on HOTPLUG || ZONE_DEVICE

config UNLESS
	bool "Not with base"
	depends on !BASE

config LEVEL
	int "Level" if EXPERT
	range 2 64
	default 8

config OPEN_LEVEL
	int "Open level"
	range 2 64
	default 8

config NAME
	string "Name"
	default "$(ARCH)-guest"

config NEEDS_LEVEL
	bool "Deep"
	depends on LEVEL > 16

config DEEPER
	bool "Deeper"
	depends on NEEDS_LEVEL

config FREE
	int "Free"
	default 8

config FORCED
	bool "Forced" if EXPERT
	default y

config HARDEN
	bool "Harden"
	depends on $(cc-option,-mharden-sls=all)

config PLAIN_TRISTATE
	tristate "May be a module"

choice
	prompt "Timer"
	default HZ_250
	help
		Pick.

config HZ_100
	bool "100 Hz"

config HZ_250
	bool "250 Hz"

endchoice

config MITIGATION_RETPOLINE
	bool "Retpoline"
"""

ARCH_KCONFIG = """
# the architecture's own
config 64BIT
	def_bool "$(ARCH)" != "i386"
"""


def losses(root: Path, requested: str, resolved: str, waivers: tuple[Waiver, ...] = ()) -> list[str]:
    (root / "arch/x86").mkdir(parents=True, exist_ok=True)
    (root / "Kconfig").write_text(KCONFIG)
    (root / "arch/x86/Kconfig").write_text(ARCH_KCONFIG)
    try:
        check(root, requested, resolved, waivers)
    except ContractError as err:
        return err.message.splitlines()[1:]
    return []


def check(root: Path, requested: str, resolved: str, waivers: tuple[Waiver, ...] = ()) -> contract.ContractReport:
    return contract.check(
        requests=fragments.merge(fragments.parse(requested, "f.conf")),
        resolved=resolved,
        texts=read_tree(root),
        arch=X86_64,
        version=V6_12,
        waivers=waivers,
    )


# --- what holds


def test_requests_that_are_in_the_resolved_configuration_hold(tmp_path: Path) -> None:
    requested = 'CONFIG_BASE=y\n# CONFIG_EXPERT is not set\nCONFIG_OPEN_LEVEL=0x10\nCONFIG_NAME="guest"\n'
    resolved = 'CONFIG_BASE=y\n# CONFIG_EXPERT is not set\nCONFIG_OPEN_LEVEL=16\nCONFIG_NAME="guest"\nCONFIG_X=m\n'
    assert losses(tmp_path, requested, resolved) == []
    report = check(tmp_path, requested, resolved)
    assert [str(request) for request in report.held] == ["BASE=y", "EXPERT=n", 'NAME="guest"', "OPEN_LEVEL=0x10"]
    assert (report.builtin_count, report.module_count) == (1, 1)


def test_a_symbol_that_is_absent_from_the_configuration_is_n(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_BASE=n\n", "") == []


# --- what is lost, and why


def test_a_loss_names_the_chain_of_dependencies_down_to_the_symbol_at_fault(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_FUSE_DAX=y\n", "CONFIG_BASE=y\nCONFIG_64BIT=y\n") == [
        (
            "f.conf:1: FUSE_DAX=y dropped: depends on FS_DAX, which is n because ZONE_DEVICE is n "
            "because HOTPLUG is n (not requested)"
        )
    ]


def test_a_loss_names_every_dependency_that_fails(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_ZONE_DEVICE=y\n", "CONFIG_BASE=y\n") == [
        (
            "f.conf:1: ZONE_DEVICE=y dropped: depends on HOTPLUG, which is n (not requested) and on 64BIT, which is n "
            "(its default decides)"
        )
    ]


def test_a_dependency_of_the_menu_around_counts(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_HOTPLUG=y\n", "") == [
        "f.conf:1: HOTPLUG=y dropped: depends on BASE, which is n (not requested)"
    ]


def test_a_dependency_that_was_requested_and_lost_itself_is_said_to_be(tmp_path: Path) -> None:
    found = losses(tmp_path, "CONFIG_FS_DAX=y\nCONFIG_FUSE_DAX=y\n", "CONFIG_BASE=y\nCONFIG_64BIT=y\n")
    assert len(found) == 2
    assert found[1].startswith("f.conf:2: FUSE_DAX=y dropped: depends on FS_DAX, which is n because ZONE_DEVICE is n")


def test_a_condition_that_is_no_symbol_is_shown_with_what_it_compares(tmp_path: Path) -> None:
    requested = "CONFIG_DEEPER=y\n"
    assert losses(tmp_path, requested, "CONFIG_LEVEL=8\n") == [
        (
            "f.conf:1: DEEPER=y dropped: depends on NEEDS_LEVEL, which is n because it depends on LEVEL > 16, "
            "but LEVEL is 8"
        )
    ]


@pytest.mark.parametrize(
    ("requested", "resolved", "words"),
    [
        ("CONFIG_QZX=y\n", "", "QZX=y: no such symbol in 6.12.117, nor one with a similar name"),
        ("CONFIG_BASE=y\n", "", "BASE=y dropped: no condition in its Kconfig forbids it: was this .config resolved"),
        ("CONFIG_OPEN_LEVEL=9\n", "CONFIG_OPEN_LEVEL=8\n", "OPEN_LEVEL=9 became 8: its range is 2 to 64"),
        ("CONFIG_FREE=9\n", "CONFIG_FREE=8\n", "FREE=9 became 8: no condition in its Kconfig demands it"),
    ],
)
def test_a_loss_without_a_reason_in_kconfig_says_that(
    tmp_path: Path, requested: str, resolved: str, words: str
) -> None:
    (found,) = losses(tmp_path, requested, resolved)
    assert found.startswith(f"f.conf:1: {words}")


def test_alternatives_that_all_fail_are_shown_together(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_BOTH_WAYS=y\n", "CONFIG_BASE=y\n") == [
        "f.conf:1: BOTH_WAYS=y dropped: depends on HOTPLUG || ZONE_DEVICE: none holds (not requested)"
    ]


def test_an_excluding_symbol_is_named_with_the_line_that_asked_for_it(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_BASE=y\nCONFIG_UNLESS=y\n", "CONFIG_BASE=y\n") == [
        "f.conf:2: UNLESS=y dropped: depends on !BASE, but BASE is y (BASE=y is requested in f.conf:1)"
    ]


def test_a_comparison_that_fails_shows_the_value(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_NEEDS_LEVEL=y\n", "CONFIG_LEVEL=8\n") == [
        "f.conf:1: NEEDS_LEVEL=y dropped: depends on LEVEL > 16, but LEVEL is 8"
    ]


def test_a_symbol_without_prompt_points_at_what_selects_it(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_HELPER=y\n", "") == [
        (
            "f.conf:1: HELPER=y dropped: it has no prompt, so that no request reaches it: "
            "request what selects it: ZONE_DEVICE"
        )
    ]


def test_a_choice_that_fell_on_another_member_names_it(tmp_path: Path) -> None:
    line = KCONFIG.splitlines().index("choice") + 1
    assert losses(tmp_path, "CONFIG_HZ_100=y\n", "CONFIG_HZ_250=y\n") == [
        f'f.conf:1: HZ_100=y dropped: the choice "Timer" (Kconfig:{line}) fell on HZ_250'
    ]


def test_a_member_of_a_choice_cannot_be_switched_off_alone(tmp_path: Path) -> None:
    assert "request another of its members" in losses(tmp_path, "CONFIG_HZ_250=n\n", "CONFIG_HZ_250=y\n")[0]


def test_an_n_that_somebody_selects_is_overridden(tmp_path: Path) -> None:
    resolved = "CONFIG_BASE=y\nCONFIG_ZONE_DEVICE=y\nCONFIG_HOTPLUG=y\nCONFIG_64BIT=y\nCONFIG_HELPER=y\n"
    assert losses(tmp_path, "CONFIG_HELPER=n\nCONFIG_ZONE_DEVICE=y\n", resolved) == [
        "f.conf:1: HELPER=n overridden: selected by ZONE_DEVICE (ZONE_DEVICE=y is requested in f.conf:2)"
    ]


def test_an_n_without_a_visible_prompt_is_overridden_by_its_default(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_FORCED=n\n", "CONFIG_FORCED=y\n") == [
        (
            "f.conf:1: FORCED=n overridden: its default wins, because its prompt depends on EXPERT, "
            "which is n (not requested)"
        )
    ]


def test_a_number_out_of_its_range_is_told_the_range(tmp_path: Path) -> None:
    found = losses(tmp_path, "CONFIG_OPEN_LEVEL=100\n", "CONFIG_OPEN_LEVEL=64\n")
    assert found[0].startswith("f.conf:1: OPEN_LEVEL=100 became 64: its range is 2 to 64 (Kconfig:")


def test_a_number_whose_prompt_is_hidden_keeps_its_default(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_LEVEL=4\n", "CONFIG_LEVEL=8\n") == [
        "f.conf:1: LEVEL=4 became 8: depends on EXPERT, which is n (not requested)"
    ]


def test_a_value_of_the_wrong_type_is_told_the_type(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_NAME=5\n", 'CONFIG_NAME="x"\n') == [
        'f.conf:1: NAME=5 became "x": it is of type string'
    ]


def test_a_module_of_a_bool_and_of_a_kernel_without_modules_are_told_apart(tmp_path: Path) -> None:
    found = losses(tmp_path, "CONFIG_BASE=m\nCONFIG_PLAIN_TRISTATE=m\n", "CONFIG_BASE=y\nCONFIG_PLAIN_TRISTATE=y\n")
    assert found == [
        "f.conf:1: BASE=m dropped: it is a bool, never a module",
        "f.conf:2: PLAIN_TRISTATE=m dropped: MODULES is n: what is built in is =y",
    ]


def test_what_the_toolchain_lacks_is_quoted_not_executed(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_HARDEN=y\n", "") == [
        "f.conf:1: HARDEN=y dropped: the builder's toolchain says no to $(cc-option,-mharden-sls=all)"
    ]


def test_a_renamed_symbol_comes_with_candidates_even_when_n_is_asked_for(tmp_path: Path) -> None:
    words = "no such symbol in 6.12.117; renamed? candidates: MITIGATION_RETPOLINE"
    assert losses(tmp_path, "CONFIG_RETPOLINE=y\n", "") == [f"f.conf:1: RETPOLINE=y: {words}"]
    assert losses(tmp_path, "CONFIG_RETPOLINE=n\n", "") == [f"f.conf:1: RETPOLINE=n: {words}"]


def test_a_word_in_a_help_text_is_no_symbol(tmp_path: Path) -> None:
    assert "no such symbol" in losses(tmp_path, "CONFIG_NOT_A_SYMBOL=n\n", "")[0]


def test_every_loss_is_listed_at_once(tmp_path: Path) -> None:
    assert len(losses(tmp_path, "CONFIG_FS_DAX=y\nCONFIG_HOTPLUG=y\nCONFIG_NOPE=y\n", "")) == 3


MANY = "CONFIG_ZONE_DEVICE=y\nCONFIG_FS_DAX=y\nCONFIG_FUSE_DAX=y\nCONFIG_BOTH_WAYS=y\nCONFIG_DEEPER=y\n"


def test_what_many_requests_lack_is_told_once(tmp_path: Path) -> None:
    assert losses(tmp_path, MANY, "CONFIG_BASE=y\nCONFIG_64BIT=y\nCONFIG_LEVEL=8\n") == [
        "HOTPLUG is n (not requested), and 4 requests depend on it:",
        "  f.conf:4: BOTH_WAYS=y",
        "  f.conf:2: FS_DAX=y",
        "  f.conf:3: FUSE_DAX=y",
        "  f.conf:1: ZONE_DEVICE=y",
        (
            "f.conf:5: DEEPER=y dropped: depends on NEEDS_LEVEL, which is n because it depends on LEVEL > 16, "
            "but LEVEL is 8"
        ),
    ]


def test_what_lacks_more_than_many_others_do_keeps_its_own_reason(tmp_path: Path) -> None:
    found = losses(tmp_path, MANY, "CONFIG_LEVEL=8\n")
    assert "f.conf:4: BOTH_WAYS=y dropped" in "\n".join(found)
    assert not any("requests depend on it" in line for line in found)


def test_what_was_asked_for_and_lost_is_among_what_depends_on_its_fault(tmp_path: Path) -> None:
    found = losses(tmp_path, f"CONFIG_HOTPLUG=y\n{MANY}", "CONFIG_64BIT=y\nCONFIG_LEVEL=8\n")
    assert found[0] == "BASE is n (not requested), and 5 requests depend on it:"
    assert "  f.conf:1: HOTPLUG=y" in found


# --- waivers


def waiver(symbol: str) -> Waiver:
    return Waiver(symbol=symbol, kernel=SomeRange(), arches=(ArchName("x86_64"),), reason="known")


def test_a_waiver_excuses_its_own_symbol_only(tmp_path: Path) -> None:
    requested = "CONFIG_HOTPLUG=y\nCONFIG_ZONE_DEVICE=y\n"
    found = losses(tmp_path, requested, "", (waiver("HOTPLUG"),))
    assert [line.split(": ")[1] for line in found] == ["ZONE_DEVICE=y dropped"]


def test_a_waived_loss_is_reported_with_its_reason(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_HOTPLUG=y\n", "", (waiver("HOTPLUG"),)) == []
    ((loss, excuse),) = check(tmp_path, "CONFIG_HOTPLUG=y\n", "", (waiver("HOTPLUG"),)).waived
    assert loss.request.symbol == "HOTPLUG"
    assert excuse.reason == "known"


def test_a_waiver_without_a_loss_is_an_error(tmp_path: Path) -> None:
    assert losses(tmp_path, "CONFIG_BASE=y\n", "CONFIG_BASE=y\n", (waiver("BASE"), waiver("GONE"))) == [
        "kernel/configs/waivers.yaml: BASE is not lost in 6.12.117 on x86_64: remove or narrow its waiver",
        "kernel/configs/waivers.yaml: nobody asks for GONE in 6.12.117 on x86_64: remove or narrow its waiver",
    ]


def test_a_symbol_that_exists_although_the_history_denies_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text('config A\n\tbool "A"\n')
    (denied,) = fragments.parse("CONFIG_A=y\n", "common/a.conf")
    (gone,) = fragments.parse("CONFIG_GONE=y\n", "common/a.conf")
    with pytest.raises(ContractError) as refused:
        contract.check(
            requests=(), resolved="", texts=read_tree(tmp_path), arch=X86_64, version=V6_12, absent=(denied, gone)
        )
    assert refused.value.message.splitlines()[1:] == [
        "kernel/configs/history.yaml: A exists in 6.12.117 (asked for in common/a.conf:1): widen its range"
    ]


# --- the language


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("confg FOO\n", "Kconfig:1: unknown Kconfig keyword 'confg'"),
        ('\nsource "gone/Kconfig"\n', "Kconfig:2: cannot read gone/Kconfig"),
        ('source "$(WHO)/Kconfig"\n', "Kconfig:1: cannot source $(WHO)/Kconfig: unknown variable"),
        ("config A\n\tbool\n\tdepends on (B && C\n", "Kconfig:3: expected a closing bracket"),
        ("config A\n\tbool\n\tdepends on B C\n", "Kconfig:3: expected the end of the expression, got 'C'"),
        ("config A\n\tbool\n\tdepends on $(cc-option,-x\n", "Kconfig:3: macro without its closing bracket"),
        ("config A\n\tbool\n\tdepends on B &&\n", "Kconfig:3: expected a symbol, got the end of the line"),
        ("menu M\nconfig A\n\tbool\n", "Kconfig: expected 'endmenu' before the end of the file"),
    ],
)
def test_a_kconfig_file_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "Kconfig").write_text(text)
    with pytest.raises(SourceError) as refused:
        kconfig.load(read_tree(tmp_path), {"SRCARCH": "x86"})
    assert words in str(refused.value)


def test_a_symbol_that_is_defined_twice_is_visible_where_either_definition_is(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text(
        'config A\n\tbool "A"\n\tdepends on B\nconfig B\n\tbool "B"\nconfig C\n\tbool "C"\n'
        'config A\n\tbool "A"\n\tdepends on C\n'
    )
    assert check(tmp_path, "CONFIG_A=y\n", "CONFIG_A=y\nCONFIG_C=y\n").held
    with pytest.raises(ContractError, match=r"depends on B, which is n .*; or depends on C, which is n"):
        check(tmp_path, "CONFIG_A=y\n", "")


def test_a_prompt_is_hidden_by_the_visible_if_of_its_menu(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text(
        'config E\n\tbool "E"\nmenu "M"\n\tvisible if E\nconfig A\n\tbool "A"\n\tdefault y\nendmenu\n'
    )
    with pytest.raises(ContractError, match="A=n overridden: its default wins, because its prompt depends on E"):
        check(tmp_path, "CONFIG_A=n\n", "CONFIG_A=y\n")
