"""A small Ubuntu with a security archive on its mirror: used by default, locked, left out where `none` says so."""

from __future__ import annotations

import dataclasses
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuilder.api import CHECKOUT, Workbench, open_workbench
from osbuilder.errors import UsageError
from osbuilder.locks import Locks
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.store import Artifact
from tests.integration.test_locks import checkout
from tests.mirrors import ubuntu
from tests.mirrors.apt import Package, Repository, Toy
from tests.mirrors.rpm import served

TOY, FIXED = Toy(name="toy"), Toy(name="toy", version="1.0-1security1")
REQUEST = RootfsRequest(distro="ubuntu", release="resolute", init=Init.AGENT, packages=("toy",))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A package as an index has it."""

    component: str
    path: str
    record: str


def listed(mirror: Path, component: str) -> Iterator[Package]:
    index = gzip.decompress((mirror / f"dists/resolute/{component}/binary-amd64/Packages.gz").read_bytes()).decode()
    for record in filter(None, index.split("\n\n")):
        yield Listed(component=component, path="", record=f"{record}\n\n")


@pytest.fixture(scope="module")
def settings(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The settings of a mirror that has toy in the release, and a newer one among its security updates."""
    folder = tmp_path_factory.mktemp("archives")
    mirror = folder / "mirror"
    ubuntu.lay_out(bench, mirror)
    components = ("main", "universe")
    release = (*(package for each in components for package in listed(mirror, each)), TOY)
    for suite, packages in (("resolute", release), ("resolute-updates", ()), ("resolute-security", (FIXED,))):
        repository = Repository(key=ubuntu.KEY, packages=packages, suite=suite, components=components, origin="Ubuntu")
        for name, content in repository.files().items():
            (mirror / name).parent.mkdir(parents=True, exist_ok=True)
            (mirror / name).write_bytes(content)
    with served(mirror) as url:
        mirrors, keyrings, _ = ubuntu.settings_for(url, folder)
        yield (mirrors, keyrings)


def workbench(folder: Path, *settings: str, root: Path = CHECKOUT) -> Workbench:
    return open_workbench(("engine=sandbox", f"build={folder}/build", *settings), stream=sys.stderr, root=root)


def packages_step(bench: Workbench, *, locked: bool = False) -> Step:
    target = bench.planner.plan(dataclasses.replace(REQUEST, locked=locked))
    return next(step for step in target.walk() if step.name == "packages")


def toy(artifact: Artifact) -> str:
    (version,) = (str(version) for name, version, _ in artifact.facts["packages"] if name == "toy")
    return version


def test_security_updates_of_a_mirror_that_is_named_are_installed_and_locked(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    bench = workbench(tmp_path, *settings, root=checkout(tmp_path / "checkout"))
    built = bench.executor.run(packages_step(bench))
    assert toy(built) == FIXED.version
    assert {each["suite"] for each in built.facts["repositories"]} == {
        "resolute",
        "resolute-security",
        "resolute-updates",
    }
    url = settings[0].partition("=")[2].partition("=")[2]
    assert built.facts["archives"] == [f"{url} resolute-{name} main universe" for name in ("updates", "security")]
    assert built.facts["notes"] == []

    _, lock = Locks(bench).write(REQUEST)
    (entry,) = (package for package in lock.packages if package.name == "toy")
    assert (entry.version, entry.path) == (FIXED.version, FIXED.path)
    locked = bench.executor.run(packages_step(bench, locked=True))
    assert locked.sha256("rootfs.tar") == built.sha256("rootfs.tar")


def test_a_mirror_that_stands_alone_is_the_release_as_it_was_published(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    bench = workbench(tmp_path, *settings, "archives=ubuntu=none")
    alone = bench.executor.run(packages_step(bench))
    assert (toy(alone), alone.facts["archives"]) == (TOY.version, [])


def test_archives_of_another_package_manager_are_refused(tmp_path: Path) -> None:
    bench = workbench(tmp_path, "mirrors=alpine=http://127.0.0.1:9/", "archives=alpine=none")
    with pytest.raises(UsageError, match=r"setting archives: they are apt's, and alpine has apk"):
        bench.planner.plan(RootfsRequest(distro="alpine"))
