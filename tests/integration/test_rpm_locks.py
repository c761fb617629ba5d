"""Locks of the rpm family: dnf says what it would install, and installs just that from files, with the same bytes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.distro.dnf_lock import InstallLocked
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import VerificationError
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from tests.integration.test_locks import checkout
from tests.mirrors.rpm import family, settings_for
from tests.openpgp import Key


def _request(*, locked: bool) -> RootfsRequest:
    return RootfsRequest(distro="fedora", init=Init.AGENT, locked=locked)


def _step(bench: Workbench, name: str, *, locked: bool) -> Step:
    return next(step for step in bench.planner.plan(_request(locked=locked)).walk() if step.name == name)


@pytest.fixture(scope="module")
def locked(rpm_mirror: str, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench in whose checkout Fedora is locked, on the user's own store and in the sandbox."""
    folder = tmp_path_factory.mktemp("fedora")
    settings = settings_for(family()["fedora"], rpm_mirror, folder)
    root = checkout(folder / "checkout")
    bench = open_workbench(("engine=sandbox", f"build={folder}/build", *settings), stream=sys.stderr, root=root)
    bench.locks.write(_request(locked=True))
    return bench


def test_a_locked_installation_has_the_bytes_of_one_that_is_not_locked(locked: Workbench) -> None:
    expected = locked.executor.run(_step(locked, "packages", locked=False))
    came = locked.executor.run(_step(locked, "packages", locked=True))
    assert came.facts["packages"] == expected.facts["packages"]
    assert came.sha256("rootfs.tar") == expected.sha256("rootfs.tar")


def test_locking_twice_writes_the_same_file(locked: Workbench) -> None:
    (path,) = (locked.root / "distros" / "fedora" / "lock").iterdir()
    first = path.read_bytes()
    locked.locks.write(_request(locked=True))
    assert path.read_bytes() == first
    assert b"127.0.0.1" not in first


def test_signatures_are_checked_of_locked_packages_too(locked: Workbench, tmp_path: Path) -> None:
    step = _step(locked, "packages", locked=True)
    assert isinstance(step.action, InstallLocked)
    (tmp_path / "stranger").write_bytes(Key.of_seed(12, "Stranger <stranger@example.org>").public())
    base = dataclasses.replace(
        step.action.base,
        keyring=Keyring.of_file(tmp_path / "stranger"),
    )
    stranger = dataclasses.replace(step.action, base=base)
    with pytest.raises(VerificationError, match="none of the trusted keys"):
        locked.executor.run(dataclasses.replace(step, subject="test-again", action=stranger))
