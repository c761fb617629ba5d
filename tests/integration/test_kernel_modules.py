"""A kernel with modules, compiled in a real builder from a source of a few files: what comes out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import host_arch, parse_arch
from osbuilder.kernel.compile import Compile
from osbuilder.kernel.headers import PACKAGE, PackHeaders
from osbuilder.kernel.modules import CompileWithModules
from osbuilder.kernel.packageformat import PackageFormat
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.jobs import artifact
from tests.kernel_bench import Compiler, Outcome
from tests.kernel_sources import EPOCH, SMALL_KERNEL_WITH_MODULES, members, pack, write_archive

RELEASE = "lib/modules/6.12.57-small"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"


@pytest.fixture
def compiler(bench: Workbench, tmp_path: Path) -> Compiler:
    return Compiler(bench, tmp_path / "runs", bench.planner.builder("compiler", host_arch(), ("kmod", "libssl-dev")))


def compile_small(compiler: Compiler, base: Path, *, certificate: str | None = None) -> Outcome:
    for name in ("source", "config"):
        (base / name).mkdir(parents=True)
    write_archive(base / "source/source.tar.zst", pack(members(SMALL_KERNEL_WITH_MODULES)))
    (base / "config/config").write_text("CONFIG_FAST=y\n")
    source = artifact(base / "source", {"version": "6.12.57", "epoch": EPOCH, "origin": "a test"})
    config = artifact(base / "config", {"options_y": 1, "options_m": 1})
    kernel = Compile.for_arch(parse_arch("x86_64"))
    action = CompileWithModules.of_kernel(kernel, certificate=certificate)
    return compiler.run(action, source=source, config=config)


def test_modules_are_found_by_their_lists_stripped_and_the_same_each_time(compiler: Compiler, tmp_path: Path) -> None:
    one, two = (compile_small(compiler, tmp_path / name) for name in ("one", "two"))
    assert one.facts["release"] == "6.12.57-small"
    packed = one.folder / "modules.tar.zst"
    tree = Tree.read(packed)
    assert one.facts["modules_bytes"] == {
        "kernel/drivers/a.ko": tree.get(f"{RELEASE}/kernel/drivers/a.ko").content.size_bytes
    }
    assert tree.read_bytes(f"{RELEASE}/modules.dep") == b"kernel/drivers/a.ko:\n"
    module = tree.read_bytes(f"{RELEASE}/kernel/drivers/a.ko")
    assert b"license=GPL" in module
    assert b".debug_info" not in module
    assert not any(entry.kind is Kind.SYMLINK for _, entry in tree.items())
    assert {(entry.uid, entry.gid) for _, entry in tree.items()} == {(0, 0)}
    assert {entry.mtime_s for name, entry in tree.items() if name.startswith(RELEASE)} == {EPOCH}
    for name in ("modules.tar.zst", "headers.tar.zst", "vmlinux"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_headers_are_what_the_kernels_own_script_chooses_and_the_configuration(
    compiler: Compiler, tmp_path: Path
) -> None:
    outcome = compile_small(compiler, tmp_path, certificate=CERTIFICATE)
    tree = Tree.read(outcome.folder / "headers.tar.zst")
    top = "usr/src/linux-headers-6.12.57-small"
    assert tree.children(top) == (".config", "Makefile.x86", "Module.symvers")
    assert tree.read_bytes(f"{top}/Module.symvers") == b"0x0 fork vmlinux EXPORT_SYMBOL\n"
    assert tree.read_bytes(f"{top}/.config") == b"CONFIG_FAST=y\n"


def test_an_rpm_of_headers_says_the_release_as_far_as_a_version_can(
    bench: Workbench, compiler: Compiler, tmp_path: Path
) -> None:
    small = compile_small(compiler, tmp_path / "small")
    kernel = artifact(small.folder, {"release": "6.12.57-very-small", "version": "6.12.57", "epoch": EPOCH})
    packer = Compiler(bench, tmp_path / "rpm", bench.planner.builder("compiler", tools=("rpm",)))
    made = packer.run(PackHeaders.for_arch(PackageFormat.RPM, parse_arch("x86_64")), kernel=kernel)
    assert made.facts["file"] == "kernel-devel-6.12.57_very_small-1.x86_64.rpm"
    # Strings of an RPM's header are as they are, a NUL behind each: of what it provides, the versions.
    assert b"\x006.12.57-very_small\0" in (made.folder / PACKAGE).read_bytes()
