"""ext4 as the builder's real mke2fs and debugfs make it: it fits at the first try, is clean, and equals the tree."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from osbuilder.engine.base import Command, Mounts
from osbuilder.image.filesystem import (
    at_offset,
    check_debugfs,
    mkfs_environment,
    plan_xattrs,
    render_debugfs,
    render_mke2fs,
    size_ext4,
)
from osbuilder.image.inspect import inspect
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from osbuilder.tree.posix_acl import encode_acl
from tests.ext4_reader import differences

if TYPE_CHECKING:
    from osbuilder.api import Workbench

EPOCH = 1_700_000_000
OFFSET_BYTES = 3 << 20
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

Make = Callable[[Tree, int], Path]


@pytest.fixture(scope="module")
def make(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Return what makes and checks the ext4 of a tree with some MiB of free space, at an offset as in an image."""
    folders: list[Path] = []
    with bench.builder("rootfs") as (engine, builder):

        def made(tree: Tree, free_space_mib: int = 0) -> Path:
            folder = tmp_path_factory.mktemp("ext4")
            folders.append(folder)
            for name in ("out", "work", "xattrs"):
                (folder / name).mkdir()
            (folder / "out").chmod(0o777)
            log = folder / "log"

            def run(argv: tuple[str, ...], **inputs: Path) -> str:
                environment = tuple(mkfs_environment(epoch=EPOCH).items())
                log.write_bytes(b"")
                mounts = Mounts(inputs=inputs, output=folder / "out", work=folder / "work")
                engine.run(builder, Command(argv=argv, env=environment), mounts, log=log, label="test-mke2fs")
                return log.read_text()

            tree.write(folder / "rootfs.tar", epoch=EPOCH)
            size = size_ext4(tree, free_space_mib=free_space_mib)
            argv = render_mke2fs(
                tar="/in/rootfs", output="/out/image", offset_bytes=OFFSET_BYTES, size=size, content_key="key"
            )
            run(argv, rootfs=folder / "rootfs.tar")
            script = plan_xattrs(tree, values_folder="/in/xattrs")
            if script:
                (folder / "xattrs" / "commands").write_text(script.commands)
                for name, value in script.values:
                    (folder / "xattrs" / name).write_bytes(value)
                argv = render_debugfs(
                    commands="/in/xattrs/commands", filesystem="/out/image", offset_bytes=OFFSET_BYTES
                )
                said = run(argv, xattrs=folder / "xattrs")
                check_debugfs("\n".join(line for line in said.splitlines() if not line.startswith(("$ ", "debugfs: "))))
            run(("e2fsck", "-f", "-n", at_offset("/out/image", OFFSET_BYTES)))
            return cut_out(folder / "out" / "image", folder / "fs")

        yield made
    for folder in folders:
        shutil.rmtree(folder)


def cut_out(image: Path, target: Path) -> Path:
    """Copy the filesystem out of a file, and return the copy; what is a hole stays one."""
    with image.open("rb") as source, target.open("wb") as alone:
        assert not any(source.read(OFFSET_BYTES)), "mke2fs wrote before the filesystem's place"
        end = OFFSET_BYTES
        with contextlib.suppress(OSError):  # nothing but a hole from here on
            while True:
                at = os.lseek(source.fileno(), end, os.SEEK_DATA)
                end = os.lseek(source.fileno(), at, os.SEEK_HOLE)
                os.pwrite(alone.fileno(), os.pread(source.fileno(), end - at, at), at - OFFSET_BYTES)
        alone.truncate(image.stat().st_size - OFFSET_BYTES)
    return target


