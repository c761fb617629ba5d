"""The toolchain's answers, written down: the same configuration as with make, and nothing that is uncertain."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from bench.kernel_config import ByMake
from osbuilder.api import Workbench
from osbuilder.arch import ARCHES, parse_arch
from osbuilder.kernel.answers import ANSWERS, FILES, AskToolchain
from osbuilder.kernel.build import compiled
from osbuilder.kernel.configure import CONFIG, Configure, Resolve
from osbuilder.kernel.resolver import RESOLVER
from osbuilder.request import KernelRequest
from osbuilder.step import Step
from osbuilder.store import Artifact
from tests.jobs import artifact
from tests.kernel_bench import Compiler
from tests.kernel_configs import write_configs

X86_64 = parse_arch("x86_64")
GCC = "x86_64-linux-gnu-gcc"
SURE = f"{GCC} -E -x c /dev/null > /dev/null && echo y"
KCONFIG = f"""\
mainmenu "Questions"
config FAST
	bool "Fast"
config SURE
	def_bool $(shell,{SURE})
config NO_TOOL
	def_bool $(shell,echo y)
config REFUSED
	def_bool $(shell,{{ {GCC} -no-such-option -E -x c /dev/null; }} > /dev/null 2>&1 && echo y || echo n)
config HALF
	def_bool $(shell,{GCC} --version > /dev/null; x86_64-linux-gnu-ld --no-such-option 2> /dev/null; echo y)
config FULL
	def_bool $(shell,{{ {GCC} -c -x c /dev/null -o /dev/full; }} > /dev/null 2>&1 && echo y || echo n)
config KILLED
	def_bool $(shell,$(srctree)/scripts/killed.sh)
"""
KILLED = f"#!/bin/sh\n{GCC} -wrapper sh,-c,'kill -9 $PPID' -c -x c /dev/null -o /dev/null 2> /dev/null; echo y\n"


def resolved_step(bench: Workbench, arch: str) -> Step:
    config = dict(compiled(bench.planner.plan(KernelRequest(arch=arch))).inputs)[CONFIG]
    return dict(config.inputs)["resolved"]


def resolver_with(original: Artifact, folder: Path, texts: dict[str, str]) -> Artifact:
    """Return a resolver whose only Kconfig files, and some files more, are `texts`."""
    folder.mkdir()
    with tarfile.open(original.path(RESOLVER)) as before, tarfile.open(folder / RESOLVER, "w") as after:
        for member in before:
            if not Path(member.name).name.startswith("Kconfig"):
                after.addfile(member, before.extractfile(member) if member.isreg() else None)
        for name, text in texts.items():
            member = tarfile.TarInfo(f"linux/{name}")
            member.size, member.mode = len(text), 0o755
            after.addfile(member, io.BytesIO(text.encode()))
    return artifact(folder, original.facts)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_configuration_has_the_bytes_that_make_gives_it(bench: Workbench, tmp_path: Path, arch: str) -> None:
    step = resolved_step(bench, arch)
    inputs = {name: bench.executor.run(each) for name, each in step.inputs}
    assert isinstance(step.action, Resolve)
    compiler = Compiler(bench, tmp_path, step.builder)
    ours, by_make = (compiler.run(each, **inputs) for each in (step.action, ByMake(resolve=step.action)))
    assert (ours.folder / CONFIG).read_bytes() == (by_make.folder / CONFIG).read_bytes()
    assert ours.facts == by_make.facts
    assert inputs["answers"].facts["answers"] > 50


def test_only_what_every_tool_succeeded_at_is_written_down_and_taken(bench: Workbench, tmp_path: Path) -> None:
    step = resolved_step(bench, "x86_64")
    original = bench.executor.run(dict(step.inputs)["resolver"])
    resolver = resolver_with(original, tmp_path / "resolver", {"Kconfig": KCONFIG, "scripts/killed.sh": KILLED})
    compiler = Compiler(bench, tmp_path / "runs", step.builder)
    asked = [compiler.run(AskToolchain.for_arch(X86_64), resolver=resolver).artifact() for _ in range(2)]
    assert asked[0].path(ANSWERS).read_bytes() == f"{SURE}\0y\n\0".encode()
    for name in FILES:
        assert asked[0].path(name).read_bytes() == asked[1].path(name).read_bytes(), name

    configs = write_configs(tmp_path / "configs", {"common/speed.conf": "CONFIG_FAST=y\n"})
    action = Resolve(configure=Configure.of_catalogue(configs, X86_64))
    config = compiler.run(action, answers=asked[0], resolver=resolver).folder / CONFIG
    assert {"CONFIG_FAST=y", "CONFIG_SURE=y", "CONFIG_HALF=y", "CONFIG_KILLED=y"} <= set(config.read_text().split())

    asked[1].path(ANSWERS).write_bytes(f"{SURE}\0n\n\0".encode())
    config = compiler.run(action, answers=asked[1], resolver=resolver).folder / CONFIG
    assert "CONFIG_SURE" not in config.read_text()
