"""Configuring and compiling a small kernel with the real tools: the same bytes each time, clear words when it fails."""

from __future__ import annotations

import dataclasses
import gzip
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import parse_arch
from osbuilder.errors import CommandFailed, ContractError, StoreError, ToolMissing
from osbuilder.kernel.answers import AskToolchain
from osbuilder.kernel.compile import Compile
from osbuilder.kernel.configure import Configure, Resolve
from osbuilder.kernel.resolver import MakeResolver
from osbuilder.store import Artifact
from tests.jobs import artifact
from tests.kernel_bench import Compiler, Outcome
from tests.kernel_configs import write_configs
from tests.kernel_sources import EPOCH, SMALL_KERNEL, members, pack, write_archive

X86_64 = parse_arch("x86_64")
FACTS = {"version": "6.12.57", "epoch": EPOCH, "origin": "small"}


@pytest.fixture
def compiler(bench: Workbench, tmp_path: Path) -> Compiler:
    return Compiler(bench, tmp_path / "compiler")


def source(base: Path, changes: Mapping[str, str] | None = None) -> Artifact:
    folder = base / "source"
    folder.mkdir(parents=True)
    write_archive(folder / "source.tar.zst", pack(members({**SMALL_KERNEL, **(changes or {})})))
    return artifact(folder, FACTS)


def configure(compiler: Compiler, base: Path, kernel: Artifact, fragment: str = "CONFIG_FAST=y\n") -> Outcome:
    configs = write_configs(base / "configs", {"common/speed.conf": fragment})
    resolver = compiler.run(MakeResolver(), source=kernel).artifact()
    answers = compiler.run(AskToolchain.for_arch(X86_64), resolver=resolver).artifact()
    action = Configure.of_catalogue(configs, X86_64)
    resolved = compiler.run(Resolve(configure=action), answers=answers, resolver=resolver).artifact()
    return compiler.run(action, resolved=resolved, resolver=resolver)


def compile_(compiler: Compiler, base: Path, changes: Mapping[str, str] | None = None) -> Outcome:
    kernel = source(base, changes)
    config = configure(compiler, base, kernel)
    return compiler.run(Compile.for_arch(X86_64), source=kernel, config=config.artifact())


def test_the_same_kernel_comes_out_again_from_other_folders_with_and_without_a_cache(
    bench: Workbench, tmp_path: Path
) -> None:
    compilers = [Compiler(bench, tmp_path / name) for name in ("one", "another-place")]
    outcomes = [
        compile_(compilers[0], tmp_path / "1"),
        compile_(compilers[0], tmp_path / "2"),
        compile_(compilers[1], tmp_path / "3"),
    ]
    for name in ("vmlinux", "vmlinuz", "config", "System.map"):
        assert len({(outcome.folder / name).read_bytes() for outcome in outcomes}) == 1, name
    assert [outcome.facts["ccache"] for outcome in outcomes] == [
        {"hits": 0, "misses": 2},
        {"hits": 2, "misses": 0},
        {"hits": 0, "misses": 2},
    ]
    assert {name: outcomes[0].facts[name] for name in ("version", "release", "epoch", "options_y")} == {
        "version": "6.12.57",
        "release": "6.12.57",
        "epoch": EPOCH,
        "options_y": 1,
    }
    assert outcomes[0].facts["cpu_s"] > 0


def test_another_engine_compiles_the_same_kernel_from_an_empty_cache(bench: Workbench, tmp_path: Path) -> None:
    other = "sandbox" if bench.executor.engine.name != "sandbox" else "docker"
    again = open_workbench((f"engine={other}",), stream=sys.stderr, root=bench.root)
    try:
        assert again.executor.engine.name == other
    except ToolMissing as error:
        pytest.skip(f"there is no second engine to compare with: {error.message}")
    one, two = (
        compile_(Compiler(each, tmp_path / name), tmp_path / f"{name}-inputs")
        for name, each in (("one", bench), ("two", again))
    )
    assert one.facts["ccache"] == two.facts["ccache"] == {"hits": 0, "misses": 2}
    for name in ("vmlinux", "vmlinuz", "config", "System.map"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_a_kernel_tells_the_fixed_builder_and_the_time_of_its_source(compiler: Compiler, tmp_path: Path) -> None:
    outcome = compile_(compiler, tmp_path)
    elf = (outcome.folder / "vmlinux").read_bytes()
    assert elf.startswith(b"\x7fELF")
    assert b"osbuilder@osbuilder #1 Tue Nov 14 22:13:20 UTC 2023" in elf
    assert b".symtab" not in elf
    assert gzip.decompress((outcome.folder / "vmlinuz").read_bytes()).startswith(b"\x7fELF")


def test_a_build_that_stopped_goes_on_from_what_was_compiled(compiler: Compiler, tmp_path: Path) -> None:
    broken = SMALL_KERNEL["Makefile"].replace("const char *f", "const chat *f")
    with pytest.raises(CommandFailed) as caught:
        compile_(compiler, tmp_path / "1", {"Makefile": broken})
    assert "unknown type name" in caught.value.tail
    assert compile_(compiler, tmp_path / "2").facts["ccache"] == {"hits": 1, "misses": 1}


def test_a_symbol_that_was_dropped_breaks_the_contract_with_its_reason(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"common/speed\.conf:2: GONE=y dropped: depends on SLOW"):
        configure(compiler, tmp_path, source(tmp_path), "CONFIG_FAST=y\nCONFIG_GONE=y\n")


def test_a_configuration_that_depends_on_what_was_not_unpacked_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="resolves differently in the whole source") as caught:
        compile_(compiler, tmp_path, {"drivers/late.c": "int late;\n"})
    assert "> CONFIG_LATE=y" in caught.value.message


def test_a_disk_that_fills_up_during_the_build_is_told_as_one(compiler: Compiler, tmp_path: Path) -> None:
    full = SMALL_KERNEL["Makefile"].replace("nm $(O)/vmlinux > $(O)/System.map", "cat $(O)/vmlinux > /dev/full")
    with pytest.raises(StoreError, match="the disk is full") as caught:
        compile_(compiler, tmp_path, {"Makefile": full})
    assert "OSBUILDER_STORE" in caught.value.hint


def test_nothing_is_fetched_while_a_kernel_is_built(compiler: Compiler, tmp_path: Path) -> None:
    # In /proc, which every engine shows; a sandbox has no /sys. What is not shown at all would name no device either.
    look = r"$(shell sed -n 's/^ *\([^ :]*\):.*/device \1/p' /proc/net/dev >&2)"
    kernel = source(tmp_path, {"Makefile": f"{SMALL_KERNEL['Makefile']}\n{look}\n"})
    config = configure(compiler, tmp_path, kernel)
    outcome = compiler.run(
        dataclasses.replace(Compile.for_arch(X86_64), epoch=0), source=kernel, config=config.artifact()
    )
    assert set(re.findall(r"^device (.*)$", outcome.log.read_text(), re.MULTILINE)) == {"lo"}
