"""kernel/configs as data: conditions, what refers to what, and which of it a kernel is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import DecodeError, FragmentError, PlanError
from osbuilder.kernel import fragments
from osbuilder.kernel.catalogue import load_catalogue, matrix
from osbuilder.kernel.conditions import KernelRange, KernelVersion
from osbuilder.kernel.selection import select
from tests.kernel_configs import asked, capabilities, chosen

REPOSITORY = Path(fragments.__file__).parents[2]
CONFIGS = REPOSITORY / "kernel" / "configs"


# --- conditions


@pytest.mark.parametrize(
    ("text", "version", "holds"),
    [
        (">=6.12", "6.12", True),
        (">=6.12", "6.12.117", True),
        (">=6.12", "6.9.1", False),
        ("<6.18", "6.18.0-rc1", False),
        ("<6.18", "6.17.9", True),
        (">=6.1,<6.12", "6.2", True),
        (">=6.1, <6.12", "6.12.0", False),
        (">=6.12.64", "6.12.63", False),
    ],
)
def test_a_kernel_range_compares_numbers_not_text(text: str, version: str, holds: bool) -> None:
    assert (KernelVersion.parse(version) in KernelRange.parse(text)) is holds


@pytest.mark.parametrize("text", ["6.12", "=>6.12", ">=6", ">=6.12 <7", "", ">=6.12,"])
def test_anything_else_is_no_kernel_range(text: str) -> None:
    with pytest.raises(FragmentError, match="expected a kernel range such as"):
        KernelRange.parse(text)


@pytest.mark.parametrize("text", ["6", "six", "6.12abc", ""])
def test_anything_else_is_no_kernel_version(text: str) -> None:
    with pytest.raises(FragmentError, match=r"expected a kernel version such as 6\.12\.117"):
        KernelVersion.parse(text)


# --- the base's fragments


def test_a_capability_collects_its_fragments_from_every_layer(tmp_path: Path) -> None:
    selection = chosen(
        tmp_path,
        {
            "capabilities.yaml": capabilities("nvdimm"),
            "common/nvdimm.conf": "CONFIG_DAX=y\n",
            "arch/x86_64/nvdimm.conf": "CONFIG_ACPI_NFIT=y",
        },
    )
    assert [(str(r), r.where) for r in selection.requests] == [
        ("ACPI_NFIT=y", "kernel/configs/arch/x86_64/nvdimm.conf:1"),
        ("DAX=y", "kernel/configs/common/nvdimm.conf:1"),
    ]
    assert selection.owners == {"ACPI_NFIT": "nvdimm", "DAX": "nvdimm"}


def test_a_capability_out_of_its_kernel_range_asks_for_nothing(tmp_path: Path) -> None:
    files = {
        "capabilities.yaml": capabilities("old", extra='    kernel: "<6.12"\n')
        + "  new:\n    purpose: p\n    unproven: none\n",
        "common/old.conf": "CONFIG_OLD=y\n",
        "common/new.conf": "CONFIG_NEW=y\n",
    }
    assert list(chosen(tmp_path, files).capabilities) == ["new"]
    assert list(chosen(tmp_path, files, "6.1").capabilities) == ["old", "new"]


CONDITIONS = """\
    fragments:
      plain: {}
      old: {kernel: "<6.10"}
      elsewhere: {arches: [x86_64]}
      with-other: {needs: [other]}
