"""The same inputs give the same bytes: in another folder, at another time, by another user, under another engine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.errors import ToolMissing
from osbuilder.request import BuildRequest, ImageRequest, InitrdRequest, KernelRequest, RootfsRequest
from osbuilder.step import Step
from osbuilder.store import remove_tree
from tests.integration.engines import Stranger
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


def test_another_user_in_another_checkout_builds_the_same_image_and_initrd(
    bench: Workbench, stranger: Stranger, ground: Path
) -> None:
    requests: dict[str, BuildRequest] = {"image": ImageRequest(rootfs=DEBIAN), "initrd": InitrdRequest(rootfs=DEBIAN)}
    expected = {name: digest(bench.build(request).files[0]) for name, request in requests.items()}

    home = ground / "home"
    clone = checkout(home / "clone")
    lend(bench, tuple(bench.planner.builder(name) for name in ("rootfs", "compiler")), home / "store")
    for path in (home, *home.rglob("*")):
        os.chown(path, stranger.uid, stranger.gid)
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    environment |= {"HOME": str(home), "PYTHON": "/usr/bin/python3", "PIP_CACHE_DIR": str(home / "pip")}
    environment |= {"OSBUILDER_STORE": str(home / "store"), "OSBUILDER_ENGINE": "sandbox"}
    environment |= {"OSBUILDER_BUILD": str(home / "build")}
    for name in requests:
        process = stranger.popen(str(clone / "inv"), name, env=environment, stderr=subprocess.PIPE)
        stdout, stderr = process.communicate(timeout=900)
        assert process.returncode == 0, stderr.decode()
        built = Path(stdout.decode().split()[0])
        assert digest(built) == expected[name], name
        assert built.stat().st_uid == stranger.uid
    remove_tree(home)


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
    assert {path.name.partition("-")[0]: digest(path) for path in first.files} == {
        path.name.partition("-")[0]: digest(path) for path in second.files
    }
    if other == "sandbox":  # in a daemon the builder is everybody's
        with again.builder("compiler") as (engine, tools):
            engine.discard(tools)
