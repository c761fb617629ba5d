"""Debian from the real mirror: locked, fetched, and then built where there is no network at all."""

from __future__ import annotations

import hashlib
import json
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
from tests.integration.engines import lend
from tests.mirrors.alpine import BUSYBOX
from tests.mirrors.images import guest, push
from tests.mirrors.pacman import settings_for

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
        settings = {
            "OSBUILDER_STORE": f"{self.folder}/store",
            "OSBUILDER_ENGINE": "sandbox",
            "OSBUILDER_QEMU": "builder",
        }
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

    def lend(self, bench: Workbench, *builders: str) -> None:
        """Give its store what is dear and needs a network, but no package: builders, the agent, the kernel's source."""
        planner = open_workbench(("engine=sandbox",), stream=sys.stderr, root=ROOT).planner
        kernel = (step for step in planner.plan(KernelRequest()).walk() if is_online(step.action))
        image = (step for step in planner.plan(IMAGE).walk() if step.name in ("builder", "agent"))
        further = (planner.builder(name) for name in ("qemu", *builders))
        lend(bench, self.folder / "store", *image, *kernel, *further)


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


@pytest.fixture(params=["archlinux", "gentoo", "oci"])
def named(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """The flags that name a distribution which is not Debian, and its mirror on loopback."""
    distro = str(request.param)
    settings: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    if distro == "archlinux":
        settings = settings_for(request.getfixturevalue("arch_mirror")[0], tmp_path)
    elif distro == "gentoo":
        settings = request.getfixturevalue("gentoo_settings")
    else:
        url = request.getfixturevalue("oci_registry")
        push(url, "team/offline", "1", guest())
        release = ("--release", f"{url.removeprefix('http://')}/team/offline:1")
    return ("--distro", distro, *release, *(word for each in settings for word in ("--setting", each)))


def test_what_is_locked_and_fetched_from_any_mirror_is_built_without_any_network(
    bench: Workbench, named: tuple[str, ...], tmp_path: Path
) -> None:
    prefix = without_network()
    copy = Checkout(tmp_path / "checkout")
    copy.lend(bench, "pacman")
    agent = shutil.copy(BUSYBOX, tmp_path / "toy-agent")
    build = ("rootfs", *named, "--init", "agent", "--agent", str(agent))
    (path,) = copy.inv(*build).split()
    expected = Path(path).read_bytes()
    copy.inv("lock", *named)
    assert copy.inv("lock", *named, "--diff") == "nothing would change\n"
    # Locking leaves the packages in the store: here they are to come with the fetch alone.
    shutil.rmtree(copy.folder / "store" / "downloads")
    fetched = copy.inv("fetch", *named, "--agent", str(agent)).splitlines()
    assert len([line for line in fetched if line.endswith("/locked")]) == (2 if "archlinux" in named else 1)
    again = copy.inv(*build, "--locked", "--offline", "--output", f"{tmp_path}/again.tar", prefix=prefix)
    assert Path(again.split()[0]).read_bytes() == expected


def test_a_guest_boots_without_any_network_after_a_fetch(bench: Workbench, tmp_path: Path) -> None:
    prefix = without_network()
    copy = Checkout(tmp_path)
    copy.lend(bench)
    kernel = bench.planner.plan(KernelRequest())
    lend(bench, copy.folder / "store", *kernel.walk())
    assert "in the store: qemu-x86_64/builder\n" in copy.inv("fetch")
    told = copy.inv("boot", "--distro", "scratch", "--offline", "--json", prefix=prefix)
    assert json.loads(told)["report"]