"""


def test_a_fragment_is_asked_for_under_its_own_conditions(tmp_path: Path) -> None:
    files = {
        "capabilities.yaml": capabilities("net", extra=CONDITIONS)
        + capabilities("other", extra='    kernel: "<6.5"\n')[14:],
        **{
            f"common/{name}.conf": f"CONFIG_{name[:4].upper()}=y\n"
            for name in ("plain", "old", "elsewhere", "with-other")
        },
        "common/other.conf": "CONFIG_OTHER=y\n",
    }
    assert asked(chosen(tmp_path, files)) == ["ELSE=y", "PLAI=y"]
    assert asked(chosen(tmp_path, files, "6.6")) == ["ELSE=y", "OLD=y", "PLAI=y"]
    assert asked(chosen(tmp_path, files, "6.1")) == ["ELSE=y", "OLD=y", "OTHER=y", "PLAI=y", "WITH=y"]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("{needs: [othr]}", "capabilities.yaml: net.fragments.part: unknown capability 'othr'"),
        ("{arches: [x86]}", "unknown architecture 'x86'"),
        ("{kernel: 6.12}", "6.12 is a number in YAML"),
        ("{variant: debug}", "unknown key 'variant'"),
    ],
)
def test_a_condition_that_leads_nowhere_is_refused(tmp_path: Path, condition: str, words: str) -> None:
    text = capabilities("net", extra=f"    fragments: {{part: {condition}}}\n")
    with pytest.raises((FragmentError, DecodeError)) as refused:
        chosen(tmp_path, {"capabilities.yaml": text, "common/part.conf": "CONFIG_A=y\n"})
    assert words in str(refused.value)


def test_a_capability_without_any_fragment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FragmentError, match=r"capability ghost has no fragment for x86_64: .* common/, arch/x86_64/"):
        chosen(tmp_path, {"capabilities.yaml": capabilities("ghost")})


def test_a_fragment_that_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    text = capabilities("net", extra="    fragments: {net: {}, net-old: {kernel: '<6.1'}}\n")
    with pytest.raises(FragmentError, match=r"capabilities\.yaml names net-old\.conf: no such fragment"):
        chosen(tmp_path, {"capabilities.yaml": text, "common/net.conf": "CONFIG_A=y\n"})
    chosen(tmp_path, {"arch/s390x/net-old.conf": "CONFIG_B=y\n", "capabilities.yaml": text})  # somewhere is enough


def test_a_fragment_of_two_capabilities_is_refused(tmp_path: Path) -> None:
    text = capabilities("a") + "  b:\n    purpose: p\n    probes: [p]\n    fragments: {a: {}}\n"
    with pytest.raises(FragmentError, match="fragment a belongs to two capabilities: a and b"):
        chosen(tmp_path, {"capabilities.yaml": text, "common/a.conf": "CONFIG_A=y\n"})


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("    unproven: but there are probes\n", "expected either probes, or unproven"),
        ("    arches: [x86]\n", "unknown architecture 'x86'"),
        ("    kernel: 6.12\n", "6.12 is a number in YAML"),
        ('    kernel: "6.12"\n', "expected a kernel range such as"),
        ('    kernel: "<6.1,>=6.9"\n', "a.kernel: expected a range that some kernel is in"),
        ("    probe: p\n", "unknown key 'probe'"),
    ],
)
def test_a_malformed_capability_is_refused_with_its_line(tmp_path: Path, extra: str, words: str) -> None:
    with pytest.raises(DecodeError) as refused:
        chosen(tmp_path, {"capabilities.yaml": capabilities("a", extra=extra), "common/a.conf": "CONFIG_A=y\n"})
    assert words in str(refused.value)
    assert "capabilities.yaml:" in str(refused.value)


# --- the history of symbols

A = {"capabilities.yaml": capabilities("a"), "common/a.conf": "CONFIG_NEW_NAME=y\nCONFIG_B=y\n"}


def test_a_symbol_is_asked_for_under_the_name_that_the_kernel_has_for_it(tmp_path: Path) -> None:
    files = {**A, "history.yaml": 'symbols: {NEW_NAME: {kernel: ">=6.9", otherwise: OLD_NAME}}\n'}
    assert asked(chosen(tmp_path, files, "6.12")) == ["B=y", "NEW_NAME=y"]
    old = chosen(tmp_path, files, "6.1")
    assert asked(old) == ["B=y", "OLD_NAME=y"]
    assert [(str(request), request.where) for request in old.absent] == [
        ("NEW_NAME=y", "kernel/configs/common/a.conf:1")
    ]


def test_a_symbol_that_a_kernel_does_not_have_is_not_asked_for(tmp_path: Path) -> None:
    files = {**A, "history.yaml": 'symbols: {B: {kernel: "<6.5"}}\n'}
    assert asked(chosen(tmp_path, files, "6.1")) == ["B=y", "NEW_NAME=y"]
    assert asked(chosen(tmp_path, files, "6.12")) == ["NEW_NAME=y"]


@pytest.mark.parametrize(
    ("life", "words"),
    [
        ("{otherwise: A}", "missing key 'kernel'"),
        ('{kernel: ">=6.9", otherwise: CONFIG_A}', "expected a symbol without CONFIG_, got 'CONFIG_A'"),
        ('{kernel: ""}', "expected a kernel range such as"),
        ('{kernel: ">=6.9,<6.9"}', "symbols.B.kernel: expected a range that some kernel is in, got '>=6.9,<6.9'"),
    ],
)
def test_a_malformed_history_is_refused(tmp_path: Path, life: str, words: str) -> None:
    with pytest.raises(DecodeError) as refused:
        chosen(tmp_path, {**A, "history.yaml": f"symbols: {{B: {life}}}\n"})
    assert words in str(refused.value)
    assert "history.yaml:1" in str(refused.value)


# --- waivers


def test_a_history_of_a_symbol_that_no_fragment_names_is_refused(tmp_path: Path) -> None:
    other = {
        "variant/v/variant.yaml": "purpose: p\nconsumers: [anyone]\ncapabilities: {o: {purpose: p, unproven: u}}\n"
    }
    files = {**A, **other, "variant/v/common/o.conf": "CONFIG_O=y\n# CONFIG_P is not set\n# CONFIG_Q is odd\n"}
    named = 'symbols: {O: {kernel: ">=6.5"}, P: {kernel: ">=6.5"}'
    assert chosen(tmp_path, {**files, "history.yaml": f"{named}}}\n"})
    with pytest.raises(FragmentError, match=r"history\.yaml: Q: no fragment names it"):
        chosen(tmp_path, {**files, "history.yaml": f'{named}, Q: {{kernel: ">=6.5"}}}}\n'})


def test_a_waiver_is_selected_for_the_kernels_that_it_names(tmp_path: Path) -> None:
    files = {**A, "waivers.yaml": 'waivers:\n- {symbol: B, kernel: "<6.12", arches: [x86_64], reason: not there yet}\n'}
    assert chosen(tmp_path, files).waivers == ()
    assert [waiver.symbol for waiver in chosen(tmp_path, files, "6.1.5").waivers] == ["B"]


@pytest.mark.parametrize(
    ("waiver", "words"),
    [
        ('{symbol: CONFIG_A, kernel: ">=6.1", arches: [x86_64], reason: r}', "expected a symbol without CONFIG_"),
        ('{symbol: "A*", kernel: ">=6.1", arches: [x86_64], reason: r}', "expected a symbol without CONFIG_"),
        ('{symbol: A, kernel: ">=6.1", arches: [], reason: r}', "expected at least one architecture"),
        ('{symbol: A, kernel: ">=6.1", arches: [amd64], reason: r}', "unknown architecture 'amd64'"),
        ("{symbol: A, arches: [x86_64], reason: r}", "missing key 'kernel'"),
        (
            '{symbol: A, kernel: ">=6.9,<6.1", arches: [x86_64], reason: r}',
            "waivers.yaml:2: waivers[0].kernel: expected a range that some kernel is in, got '>=6.9,<6.1'",
        ),
    ],
)
def test_a_waiver_is_exact_or_refused(tmp_path: Path, waiver: str, words: str) -> None:
    with pytest.raises(DecodeError) as refused:
        chosen(tmp_path, {**A, "waivers.yaml": f"waivers:\n- {waiver}\n"})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (('">=6.1"', "x86_64"), ('">=6.1"', "x86_64"), True),
        (('">=6.1"', "x86_64, s390x"), ('">=6.5,<6.9"', "s390x"), True),
        (('">=6.1"', "x86_64"), ('">=6.1"', "s390x"), False),
        (('"<6.9"', "x86_64"), ('">=6.9"', "x86_64"), False),
    ],
)
def test_no_kernel_is_excused_from_a_symbol_twice(
    tmp_path: Path, first: tuple[str, str], second: tuple[str, str], refused: bool
) -> None:
    rows = "".join(f"- {{symbol: B, kernel: {each[0]}, arches: [{each[1]}], reason: r}}\n" for each in (first, second))
    files = {**A, "waivers.yaml": f"waivers:\n{rows}"}
    if not refused:
        assert chosen(tmp_path, files)
        return
    with pytest.raises(DecodeError, match=r"waivers\[0\] and waivers\[1\] excuse B of the same kernels"):
        chosen(tmp_path, files)


# --- what we ship

SHIPPED = load_catalogue(CONFIGS)
VERSIONS = ("6.1.192", "6.12.117", "7.2.13")


@pytest.mark.parametrize(("name", "arch"), list(matrix(SHIPPED)))
@pytest.mark.parametrize("version", VERSIONS)
def test_the_shipped_fragments_merge_for_every_kernel(name: str, arch: str, version: str) -> None:
    number = KernelVersion.parse(version)
    if excluded := SHIPPED.variants[name].why_not(parse_arch(arch), number):
        with pytest.raises(PlanError, match=re.escape(excluded.reason)):
            select(SHIPPED, parse_arch(arch), number, name)
        return
    selection = select(SHIPPED, parse_arch(arch), number, name)
    assert selection.requests
    values = {request.value for request in selection.requests}
    assert ("m" in values) == SHIPPED.variants[name].modules, "modules are where a variant says so, and nowhere else"


def test_every_shipped_consumer_is_served_by_a_variant() -> None:
    assert {name for variant in SHIPPED.variants.values() for name in variant.consumers} == set(SHIPPED.consumers)


def test_every_shipped_fragment_says_what_it_is_for_and_why_it_turns_something_off() -> None:
    for path in sorted(CONFIGS.rglob("*.conf")):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# "), f"{path.name} does not begin by saying what it is for"
        for number, line in enumerate(lines):
            if line.endswith("=n"):
                assert lines[number - 1].startswith("#"), f"{path.name}:{number + 1}: {line} without a reason above it"


def test_the_shipped_capabilities_name_the_probes_of_the_reference_agent_all_of_them() -> None:
    table = (REPOSITORY / "agents" / "probe" / "table.c").read_text()
    known = set(re.findall(r'(?:\.name = |[A-Z_]+\()"([a-z0-9-]+)"', table))
    capabilities = [each for name in SHIPPED.variants for each in SHIPPED.capabilities_of(name).values()]
    assert {probe for capability in capabilities for probe in capability.probes} == known
