"""Mirrors that fail in every way that mirrors fail, served to the real dnf and rpm in a builder.

The repositories are real and signed, with a few packages made from nothing. The builder runs in the sandbox, which
shares the host's 127.0.0.1 when a command names the network; what dnf then says is the same under every engine.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.dnf import Index, Install
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import FetchError, OsbuilderError, RootfsError, UsageError, VerificationError
from osbuilder.step import Step
from tests.integration.engines import run_in_sandbox
from tests.mirrors.rpm import EPOCH, KEY, files, repository_step
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply, closed_url

STRANGER = Key.of_seed(12, "Stranger <stranger@example.org>")
SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: A package of a test
License: none
BuildArch: noarch
{more}
%description
%{{summary}}.
%install
mkdir -p %{{buildroot}}/usr/share
head -c 4096 /dev/zero > %{{buildroot}}/usr/share/{name}
%files
/usr/share/{name}
"""
SPECS = {
    "toy": SPEC.format(name="toy", more=""),
    "needy": SPEC.format(name="needy", more="Requires: ghost >= 2"),
    "rival": SPEC.format(name="rival", more="Conflicts: toy"),
    "broken": SPEC.format(name="broken", more="") + "%pre -p <lua>\nerror('no')\n",
}
TOY = "Packages/toy-1-1.noarch.rpm"
REPOMD = "repodata/repomd.xml"
INDEX = "repodata/primary.xml.gz"

Files = Mapping[str, bytes | Reply]
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def good(bench: Workbench) -> Mapping[str, bytes]:
    """Return the files of a repository that is in order."""
    return files(bench, repository_step(bench, "good", SPECS))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def install(bench: Workbench, server: FaultyServer, tmp_path: Path) -> Run:
    """Return a function that serves files and installs from them; returns the rootfs tar."""
    if shutil.which("bwrap") is None:
        pytest.skip("dnf's faults need bubblewrap (bwrap)")
    (tmp_path / "keyring").write_bytes(KEY.public())

    def run(
        files: Files, *packages: str, mirrors: tuple[str, ...] = (), signed: bool = True, epoch: int = EPOCH
    ) -> Path:
        for name, content in files.items():
            server.serve(f"/os/{name}", content if isinstance(content, Reply) else Reply(body=content))
        action = Install(
            subject="fedora 44",
            version="44",
            repositories=(Index(name="fedora", path="os", signed=signed),),
            packages=packages or ("toy",),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            database="/usr/lib/sysimage/rpm",
            epoch=epoch,
            mirrors=(*mirrors, server.url),
            timeout_s=2,
            attempts=1,
        )
        step = Step(name="packages", subject="test-faults", action=action, builder=bench.planner.builder("rpm"))
        return run_in_sandbox(bench, step).path("rootfs.tar")

    return run


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_package_that_does_not_exist_is_named_with_one_that_is_like_it(
    install: Run, good: Mapping[str, bytes]
) -> None:
    with pytest.raises(UsageError, match="package toyy does not exist in fedora 44") as caught:
        install(good, "toyy")
    assert "Did you mean toy?" in caught.value.hint


def test_a_dependency_that_cannot_be_met_is_named(install: Run, good: Mapping[str, bytes]) -> None:
    with pytest.raises(UsageError, match=r"needy-1-1\.noarch needs ghost >= 2, which nothing provides"):
        install(good, "needy")


def test_packages_that_exclude_each_other_are_named(install: Run, good: Mapping[str, bytes]) -> None:
    with pytest.raises(UsageError, match=r"rival-1-1\.noarch conflicts with toy-1-1\.noarch"):
        install(good, "toy", "rival")


def test_a_package_whose_script_fails_is_named(install: Run, good: Mapping[str, bytes]) -> None:
    with pytest.raises(RootfsError, match="package broken could not be installed: its script failed"):
        install(good, "broken")


def test_the_next_mirror_is_asked_when_one_refuses(install: Run, good: Mapping[str, bytes]) -> None:
    with pytest.raises(UsageError, match="package toyy does not exist"):  # which only the second one can know
        install(good, "toyy", mirrors=(closed_url("/fedora"),))


def test_when_every_mirror_fails_each_is_told_with_its_fault(install: Run) -> None:
    dead = closed_url("/fedora")
    with pytest.raises(FetchError, match=r"refuses connections; the mirror http://127.* has no fedora 44") as caught:
        install({}, mirrors=(dead,))
    assert dead in caught.value.message


def test_a_mirror_with_a_wrong_signature_is_not_passed_over(
    bench: Workbench, install: Run, server: FaultyServer, good: Mapping[str, bytes]
) -> None:
    """The next mirror is good, but a forged index is an attack or a mistake to be told, not a hiccup."""
    with FaultyServer() as forged:
        for name, content in {**good, f"{REPOMD}.asc": STRANGER.sign(good[REPOMD]).encode()}.items():
            forged.serve(f"/os/{name}", Reply(body=content))
        with pytest.raises(VerificationError, match="none of the trusted keys has signed"):
            install(good, mirrors=(forged.url,))
    assert server.seen(f"/os/{REPOMD}") == []


