"""Fragments: what is read, what is refused with which words, and what a kernel is asked for in the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osbuilder.arch import ARCHES, parse_arch
from osbuilder.errors import DecodeError, FragmentError, UsageError
from osbuilder.kernel import fragments
from osbuilder.kernel.fragments import KernelRange, KernelVersion

X86_64 = parse_arch("x86_64")
V6_12 = KernelVersion.parse("6.12.117")
REPOSITORY = Path(fragments.__file__).parents[2]
CONFIGS = REPOSITORY / "kernel" / "configs"


def write_configs(root: Path, capabilities: str, files: dict[str, str], waivers: str = "waivers: []\n") -> Path:
    (root / "capabilities.yaml").write_text(capabilities)
    (root / "waivers.yaml").write_text(waivers)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def capabilities(*names: str, extra: str = "") -> str:
    return "capabilities:\n" + "".join(f"  {name}:\n    purpose: p\n    probes: [p]\n{extra}" for name in names)


# --- one fragment


def test_every_kind_of_line_is_read_with_its_place() -> None:
    text = '# why\nCONFIG_A=y\n\nCONFIG_B=n\n# CONFIG_C is not set\nCONFIG_D="a \\"b\\""\nCONFIG_E=64\nCONFIG_F=0x10\n'
    assert [(r.symbol, r.value, r.where) for r in fragments.parse(text, "f.conf")] == [
        ("A", "y", "f.conf:2"),
        ("B", "n", "f.conf:4"),
        ("C", "n", "f.conf:5"),
        ("D", '"a \\"b\\""', "f.conf:6"),
        ("E", "64", "f.conf:7"),
        ("F", "0x10", "f.conf:8"),
    ]


def test_a_last_line_without_newline_is_a_line() -> None:
    assert [str(request) for request in fragments.parse("CONFIG_A=y\nCONFIG_B=m", "f.conf")] == ["A=y", "B=m"]


def test_blanks_at_the_end_of_a_line_do_not_become_part_of_the_value() -> None:
    assert fragments.parse("CONFIG_A=y \r\n", "f.conf")[0].value == "y"


def test_a_comment_may_name_an_option() -> None:
    assert fragments.parse("# CONFIG_FOO=y would be wrong here\n", "f.conf") == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("CONFIG_A=yes", "f.conf:2: CONFIG_A: expected y, m, n, a number or a text in double quotes, got 'yes'"),
        ("CONFIG_A=", "expected y, m, n, a number"),
        ("CONFIG_A=y # because", "A comment needs a line of its own."),
        ('CONFIG_A="open', "expected y, m, n, a number"),
        ("CONFIG_A=012", "expected y, m, n, a number"),
        ("CONFIG_A", "f.conf:2: expected CONFIG_NAME=value or a # comment, got 'CONFIG_A'"),
        ("FUSE_FS=y", "Write the name with CONFIG_"),
        ("CONFIG_A = y", "expected CONFIG_NAME=value"),
        (" CONFIG_A=y", "Start it in the first column."),
        ("#CONFIG_A is not set", "expected `# CONFIG_X is not set` to the letter"),
        ("# CONFIG_A is not set.", "to the letter"),
    ],
)
def test_a_malformed_line_is_refused_with_its_place(line: str, words: str) -> None:
    with pytest.raises(FragmentError) as refused:
        fragments.parse(f"CONFIG_OK=y\n{line}\n", "f.conf")
    assert words in str(refused.value)
    assert "f.conf:2" in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_bytes(b'CONFIG_A="\xff"\n')
    with pytest.raises(FragmentError, match=r"a\.conf: expected UTF-8 text, got the byte 0xff"):
        fragments.load_fragment(tmp_path / "a.conf", "a.conf")


# --- merging


def test_the_same_request_twice_is_a_duplicate_that_names_both_lines() -> None:
    requests = fragments.parse("CONFIG_A=y\n", "a.conf") + fragments.parse("\nCONFIG_A=y\n", "b.conf")
    with pytest.raises(FragmentError) as refused:
        fragments.merge(requests)
    assert refused.value.message == "duplicate: CONFIG_A=y in a.conf:1 and again in b.conf:2"


def test_different_requests_for_a_symbol_are_a_contradiction_that_names_both_lines() -> None:
    requests = fragments.parse("CONFIG_A=y\nCONFIG_B=1\n", "a.conf") + fragments.parse(
        "# CONFIG_A is not set\nCONFIG_B=2\n", "b.conf"
    )
    with pytest.raises(FragmentError) as refused:
        fragments.merge(requests)
    assert refused.value.message.splitlines() == [
        "contradiction: CONFIG_A=y in a.conf:1, but CONFIG_A=n in b.conf:1",
        "contradiction: CONFIG_B=1 in a.conf:2, but CONFIG_B=2 in b.conf:2",
    ]


def test_a_merge_is_sorted_whatever_the_order_of_the_fragments() -> None:
    one, two = fragments.parse("CONFIG_B=y\n", "a.conf"), fragments.parse('CONFIG_A="x"\n', "b.conf")
    assert fragments.render(fragments.merge(one + two)) == fragments.render(fragments.merge(two + one))
    assert fragments.render(fragments.merge(one + two)) == 'CONFIG_A="x"\nCONFIG_B=y\n'


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


# --- the catalogue


def test_a_capability_collects_its_fragments_from_every_layer(tmp_path: Path) -> None:
    write_configs(
        tmp_path,
        capabilities("nvdimm"),
        {"common/nvdimm.conf": "CONFIG_DAX=y\n", "arch/x86_64/nvdimm.conf": "CONFIG_ACPI_NFIT=y"},
    )
    selection = fragments.load_catalogue(tmp_path).select(X86_64, V6_12)
    assert [(str(r), r.where) for r in selection.requests] == [
        ("ACPI_NFIT=y", "arch/x86_64/nvdimm.conf:1"),
        ("DAX=y", "common/nvdimm.conf:1"),
    ]


def test_a_capability_out_of_its_kernel_range_asks_for_nothing(tmp_path: Path) -> None:
    text = capabilities("old", extra='    kernel: "<6.12"\n') + "  new:\n    purpose: p\n    unproven: none\n"
    write_configs(tmp_path, text, {"common/old.conf": "CONFIG_OLD=y\n", "common/new.conf": "CONFIG_NEW=y\n"})
    catalogue = fragments.load_catalogue(tmp_path)
    assert list(catalogue.select(X86_64, V6_12).capabilities) == ["new"]
    assert list(catalogue.select(X86_64, KernelVersion.parse("6.1")).capabilities) == ["old", "new"]


def test_a_capability_may_name_fragments_other_than_its_own(tmp_path: Path) -> None:
    text = capabilities("net", extra="    fragments: [ipv4, ipv6]\n")
    write_configs(tmp_path, text, {"common/ipv4.conf": "CONFIG_INET=y\n", "common/ipv6.conf": "CONFIG_IPV6=y\n"})
    requests = fragments.load_catalogue(tmp_path).select(X86_64, V6_12).requests
    assert [str(request) for request in requests] == ["INET=y", "IPV6=y"]


def test_a_capability_without_any_fragment_is_refused(tmp_path: Path) -> None:
    write_configs(tmp_path, capabilities("ghost"), {})
    with pytest.raises(FragmentError, match=r"capability ghost has no fragment for x86_64: .* common/, arch/x86_64/"):
        fragments.load_catalogue(tmp_path).select(X86_64, V6_12)


def test_a_fragment_that_no_capability_names_is_refused_with_the_nearest(tmp_path: Path) -> None:
    write_configs(tmp_path, capabilities("vsock"), {"common/vsok.conf": "", "common/vsock.conf": "CONFIG_A=y\n"})
    with pytest.raises(FragmentError, match=r"common/vsok\.conf belongs to no capability(.|\n)*Did you mean vsock"):
        fragments.load_catalogue(tmp_path)


def test_a_fragment_of_two_capabilities_is_refused(tmp_path: Path) -> None:
    text = capabilities("a") + "  b:\n    purpose: p\n    probes: [p]\n    fragments: [a]\n"
    write_configs(tmp_path, text, {"common/a.conf": "CONFIG_A=y\n"})
    with pytest.raises(FragmentError, match="fragment a belongs to two capabilities: a and b"):
        fragments.load_catalogue(tmp_path)


def test_a_folder_of_an_architecture_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write_configs(tmp_path, capabilities("a"), {"common/a.conf": "CONFIG_A=y\n", "arch/amd64/a.conf": "CONFIG_B=y\n"})
    with pytest.raises(UsageError, match="unknown architecture 'amd64'"):
        fragments.load_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("    unproven: but there are probes\n", "expected either probes, or unproven"),
        ("    arches: [x86]\n", "unknown architecture 'x86'"),
        ("    kernel: 6.12\n", "6.12 is a number in YAML"),
        ('    kernel: "6.12"\n', "expected a kernel range such as"),
        ("    probe: p\n", "unknown key 'probe'"),
    ],
)
def test_a_malformed_capability_is_refused_with_its_line(tmp_path: Path, extra: str, words: str) -> None:
    write_configs(tmp_path, capabilities("a", extra=extra), {"common/a.conf": "CONFIG_A=y\n"})
    with pytest.raises(DecodeError) as refused:
        fragments.load_catalogue(tmp_path)
    assert words in str(refused.value)
    assert "capabilities.yaml:" in str(refused.value)


def test_a_waiver_is_selected_for_the_kernels_that_it_names(tmp_path: Path) -> None:
    waivers = 'waivers:\n- {symbol: A, kernel: "<6.12", arches: [x86_64], reason: not there yet}\n'
    write_configs(tmp_path, capabilities("a"), {"common/a.conf": "CONFIG_A=y\n"}, waivers)
    catalogue = fragments.load_catalogue(tmp_path)
    assert catalogue.select(X86_64, V6_12).waivers == ()
    assert [w.symbol for w in catalogue.select(X86_64, KernelVersion.parse("6.1.5")).waivers] == ["A"]


@pytest.mark.parametrize(
    ("waiver", "words"),
    [
        ('{symbol: CONFIG_A, kernel: ">=6.1", arches: [x86_64], reason: r}', "expected a symbol without CONFIG_"),
        ('{symbol: "A*", kernel: ">=6.1", arches: [x86_64], reason: r}', "expected a symbol without CONFIG_"),
        ('{symbol: A, kernel: ">=6.1", arches: [], reason: r}', "expected at least one architecture"),
        ("{symbol: A, arches: [x86_64], reason: r}", "missing key 'kernel'"),
    ],
)
def test_a_waiver_is_exact_or_refused(tmp_path: Path, waiver: str, words: str) -> None:
    write_configs(tmp_path, capabilities("a"), {"common/a.conf": "CONFIG_A=y\n"}, f"waivers:\n- {waiver}\n")
    with pytest.raises(DecodeError) as refused:
        fragments.load_catalogue(tmp_path)
    assert words in str(refused.value)


# --- what we ship


@pytest.mark.parametrize("arch", sorted(ARCHES))
def test_the_shipped_fragments_merge_for_every_architecture(arch: str) -> None:
    selection = fragments.load_catalogue(CONFIGS).select(parse_arch(arch), V6_12)
    assert selection.requests
    assert all(request.value != "m" for request in selection.requests), "the base kernel has no modules"


def test_every_shipped_fragment_says_what_it_is_for_and_why_it_turns_something_off() -> None:
    for path in sorted(CONFIGS.rglob("*.conf")):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# "), f"{path.name} does not begin by saying what it is for"
        for number, line in enumerate(lines):
            if line.endswith("=n"):
                assert lines[number - 1].startswith("#"), f"{path.name}:{number + 1}: {line} without a reason above it"


def test_every_probe_that_a_shipped_capability_names_is_one_of_the_reference_agent() -> None:
    table = (REPOSITORY / "agents" / "probe" / "table.c").read_text()
    known = set(re.findall(r'(?:\.name = |CGROUP\()"([a-z0-9-]+)"', table))
    for name, capability in fragments.load_catalogue(CONFIGS).capabilities.items():
        assert set(capability.probes) <= known, f"{name} names a probe that the agent does not have"
