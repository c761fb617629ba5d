"""The contract of every kernel, with Debian's sources and the real cross compilers; nothing is compiled.

All that the fragments request is in the resolved configuration, or has a waiver that is needed: for each variant on
each architecture that it is for; on the default line and the variant's own always, on an older and a newer one in the
matrix.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import ARCHES
from osbuilder.errors import ContractError, FragmentError, OsbuilderError, PlanError
from osbuilder.kernel.catalogue import Exclusion, load_catalogue, matrix
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.contract import parse_config
from osbuilder.kernel.resolver import RESOLVER, MakeResolver
from osbuilder.request import KernelRequest
from osbuilder.step import Step
from osbuilder.store import Artifact
from osbuilder.versions import load_versions
from tests.conftest import ROOT
from tests.kernel_bench import Compiler

CATALOGUE = load_catalogue(ROOT / "kernel" / "configs")
DEFAULT_LINE = load_versions(ROOT).defaults.kernel
LINES = (DEFAULT_LINE, "debian-7.2", "debian-6.1")


def kernels(*, declared: bool) -> list[object]:
    """Return line, variant and architecture of every kernel that its variant is for, or of those of other versions."""
    return [
        pytest.param(
            line,
            variant,
            arch,
            id=f"{line}-{variant}-{arch}",
            marks=[] if line in usual_lines(variant, arch) else [pytest.mark.matrix],
        )
        for line in LINES
        for variant, arch in matrix(CATALOGUE)
        if (excluded(line, variant, arch) is None) is declared
    ]


def usual_lines(variant: str, arch: str) -> set[str]:
    """The lines that a kernel is made from by itself: the variant's own, the default, else the first that it is for."""
    own = CATALOGUE.variants[variant].usual_line(ARCHES[arch])
    fitting = [line for line in LINES if excluded(line, variant, arch) is None]
    return {DEFAULT_LINE, *([own.line] if own else ()), *fitting[:1]}


def excluded(line: str, variant: str, arch: str) -> Exclusion | None:
    return CATALOGUE.variants[variant].why_not(ARCHES[arch], KernelVersion.parse(line.removeprefix("debian-")))


def step_of(bench: Workbench, request: KernelRequest, name: str) -> Step:
    return next(step for step in bench.planner.plan(request).walk() if step.name == name)


def config_of(bench: Workbench, request: KernelRequest) -> Artifact:
    return bench.executor.run(step_of(bench, request, "config"))


@pytest.mark.parametrize(("line", "variant", "arch"), kernels(declared=True))
def test_every_kernel_holds_what_its_fragments_request(bench: Workbench, line: str, variant: str, arch: str) -> None:
    # Raises ContractError with every loss.
    config = config_of(bench, KernelRequest(arch=arch, line=line, variant=variant))
    values = parse_config(config.path("config").read_text())
    assert values["NR_CPUS"] == ("32" if variant == "minimal" else "256")
    assert ("m" in values.values()) == (config.facts["options_m"] > 0) == CATALOGUE.variants[variant].modules
    assert config.facts["requests"] > 150


@pytest.mark.parametrize(("line", "variant", "arch"), kernels(declared=False))
def test_a_variant_that_is_not_for_a_version_is_refused(bench: Workbench, line: str, variant: str, arch: str) -> None:
    why = excluded(line, variant, arch)
    assert why
    with pytest.raises(PlanError, match=re.escape(why.reason)) as refused:
        config_of(bench, KernelRequest(arch=arch, line=line, variant=variant))
    assert "name another line (--kernel debian-" in refused.value.hint


def test_the_architectures_own_compiler_is_the_one_that_is_asked(bench: Workbench) -> None:
    for name, arch in ARCHES.items():
        values = parse_config(config_of(bench, KernelRequest(arch=name)).path("config").read_text())
        assert values["CC_VERSION_TEXT"].startswith(f'"{arch.triplet}-gcc ')


def test_what_resolving_takes_of_a_source_is_small_and_the_same_each_time(bench: Workbench, tmp_path: Path) -> None:
    source = bench.executor.run(step_of(bench, KernelRequest(arch="x86_64"), "source"))
    compiler = Compiler(bench, tmp_path)
    made = [(compiler.run(MakeResolver(), source=source).folder / RESOLVER).read_bytes() for _ in range(2)]
    assert made[0] == made[1]
    assert len(made[0]) < 64 << 20


def test_fragments_of_the_users_own_ask_for_more(bench: Workbench, tmp_path: Path) -> None:
    mine = tmp_path / "mine.conf"
    mine.write_text("# what for\nCONFIG_EXT4_FS=y\nCONFIG_NFS_FS=y")
    request = KernelRequest(arch="x86_64", fragments=(mine,))
    plain, more = (parse_config(bench.kernels.config(each)) for each in (KernelRequest(arch="x86_64"), request))
    assert "NFS_FS" not in plain
    assert more["NFS_FS"] == "y"
    assert plain.items() - more.items() == set()
    assert f"asked for       NFS_FS=y in {mine}:3\n" in bench.kernels.explain(request, "NFS_FS")
    assert "asked for       nowhere" in bench.kernels.explain(KernelRequest(arch="x86_64"), "NFS_FS")
    assert f"NFS_FS ({mine}:3)" in bench.kernels.explain(request, "NETWORK_FILESYSTEMS")


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("CONFIG_NFS_V4=y", ContractError, "mine.conf:1: NFS_V4=y dropped: depends on NFS_FS"),
        ("CONFIG_NFS_FFS=y", ContractError, "mine.conf:1: NFS_FFS=y: no such symbol in 6"),
        ("CONFIG_EXT4_FS=n", FragmentError, "CONFIG_EXT4_FS=y in kernel/configs/common/ext4.conf:"),
    ],
)
def test_what_a_fragment_of_the_users_cannot_have_is_told_by_its_line(
    bench: Workbench, tmp_path: Path, line: str, error: type[OsbuilderError], words: str
) -> None:
    (tmp_path / "mine.conf").write_text(line)
    with pytest.raises(error) as caught:
        bench.kernels.config(KernelRequest(arch="x86_64", fragments=(tmp_path / "mine.conf",)))
    assert words in caught.value.message


def test_a_configuration_that_does_not_hold_its_contract_is_explained_compared_and_written(
    bench: Workbench, tmp_path: Path
) -> None:
    mine, output = tmp_path / "mine.conf", tmp_path / "out.config"
    mine.write_text("CONFIG_NFS_V4=y\n")
    request = KernelRequest(arch="x86_64", fragments=(mine,))
    loss = f"{mine}:1: NFS_V4=y dropped: depends on NFS_FS, which is n (not requested)"
    asked, other = (bench.kernels.explain(request, name).splitlines() for name in ("NFS_V4", "EXT4_FS"))
    assert asked[0].startswith("NFS_V4=n   in 6.12.")
    assert "because         NFS_V4=y dropped: depends on NFS_FS, which is n (not requested)" in asked
    assert asked[-1] == other[-1] == f"contract        does not hold: {loss}"
    with pytest.raises(ContractError, match="NFS_V4=y dropped") as broken:
        bench.kernels.config(request, output=output)
    assert parse_config(output.read_text())["EXT4_FS"] == "y"
    assert f"contract: it does not hold; {output} is the configuration that came out" in broken.value.__notes__
