"""What becomes an initrd starts: it has an /init that can be executed, the tree's own or one that leads to its init."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from osbuilder.errors import ImageError
from osbuilder.image.build import INITRD, ROOTFS_TAR, MakeInitrd
from osbuilder.image.initrd import Compression
from osbuilder.reporter import LineReporter
from osbuilder.step import Step
from osbuilder.tree import Tree
from tests.jobs import RecordingJob, artifact, refuse
from tests.unit.test_cpio import EPOCH, Member, cpio, parse


def systemd() -> Tree:
    """Return a tree as a distribution with systemd leaves it: an init for a root on a disk, and no other."""
    tree = Tree()
    tree.add_dir("usr/sbin", parents_mode=0o755)
    tree.add_symlink("sbin", "usr/sbin")
    tree.add_file("usr/lib/systemd/systemd", b"\x7fELF", mode=0o755, parents_mode=0o755)
    tree.add_symlink("usr/sbin/init", "../lib/systemd/systemd")
    return tree


def initrd_of(tree: Tree, folder: Path) -> bytes:
    """Return the archive in the initrd that a tree becomes."""
    (folder / "rootfs").mkdir()
    tree.write(folder / "rootfs" / ROOTFS_TAR, epoch=EPOCH)
    job = RecordingJob(folder, refuse, rootfs=artifact(folder / "rootfs", {}))
    MakeInitrd.of(Compression.GZIP, epoch=EPOCH).run(job)
    return gzip.decompress((folder / "out" / INITRD).read_bytes())


def told_of(tree: Tree, folder: Path) -> list[str]:
    """Return the lines after the first one that a person sees when a tree has become an initrd."""
    (folder / "rootfs").mkdir()
    tree.write(folder / "rootfs" / ROOTFS_TAR, epoch=EPOCH)
    action = MakeInitrd.of(Compression.NONE, epoch=EPOCH)
    facts = action.run(RecordingJob(folder, refuse, rootfs=artifact(folder / "rootfs", {})))
    stream = io.StringIO()
    LineReporter(stream).finished(Step(name="initrd", subject="toy", action=action), facts, seconds=1.0)
    return stream.getvalue().splitlines()[1:]


def test_what_lost_its_extended_attributes_is_told_when_an_initrd_is_made(tmp_path: Path) -> None:
    tree = systemd()
    tree.set_xattrs("", {"system.posix_acl_default": b"x"})
    for number in range(5):
        tree.add_file(f"usr/ping{number}", b"", xattrs={"security.capability": b"x"})
    (note,) = told_of(tree, tmp_path)
    assert note.endswith(
        "initrd     toy: note: an initrd holds no extended attributes (file capabilities, ACLs): 6 names lost theirs: "
        "/, /usr/ping0, /usr/ping1, /usr/ping2 and 2 more; an image keeps them"
    )


def test_nothing_is_told_of_an_initrd_that_lost_nothing(tmp_path: Path) -> None:
    assert told_of(systemd(), tmp_path) == []


def init_of(archive: bytes) -> Member:
    return next(member for member in parse(archive) if member.name == "init")


def test_a_tree_whose_init_is_for_a_disk_gets_an_init_that_leads_there(tmp_path: Path) -> None:
    init = init_of(initrd_of(systemd(), tmp_path))
    assert (oct(init.mode), init.uid, init.gid, init.data) == ("0o120777", 0, 0, b"/sbin/init")


def test_the_init_that_a_tree_has_stays_and_so_does_every_byte(tmp_path: Path) -> None:
    tree = systemd()
    tree.add_file("init", b"#!/bin/sh\n", mode=0o755)
    archive = initrd_of(tree, tmp_path)
    assert archive == cpio(tree)
    assert init_of(archive).data == b"#!/bin/sh\n"


def test_an_initrd_whose_init_leads_nowhere_is_refused(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_dir("sbin")
    with pytest.raises(ImageError, match="an initrd starts with /init, which leads nowhere") as caught:
        initrd_of(tree, tmp_path)
    assert "/sbin/init, which does not exist" in caught.value.message
    assert caught.value.hint == "Install an init as /sbin/init, or bring an /init."


@pytest.mark.parametrize(("mode", "got"), [(0o644, "mode 0644"), (None, "directory")])
def test_an_initrd_whose_init_cannot_be_executed_is_refused(tmp_path: Path, mode: int | None, got: str) -> None:
    tree = systemd()
    if mode is None:
        tree.add_dir("init")
    else:
        tree.add_file("init", b"#!/bin/sh\n", mode=mode)
    with pytest.raises(ImageError, match=rf"cannot be executed \(/init\): expected an executable file, got {got}"):
        initrd_of(tree, tmp_path)
