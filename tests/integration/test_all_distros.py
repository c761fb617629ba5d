"""Every distribution at once, each from its mirror on loopback, as `inv rootfs --distro all` builds them.

Debian alone comes from this machine's own mirror, of which its builders are made too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.request import RootfsRequest
from osbuilder.store import remove_tree
from osbuilder.tree import Tree
from tests.integration.engines import lend
from tests.mirrors.alpine import BUSYBOX, MUSL
from tests.mirrors.every import every_mirror
from tests.mirrors.images import can_serve

BUILDERS = ("rootfs", "compiler", "rpm", "pacman")


@pytest.fixture
def mirrors(bench: Workbench, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The settings that name a mirror for each distribution, and its keys."""
    if not (can_serve() and BUSYBOX.is_file() and MUSL.is_file()):
        pytest.skip("mirrors need the packages docker-registry, busybox-static and musl, which are not installed")
    with every_mirror(bench, tmp_path / "mirrors") as settings:
        yield settings


def test_every_distribution_is_built_from_its_mirror_in_one_call(
    bench: Workbench, mirrors: tuple[str, ...], tmp_path: Path
) -> None:
    stream = io.StringIO()
    settings = ("engine=sandbox", f"store={tmp_path}/store", f"build={tmp_path}/build", *mirrors)
    ours = open_workbench(settings, stream=stream)
    # A store of its own: other tests may be at work with the same mirrors' packages.
    lend(bench, tmp_path / "store", *(bench.planner.builder(name) for name in BUILDERS))
    remove_tree(tmp_path / "store" / "trees")
    (tmp_path / "store" / "trees").symlink_to(bench.store.folder("trees"))
    everything = ours.build_all(RootfsRequest(distro="all", arch="x86_64"))
    everything.check()
    assert everything.left_out == {}
    names = {path.parent.name for path in bench.planner.distros.glob("*/recipe.yaml")}
    assert set(everything.built) == names
    for name, built in everything.built.items():
        tree = Tree.read(built.artifact.path("rootfs.tar"))
        assert tree.exists("sbin/init"), name
        assert f'name: "{name}"' in tree.read_bytes("var/lib/osbuilder/osbuilder.yaml").decode()
    # One view of all of them: a line for each step, whichever distribution it is of.
    told = stream.getvalue().splitlines()
    assert all(any(f"{name}-" in line for line in told) for name in names)
