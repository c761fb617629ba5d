"""erofs as the builder's real mkfs.erofs makes it: it equals the tree, is clean, and is the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from osbuilder.engine.base import Command, Mounts
from osbuilder.image.erofs import BUILDER, render_mkfs
from osbuilder.image.inspect import inspect
from osbuilder.request import Filesystem, ImageRequest, RootfsRequest
from osbuilder.tree import Tree
from tests.erofs_reader import Erofs, differences
from tests.integration.test_mke2fs import EPOCH, everything, labelled, many, nested, noise, striped

if TYPE_CHECKING:
    from osbuilder.api import Workbench

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Return what makes and checks the erofs of a tree."""
    with bench.builder(BUILDER) as (engine, builder):

        def made(tree: Tree, *, dax: bool = True) -> Path:
            folder = tmp_path_factory.mktemp("erofs")
            for name in ("out", "work"):
                (folder / name).mkdir()
            (folder / "out").chmod(0o777)
            tree.write(folder / "rootfs.tar", epoch=EPOCH)
            argv = render_mkfs(tar="/in/rootfs", output="/out/fs", dax=dax, epoch=EPOCH, content_key="key")
            mounts = Mounts(inputs={"rootfs": folder / "rootfs.tar"}, output=folder / "out", work=folder / "work")
            for command in (argv, ("fsck.erofs", "/out/fs")):
                engine.run(builder, Command(argv=command), mounts, log=folder / "log", label="test-erofs")
            return folder / "out" / "fs"

        yield made


@pytest.mark.parametrize("dax", [True, False])
@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(Tree, id="nothing"),
        pytest.param(everything, id="everything"),
        pytest.param(lambda: many((f"f{n}" for n in range(3000)), b"1"), id="3000 files of one byte"),
        pytest.param(lambda: nested(30, 100), id="3000 folders"),
        pytest.param(striped, id="a file of 3000 holes"),
        pytest.param(labelled, id="attributes of each file"),
        pytest.param(lambda: noise(9), id="9 MiB"),
    ],
)
def test_the_filesystem_equals_the_tree_in_every_attribute(make: Make, tree: Callable[[], Tree], dax: bool) -> None:
    assert differences(tree(), make(tree(), dax=dax), epoch=EPOCH) == []


def test_a_difference_is_seen(make: Make) -> None:
    changed = everything()
    changed.add_file("d/new", b"")
    changed.set_xattrs("d", {})
    told = {what for what, _, _ in differences(changed, make(everything()), epoch=EPOCH)}
    assert told >= {"names", "xattrs of 'd'"}


def test_the_same_tree_gives_the_same_bytes(make: Make) -> None:
    assert make(everything()).read_bytes() == make(everything()).read_bytes()


def test_no_file_of_an_image_that_is_mapped_has_its_end_beside_its_inode(make: Make) -> None:
    mapped, plain = (dict(Erofs(make(everything(), dax=dax)).walk()) for dax in (True, False))
    assert not mapped["d/ping"].inline
    assert plain["d/ping"].inline


def test_an_image_says_what_it_is_and_is_no_larger_than_it_has_to_be(bench: Workbench) -> None:
    rootfs = RootfsRequest(distro="scratch")
    small, mapped, measured = (
        bench.build(ImageRequest(rootfs=rootfs, filesystem=Filesystem.EROFS, align_mib=1, **more)).files[0]  # type: ignore[arg-type]
        for more in ({"dax": False}, {}, {"measured": True})
    )
    facts = [dict(inspect(path).facts) for path in (small, mapped, measured)]
    assert [each["partition 1 filesystem"] for each in facts] == ["erofs"] * 3
    assert "root hash" in facts[2]
