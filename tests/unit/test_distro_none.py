"""The adapter without a package manager: empty folders for an agent, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import ARCHES, parse_arch
from osbuilder.distro.adapters import plan_bootstrap
from osbuilder.distro.choice import choose, select_packages
from osbuilder.distro.none import ROOTFS_TAR, EmptyRoot
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import load_recipe
from osbuilder.errors import UsageError
from osbuilder.rootfs.check import check_input
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.jobs import RecordingJob, refuse

SCRATCH = load_recipe(Path(__file__).resolve().parents[2] / "distros" / "scratch" / "recipe.yaml")


def order(*packages: str) -> Order:
    choice = choose(SCRATCH, release=None, arch=parse_arch("s390x"), init=None)
    return Order(choice=choice, packages=select_packages(choice, extra=packages), epoch=1_700_000_000)


def test_the_tree_has_folders_and_nothing_in_them(tmp_path: Path) -> None:
    job = RecordingJob(tmp_path, refuse)
    assert plan_bootstrap(order()).action.run(job) == {"packages": []}
    tree = Tree.read(job.out / ROOTFS_TAR)
    check_input(tree)
    assert {entry.kind for _, entry in tree.items()} == {Kind.DIR, Kind.SYMLINK}
    assert tree.resolve("sbin") == "usr/sbin"


def test_it_is_the_same_bytes_for_every_architecture(tmp_path: Path) -> None:
    assert plan_bootstrap(order()).action == EmptyRoot(epoch=1_700_000_000)
    jobs = [RecordingJob(tmp_path / name, refuse) for name in ("one", "two")]
    for job in jobs:
        EmptyRoot(epoch=1_700_000_000).run(job)
    assert len({(job.out / ROOTFS_TAR).read_bytes() for job in jobs}) == 1


def test_a_package_is_refused_because_nothing_could_install_it() -> None:
    with pytest.raises(UsageError, match="scratch installs no packages: got tcpdump") as caught:
        plan_bootstrap(order("tcpdump"))
    assert "inv distros" in caught.value.hint


def test_it_is_offered_for_every_architecture() -> None:
    assert set(SCRATCH.arches) == set(ARCHES)
