"""Variants of kernels and their consumers: what each has, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from osbuilder.api import CHECKOUT, open_workbench
from osbuilder.arch import ARCHES, parse_arch
from osbuilder.capabilities import capabilities_text, exclusions, kernels_of
from osbuilder.errors import DecodeError, FragmentError, PlanError, UsageError
from osbuilder.kernel.catalogue import load_catalogue, load_usable, matrix
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.configure import Configure
from osbuilder.kernel.fragments import parse
from osbuilder.kernel.selection import select
from osbuilder.kernel.source import KernelLine
from osbuilder.variants import consumers_text, variants_text
from tests.kernel_configs import asked, capabilities, chosen, write_configs

K = "kernel/configs"
TWO = {
    "capabilities.yaml": capabilities("a", "b") + capabilities("extra", extra="    optional: true\n")[14:],
    "common/a.conf": "CONFIG_A=1\n",
    "common/b.conf": "CONFIG_B=y\n",
    "common/extra.conf": "CONFIG_EXTRA=y\n",
    "variant/more/variant.yaml": "purpose: p\nconsumers: [anyone]\nbrings: [extra]\n"
    "excluded: [{arches: [aarch64, s390x], reason: its VMM does not run there}]\n",
}


def variant(text: str) -> str:
    return f"purpose: p\nconsumers: [anyone]\n{text}"


def test_an_optional_capability_is_only_in_the_variants_that_bring_it(tmp_path: Path) -> None:
    assert asked(chosen(tmp_path, TWO)) == ["A=1", "B=y"]
    assert asked(chosen(tmp_path, TWO, variant="more")) == ["A=1", "B=y", "EXTRA=y"]


def test_a_variant_may_have_only_some_of_the_base(tmp_path: Path) -> None:
    files = {**TWO, "variant/less/variant.yaml": variant("only: [b]\nbrings: [extra]\n")}
    assert asked(chosen(tmp_path, files, variant="less")) == ["B=y", "EXTRA=y"]


OWN = variant("capabilities: {own: {purpose: p, unproven: u}}\n")


def test_a_variant_has_fragments_of_its_own_in_two_layers(tmp_path: Path) -> None:
    files = {
        **TWO,
        "variant/v/variant.yaml": OWN,
        "variant/v/common/own.conf": "CONFIG_OWN=y\n",
        "variant/v/arch/x86_64/own.conf": "CONFIG_OWN_X86=y\n",
    }
    selection = chosen(tmp_path, files, variant="v")
    assert asked(selection) == ["A=1", "B=y", "OWN=y", "OWN_X86=y"]
    assert selection.owners["OWN_X86"] == "own"
    assert asked(chosen(tmp_path, files)) == ["A=1", "B=y"]


def overriding(overrides: str, fragment: str) -> dict[str, str]:
    return {
        **TWO,
        "variant/v/variant.yaml": f"{OWN}overrides: [{overrides}]\n",
        "variant/v/common/own.conf": fragment,
    }


def test_a_variant_changes_a_symbol_of_the_base_only_where_it_says_so(tmp_path: Path) -> None:
    assert asked(chosen(tmp_path, overriding("{symbol: A, reason: r}", "CONFIG_A=2\n"), variant="v")) == ["A=2", "B=y"]
    with pytest.raises(FragmentError) as refused:
        chosen(tmp_path, overriding("", "CONFIG_A=2\n"), variant="v")
    words = f"contradiction: CONFIG_A=1 in {K}/common/a.conf:1, but CONFIG_A=2 in {K}/variant/v/common/own.conf:1"
    assert refused.value.message == words


def test_what_a_variant_asks_for_though_the_base_does_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FragmentError) as refused:
        chosen(tmp_path, overriding("", "CONFIG_A=2\nCONFIG_B=y\n"), variant="v")
    assert refused.value.message.splitlines() == [
        f"contradiction: CONFIG_A=1 in {K}/common/a.conf:1, but CONFIG_A=2 in {K}/variant/v/common/own.conf:1",
        f"duplicate: CONFIG_B=y in {K}/common/b.conf:1 and again in {K}/variant/v/common/own.conf:2",
    ]
    told = refused.value.hint.splitlines()
    assert told[0] == "The base asks for it already: drop kernel/configs/variant/v/common/own.conf:2."
    assert told[1] == "  To have another value than the base, add to kernel/configs/variant/v/variant.yaml:"
    # To the letter, it helps.
    declared = "\n".join(line[4:] for line in told[3:])
    files = {**overriding("", "CONFIG_A=2\n"), "variant/v/variant.yaml": f"{OWN}{declared}\n"}
    assert asked(chosen(tmp_path, files, variant="v")) == ["A=2", "B=y"]


def test_what_a_variant_itself_asks_for_twice_has_one_home(tmp_path: Path) -> None:
    with pytest.raises(FragmentError, match="duplicate: CONFIG_C=y in kernel/configs/variant/v") as refused:
        chosen(tmp_path, overriding("", "CONFIG_C=y\nCONFIG_C=y\n"), variant="v")
    assert refused.value.hint == "Each symbol has one home: remove one of the two lines."


@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("CONFIG_A=1\n", "the override of A has no effect: the variant does not ask for another value"),
        ("CONFIG_C=1\n", "the override of A has no effect: the variant does not ask for another value"),
    ],
)
def test_an_override_without_effect_is_refused(tmp_path: Path, fragment: str, words: str) -> None:
    with pytest.raises(FragmentError, match=words):
        chosen(tmp_path, overriding("{symbol: A, reason: r}", fragment), variant="v")


def test_an_override_of_what_the_base_does_not_ask_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FragmentError, match="override of C has no effect: the base does not ask for it"):
        chosen(tmp_path, overriding("{symbol: C, reason: r}", "CONFIG_C=1\n"), variant="v")


def test_a_variant_of_another_architecture_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    catalogue = load_catalogue(write_configs(tmp_path, TWO))
    with pytest.raises(UsageError) as refused:
        catalogue.variant("more", parse_arch("s390x"))
    assert refused.value.message == "kernel variant more is not for s390x: its VMM does not run there"
    assert refused.value.hint == "Variants for s390x: base."
    assert ("more", "s390x") not in matrix(catalogue)
    with pytest.raises(UsageError, match="unknown kernel variant 'mor'") as unknown:
        catalogue.variant("mor", parse_arch("x86_64"))
    assert unknown.value.hint == "Did you mean more? Known: base, more."


def test_a_variant_of_another_version_is_refused(tmp_path: Path) -> None:
    files = {**TWO, "variant/new/variant.yaml": variant('excluded: [{kernel: "<6.7", reason: it came with 6.7}]\n')}
    with pytest.raises(PlanError) as refused:
        chosen(tmp_path, files, "6.1.5", "new")
    assert refused.value.message == "there is no kernel variant new of 6.1.5 for x86_64: it came with 6.7"
    assert refused.value.hint == "It is not for kernels <6.7.0: name another line (--kernel)."
    assert asked(chosen(tmp_path, files, "6.7.0", "new"))


def test_who_named_a_line_that_a_variant_is_not_for_is_told_those_that_it_is_for(tmp_path: Path) -> None:
    files = {**TWO, "variant/new/variant.yaml": variant('excluded: [{kernel: "<6.12.50", reason: it came then}]\n')}
    lines = {
        "old": KernelLine(package="linux-source-6.1", suite="trixie"),
        # Which 6.12 that is, only its suite tells.
        "debian": KernelLine(package="linux-source-6.12", suite="trixie"),
        "pinned": KernelLine(package="linux-source-6.12", suite="trixie", version="6.12.57-1"),
        "tarball": KernelLine(urls=("https://a.example/v6.x/linux-6.18.5.tar.xz",), sha256="0" * 64),
        "tag": KernelLine(git="https://a.example/l.git", ref="v6.13-rc2"),
        "branch": KernelLine(git="https://a.example/l.git", ref="for-6.18"),
        "mine": KernelLine(tree="../linux"),
    }
    configure = Configure.of_catalogue(write_configs(tmp_path, files), parse_arch("x86_64"), "new", lines=lines)
    with pytest.raises(PlanError, match=r"no kernel variant new of 6\.1\.5 for x86_64: it came then") as refused:
        configure.selection(KernelVersion.parse("6.1.5"))
    assert refused.value.hint == (
        "It is not for kernels <6.12.50: name another line (--kernel pinned or tarball or tag)."
    )


def test_a_variant_may_begin_with_another_version_on_each_architecture(tmp_path: Path) -> None:
    excluded = "excluded: [{arches: [aarch64], kernel: '<6.13', reason: realms came with 6.13}]\n"
    catalogue = load_catalogue(write_configs(tmp_path, {**TWO, "variant/new/variant.yaml": variant(excluded)}))
    old, new = KernelVersion.parse("6.12.117"), KernelVersion.parse("6.13")
    assert {arch for name, arch in matrix(catalogue) if name == "new"} == set(ARCHES)
    assert select(catalogue, parse_arch("x86_64"), old, "new").requests
    assert select(catalogue, parse_arch("aarch64"), new, "new").requests
    words = r"there is no kernel variant new of 6\.12\.117 for aarch64: realms came with 6\.13"
    with pytest.raises(PlanError, match=words):
        select(catalogue, parse_arch("aarch64"), old, "new")
    assert list(exclusions(catalogue)) == [
        "no more for aarch64, s390x: its VMM does not run there",
        "no new for aarch64 <6.13.0: realms came with 6.13",
    ]
    assert list(exclusions(catalogue, variant="more")) == ["no more for aarch64, s390x: its VMM does not run there"]
    assert list(exclusions(catalogue, variant="more", arch="x86_64")) == []
    assert list(exclusions(catalogue, arch="s390x")) == ["no more for aarch64, s390x: its VMM does not run there"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("brings: [extr]\n", "variant/v/variant.yaml: unknown capability 'extr'"),
        ("brings: [a]\n", "brings a, which is not optional"),
        ("only: [nothing]\n", "unknown capability 'nothing'"),
        ("capabilities: {a: {purpose: p, unproven: u}}\n", "capability a is one of capabilities.yaml"),
        ("overrides: [{symbol: CONFIG_A, reason: r}]\n", "expected a symbol without CONFIG_"),
        ("tool: [x]\n", "unknown key 'tool'"),
        ("arches: [x86_64]\n", "unknown key 'arches'"),
        ("excluded: [{arches: [x86], reason: r}]\n", "unknown architecture 'x86'"),
        ("excluded: [{arches: [x86_64]}]\n", "missing key 'reason'"),
        ("excluded: [{reason: r}]\n", "expected a reason, and architectures, a kernel range, or both"),
        ("lines: [{patches: mine}]\n", "lines[0]: missing key 'line'"),
        ("lines: [{line: a, arch: aarch64}]\n", "lines[0]: unknown key 'arch'"),
        ("lines: [{line: a, arches: [arm64]}]\n", "unknown architecture 'arm64'"),
        ("lines: [{line: a}, {line: b, arches: [s390x]}]\n", "lines: expected one line for s390x, got a and b"),
        (
            "excluded: [{arches: [s390x], reason: r}]\nlines: [{line: a, arches: [s390x]}]\n",
            "lines: a is named for s390x, which `excluded` leaves out",
        ),
        ("only: [a]\ndrops: [{capability: b, reason: r}]\n", "drops do not go with only: leave it out there"),
    ],
)
def test_a_variant_that_leads_nowhere_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises((FragmentError, DecodeError)) as refused:
        chosen(tmp_path, {**TWO, "variant/v/variant.yaml": variant(text)})
    assert words in str(refused.value)
    assert "variant/v/variant.yaml" in str(refused.value)


def test_a_variant_without_a_consumer_or_with_an_odd_name_is_refused(tmp_path: Path) -> None:
    nobody = {**TWO, "variant/v/variant.yaml": "{purpose: p, consumers: []}\n"}
    with pytest.raises(DecodeError, match="expected at least one consumer: who can boot or use it"):
        chosen(tmp_path / "nobody", nobody)
    odd = {**TWO, "variant/V_1/variant.yaml": variant("")}
    with pytest.raises(FragmentError, match="expected a name of small letters, digits and hyphens, got 'V_1'"):
        chosen(tmp_path / "odd", odd)


def test_an_optional_capability_that_no_variant_brings_is_refused(tmp_path: Path) -> None:
    files = {**TWO, "variant/more/variant.yaml": variant("")}
    with pytest.raises(FragmentError, match="capability extra is optional, and no variant brings it"):
        chosen(tmp_path, files)


def test_a_waiver_does_not_count_in_a_variant_that_does_not_ask_for_its_symbol(tmp_path: Path) -> None:
    files = {
        **TWO,
        "variant/less/variant.yaml": variant("only: [b]\n"),
        "waivers.yaml": 'waivers:\n- {symbol: A, kernel: ">=6.1", arches: [x86_64], reason: r}\n',
    }
    assert [waiver.symbol for waiver in chosen(tmp_path, files).waivers] == ["A"]
    assert chosen(tmp_path, files, variant="less").waivers == ()


def test_a_fragment_of_a_variant_may_need_what_the_base_has_or_what_it_extends(tmp_path: Path) -> None:
    parts = "fragments: {own: {}, own-b: {needs: [b]}, own-extra: {needs: [extra]}"
    own = "capabilities: {own: {purpose: p, unproven: u, %s}}}\n"
    files = {
        **TWO,
        "variant/v/variant.yaml": variant(own % parts),
        "variant/v/common/own.conf": "CONFIG_N9=y\n",
        "variant/v/common/own-b.conf": "CONFIG_B9=y\n",
        "variant/v/common/own-extra.conf": "CONFIG_A9=y\n",
        "variant/w/variant.yaml": "purpose: p\nextends: v\ncapabilities: {last: {purpose: p, unproven: u, "
        "fragments: {last: {needs: [own]}}}}\n",
        "variant/w/common/last.conf": "CONFIG_LAST=y\n",
    }
    assert asked(chosen(tmp_path, files, variant="v")) == ["A=1", "B=y", "B9=y", "N9=y"]
    assert asked(chosen(tmp_path, files, variant="w")) == ["A=1", "B=y", "B9=y", "LAST=y", "N9=y"]
    files["variant/v/variant.yaml"] = variant(own % parts.replace("[b]", "[bb]"))
    catalogue = load_usable(write_configs(tmp_path, files))
    words = r"variant/v/variant\.yaml: own\.fragments\.own-b: unknown capability 'bb'"
    for name in ("v", "w"):  # and what extends it
        with pytest.raises(FragmentError, match=words):
            catalogue.declared(name)
    assert "more" in catalogue.variants


def test_a_waiver_of_ours_does_not_excuse_what_the_user_asks_for(tmp_path: Path) -> None:
    waivers = 'waivers:\n- {symbol: B, kernel: ">=6.1", arches: [x86_64], reason: r}\n'
    plain = Configure.of_catalogue(write_configs(tmp_path, {**TWO, "waivers.yaml": waivers}), ARCHES["x86_64"])
    version = KernelVersion.parse("6.12")
    assert [waiver.symbol for waiver in plain.selection(version).waivers] == ["B"]
    (request,) = parse("CONFIG_B=y\n", "mine.conf")
    selection = plain.asking([request]).selection(version)
    assert selection.waivers == ()
    assert [each.where for each in selection.requests if each.symbol == "B"] == ["mine.conf:1"]


def test_a_waiver_of_a_symbol_that_only_a_variant_asks_for_counts_in_that_variant_alone(tmp_path: Path) -> None:
    waivers = "".join(f'- {{symbol: {name}, kernel: ">=6.1", arches: [x86_64], reason: r}}\n' for name in ("O", "GONE"))
    own = {"variant/v/variant.yaml": OWN, "variant/v/common/own.conf": "CONFIG_O=y\n"}
    files = {**TWO, **own, "waivers.yaml": f"waivers:\n{waivers}"}
    assert [waiver.symbol for waiver in chosen(tmp_path, files, variant="v").waivers] == ["O", "GONE"]
    assert [waiver.symbol for waiver in chosen(tmp_path, files).waivers] == ["GONE"]
    # So what that variant asks for is part of what the others are checked with.
    before = Configure.of_catalogue(tmp_path, ARCHES["x86_64"])
    assert [name for name, _ in before.elsewhere] == ["variant/v/common/own.conf", "variant/v/variant.yaml"]
    (tmp_path / "variant/v/common/own.conf").write_text("CONFIG_OTHER=y\n")
    assert Configure.of_catalogue(tmp_path, ARCHES["x86_64"]).elsewhere == ()


# --- variants that somebody is still writing

UNFINISHED = {
    "variant/wip/common/own.conf": "CONFIG_OWN=y\n",  # and no declaration
    "variant/typo/variant.yaml": variant("brings: [extr]\n"),
    "variant/place/variant.yaml": variant(""),
    "variant/place/comon/own.conf": "CONFIG_OWN=y\n",
}
WRONG = {
    "wip": "no such file",
    "typo": "unknown capability 'extr'",
    "place": "kernel/configs/variant/place/comon has no place",
}


def test_what_is_wrong_with_a_variant_is_told_to_who_asks_for_it_or_for_all(tmp_path: Path) -> None:
    root = write_configs(tmp_path / "all", {**TWO, **UNFINISHED})
    catalogue = load_usable(root)
    x86_64, version = parse_arch("x86_64"), KernelVersion.parse("6.12.117")
    for name in ("base", "more"):
        assert Configure.of_catalogue(root, x86_64, name).selection(version) == select(catalogue, x86_64, version, name)
    for name, words in WRONG.items():
        with pytest.raises((DecodeError, FragmentError), match=words):
            Configure.of_catalogue(root, x86_64, name)
        with pytest.raises((DecodeError, FragmentError), match=words):
            load_catalogue(
                write_configs(tmp_path / name, {**TWO, **{k: v for k, v in UNFINISHED.items() if name in k}})
            )
    assert list(catalogue.variants) == ["base", "more"]
    assert kernels_of(catalogue, variant="more", arch="x86_64") == [("more", "x86_64")]
    with pytest.raises(FragmentError, match=WRONG["typo"]):
        kernels_of(catalogue, variant="typo")


def test_what_belongs_to_no_variant_is_no_variants_matter(tmp_path: Path) -> None:
    with pytest.raises(FragmentError, match="comon has no place"):
        load_usable(write_configs(tmp_path / "place", {**TWO, "comon/a.conf": ""}))
    with pytest.raises(FragmentError, match="unknown capability 'zz'"):
        load_usable(write_configs(tmp_path / "base", {**TWO, "variant/base/variant.yaml": variant("brings: [zz]\n")}))


@pytest.mark.parametrize("wrong", [{"variant/v/common/own.conf": "CONFIG_O=\n"}, {"variant/v/variant.yaml": "{}\n"}])
def test_a_waiver_that_an_unfinished_variant_may_need_is_no_matter_of_others(
    tmp_path: Path, wrong: dict[str, str]
) -> None:
    own = {"variant/v/variant.yaml": OWN, "variant/v/common/own.conf": "CONFIG_O=y\n"}
    waivers = {"waivers.yaml": 'waivers:\n- {symbol: O, kernel: ">=6.1", arches: [x86_64], reason: r}\n'}
    x86_64, version = parse_arch("x86_64"), KernelVersion.parse("6.12.117")
    catalogue = load_usable(write_configs(tmp_path, {**TWO, **own, **waivers, **wrong}))
    assert select(catalogue, x86_64, version).waivers == ()


# --- consumers

CONSUMERS = """\
consumers:
  anyone: {purpose: p, requires: []}
  vmm:
    purpose: p
    requires:
      - {capability: a, source: its manual}
      - {capability: b, source: its manual, kernel: ">=6.5"}
