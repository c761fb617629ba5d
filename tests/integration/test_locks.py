"""Locks of Alpine from a mirror on loopback: made, built from, moved under, compared, and used without a network.

The agent is a file, so that no builder is needed: each test has a store of its own, in which nothing is cached.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.errors import DecodeError, LockMoved, OfflineError, PlanError, UsageError
from osbuilder.request import InitrdRequest, RootfsRequest
from osbuilder.step import Step
from tests.mirrors.alpine import BUSYBOX, MUSL, alpine
from tests.mirrors.apk import SigningKey
from tests.servers import FaultyServer, Reply

ROOT = Path(__file__).resolve().parents[2]
KEY = SigningKey.named()
FILES = alpine(KEY) if BUSYBOX.is_file() and MUSL.is_file() else {}
NFTABLES = "v3.24/main/x86_64/nftables-1.0-r0.apk"
LOCK = "distros/alpine/lock/3.24.x86_64.json"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    if not FILES:
        pytest.skip("Alpine's mirror is made of the packages busybox-static and musl, which are not installed")
    with FaultyServer() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose locks a test may write."""
    return checkout(tmp_path / "checkout")


def checkout(folder: Path) -> Path:
    folder.mkdir()
    shutil.copytree(ROOT / "distros", folder / "distros", ignore=shutil.ignore_patterns("lock"))
    for name in ("agents", "kernel", "versions.yaml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def workbench(root: Path, server: FaultyServer, *settings: str, store: str = "store") -> Workbench:
    keyring = root / KEY.name
    keyring.write_bytes(KEY.public)
    given = (
        f"mirrors=alpine={server.url}/alpine",
        f"keyrings=alpine={keyring}",
        f"build={root}/build",
        f"store={root}/{store}",
        "attempts=1",
    )
    return open_workbench((*given, *settings), stream=sys.stderr, root=root)


def serve(server: FaultyServer, files: Mapping[str, bytes | Reply]) -> None:
    for name, content in files.items():
        server.serve(f"/alpine/{name}", content if isinstance(content, Reply) else Reply(body=content))


def request(*packages: str, locked: bool = True) -> RootfsRequest:
    return RootfsRequest(distro="alpine", arch="x86_64", agent=str(BUSYBOX), packages=packages, locked=locked)


def packages_step(bench: Workbench, wanted: RootfsRequest) -> Step:
    return next(step for step in bench.planner.plan(wanted).walk() if step.name == "packages")


@pytest.fixture
def locked(root: Path, server: FaultyServer) -> Workbench:
    """A workbench in whose checkout Alpine is locked; its store has nothing of it."""
    serve(server, FILES)
    workbench(root, server, store="other").locks.write(request())
    return workbench(root, server)


def test_locking_twice_writes_the_same_file(locked: Workbench) -> None:
    path = locked.root / LOCK
    first = path.read_bytes()
    written, lock = locked.locks.write(request())
    assert written == path
    assert path.read_bytes() == first
    assert {each.name for each in lock.packages} >= {"busybox", "musl", "chrony", "alpine-keys"}
    assert [index.name for index in lock.indexes] == ["v3.24/community/x86_64", "v3.24/main/x86_64"]
    assert b"127.0.0.1" not in first


def test_a_locked_build_has_the_bytes_of_one_that_is_not_locked(locked: Workbench) -> None:
    expected = locked.executor.run(packages_step(locked, request(locked=False)))
    came = locked.executor.run(packages_step(locked, request()))
    assert came.sha256("rootfs.tar") == expected.sha256("rootfs.tar")
    assert came.facts["packages"] == expected.facts["packages"]
    assert came.facts["scripts"] == expected.facts["scripts"]


def test_a_lock_outlives_an_update_of_the_mirror_while_the_old_packages_are_there(
    locked: Workbench, server: FaultyServer
) -> None:
    serve(server, alpine(KEY, versions={"nftables": "1.1-r0"}))
    artifact = locked.build(request()).artifact
    assert ["nftables", "1.0-r0", "x86_64"] in artifact.facts["packages"]
    assert ["nftables", "1.1-r0", "x86_64"] in locked.build(request(locked=False)).artifact.facts["packages"]


def test_what_an_update_changes_is_shown_and_nothing_is_written(locked: Workbench, server: FaultyServer) -> None:
    before = (locked.root / LOCK).read_bytes()
    assert locked.locks.difference(request()).text() == "nothing would change"
    serve(server, alpine(KEY, versions={"nftables": "1.1-r0"}))
    lines = locked.locks.difference(request("docs")).text().splitlines()
    assert [line.partition(" (")[0] for line in lines[:-1]] == [
        "+ busybox-doc 1.0-r0",
        "+ docs 1.0-r0",
        "+ mandoc-apropos 1.0-r0",
        "~ nftables 1.0-r0 -> 1.1-r0",
    ]
    assert lines[-1].startswith("3 added, 0 removed, 1 changed; download ")
    assert (locked.root / LOCK).read_bytes() == before


def test_a_package_that_is_gone_is_named_with_what_the_mirror_has_instead(
    locked: Workbench, server: FaultyServer
) -> None:
    serve(server, {**alpine(KEY, versions={"nftables": "1.1-r0"}), NFTABLES: Reply(status=404)})
    with pytest.raises(LockMoved) as caught:
        locked.build(request())
    assert caught.value.message.splitlines() == [
        "the mirror no longer has what the lock of alpine 3.24 for x86_64 says:",
        f"  nftables 1.0-r0 ({NFTABLES}): gone: {server.url}/alpine/{NFTABLES}: HTTP 404 Not Found",
        "  nftables is 1.1-r0 there now",
    ]
    command = "inv lock --distro alpine --release 3.24 --arch x86_64"
    assert caught.value.hint == f"See what an update changes: {command} --diff   Make it anew: {command}"
    assert caught.value.packages == ("nftables",)


@pytest.mark.parametrize("at", [100, -100])
def test_a_package_of_which_one_byte_differs_is_refused(locked: Workbench, server: FaultyServer, at: int) -> None:
    content = bytearray(FILES[NFTABLES])
    content[at] ^= 1
    serve(server, {NFTABLES: bytes(content)})
    with pytest.raises(LockMoved, match=r"nftables 1\.0-r0 .*: other bytes: .*expected sha256 [0-9a-f]{64}, got"):
        locked.build(request())
    assert not list((locked.root / "store" / "downloads").glob("*nftables*.apk"))


def test_a_package_of_another_size_is_refused(locked: Workbench, server: FaultyServer) -> None:
    serve(server, {NFTABLES: FILES[NFTABLES] + b"\0"})
    with pytest.raises(LockMoved, match=r"nftables 1\.0-r0 .*: other bytes: .*are announced"):
        locked.build(request())


def test_a_lock_that_was_made_for_other_packages_is_stale(locked: Workbench) -> None:
    with pytest.raises(PlanError, match="is stale: it was made for other packages: docs is not in it") as caught:
        locked.build(request("docs"))
    assert "inv lock --distro alpine --release 3.24 --arch x86_64 --diff" in caught.value.hint


def test_a_lock_is_stale_when_its_recipe_says_something_else(locked: Workbench, server: FaultyServer) -> None:
    recipe = locked.root / "distros" / "alpine" / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(f"# A comment changes nothing.\n{text}")
    workbench(locked.root, server).planner.plan(request())
    recipe.write_text(text.replace('released: "2026-06-09"', 'released: "2026-06-10"'))
    with pytest.raises(PlanError, match="is stale: the recipe changed since it was made: expected its digest"):
        workbench(locked.root, server).planner.plan(request())
    recipe.write_text(text.replace("    - procps-ng\n", ""))
    with pytest.raises(PlanError, match="made for other packages: procps-ng is no longer asked for"):
        workbench(locked.root, server).planner.plan(request())


def test_what_is_not_locked_names_the_command_that_locks_it(root: Path, server: FaultyServer) -> None:
    with pytest.raises(PlanError, match=r"alpine 3\.24 has no lock for x86_64") as caught:
        workbench(root, server).planner.plan(request())
    assert caught.value.hint == "Make it: inv lock --distro alpine --release 3.24 --arch x86_64"


def test_a_distribution_without_packages_cannot_be_locked(root: Path, server: FaultyServer) -> None:
    with pytest.raises(PlanError, match="scratch has nothing to lock: its package manager is none"):
        workbench(root, server).locks.write(RootfsRequest(distro="scratch"))


def test_a_lock_that_was_edited_by_hand_is_refused(locked: Workbench) -> None:
    path = locked.root / LOCK
    data = json.loads(path.read_text())
    data["packages"][0]["sha265"] = data["packages"][0].pop("sha256")
    path.write_text(json.dumps(data, indent=1))
    with pytest.raises(DecodeError, match=r"3\.24\.x86_64\.json:\d+: packages\[0\]: unknown key 'sha265'"):
        locked.planner.plan(request())


def test_without_a_network_what_is_missing_is_told_before_anything_runs(
    locked: Workbench, server: FaultyServer
) -> None:
    offline = workbench(locked.root, server, "offline=true")
    with pytest.raises(OfflineError, match=r"not in the store: alpine-3\.24-x86_64-0/locked\n") as caught:
        offline.build(InitrdRequest(rootfs=request()))
    assert caught.value.hint == (
        f"Get it while there is a network: inv fetch --distro alpine --arch x86_64 --agent {BUSYBOX}"
    )
    with pytest.raises(OfflineError, match=r"not in the store: alpine-3\.24-x86_64-agent/packages\n.*inv lock"):
        offline.build(request(locked=False))


def test_without_a_network_what_is_not_locked_is_told_how_to_get_it_in_steps_that_work(
    locked: Workbench, server: FaultyServer
) -> None:
    offline = workbench(locked.root, server, "offline=true")
    with pytest.raises(OfflineError) as caught:
        offline.build(request("musl", locked=False))
    assert caught.value.hint == (
        "Packages that are not locked come from a mirror each time. While there is a network: "
        "inv lock --distro alpine --arch x86_64 --package musl, and then "
        f"inv fetch --distro alpine --arch x86_64 --agent {BUSYBOX}; build with --locked."
    )
    # What it says, done.
    bench = workbench(locked.root, server)
    bench.locks.write(RootfsRequest(distro="alpine", arch="x86_64", packages=("musl",)))
    bench.locks.fetch([RootfsRequest(distro="alpine", arch="x86_64", agent=str(BUSYBOX), locked=True)])
    assert offline.build(request("musl")).files


def test_what_was_fetched_builds_when_the_mirror_is_gone(locked: Workbench, server: FaultyServer) -> None:
    (step,) = (step for step in locked.planner.plan(request()).walk() if step.name == "locked")
    locked.executor.run(step)
    serve(server, {name: Reply(status=404) for name in FILES})
    offline = workbench(locked.root, server, "offline=true")
    asked = len(server.seen(f"/alpine/{NFTABLES}"))
    assert offline.build(InitrdRequest(rootfs=request())).files[0].stat().st_size > 500_000
    assert len(server.seen(f"/alpine/{NFTABLES}")) == asked


def test_a_locked_package_that_is_damaged_in_the_store_is_fetched_again(
    locked: Workbench, server: FaultyServer
) -> None:
    (step,) = (step for step in locked.planner.plan(request()).walk() if step.name == "locked")
    file = locked.executor.run(step).folder / "nftables-1.0-r0.apk"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert workbench(locked.root, server).executor.run(step).path(file.name).read_bytes() == content


def test_fetching_for_all_needs_a_lock(root: Path, server: FaultyServer) -> None:
    with pytest.raises(UsageError, match="nothing is locked"):
        workbench(root, server).locks.locked_requests()


def test_every_lock_of_the_checkout_is_fetched_for(locked: Workbench) -> None:
    (found,) = locked.locks.locked_requests()
    assert (found.distro, found.release, found.arch, found.locked) == ("alpine", "3.24", "x86_64", True)