def everything() -> Tree:
    acl = encode_acl("user::rwx,user:1000:r-x,group::r-x,mask::rwx,other::r--", lambda kind, name: None)
    default = encode_acl("user::rwx,group::r-x,group:5:rwx,mask::rwx,other::---", lambda kind, name: None)
    tree = Tree()
    tree.set_xattrs("/", {"security.selinux": b"system_u:object_r:root_t:s0\0"})
    tree.add_dir(
        "d", mode=0o1777, uid=1, gid=2, xattrs={"system.posix_acl_access": acl, "system.posix_acl_default": default}
    )
    tree.add_file(
        "d/ping",
        b"x" * 5000,
        mode=0o4755,
        xattrs={"security.capability": CAPABILITY, "user.note": b"a\nb\0c", "trusted.t": b"1"},
    )
    tree.add_link("d/zing", "d/ping")
    tree.add_link("a-link", "d/ping")
    tree.add_file("big-owner", b"1", uid=3_000_000, gid=4_000_000)
    tree.add_file("d/" + "\u00e9" * 60, b"utf-8")
    tree.add_file("d/caf\udce9", b"not utf-8")
    tree.add_file("d/" + "n" * 255, b"long")
    tree.add_file('d/with "quotes" and blanks', b"", xattrs={"user.q": b""})
    for length in (1, 59, 60, 1000):
        tree.add_symlink(f"slow{length}", "t" * length)
    tree.add_device("console", Kind.CHAR, (5, 1), mode=0o600)
    tree.add_device("sda", Kind.BLOCK, (259, 300_000), mode=0o660)
    tree.add_device("fifo", Kind.FIFO)
    tree.add_file("holes", bytes(1 << 20) + b"x" + bytes(100_000))
    tree.add_file("zeros", bytes(1 << 20))
    tree.add_file("much", b"", xattrs={"user.big": b"z" * 3000, "user.big2": b"y" * 900})
    tree.add_dir("lost+found", mode=0o700)
    return tree


def many(names: Iterator[str], content: bytes = b"") -> Tree:
    tree = Tree()
    tree.add_dir("d")
    for name in names:
        tree.add_file(f"d/{name}", content)
    return tree


def nested(depth: int, width: int) -> Tree:
    tree = Tree()
    for column in range(width):
        tree.add_dir("/".join([f"c{column}"] + [f"folder{level}" for level in range(depth)]), parents_mode=0o755)
    return tree


def striped() -> Tree:
    """Return a tree with a file of which every other block is a hole: as many extents as there can be."""
    tree = Tree()
    tree.add_file("striped", (b"x" * 4096 + bytes(4096)) * 3000)
    return tree


def noise(mib: int) -> Tree:
    tree = Tree()
    tree.add_file("noise", hashlib.shake_128(b"").digest(1 << 20) * mib)
    return tree


def labelled() -> Tree:
    tree = many(f"f{number}" for number in range(300))
    for name in tree.names():
        tree.set_xattrs(name, {"user.label": name.encode() * 30})
    return tree


def test_the_filesystem_equals_the_tree_in_every_attribute(make: Make) -> None:
    tree = everything()
    assert differences(tree, make(tree, 0), epoch=EPOCH) == []


def test_the_same_tree_gives_the_same_bytes(make: Make) -> None:
    assert make(everything(), 0).read_bytes() == make(everything(), 0).read_bytes()


@pytest.mark.parametrize(
    ("tree", "free_space_mib"),
    [
        pytest.param(Tree, 0, id="nothing"),
        pytest.param(lambda: many(f"f{n}" for n in range(6000)), 0, id="6000 empty files in one folder"),
        pytest.param(lambda: many(f"{n:05d}" + "x" * 250 for n in range(3000)), 0, id="3000 names of 255 bytes"),
        pytest.param(lambda: many((f"f{n}" for n in range(3000)), b"1"), 0, id="3000 files of one byte"),
        pytest.param(lambda: nested(30, 100), 0, id="3000 folders"),
        pytest.param(striped, 0, id="a file of 3000 extents"),
        pytest.param(labelled, 0, id="a block of attributes for each file"),
        pytest.param(lambda: noise(117), 0, id="just below a group"),
        pytest.param(lambda: noise(122), 0, id="just above a group"),
        pytest.param(lambda: noise(1), 122, id="free space up to a short last group"),
        pytest.param(lambda: noise(1), 3000, id="free space over two flexible groups"),
    ],
)
def test_any_shape_of_tree_fits_at_the_first_try(make: Make, tree: Callable[[], Tree], free_space_mib: int) -> None:
    made = make(tree(), free_space_mib)
    assert differences(tree(), made, epoch=EPOCH) == []
    facts = dict(inspect(made).facts)
    assert "has_journal" in str(facts["features"])
    assert int(facts["free blocks"]) * 4096 >= free_space_mib << 20
    assert made.stat().st_blocks * 512 < made.stat().st_size - (free_space_mib << 20)
