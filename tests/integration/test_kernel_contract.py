"""The contract for every architecture, with Debian's source and the real cross compilers; nothing is compiled.

All that the fragments request is in the resolved configuration, or has a waiver that is needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import ARCHES
from osbuilder.kernel.contract import parse_config
from osbuilder.kernel.resolver import RESOLVER, MakeResolver
from osbuilder.request import KernelRequest
from osbuilder.step import Step
from osbuilder.store import Artifact
from tests.kernel_bench import Compiler


def step_of(bench: Workbench, arch: str, name: str) -> Step:
    return next(step for step in bench.planner.plan(KernelRequest(arch=arch)).walk() if step.name == name)


def config_of(bench: Workbench, arch: str) -> Artifact:
    return bench.executor.run(step_of(bench, arch, "config"))


@pytest.mark.parametrize("arch", sorted(ARCHES))
def test_a_kernel_of_every_architecture_holds_what_the_fragments_request(bench: Workbench, arch: str) -> None:
    config = config_of(bench, arch)  # raises ContractError with every loss
    values = parse_config(config.path("config").read_text())
    assert values["NR_CPUS"] == "256"
    assert config.facts["options_m"] == 0
    assert config.facts["requests"] > 150


def test_the_architectures_own_compiler_is_the_one_that_is_asked(bench: Workbench) -> None:
    for name, arch in ARCHES.items():
        values = parse_config(config_of(bench, name).path("config").read_text())
        assert values["CC_VERSION_TEXT"].startswith(f'"{arch.triplet}-gcc ')


def test_what_resolving_takes_of_a_source_is_small_and_the_same_each_time(bench: Workbench, tmp_path: Path) -> None:
    source = bench.executor.run(step_of(bench, "x86_64", "source"))
    compiler = Compiler(bench, tmp_path)
    made = [(compiler.run(MakeResolver(), source=source).folder / RESOLVER).read_bytes() for _ in range(2)]
    assert made[0] == made[1]
    assert len(made[0]) < 64 << 20
