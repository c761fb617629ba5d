"""What apt would install, asked of a small signed repository on loopback. Debian's own: test_offline.py."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.apt_lock import Resolve
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
FILES = Repository(key=KEY, packages=(BASE, DOLL, IDLE, TOY)).files()


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

    def ask(*requests: tuple[str, ...], key: Key = KEY) -> Resolved:
        (tmp_path / "keyring").write_bytes(key.public())
        action = Bootstrap(
            suite="trixie",
            architecture="amd64",
            components=("main",),
            packages=(),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            epoch=EPOCH,
            mirrors=(server.url,),
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
