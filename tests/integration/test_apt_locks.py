"""What apt would install, asked of a small signed repository on loopback. Debian's own: test_offline.py."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.apt_lock import Resolve
from osbuilder.distro.archives import Archive
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.lock import RESOLVED, Resolved
from osbuilder.errors import UsageError, VerificationError
from osbuilder.step import Step
from tests.integration.engines import run_in_sandbox
from tests.mirrors.apt import EPOCH, Repository, Toy
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply

KEY = Key.of_seed(1)
BASE = Toy(name="base-files", fields={"Essential": "yes", "Priority": "required", "Installed-Size": "4"})
DOLL = Toy(name="doll", version="2:1.0~rc1+b1")
TOY = Toy(name="toy", fields={"Depends": "doll"})
IDLE = Toy(name="idle")
GOOD = Repository(key=KEY, packages=(BASE, DOLL, IDLE, TOY))
FILES = GOOD.files()
INDEX = "dists/trixie/main/binary-amd64/Packages.gz"
INRELEASE = "dists/trixie/InRelease"
UPDATES = Archive(suite="trixie-updates", components=("main",))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        for name, content in FILES.items():
            server.serve(f"/{name}", Reply(body=content))
        yield server


@pytest.fixture
def resolve(bench: Workbench, server: FaultyServer, tmp_path: Path) -> Callable[..., Resolved]:
    if shutil.which("bwrap") is None:
        pytest.skip("asking apt needs bubblewrap (bwrap)")

    def ask(
        *requests: tuple[str, ...],
        key: Key = KEY,
        mirrors: tuple[str, ...] = (),
        archives: tuple[Archive, ...] = (),
    ) -> Resolved:
        (tmp_path / "keyring").write_bytes(key.public())
        action = Bootstrap(
            suite="trixie",
            architecture="amd64",
            components=("main",),
            packages=(),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            epoch=EPOCH,
            mirrors=(*mirrors, server.url),
            archives=archives,
            timeout_s=2,
            attempts=1,
        )
        step = Step(
            name="lock",
            subject="test-lock",
            action=Resolve(bootstrap=action, requests=requests, asked=secrets.token_hex(8)),
            builder=bench.planner.builder("rootfs"),
        )
        return Resolved.read(run_in_sandbox(bench, step).path(RESOLVED))

    return ask


def test_apt_says_what_it_would_install_for_each_request(resolve: Callable[..., Resolved]) -> None:
    resolved = resolve(("toy",), ())
    rows = [(each.name, each.version, each.path, each.requests) for each in resolved.packages]
    assert rows == [
        ("base-files", "1.0", "pool/base-files_1.0_amd64.deb", (0, 1)),
        ("doll", "2:1.0~rc1+b1", "pool/doll_2:1.0~rc1+b1_amd64.deb", (0,)),
        ("toy", "1.0", "pool/toy_1.0_amd64.deb", (0,)),
    ]
    assert [each.sha256 for each in resolved.packages] == [
        hashlib.sha256(package.deb()).hexdigest() for package in (BASE, DOLL, TOY)
    ]
    assert resolved.packages[0].installed_bytes == 4096
    (index,) = resolved.indexes
    assert (index.name, index.date) == ("dists/trixie", "Sat, 09 Aug 2025 00:00:00 UTC")
    assert index.sha256 == hashlib.sha256(FILES["dists/trixie/InRelease"]).hexdigest()


def test_a_package_that_does_not_exist_cannot_be_locked(resolve: Callable[..., Resolved]) -> None:
    with pytest.raises(UsageError, match=r"package toyy does not exist in trixie \(main\)"):
        resolve(("toyy",))


def test_an_index_that_another_key_signed_locks_nothing(resolve: Callable[..., Resolved]) -> None:
    with pytest.raises(VerificationError, match="none of the trusted keys has signed"):
        resolve(("toy",), key=Key.of_seed(2))


def _serve(server: FaultyServer, repository: Repository) -> None:
    for name, content in repository.files().items():
        server.serve(f"/{name}", Reply(body=content))


def _in_the_place_of(suite: str, *, of: Repository) -> dict[str, bytes]:
    """Return a repository's files as if it were another suite."""
    return {name.replace(f"dists/{of.suite}/", f"dists/{suite}/"): content for name, content in of.files().items()}


