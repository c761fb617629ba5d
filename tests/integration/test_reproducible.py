"""The same inputs give the same bytes: in another folder, at another time, by another user, under another engine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.errors import ToolMissing
from osbuilder.request import BuildRequest, ImageRequest, InitrdRequest, KernelRequest, RootfsRequest
from osbuilder.step import Step
from osbuilder.store import remove_tree
from tests.integration.engines import Stranger
from tests.kernel_configs import write_configs
from tests.kernel_sources import SMALL_KERNEL, write_tree
from tests.prerequisites import program

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = RootfsRequest(distro="debian")


def lend(bench: Workbench, steps: tuple[Step, ...], store: Path) -> None:
    """Copy artifacts into another store."""
    for step in steps:
        artifact = bench.executor.run(step)
        shutil.copytree(artifact.folder, store / "objects" / artifact.key, dirs_exist_ok=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checkout(folder: Path) -> Path:
    """Copy what git tracks, as it is in the working tree."""
    listed = subprocess.run([program("git"), "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Theirs:
    """A checkout of an ordinary user, with a store that has the builders."""

    def __init__(self, bench: Workbench, stranger: Stranger, home: Path) -> None:
        self.stranger = stranger
        self.home = home
        self.clone = checkout(home / "clone")
        lend(bench, tuple(bench.planner.builder(name) for name in ("rootfs", "compiler")), home / "store")

    def inv(self, *words: str) -> list[Path]:
        """Run `inv` as that user; returns the files that it says it made."""
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, self.stranger.uid, self.stranger.gid, follow_symlinks=False)
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        environment = kept | {
            "HOME": str(self.home),
            "PYTHON": "/usr/bin/python3",
            "PIP_CACHE_DIR": str(self.home / "pip"),
            "OSBUILDER_STORE": str(self.home / "store"),
            "OSBUILDER_ENGINE": "sandbox",
            "OSBUILDER_BUILD": str(self.home / "build"),
        }
        process = self.stranger.popen(str(self.clone / "inv"), *words, env=environment, stderr=subprocess.PIPE)
        stdout, stderr = process.communicate(timeout=900)
        assert process.returncode == 0, stderr.decode()
        files = [Path(line.split()[0]) for line in stdout.decode().splitlines()]
        assert {path.stat().st_uid for path in files} == {self.stranger.uid}
        return files


def named(files: Iterable[Path]) -> dict[str, str]:
    """Return the digest of each file by its name up to the version and the key."""
    return {path.name.partition("-")[0]: digest(path) for path in files}


def test_another_user_in_another_checkout_builds_the_same_image_initrd_and_kernel(
    bench: Workbench, stranger: Stranger, ground: Path, tmp_path: Path
) -> None:
    """The kernel is a small one, from an empty ccache; all that compiles the usual one compiles it."""
    requests: dict[str, BuildRequest] = {"image": ImageRequest(rootfs=DEBIAN), "initrd": InitrdRequest(rootfs=DEBIAN)}
    expected = {name: digest(bench.build(request).files[0]) for name, request in requests.items()}

    theirs = Theirs(bench, stranger, ground / "home")
    for name in requests:
        assert digest(theirs.inv(name)[0]) == expected[name], name

    tree = write_tree(theirs.home / "linux", SMALL_KERNEL)
    remove_tree(theirs.clone / "kernel" / "configs")
    write_configs(theirs.clone / "kernel" / "configs", {"common/speed.conf": "CONFIG_FAST=y\n"})
    folders = (f"store={tmp_path}/store", f"build={tmp_path}/build")
    ours = open_workbench((f"engine={bench.executor.engine.name}", *folders), stream=sys.stderr, root=theirs.clone)
    lend(bench, (bench.planner.builder("compiler"),), tmp_path / "store")
    kernel = named(ours.build(KernelRequest(tree=tree)).files)
    assert {"vmlinux", "vmlinuz", "config"} <= set(kernel)
    assert named(theirs.inv("kernel", "--tree", str(tree))) == kernel
    remove_tree(theirs.home)
    remove_tree(tmp_path / "store")


def test_another_engine_makes_the_same_kernel_of_the_same_objects(bench: Workbench, tmp_path: Path) -> None:
    """Configures and links it there, from the objects that the first compilation left in the ccache.

    That another engine compiles the same objects from an empty ccache is tested with a small kernel, in
    test_kernel_faults.py, and that a cache changes no byte.
    """
    first = bench.build(KernelRequest())
    other = "sandbox" if bench.executor.engine.name != "sandbox" else "docker"
    again = open_workbench(
        (f"engine={other}", f"store={tmp_path}/store", f"build={tmp_path}/build"), stream=sys.stderr, root=ROOT
    )
    try:
        _ = again.executor.engine
    except ToolMissing as error:
        pytest.skip(f"there is no second engine to compare with: {error.message}")
    plan = bench.planner.plan(KernelRequest())
    lend(bench, tuple(step for step in plan.walk() if step.name in ("builder", "source")), tmp_path / "store")
    shutil.copytree(bench.store.folder("caches") / "ccache", tmp_path / "store" / "caches" / "ccache")
    second = again.build(KernelRequest())
    assert named(first.files) == named(second.files)
    remove_tree(tmp_path / "store")
