"""What is told of locked packages that moved: what the mirrors have instead, for the very guest that was built."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import parse_arch
from osbuilder.distro.choice import choose, select_packages
from osbuilder.distro.lock import RESOLVED, Lock, LockedPackage, Resolved, lock_path, write_lock
from osbuilder.distro.recipe import find_recipe
from osbuilder.errors import FetchError, Interrupted, LockMoved, OsbuilderError
from osbuilder.pid1 import Init
from osbuilder.reporter import LineReporter
from osbuilder.request import BuildRequest, ImageRequest, InitrdRequest, RootfsRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step
from osbuilder.store import Artifact
from tests.jobs import artifact

ROOT = Path(__file__).resolve().parents[2]
X86_64 = parse_arch("x86_64")
PLAIN = RootfsRequest(distro="debian", arch="x86_64", locked=True)
LABELLED = RootfsRequest(distro="debian", arch="x86_64", locked=True, selinux=True)
MOVED = LockMoved("the mirror no longer has it:", packages=("kmod",), hint="lock again")


def resolved(version: str, *requests: int) -> Resolved:
    package = LockedPackage(
        name="kmod",
        version=version,
        arch="amd64",
        path=f"pool/kmod_{version}.deb",
        sha256="0" * 64,
        size_bytes=1,
        requests=requests,
    )
    return Resolved(indexes=(), packages=(package,))


class Mirrors:
    """An executor whose builds find that a package moved; a lock is resolved to a newer one, or `fails`."""

    def __init__(self, folder: Path, fails: OsbuilderError | None) -> None:
        self.folder = folder
        self.fails = fails
        self.asked: list[tuple[str, ...]] = []

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def run(self, step: Step) -> Artifact:
        if step.name != "lock":
            raise MOVED
        if self.fails:
            raise self.fails
        self.asked += step.action.requests  # type: ignore[attr-defined]
        self.folder.mkdir()
        resolved("2", 0).write(self.folder / RESOLVED)
        return artifact(self.folder, {})


Room = Callable[..., tuple[Workbench, Mirrors]]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    recipe = find_recipe("debian", ROOT / "distros")
    (tmp_path / "distros/debian").mkdir(parents=True)
    for name in ("distros/debian/recipe.yaml", "versions.yaml", "agents"):
        (tmp_path / name).symlink_to(ROOT / name)
    choices = {init: choose(recipe, release=None, arch=X86_64, init=init) for init in Init}
    requests = (
        select_packages(choices[Init.SYSTEMD]).everything,
        select_packages(choices[Init.SYSTEMD], features=("selinux",)).everything,
        select_packages(choices[Init.AGENT]).everything,
    )
    choice = choices[Init.AGENT]
    write_lock(lock_path(tmp_path / "distros", choice), Lock.of(choice, requests, resolved("1", 0, 1, 2)))

    def make(fails: OsbuilderError | None = None) -> tuple[Workbench, Mirrors]:
        given: dict[str, Any] = {"build": str(tmp_path / "build"), "store": str(tmp_path / "store")}
        settings = load_settings(given, environment={"HOME": "/nowhere"}, folder=tmp_path)
        bench = Workbench(settings, root=tmp_path, reporter=LineReporter(io.StringIO()))
        mirrors = Mirrors(tmp_path / "resolved", fails)
        bench.__dict__["executor"] = mirrors
        return bench, mirrors

    return make


@pytest.mark.parametrize(
    ("request_", "init", "features"),
    [
        (PLAIN, Init.SYSTEMD, ()),
        (ImageRequest(rootfs=LABELLED), Init.SYSTEMD, ("selinux",)),
        (InitrdRequest(rootfs=PLAIN), Init.AGENT, ()),
    ],
    ids=["rootfs", "labelled image", "initrd"],
)
def test_what_the_mirrors_have_now_is_asked_for_the_guest_that_was_built(
    room: Room, request_: BuildRequest, init: Init, features: tuple[str, ...]
) -> None:
    bench, mirrors = room()
    with pytest.raises(LockMoved) as caught:
        bench.build(request_)
    assert caught.value.message == "the mirror no longer has it:\n  kmod is 2 there now"
    choice = choose(find_recipe("debian", ROOT / "distros"), release=None, arch=X86_64, init=init)
    assert mirrors.asked == [select_packages(choice, features=features).everything]


def test_what_moved_is_told_as_it_is_where_the_mirrors_say_no_more(room: Room) -> None:
    bench, _ = room(FetchError("no mirror answers"))
    with pytest.raises(LockMoved) as caught:
        bench.build(PLAIN)
    assert caught.value.message == MOVED.message


def test_whoever_is_stopped_while_asking_stops(room: Room) -> None:
    bench, _ = room(Interrupted("stopped"))
    with pytest.raises(Interrupted):
        bench.build(PLAIN)