"""


def test_a_variant_that_a_consumer_could_not_use_is_refused(tmp_path: Path) -> None:
    declared = "purpose: p\nconsumers: [vmm]\nonly: [a]\n"
    files = {**TWO, "consumers.yaml": CONSUMERS, "variant/v/variant.yaml": declared}
    with pytest.raises(FragmentError) as refused:
        chosen(tmp_path, files, variant="v")
    assert refused.value.message == (
        "kernel variant v of 6.12.117 for x86_64 fails its consumers:\nvmm needs b (its manual)"
    )
    assert asked(chosen(tmp_path, files, "6.1", "v")) == ["A=1"]


def test_what_a_consumer_could_do_without_is_dropped_with_a_reason_or_not_at_all(tmp_path: Path) -> None:
    drops = "purpose: p\nconsumers: [vmm]\ndrops: [{capability: b, reason: r}]\n"
    only = "purpose: p\nconsumers: [vmm]\nonly: [a]\n"
    droppable = CONSUMERS.replace("capability: b,", "capability: b, droppable: true,")
    files = {**TWO, "variant/drops/variant.yaml": drops, "variant/only/variant.yaml": only}
    with pytest.raises(FragmentError, match="vmm needs b"):
        chosen(tmp_path, {**files, "consumers.yaml": CONSUMERS}, variant="drops")
    assert asked(chosen(tmp_path, {**files, "consumers.yaml": droppable}, variant="drops")) == ["A=1"]
    with pytest.raises(FragmentError, match="vmm needs b"):
        chosen(tmp_path, {**files, "consumers.yaml": droppable}, variant="only")


def test_a_capability_that_the_architecture_has_not_is_asked_of_no_variant(tmp_path: Path) -> None:
    files = {**TWO, "consumers.yaml": CONSUMERS, "variant/base/variant.yaml": variant("").replace("anyone", "vmm")}
    files["capabilities.yaml"] = capabilities("b", "extra").replace(
        "capabilities:\n", 'capabilities:\n  a: {purpose: p, probes: [p], kernel: "<6.5"}\n'
    )
    files["variant/more/variant.yaml"] = variant("")
    assert asked(chosen(tmp_path, files)) == ["B=y", "EXTRA=y"]


def test_a_consumer_that_needs_what_there_is_not_is_refused(tmp_path: Path) -> None:
    text = CONSUMERS.replace("capability: a", "capability: aa")
    with pytest.raises(FragmentError, match=r"consumers\.yaml: vmm: unknown capability 'aa'"):
        chosen(tmp_path, {**TWO, "consumers.yaml": text})


def test_a_consumer_says_where_its_needs_are_written(tmp_path: Path) -> None:
    text = CONSUMERS.replace(", source: its manual}", "}")
    with pytest.raises(DecodeError, match="missing key 'source'"):
        chosen(tmp_path, {**TWO, "consumers.yaml": text})


def test_who_can_boot_a_variant_is_told_of_all_consumers_or_what_it_lacks_for_them(tmp_path: Path) -> None:
    consumers = CONSUMERS + "  far: {purpose: p, arches: [s390x], requires: [{capability: a, source: s}]}\n"
    excluded = 'excluded: [{arches: [aarch64], kernel: "<6.10", reason: r}]\n'
    files = {**TWO, "consumers.yaml": consumers, "variant/v/variant.yaml": variant(f"only: [a]\n{excluded}")}
    catalogue = load_catalogue(write_configs(tmp_path, files))

    def table(version: str) -> list[str]:
        kernels = {ARCHES[name]: KernelVersion.parse(version) for name in ("x86_64", "aarch64")}
        return consumers_text(catalogue, "v", kernels).splitlines()

    assert [line.split() for line in table("6.12")[:4]] == [
        ["CONSUMER", "DECLARED", "x86_64", "aarch64"],
        ["anyone", "yes", "ok", "ok"],
        ["vmm", "no", "lacks", "b", "lacks", "b"],
        ["far", "no", "-", "-"],
    ]
    # It needs b since 6.5 alone, and before 6.10 there is no such kernel for aarch64.
    older = table("6.1")
    assert [line.split()[2:] for line in older[1:4]] == [["ok", "-"], ["ok", "-"], ["-", "-"]]
    assert older[-1] == "no v for aarch64 <6.10.0: r"


def test_variants_are_listed_with_purpose_architectures_and_consumers(tmp_path: Path) -> None:
    excluded = "excluded: [{arches: [ppc64le, s390x, riscv64], reason: r}]\n"
    files = {**TWO, "variant/v/variant.yaml": variant(excluded)}
    told = variants_text(load_catalogue(write_configs(tmp_path, files))).splitlines()
    assert told[0].split() == ["VARIANT", "PURPOSE", "ARCHITECTURES", "CONSUMERS"]
    assert next(line for line in told if line.startswith("v ")).split() == ["v", "p", "x86_64", "aarch64", "anyone"]


def test_the_kernels_that_consumers_are_held_against_are_those_of_the_line(tmp_path: Path) -> None:
    bench = open_workbench((f"store={tmp_path}/store",), stream=io.StringIO(), root=CHECKOUT)
    usual, other = (bench.kernels.consumers("confidential", line=line) for line in (None, "debian-6.12"))
    assert "no confidential for aarch64 <6.13.0: guests in realms" in other
    assert "no confidential" not in usual
    head, *rows = bench.kernels.consumers("minimal", arch="aarch64").splitlines()
    assert head.split() == ["CONSUMER", "DECLARED", "aarch64"]
    assert [row.split()[1:] for row in rows if row.startswith("firecracker")] == [["yes", "ok"]]
    with pytest.raises(UsageError, match="kernel variant minimal is not for s390x"):
        bench.kernels.consumers("minimal", arch="s390x")
    with pytest.raises(UsageError, match="unknown kernel variant 'minmal'"):
        bench.kernels.consumers("minmal")


# --- the table

OLD = """\
  old: {purpose: was, unproven: too old, kernel: "<6.5", arches: [x86_64], fragments: {b-old: {}, c-old: {}}}
"""


def test_the_table_says_fragments_probes_who_needs_it_and_where_it_is(tmp_path: Path) -> None:
    files = {
        **TWO,
        "consumers.yaml": CONSUMERS,
        "capabilities.yaml": TWO["capabilities.yaml"] + OLD,
        "common/b-old.conf": "CONFIG_B_OLD=y\n",
        "arch/x86_64/c-old.conf": "CONFIG_C_OLD=y\n",
    }
    table = capabilities_text(load_catalogue(write_configs(tmp_path, files))).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[1:-2]}
    assert rows["a"] == ["p", "all", "p", "vmm"]
    assert rows["extra"] == ["p", "more", "p", "-"]
    assert rows["old:"] == ["b-old", "c-old", "was", "x86_64", "<6.5.0", "none:", "too", "old", "-"]
