"""Locks of Arch Linux: what the real pacman installs today; just that is installed from files, with the same bytes."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.pacman_lock import InstallLocked
from osbuilder.errors import LockMoved, VerificationError
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from tests.integration.engines import lend
from tests.integration.test_locks import checkout
from tests.mirrors.pacman import Package, repository, settings_for
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply

DAY = "2026/11/01"
COMMAND = f"inv lock --distro archlinux --release {DAY} --arch x86_64"


def _request(*, locked: bool = True) -> RootfsRequest:
    return RootfsRequest(distro="archlinux", arch="x86_64", init=Init.AGENT, locked=locked)


def _step(bench: Workbench, name: str, *, locked: bool = True) -> Step:
    return next(step for step in bench.planner.plan(_request(locked=locked)).walk() if step.name == name)


@pytest.fixture(scope="module")
def locked(arch_mirror: tuple[str, Mapping[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench in whose checkout Arch Linux is locked for each init, on the user's own store and in the sandbox."""
    folder = tmp_path_factory.mktemp("arch")
    settings = settings_for(arch_mirror[0], folder)
    root = checkout(folder / "checkout")
    bench = open_workbench(("engine=sandbox", f"build={folder}/build", *settings), stream=sys.stderr, root=root)
    bench.locks.write(RootfsRequest(distro="archlinux", arch="x86_64"))
    return bench


def test_a_locked_installation_has_the_bytes_of_one_that_is_not_locked(locked: Workbench) -> None:
    expected = locked.executor.run(_step(locked, "packages", locked=False))
    came = locked.executor.run(_step(locked, "packages"))
    assert came.facts["packages"] == expected.facts["packages"]
    assert came.facts["failed_scripts"] == expected.facts["failed_scripts"] == []
    assert came.sha256("rootfs.tar") == expected.sha256("rootfs.tar")


def test_locking_twice_writes_the_same_file_whose_name_is_the_days(locked: Workbench) -> None:
    (path,) = (locked.root / "distros" / "archlinux" / "lock").iterdir()
    assert path.name == "2026-11-01.x86_64.json"
    first = path.read_bytes()
    _, lock = locked.locks.write(RootfsRequest(distro="archlinux", arch="x86_64"))
    assert path.read_bytes() == first
    assert b"127.0.0.1" not in first
    assert [(index.name, index.date) for index in lock.indexes] == [("core", "2025-11-01"), ("extra", "")]
    systemd, bash = ({each.name: each for each in lock.packages}[name] for name in ("systemd", "bash"))
    assert (systemd.requests, bash.requests) == ((0,), (0, 1))
    (found,) = locked.locks.locked_requests()
    assert (found.distro, found.release, found.arch) == ("archlinux", DAY, "x86_64")


def test_signatures_are_checked_of_locked_packages_too(locked: Workbench, tmp_path: Path) -> None:
    step = _step(locked, "packages")
    assert isinstance(step.action, InstallLocked)
    (tmp_path / "stranger").write_bytes(Key.of_seed(12, "Stranger <stranger@example.org>").public())
    base = dataclasses.replace(step.action.base, keyring=Keyring.of_file(tmp_path / "stranger"))
    stranger = dataclasses.replace(step.action, base=base)
    with pytest.raises(VerificationError, match="none of the trusted keys has signed"):
        locked.executor.run(dataclasses.replace(step, subject="test-again", action=stranger))


# --- a mirror that moves


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def small(bench: Workbench, server: FaultyServer, tmp_path: Path) -> Callable[..., Workbench]:
    """Return a function that serves files as Arch Linux whose recipe has one package, toy; returns a workbench.

    Its store has the builder, and nothing of Arch Linux.
    """
    if shutil.which("bwrap") is None:
        pytest.skip("pacman's locks need bubblewrap (bwrap)")
    root = checkout(tmp_path / "checkout")
    recipe = root / "distros" / "archlinux" / "recipe.yaml"
    head, _, _ = recipe.read_text().partition("\npackages:\n")
    recipe.write_text(f"{head}\npackages:\n  always: [toy]\n")
    settings = ("engine=sandbox", "attempts=1", f"build={tmp_path}/build", *settings_for(server.url, tmp_path))

    def serve(files: Mapping[str, bytes], store: str = "store") -> Workbench:
        lend(bench, tmp_path / store, bench.planner.builder("pacman"))
        for name, content in files.items():
            server.serve(f"/{DAY}/{name}", Reply(body=content))
        return open_workbench((*settings, f"store={tmp_path}/{store}"), stream=sys.stderr, root=root)

    return serve


def test_what_an_update_changes_is_shown_and_a_package_that_is_gone_is_named(
    small: Callable[..., Workbench], server: FaultyServer
) -> None:
    toy = Package(name="toy")
    path = f"core/os/x86_64/{toy.file_name}"
    bench = small(repository((toy,)))
    bench.locks.write(_request())
    assert bench.locks.difference(_request()).text() == "nothing would change"

    small(repository((Package(name="toy", version="2-1", depends=("more",)), Package(name="more"))))
    lines = bench.locks.difference(_request()).text().splitlines()
    assert [line.partition(" (")[0] for line in lines[:-1]] == ["+ more 1-1", "~ toy 1-1 -> 2-1"]
    # What was locked is in the store; another one has to ask.
    server.serve(f"/{DAY}/{path}", Reply(status=404))
    assert bench.executor.run(_step(bench, "locked")).facts == {"packages": 1}
    other = small({}, "other")
    with pytest.raises(LockMoved) as caught:
        other.executor.run(_step(other, "locked"))
    moved = other.locks.explained(_request(), caught.value)
    assert moved.message.splitlines() == [
        f"the mirror no longer has what the lock of archlinux {DAY} for x86_64 says:",
        f"  toy 1-1 ({DAY}/{path}): gone: {server.url}/{DAY}/{path}: HTTP 404 Not Found",
        "  toy is 2-1 there now",
    ]
    assert moved.hint == f"See what an update changes: {COMMAND} --diff   Make it anew: {COMMAND}"
