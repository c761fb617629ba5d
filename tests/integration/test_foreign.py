"""Debian for other architectures, from the real mirror: carried over from a native twin, and the same as emulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import ARCHES, Arch, host_arch, parse_arch
from osbuilder.binfmt import emulates
from osbuilder.request import RootfsRequest
from osbuilder.tree import Tree
from tests.foreign import BACKUPS, anew
from tests.integration.engines import workbench_under
from tests.trees import differences

FOREIGN = [arch.name for arch in ARCHES.values() if arch is not host_arch() and arch.name != "riscv64"]
# Users, groups, conffiles, links, caches, diversions and triggers come with it, and few other packages.
FEW = ("chrony",)


def need_emulation(arch: Arch) -> None:
    if not emulates(arch):
        pytest.skip("foreign programs do not run here: `inv doctor --fix --setting foreign=emulated` sets it up")


def roots(arch: str, folder: Path, packages: tuple[str, ...] | None) -> tuple[Tree, Tree]:
    """Return the same root carried over and emulated."""
    need_emulation(parse_arch(arch))
    trees = []
    for way in ("carried", "emulated"):
        bench = workbench_under("sandbox", folder, f"foreign={way}")
        step = anew(bench, RootfsRequest(distro="debian", arch=arch), "compared", packages)
        trees.append(Tree.read(bench.executor.run(step).path("rootfs.tar")))
    return trees[0], trees[1]


def test_a_carried_root_is_the_emulated_one_file_by_file(tmp_path: Path) -> None:
    carried, emulated = roots("aarch64", tmp_path, FEW)
    assert differences(carried, emulated).keys() <= BACKUPS
    assert len(carried) > 5000


@pytest.mark.matrix
@pytest.mark.parametrize("arch", FOREIGN)
def test_every_architectures_recipe_is_the_emulated_one_file_by_file(arch: str, tmp_path: Path) -> None:
    carried, emulated = roots(arch, tmp_path, None)
    assert differences(carried, emulated).keys() <= BACKUPS


def test_a_carried_root_is_the_same_bytes_under_docker(tmp_path: Path) -> None:
    """Anew: from packages that were downloaded again, and from a twin that was installed again."""
    request = RootfsRequest(distro="debian", arch="aarch64")
    first = workbench_under("sandbox", tmp_path)
    expected = first.executor.run(anew(first, request, "compared", FEW))
    bench = workbench_under("docker", tmp_path)
    again = anew(bench, request, "docker", FEW)
    assert bench.executor.run(again).sha256("rootfs.tar") == expected.sha256("rootfs.tar")


@pytest.mark.matrix
def test_a_foreign_guest_is_composed_and_its_programs_are_of_its_architecture(tmp_path: Path) -> None:
    bench = workbench_under("sandbox", tmp_path)
    artifact = bench.build(RootfsRequest(distro="debian", arch="aarch64")).artifact
    tree = Tree.read(artifact.path("rootfs.tar"))
    machines = {tree.read_bytes(f"usr/bin/{name}")[18] for name in ("bash", "osbuilder-probe")}
    assert machines == {parse_arch("aarch64").elf_machine}
    assert {arch for _, _, arch in artifact.facts["packages"]} == {"all", "arm64"}
