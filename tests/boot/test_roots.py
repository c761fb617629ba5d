"""Roots that `inv verify` does not try: XFS, made here as somebody else might, and a whole distribution on erofs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.engine.base import Command, Mounts
from osbuilder.guest.boot import dax
from osbuilder.guest.spec import RootKind
from osbuilder.image.build import ROOTFS_TAR
from osbuilder.image.layout import MIB, plan_layout, write_headers
from osbuilder.request import BootRequest, Filesystem, RootfsRequest
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

XFS_MIB = 320  # mkfs.xfs makes none below 300 MiB
_LETTERS = {Kind.FILE: "-", Kind.DIR: "d", Kind.SYMLINK: "l", Kind.CHAR: "c", Kind.BLOCK: "b", Kind.FIFO: "p"}


def protofile(tree: Tree, contents: Path) -> str:
    """Return what `mkfs.xfs -p` makes of a tree without hard links and attributes (mkfs.xfs(8)).

    The files' contents are left in a folder, which the builder has as /in/contents.
    """
    folders: dict[str, list[str]] = {"": []}
    for name, entry in tree.items():
        if name:
            folders[name.rpartition("/")[0]].append(name)
        if entry.kind is Kind.DIR:
            folders.setdefault(name, [])

    def lines(name: str) -> list[str]:
        entry = tree.get(name)
        flags = ("u" if entry.mode & 0o4000 else "-") + ("g" if entry.mode & 0o2000 else "-")
        words = [name.rpartition("/")[2], f"{_LETTERS[entry.kind]}{flags}{entry.mode & 0o777:03o}"]
        words += [str(entry.uid), str(entry.gid)]
        if entry.kind is Kind.FILE:
            path = contents / str(len(list(contents.iterdir())))
            path.write_bytes(entry.content.read())
            words.append(f"/in/contents/{path.name}")
        words += [entry.target] if entry.kind is Kind.SYMLINK else []
        words += [str(number) for number in entry.device] if entry.kind in (Kind.CHAR, Kind.BLOCK) else []
        below = [line for child in folders.get(name, ()) for line in lines(child)]
        return [" ".join(words).strip(), *below, *(("$",) if entry.kind is Kind.DIR else ())]

    return "\n".join(["/", "0 0", *lines("")]) + "\n"


@pytest.fixture(scope="module")
def image(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk image of the agent alone as XFS, that can be mapped."""
    folder = tmp_path_factory.mktemp("xfs")
    for name in ("out", "work", "contents"):
        (folder / name).mkdir()
    (folder / "out").chmod(0o777)
    rootfs = bench.executor.run(bench.planner.plan(RootfsRequest(distro="scratch"))).path(ROOTFS_TAR)
    (folder / "proto").write_text(protofile(Tree.read(rootfs), folder / "contents"))
    # The kernel maps no partition of an XFS that shares extents (xfs_setup_dax_always).
    options = ("-m", "reflink=0", "-d", f"file,name=/out/fs,size={XFS_MIB}m")
    step = bench.planner.builder("erofs", tools=("xfsprogs",))
    engine, builder = bench.executor.ready(step.subject, bench.executor.run(step))
    engine.run(
        builder,
        Command(argv=("mkfs.xfs", "-q", "-K", *options, "-p", "/in/proto")),
        Mounts(
            inputs={"proto": folder / "proto", "contents": folder / "contents"},
            output=folder / "out",
            work=folder / "work",
        ),
        log=folder / "log",
        label="test-roots",
    )
    layout = plan_layout(sizes_bytes=(XFS_MIB * MIB,), dax_header=True)
    made = folder / "xfs.image"
    with made.open("wb") as stream:
        stream.seek(layout.header_bytes)
        stream.write((folder / "out" / "fs").read_bytes())
    write_headers(layout, made)
    yield made
    shutil.rmtree(folder)


@pytest.mark.parametrize("root", [RootKind.VIRTIO_BLK, RootKind.PMEM], ids=str)
def test_a_guest_boots_from_an_xfs_root_mapped_or_not(bench: Workbench, image: Path, root: RootKind) -> None:
    outcome = bench.boot(BootRequest(image=image, machine="q35", root=root))
    outcome.check()
    report = outcome.boot.report
    assert report.root.fstype == "xfs"
    assert report.pid1
    assert dax(report) is (root is RootKind.PMEM)


def test_systemd_brings_a_distribution_up_on_a_mapped_erofs(bench: Workbench) -> None:
    outcome = bench.boot(BootRequest(distro="debian", filesystem=Filesystem.EROFS, machine="q35"))
    outcome.check()
    report = outcome.boot.report
    assert (report.root.fstype, report.init) == ("erofs", "systemd")
    assert dax(report)
