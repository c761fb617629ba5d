"""Debian from the real mirror: locked, fetched, and then built where there is no network at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.pid1 import Init
from osbuilder.request import ImageRequest, KernelRequest, RootfsRequest
from osbuilder.step import is_online

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ImageRequest(rootfs=RootfsRequest(distro="debian", init=Init.AGENT))


class Checkout:
    """A copy of this checkout, whose locks a test may write, and a store that has the builders and the agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "lock")
        for name in ("distros", "osbuilder", "tasks"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("agents", "kernel", "versions.yaml"):
            (folder / name).symlink_to(ROOT / name)

    def inv(self, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
        """Run `inv` in it; return what it printed."""
        settings = {"OSBUILDER_STORE": f"{self.folder}/store", "OSBUILDER_ENGINE": "sandbox"}
        ran = subprocess.run(
            [*prefix, sys.executable, "-P", "-m", "invoke", "--search-root", str(self.folder), *arguments],
            cwd=self.folder,
            env={**os.environ, **settings, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def lend(self, bench: Workbench) -> None:
        """Give its store what is dear and needs a network, but no package: builders, the agent, the kernel's source."""
        users = open_workbench(("engine=sandbox",), stream=sys.stderr, root=ROOT)
        kernel = (step for step in users.planner.plan(KernelRequest()).walk() if is_online(step.action))
        image = (step for step in users.planner.plan(IMAGE).walk() if step.name in ("builder", "agent"))
        for step in (*image, *kernel):
            artifact = bench.executor.run(step)
            there = self.folder / "store" / "objects" / artifact.key
            if not there.exists():
                shutil.copytree(artifact.folder, there, copy_function=link)


def link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def without_network() -> tuple[str, ...]:
    """Return what runs a command in a namespace that has no interface but a loopback that is down."""
    prefix = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
    ran = subprocess.run([*prefix, "cat", "/proc/net/dev"], capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"no network namespace can be made here: {ran.stderr.strip()}")
    assert [line.split(":")[0].strip() for line in ran.stdout.splitlines()[2:]] == ["lo"]
    return prefix


def test_a_locked_image_is_built_without_any_network_with_the_bytes_of_one_from_the_mirror(
    bench: Workbench, tmp_path: Path
) -> None:
    prefix = without_network()
    expected = bench.build(IMAGE).artifact.sha256("image")
    copy = Checkout(tmp_path)
    copy.lend(bench)
    lock = copy.inv("lock", "--distro", "debian", "--init", "agent").rpartition(":")[0]
    assert lock == f"{tmp_path}/distros/debian/lock/trixie.x86_64.json"
    assert "nothing would change" in copy.inv("lock", "--distro", "debian", "--init", "agent", "--diff")
    fetched = copy.inv("fetch", "--all")
    assert "in the store: debian-trixie-x86_64-0/locked\n" in fetched
    assert "in the store: debian-6.12/source\n" in fetched
    arguments = ("image", "--distro", "debian", "--init", "agent", "--locked", "--offline")
    (path,) = copy.inv(*arguments, prefix=prefix).split()
    store = open_workbench((f"store={tmp_path}/store",), stream=sys.stderr, root=tmp_path).store
    built = {artifact.manifest["ident"] for artifact in store.artifacts()}
    assert "debian-trixie-x86_64-agent/packages" in built
    with Path(path).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected
