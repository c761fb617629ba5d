"""Every recipe of the rpm family from a mirror on 127.0.0.1: verified, composed, the same bytes under every engine."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.choice import select_packages
from osbuilder.distro.dnf import Install
from osbuilder.distro.recipe import Recipe
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.integration.engines import workbench_under
from tests.mirrors.inside import SERVE, URL, WithMirror
from tests.mirrors.rpm import REPOSITORY, addresses, family, settings_for
from tests.mirrors.rpm_guest import RELEASES as RELEASES_OF
from tests.mirrors.rpm_guest import guest_step

if TYPE_CHECKING:
    from osbuilder.step import Json

FAMILY = family()
MIRROR_EPOCH = 1_735_689_600  # 2025-01-01
RELEASES = [(name, release) for name, recipe in FAMILY.items() for release in recipe.releases]


@pytest.fixture(scope="module")
def fedora(rpm_mirror: str, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench that builds Fedora from the mirror in the sandbox."""
    folder = tmp_path_factory.mktemp("fedora")
    return workbench_under("sandbox", folder, *settings_for(FAMILY["fedora"], rpm_mirror, folder))


def _packages_step(bench: Workbench, recipe: Recipe, init: Init = Init.SYSTEMD) -> Step:
    target = bench.planner.plan(RootfsRequest(distro=recipe.name, init=init))
    return next(step for step in target.walk() if step.name == "packages")


def _installed(bench: Workbench, init: Init) -> tuple[Mapping[str, Json], Tree]:
    artifact = bench.build(RootfsRequest(distro="fedora", init=init)).artifact
    return artifact.facts, Tree.read(artifact.path("rootfs.tar"))


@pytest.mark.parametrize(("name", "release"), RELEASES)
def test_every_release_installs_what_its_recipe_asks_for(
    rpm_mirror: str, tmp_path: Path, name: str, release: str
) -> None:
    bench = workbench_under("sandbox", tmp_path, *settings_for(FAMILY[name], rpm_mirror, tmp_path))
    request = RootfsRequest(distro=name, release=release)
    artifact = bench.build(request).artifact
    wanted = select_packages(bench.planner.choice(request)).default
    assert {package for package, _, _ in artifact.facts["packages"]} == {*wanted, "filesystem", "setup"}
    tree = Tree.read(artifact.path("rootfs.tar"))
    if set(RELEASES_OF) & set(wanted):
        assert f"ID={name}" in tree.read_bytes("etc/os-release").decode().split()
    assert tree.resolve("sbin/init").endswith("/systemd")
    database = FAMILY[name].releases[release].rpm_database
    assert tree.exists(f"{database}/rpmdb.sqlite")


def test_users_that_packages_declare_are_made_before_their_files_come(fedora: Workbench) -> None:
    _, tree = _installed(fedora, Init.SYSTEMD)
    users = [line.split(":") for line in tree.read_bytes("etc/passwd").decode().splitlines()]
    (chrony,) = [user for user in users if user[0] == "_chrony"]
    folder = tree.get("var/lib/chrony")
    assert (folder.kind, str(folder.uid), folder.mode) == (Kind.DIR, chrony[2], 0o750)


def test_scripts_of_packages_run_in_the_new_root(fedora: Workbench) -> None:
    _, tree = _installed(fedora, Init.SYSTEMD)
    assert tree.resolve("etc/systemd/system/multi-user.target.wants/chrony.service").endswith("chrony.service")


def test_the_agent_can_be_the_init(fedora: Workbench) -> None:
    _, tree = _installed(fedora, Init.AGENT)
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"


def test_nothing_of_dnfs_own_is_left_in_the_root(fedora: Workbench) -> None:
    artifact = fedora.executor.run(_packages_step(fedora, FAMILY["fedora"]))
    tree = Tree.read(artifact.path("rootfs.tar"))
    assert tree.glob("**/*dnf*", "**/*hawkey*", "**/.rpm.lock", "dev/*", "tmp/*", "root/.*rpm*") == ()


def test_the_guests_package_database_can_be_read_by_its_own_tools(fedora: Workbench, tmp_path: Path) -> None:
    """One table row a package, and one for the key that signed them all: what rpm of the guest goes on with."""
    artifact = fedora.executor.run(_packages_step(fedora, FAMILY["fedora"]))
    tree = Tree.read(artifact.path("rootfs.tar"))
    (tmp_path / "db").write_bytes(tree.read_bytes("usr/lib/sysimage/rpm/rpmdb.sqlite"))
    with sqlite3.connect(tmp_path / "db") as database:
        ((count,),) = database.execute("select count(*) from Packages")
        ((sound,),) = database.execute("pragma integrity_check")
    assert (count, sound) == (len(artifact.facts["packages"]) + 1, "ok")


def test_the_state_of_each_repository_is_recorded(fedora: Workbench, rpm_mirror: str) -> None:
    artifact = fedora.executor.run(_packages_step(fedora, FAMILY["fedora"]))
    assert artifact.facts["mirror"] == rpm_mirror
    assert artifact.facts["failed_scripts"] == []
    assert [each["name"] for each in artifact.facts["repositories"]] == ["fedora", "updates"]
    assert {each["revision"] for each in artifact.facts["repositories"]} == {"1735689600"}
    assert {each["date"] for each in artifact.facts["repositories"]} == {"2025-01-01T00:00:00Z"}


def test_packages_are_the_same_bytes_each_time(fedora: Workbench) -> None:
    step = _packages_step(fedora, FAMILY["fedora"])
    assert isinstance(step.action, Install)
    # Another key, so that it is installed anew; the comment reaches no file.
    again = dataclasses.replace(step.action, script=f"{step.action.script}# again\n")
    first = fedora.executor.run(step).sha256("rootfs.tar")
    assert _digest(fedora, step, again) == first


@pytest.mark.parametrize("name", FAMILY)
def test_packages_are_the_same_bytes_under_docker(rpm_mirror: str, bench: Workbench, tmp_path: Path, name: str) -> None:
    sandbox = workbench_under("sandbox", tmp_path, *settings_for(FAMILY[name], rpm_mirror, tmp_path))
    step = _packages_step(sandbox, FAMILY[name], Init.AGENT)
    assert isinstance(step.action, Install)
    assert step.builder
    # One for all of them: a container cannot see this host's 127.0.0.1.
    builder = Step(
        name="builder",
        subject="test-rpm-mirror",
        action=WithMirror(archive=REPOSITORY, addresses=addresses(FAMILY.values()), epoch=MIRROR_EPOCH),
        inputs=(("repository", guest_step(bench)), ("tools", step.builder)),
    )
    action = dataclasses.replace(step.action, mirrors=(URL,), script=SERVE + step.action.script)
    inside = dataclasses.replace(step, subject="test-again", action=action, builder=builder)
    docker = workbench_under("docker", tmp_path)
    assert docker.executor.run(inside).sha256("rootfs.tar") == sandbox.executor.run(step).sha256("rootfs.tar")


def _digest(bench: Workbench, step: Step, action: Install) -> str:
    return bench.executor.run(dataclasses.replace(step, subject="test-again", action=action)).sha256("rootfs.tar")