@pytest.mark.parametrize(
    ("name", "key", "unsigned", "message"),
    [
        pytest.param(
            "stranger", STRANGER, (), "toy-1-1.noarch.rpm, which none of the trusted keys has", id="wrong key"
        ),
        pytest.param("unsigned", KEY, ("toy",), "toy-1-1.noarch.rpm without a signature", id="unsigned"),
    ],
)
def test_a_package_that_no_trusted_key_signed_is_not_installed(
    bench: Workbench, install: Run, name: str, key: Key, unsigned: tuple[str, ...], message: str
) -> None:
    """The index is in order, as a distribution's is that does not sign it: the packages speak for themselves."""
    served = files(bench, repository_step(bench, name, SPECS, key=key, unsigned=unsigned))
    with pytest.raises(VerificationError, match=message):
        install(served, signed=False)


def test_a_login_page_in_the_place_of_an_index_is_told(install: Run, good: Mapping[str, bytes]) -> None:
    with pytest.raises(FetchError, match="most likely a web page"):
        install({**good, REPOMD: b"<html>Log in</html>\n"}, signed=False)


@pytest.mark.parametrize(
    ("faults", "kind", "message"),
    [
        pytest.param({REPOMD: Reply(hang_before_headers=True)}, FetchError, "does not answer", id="silent"),
        pytest.param({INDEX: {"send_bytes": 20, "hang": True}}, FetchError, "does not answer", id="hangs"),
        pytest.param({TOY: {"send_bytes": 20}}, FetchError, "broke the connection", id="breaks off"),
        pytest.param({INDEX: {"send_bytes": 20}}, FetchError, "broke the connection", id="breaks off early"),
        pytest.param({TOY: {"cut": 20}}, FetchError, r"toy-1-1.noarch.rpm with \d+ bytes, its index", id="truncated"),
        pytest.param({TOY: {"flip": -60}}, VerificationError, "toy-1-1.noarch.rpm with another checksum", id="package"),
        pytest.param({INDEX: {"flip": -60}}, VerificationError, "a part of its index with another", id="index"),
        pytest.param({REPOMD: {"flip": 60}}, VerificationError, "or that was altered", id="altered"),
        pytest.param(
            {f"{REPOMD}.asc": Reply(status=404)}, VerificationError, "without a signature", id="signature taken off"
        ),
        pytest.param({TOY: Reply(status=404)}, FetchError, r"answered 404 for http.*toy-1-1", id="missing file"),
        pytest.param({REPOMD: Reply(status=503)}, FetchError, r"answered 503 for http.*repomd.xml", id="overloaded"),
    ],
)
def test_a_mirrors_fault_is_told_with_what_to_do(
    install: Run,
    server: FaultyServer,
    good: Mapping[str, bytes],
    faults: Mapping[str, Reply | Mapping[str, int]],
    kind: type[OsbuilderError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        install({**good, **{name: _faulty(good, name, fault) for name, fault in faults.items()}})
    assert server.url in str(caught.value)
    assert caught.value.hint
    assert any(note.startswith("log: ") for note in caught.value.__notes__)


def _faulty(good: Mapping[str, bytes], name: str, fault: Reply | Mapping[str, int]) -> Reply:
    """Return the reply of a fault: a whole one, or what is wrong with the file as it should be."""
    if isinstance(fault, Reply):
        return fault
    body = good[name]
    if "flip" in fault:
        return Reply(body=_flipped(body, fault["flip"] % len(body)))
    if "cut" in fault:
        return Reply(body=body[: -fault["cut"]])
    return Reply(body=body, send_bytes=fault["send_bytes"], hang=bool(fault.get("hang")))


def _later(good: Mapping[str, bytes], days: int) -> Mapping[str, bytes]:
    """Return the same repository as if it had been made some days later."""
    repomd = re.sub(rb"(?<=<timestamp>)\d+", str(EPOCH + days * 86400).encode(), good[REPOMD])
    return {**good, REPOMD: repomd, f"{REPOMD}.asc": KEY.sign(repomd).encode()}


def test_an_old_state_that_is_served_again_is_refused(
    install: Run, server: FaultyServer, good: Mapping[str, bytes]
) -> None:
    assert install(_later(good, 30))
    # Servers behind one address are not all of one day. Each time another key: nothing comes from the store.
    assert install(_later(good, 29), epoch=EPOCH + 1)
    with pytest.raises(
        VerificationError,
        match=rf"{server.url}/os is out of date, or an old state that is served again: its newest list is of"
        " 2025-01-01, one of 2025-01-31 was seen before",
    ):
        install(good, epoch=EPOCH + 2)
    with FaultyServer() as other:
        for name, content in good.items():
            other.serve(f"/os/{name}", Reply(body=content))
        # It gives way to the next mirror; and elsewhere the old state is none that was newer before.
        assert install({}, mirrors=(other.url,), epoch=EPOCH + 3)
        assert other.seen(f"/os/{REPOMD}")


def test_keys_that_the_builder_does_not_have_are_told(bench: Workbench, install: Run) -> None:
    """The recipe's pins, and a builder that lacks them: nothing is asked of any mirror."""
    action = Install(
        subject="fedora 44",
        version="44",
        repositories=(Index(name="fedora", path="os", signed=True),),
        packages=("toy",),
        keyring=Keyring(builder_path="/usr/share/distribution-gpg-keys/fedora", fingerprints=("0" * 40,)),
        database="/usr/lib/sysimage/rpm",
        epoch=EPOCH,
        mirrors=(closed_url(),),
    )
    step = Step(name="packages", subject="test-faults", action=action, builder=bench.planner.builder("rpm"))
    with pytest.raises(VerificationError, match=f"none of the keys that may sign fedora 44 .*{'0' * 40}"):
        bench.executor.run(step)
