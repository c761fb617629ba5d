"""Debian from the real mirror, with the recipe's packages: verified, composed, the same bytes under every engine."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import yaml

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import parse_arch
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import TreeError, VerificationError
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.rootfs.agent import BuildProbe
from osbuilder.step import Step
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.integration.engines import workbench_under

ROOT = Path(__file__).resolve().parents[2]


def _rootfs(bench: Workbench, init: Init) -> Artifact:
    return bench.build(RootfsRequest(distro="debian", init=init)).artifact


def _step(bench: Workbench, name: str, init: Init = Init.SYSTEMD) -> Step:
    target = bench.planner.plan(RootfsRequest(distro="debian", init=init))
    return next(step for step in target.walk() if step.name == name)


@pytest.fixture(scope="module")
def systemd(bench: Workbench) -> tuple[Artifact, Tree]:
    artifact = _rootfs(bench, Init.SYSTEMD)
    return artifact, Tree.read(artifact.path("rootfs.tar"))


def test_the_guest_has_what_it_is_for_and_not_much_more(systemd: tuple[Artifact, Tree]) -> None:
    artifact, tree = systemd
    names = {name for name, _, _ in artifact.facts["packages"]}
    assert {"chrony", "cryptsetup-bin", "dbus", "e2fsprogs", "iptables", "kmod", "nftables", "systemd"} <= names
    assert len(names) <= 140
    assert "apt" not in names
    for program in ("usr/sbin/chronyd", "usr/sbin/nft", "usr/sbin/iptables", "usr/sbin/modprobe", "usr/bin/ls"):
        assert tree.get(tree.resolve(program)).mode & 0o111


def test_a_guests_own_account_of_itself_agrees_with_what_is_in_it(systemd: tuple[Artifact, Tree]) -> None:
    artifact, tree = systemd
    told = yaml.safe_load(tree.read_bytes("var/lib/osbuilder/osbuilder.yaml"))
    installed = {name for name, _, _ in artifact.facts["packages"]}
    assert set(told["base-distro"]["packages"]["default"]) <= installed
    assert told["agent"]["name"] == "osbuilder-probe"
    assert tree.exists(f"usr/bin/{told['agent']['name']}")
    assert (told["base-distro"]["name"], told["base-distro"]["version"]) == ("debian", "trixie")


def test_every_unit_that_is_wanted_at_boot_is_there(systemd: tuple[Artifact, Tree]) -> None:
    _, tree = systemd
    links = tree.glob("etc/systemd/system/*.wants/*", "etc/systemd/system/default.target")
    dangling = [name for name in links if _dangles(tree, name)]
    assert dangling == []
    assert tree.resolve("etc/systemd/system/default.target").endswith("kata-containers.target")


def test_services_keep_the_folders_and_owners_that_their_packages_gave_them(systemd: tuple[Artifact, Tree]) -> None:
    _, tree = systemd
    owners = dict(line.split(":")[0::2][:2] for line in tree.read_bytes("etc/passwd").decode().splitlines())
    folder = tree.get("var/lib/chrony")
    assert (folder.kind, folder.mode, str(folder.uid)) == (Kind.DIR, 0o750, owners["_chrony"])


def test_licences_are_passed_on_with_the_packages(systemd: tuple[Artifact, Tree]) -> None:
    artifact, tree = systemd
    missing = [
        name
        for name, _, _ in artifact.facts["packages"]
        if not tree.exists(f"usr/share/doc/{name}/copyright") and _dangles(tree, f"usr/share/doc/{name}/copyright")
    ]
    assert missing == []


def test_an_agent_as_init_needs_no_systemd(bench: Workbench) -> None:
    artifact = _rootfs(bench, Init.AGENT)
    names = {name for name, _, _ in artifact.facts["packages"]}
    tree = Tree.read(artifact.path("rootfs.tar"))
    assert "systemd" not in names
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"


def test_the_archives_state_is_recorded(bench: Workbench) -> None:
    artifact = bench.executor.run(_step(bench, "packages"))
    codenames = {repository["codename"] for repository in artifact.facts["repositories"]}
    assert codenames == {"trixie", "trixie-updates", "trixie-security"}
    assert all(repository["date"] for repository in artifact.facts["repositories"])


def test_without_one_of_the_pinned_keys_nothing_is_installed(bench: Workbench) -> None:
    step = _step(bench, "packages")
    assert isinstance(step.action, Bootstrap)
    pins = Keyring(builder_path=step.action.keyring.builder_path, fingerprints=("0" * 40,))
    stranger = dataclasses.replace(step, subject="test", action=dataclasses.replace(step.action, keyring=pins))
    with pytest.raises(VerificationError, match="the builder has none of the pinned keys of trixie"):
        open_workbench((), stream=sys.stderr, root=ROOT).executor.run(stranger)


@pytest.mark.parametrize("engine", ["docker", "sandbox"])
def test_packages_are_the_same_bytes_under_every_engine_and_at_every_time(
    bench: Workbench, tmp_path: Path, engine: str
) -> None:
    step = _step(bench, "packages", Init.AGENT)
    known = bench.executor.run(step)
    ours = _installed_again(workbench_under(engine, tmp_path), step, f"{engine}, after {_state(known)}")
    if _state(ours) != _state(known):  # the archive has changed since
        known = _installed_again(bench, step, f"as of {_state(ours)}")
    assert _state(ours) == _state(known)
    assert ours.sha256("rootfs.tar") == known.sha256("rootfs.tar")


def _state(packages: Artifact) -> str:
    """The archive's state that packages were installed from."""
    return json.dumps(packages.facts["repositories"], sort_keys=True)


def _installed_again(bench: Workbench, step: Step, why: str) -> Artifact:
    """Install under another key; the comment that makes it another reaches no file."""
    assert isinstance(step.action, Bootstrap)
    action = dataclasses.replace(step.action, hook=f"{step.action.hook}# {why}\n")
    return bench.executor.run(dataclasses.replace(step, subject="test-again", action=action))


@pytest.mark.parametrize("engine", ["docker", "sandbox"])
def test_the_probe_is_the_same_bytes_under_every_engine(bench: Workbench, tmp_path: Path, engine: str) -> None:
    step = _step(bench, "agent")
    assert isinstance(step.action, BuildProbe)
    (tmp_path / engine).mkdir()
    for source in step.action.folder.glob("*.[ch]"):
        (tmp_path / engine / source.name).write_bytes(source.read_bytes())
    # A further header that nothing includes: another key and, built in another folder, still the same bytes.
    (tmp_path / engine / f"{engine}.h").write_text("")
    action = BuildProbe.of_folder(tmp_path / engine, parse_arch(step.action.arch))
    again = dataclasses.replace(step, subject="test-again", action=action)
    ours = workbench_under(engine, tmp_path / "build").executor.run(again)
    assert ours.sha256("agent") == bench.executor.run(step).sha256("agent")


def _dangles(tree: Tree, name: str) -> bool:
    try:
        tree.resolve(name)
    except TreeError:
        return True
    return False
