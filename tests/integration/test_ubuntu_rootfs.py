"""Ubuntu's recipe from a mirror on 127.0.0.1 with its suites: verified, composed, the same bytes under every engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.choice import select_packages
from osbuilder.distro.recipe import find_recipe
from osbuilder.engine.builder import BootstrapBuilder
from osbuilder.errors import VerificationError
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.tree import Tree
from tests.integration.engines import workbench_under
from tests.mirrors.inside import URL, WithMirror
from tests.mirrors.ubuntu import MIRROR, mirror_step

RELEASES = sorted(find_recipe("ubuntu", Path(__file__).resolve().parents[2] / "distros").releases)


@pytest.fixture(scope="module")
def ubuntu(ubuntu_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench that builds Ubuntu from the mirror in the sandbox."""
    return workbench_under("sandbox", tmp_path_factory.mktemp("build"), *ubuntu_settings)


def _packages_step(bench: Workbench, init: Init) -> Step:
    target = bench.planner.plan(RootfsRequest(distro="ubuntu", init=init))
    return next(step for step in target.walk() if step.name == "packages")


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_installs_what_its_recipe_asks_for_from_its_own_suite(ubuntu: Workbench, release: str) -> None:
    request = RootfsRequest(distro="ubuntu", release=release, init=Init.AGENT)
    step = next(step for step in ubuntu.planner.plan(request).walk() if step.name == "packages")
    facts = ubuntu.executor.run(step).facts
    wanted = select_packages(ubuntu.planner.choice(request)).default
    assert set(wanted) <= {name for name, _, _ in facts["packages"]}
    assert [(each["origin"], each["codename"]) for each in facts["repositories"]] == [("Ubuntu", release)]
    assert "nftables" in wanted  # which the mirror has in universe


def test_systemd_is_the_init_unless_the_agent_is(ubuntu: Workbench) -> None:
    tree = Tree.read(ubuntu.build(RootfsRequest(distro="ubuntu")).artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init").endswith("/systemd")
    tree = Tree.read(ubuntu.build(RootfsRequest(distro="ubuntu", init=Init.AGENT)).artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"


def test_a_mirror_is_not_trusted_without_its_key(
    ubuntu_settings: tuple[str, ...], tmp_path: Path, bench: Workbench
) -> None:
    """Ubuntu's own keys, of the package ubuntu-keyring, have not signed what a test made."""
    mirror, _, alone = ubuntu_settings
    pinned = workbench_under("sandbox", tmp_path, mirror, alone)
    with pytest.raises(VerificationError, match="none of the trusted keys has signed"):
        pinned.executor.run(_packages_step(pinned, Init.AGENT))


def test_packages_are_the_same_bytes_under_docker(ubuntu: Workbench, bench: Workbench, tmp_path: Path) -> None:
    step = _packages_step(ubuntu, Init.AGENT)
    assert isinstance(step.action, Bootstrap)
    assert step.builder
    assert isinstance(step.builder.action, BootstrapBuilder)
    packages = tuple(sorted({*step.builder.action.packages, "python3"}))
    tools = dataclasses.replace(step.builder, action=dataclasses.replace(step.builder.action, packages=packages))
    builder = Step(
        name="builder",
        subject="test-ubuntu-mirror",
        action=WithMirror(archive=MIRROR, serving=("mmdebstrap",), epoch=step.action.epoch),
        inputs=(("repository", mirror_step(bench)), ("tools", dataclasses.replace(tools, subject="test-ubuntu-tools"))),
    )
    action = dataclasses.replace(step.action, mirrors=(URL,))
    inside = dataclasses.replace(step, subject="test-again", action=action, builder=builder)
    docker = workbench_under("docker", tmp_path)
    assert docker.executor.run(inside).sha256("rootfs.tar") == ubuntu.executor.run(step).sha256("rootfs.tar")