@pytest.mark.parametrize(
    ("asked", "came", "said"),
    [
        ("trixie-security", GOOD, "Suite stable, Codename trixie"),
        (
            "noble-security",
            Repository(key=KEY, packages=(TOY,), suite="jammy-security", origin="Ubuntu"),
            "Suite jammy-security, Codename jammy",
        ),
        (
            "noble-security",
            Repository(key=KEY, packages=(TOY,), suite="noble-updates", origin="Ubuntu"),
            "Suite noble-updates, Codename noble",
        ),
    ],
)
def test_an_index_of_another_suite_does_not_pass_for_the_security_archives(
    resolve: Callable[..., Resolved], server: FaultyServer, asked: str, came: Repository, said: str
) -> None:
    """It is validly signed and apt only warns: what is built would be without its security updates."""
    for name, content in _in_the_place_of(asked, of=came).items():
        server.serve(f"/{name}", Reply(body=content))
    with pytest.raises(VerificationError, match=f"expected Suite or Codename {asked}, got {said}") as caught:
        resolve(("toy",), archives=(Archive(suite=asked, components=("main",)),))
    assert f"/dists/{asked}/InRelease): " in caught.value.message


def test_a_lock_takes_the_newest_of_the_mirror_and_of_the_archives_beside_it(
    resolve: Callable[..., Resolved], server: FaultyServer
) -> None:
    newer = (dataclasses.replace(BASE, version="1.1"), dataclasses.replace(DOLL, version="2:1.0-2"))
    _serve(server, Repository(key=KEY, packages=newer[:1], suite="trixie-updates"))
    with FaultyServer() as elsewhere:
        _serve(elsewhere, Repository(key=KEY, packages=newer[1:], suite="trixie-security"))
        archives = (
            UPDATES,
            Archive(suite="trixie-security", url=elsewhere.url, components=("main",)),
        )
        resolved = resolve(("toy",), archives=archives)
    assert [(each.name, each.version, each.path, each.sha256) for each in resolved.packages] == [
        (package.name, package.version, package.path, hashlib.sha256(package.deb()).hexdigest())
        for package in (*newer, TOY)
    ]
    assert {index.name for index in resolved.indexes} == {
        "dists/trixie",
        "dists/trixie-security",
        "dists/trixie-updates",
    }


def test_an_old_state_that_is_served_again_is_refused_on_the_mirror_and_beside_it(
    resolve: Callable[..., Resolved], server: FaultyServer
) -> None:
    newer = dataclasses.replace(GOOD, date=EPOCH + 30 * 86400)
    updates = dataclasses.replace(newer, suite="trixie-updates", packages=())
    for repository in (newer, updates):
        _serve(server, repository)
    assert resolve(("toy",), archives=(UPDATES,))
    # Servers behind one address are not all of one day.
    _serve(server, dataclasses.replace(newer, date=newer.date - 86400))
    assert resolve(("toy",))
    _serve(server, GOOD)
    with pytest.raises(
        VerificationError,
        match=r"dists/trixie/InRelease is out of date, or an old state that is served again: its date is of 2025-08-09,"
        r" one of 2025-09-08 was seen before",
    ):
        resolve(("toy",))
    # A date in the header of the signature: apt takes the file, but nobody signed that line.
    old = GOOD.files()[INRELEASE]
    forged = old.replace(b"Hash: SHA256\n", b"Hash: SHA256\nDate: Tue, 01 Jan 2030 00:00:00 UTC\n", 1)
    assert forged != old
    server.serve(f"/{INRELEASE}", Reply(body=forged))
    with pytest.raises(VerificationError, match=r"an old state that is served again: its date is of 2025-08-09"):
        resolve(("toy",))
    _serve(server, newer)
    _serve(server, dataclasses.replace(updates, date=EPOCH))
    with pytest.raises(VerificationError, match="dists/trixie-updates/InRelease is out of date"):
        resolve(("toy",), archives=(UPDATES,))


def test_an_old_state_at_another_address_is_no_replay_and_one_that_is_gives_way_to_the_next_mirror(
    resolve: Callable[..., Resolved], server: FaultyServer
) -> None:
    newer = dataclasses.replace(GOOD, date=EPOCH + 30 * 86400)
    with FaultyServer() as first:
        _serve(first, newer)
        assert resolve(("toy",), mirrors=(first.url,)).indexes[0].date.startswith("Mon, 08 Sep")
        _serve(first, GOOD)
        assert resolve(("toy",), mirrors=(first.url,))
    assert server.seen(f"/{INDEX}")
