"""Kernel modules of the user's: from a tar or a folder to where the root's own are, and nothing but modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from osbuilder.errors import UsageError
from osbuilder.pid1 import Init
from osbuilder.request import BootRequest
from osbuilder.rootfs.compose import Compose, ComposeExtension
from osbuilder.rootfs.modules import MODULES, TakeModules
from osbuilder.tree import Tree
from tests.jobs import RecordingJob, artifact, refuse
from tests.unit.test_rootfs_compose import BASE, EPOCH, action, bootstrapped, elf

RELEASE = "6.12.57-gpu"
FILES = {"modules.dep": b"kernel/a.ko:\n", "kernel/a.ko": b"module"}


def archive(path: Path, place: str = f"lib/modules/{RELEASE}/", **further: str) -> Path:
    """Write a tar of modules at a place, with further files (dots for slashes) and a link to where they were built."""
    tree = Tree()
    for name, content in FILES.items():
        tree.add_file(f"{place}{name}", content, parents_mode=0o755)
    tree.add_symlink(f"{place}build", "/work/build")
    for name, text in further.items():
        tree.add_file(name.replace("__", "/"), text.encode(), parents_mode=0o755)
    tree.write(path, epoch=EPOCH)
    return path


def folder(top: Path) -> Path:
    for name, content in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    (top / "build").symlink_to("/work/build")
    return top


def taken(path: Path, base: Path) -> RecordingJob:
    job = RecordingJob(base, refuse)
    facts = TakeModules.of_path(path).run(job)
    assert facts["releases"] == [RELEASE]
    assert [each.name for each in job.out.iterdir()] == [MODULES]
    return job


def test_a_tar_of_either_place_and_a_folder_of_a_release_are_the_same_modules(tmp_path: Path) -> None:
    packed = tmp_path / "modules.tar.zst"
    packed.write_bytes(zstandard.compress(archive(tmp_path / "a.tar").read_bytes()))
    paths = (packed, archive(tmp_path / "b.tar", f"usr/lib/modules/{RELEASE}/"), folder(tmp_path / RELEASE))
    found = [(taken(path, tmp_path / f"job-{path.name}").out / MODULES).read_bytes() for path in paths]
    assert found[0] == found[1]
    trees = [Tree.read(tmp_path / f"job-{path.name}/out" / MODULES) for path in paths]
    assert trees[0].names() == trees[2].names()
    assert trees[2].read_bytes(f"lib/modules/{RELEASE}/kernel/a.ko") == b"module"
    assert not trees[0].exists(f"lib/modules/{RELEASE}/build")


@pytest.mark.parametrize("init", [Init.SYSTEMD, Init.AGENT])
def test_modules_go_where_a_merged_usr_has_them(tmp_path: Path, init: Init) -> None:
    taken(archive(tmp_path / "a.tar"), tmp_path / "modules")
    tree = composed(tmp_path, init)
    assert tree.get("lib").target == "usr/lib"
    assert tree.read_bytes(f"usr/lib/modules/{RELEASE}/kernel/a.ko") == b"module"


def test_modules_go_where_a_root_with_a_lib_of_its_own_has_them(tmp_path: Path) -> None:
    taken(archive(tmp_path / "a.tar"), tmp_path / "modules")
    tree = bootstrapped()
    tree.remove("lib")
    tree.add_dir("lib")
    assert composed(tmp_path, Init.AGENT, tree).exists(f"lib/modules/{RELEASE}/modules.dep")


def composed(base: Path, init: Init, tree: Tree | None = None) -> Tree:
    """Return a root with the modules of the job `modules`, made by the real action."""
    (base / "packages").mkdir()
    (base / "agent").mkdir()
    (tree or bootstrapped()).write(base / "packages/rootfs.tar", epoch=EPOCH)
    (base / "agent/agent").write_bytes(elf())
    plain = action(init)
    whole = Compose(**{name: getattr(plain, name) for name in plain.__slots__} | {"modules": True})
    job = RecordingJob(
        base / "compose",
        refuse,
        rootfs=artifact(base / "packages", {}),
        agent=artifact(base / "agent", {}),
        modules=artifact(base / "modules/out", {"releases": [RELEASE]}),
    )
    assert whole.run(job)["modules"] == [RELEASE]
    assert "put the kernel modules into /lib/modules" in whole.describe()
    return Tree.read(job.out / "rootfs.tar")


def test_an_extension_may_be_made_of_modules(tmp_path: Path) -> None:
    taken(archive(tmp_path / "a.tar"), tmp_path / "modules")
    (tmp_path / "packages").mkdir()
    bootstrapped().write(tmp_path / "packages/rootfs.tar", epoch=EPOCH)
    modules = artifact(tmp_path / "modules/out", {"releases": [RELEASE]})
    job = RecordingJob(tmp_path / "job", refuse, rootfs=artifact(tmp_path / "packages", {}), modules=modules)
    extension = ComposeExtension(base=BASE, arch="x86_64", epoch=EPOCH, modules=True)
    assert extension.run(job)["modules"] == [RELEASE]
    assert Tree.read(job.out / "rootfs.tar").exists(f"usr/lib/modules/{RELEASE}/modules.dep")


def test_what_modprobe_would_not_find_is_refused_with_what_to_do(tmp_path: Path) -> None:
    bare = tmp_path / "bare.tar"
    tree = Tree()
    tree.add_file("lib/modules/6.1/kernel/a.ko", b"x", parents_mode=0o755)
    tree.write(bare, epoch=EPOCH)
    empty = tmp_path / "empty.tar"
    Tree().write(empty, epoch=EPOCH)
    mixed = archive(tmp_path / "mixed.tar", etc__modules="x")
    for path, message, hint in (
        (bare, r"--modules bare\.tar: expected lib/modules/6\.1/modules\.dep, got modules without it", "depmod -b"),
        (empty, r"--modules empty\.tar: expected lib/modules/RELEASE/, got nothing there", "inv kernel --variant"),
        (mixed, r"--modules mixed\.tar: expected lib/modules/ alone, got etc too", "--overlay FILE"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            TakeModules.of_path(path).run(RecordingJob(tmp_path / f"job-{path.name}", refuse))
        assert hint in caught.value.hint
    with pytest.raises(UsageError, match=r"--modules .*none: expected a folder or a tar, got nothing"):
        TakeModules.of_path(tmp_path / "none")


@pytest.mark.parametrize("flag", ["image", "initrd"])
def test_a_guest_whose_root_is_there_already_takes_no_modules(flag: str) -> None:
    with pytest.raises(UsageError, match=f"--modules and --{flag} exclude each other") as caught:
        BootRequest(modules=Path("m.tar"), **{flag: Path("file")})  # type: ignore[arg-type]
    assert caught.value.hint == "Build it with them: inv image (or initrd) --modules FILE."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected modules in lib/modules/6\.1/modules\.dep, got a list that names none"),
        (
            b"kernel/x.ko: kernel/y.ko\n",
            r"expected lib/modules/6\.1/kernel/x\.ko, which modules\.dep names, got modules",
        ),
    ],
)
def test_a_list_that_names_no_module_or_a_missing_one_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    tree = Tree()
    tree.add_file("lib/modules/6.1/modules.dep", content, parents_mode=0o755)
    tree.write(tmp_path / "a.tar", epoch=EPOCH)
    with pytest.raises(UsageError, match=f"--modules a\\.tar: {message}") as caught:
        TakeModules.of_path(tmp_path / "a.tar").run(RecordingJob(tmp_path / "job", refuse))
    assert "depmod -b" in caught.value.hint


def test_a_file_that_is_no_tar_is_refused_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "my.conf").write_text("CONFIG_A=y\n")
    with pytest.raises(UsageError, match=r"--modules .*/my\.conf: expected a tar or a folder of modules") as caught:
        TakeModules.of_path(tmp_path / "my.conf").run(RecordingJob(tmp_path / "job", refuse))
    assert "provided" not in caught.value.message


def test_a_folder_without_modules_is_refused_when_the_build_is_planned(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(UsageError, match=r"expected lib/modules/RELEASE/modules\.dep or modules\.dep, got a folder"):
        TakeModules.of_path(tmp_path)
