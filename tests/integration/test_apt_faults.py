"""Mirrors that fail in every way that mirrors fail, served to the real mmdebstrap and apt in a builder.

The repositories are real and signed, with a few packages made from nothing. The builder runs in the sandbox, which
shares the host's 127.0.0.1 when a command names the network; what apt then says is the same under every engine.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.archives import Archive
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import FetchError, OsbuilderError, UsageError, VerificationError
from osbuilder.step import Step
from tests.integration.engines import run_in_sandbox
from tests.mirrors.apt import EPOCH, Repository, Toy
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply, closed_url, make_certificate

KEY, STRANGER = Key.of_seed(1), Key.of_seed(2)
BASE = Toy(name="base-files", fields={"Essential": "yes", "Priority": "required"})
TOY = Toy(name="toy")
GOOD = Repository(key=KEY, packages=(BASE, TOY))
FILES = GOOD.files()
INRELEASE = "dists/trixie/InRelease"
INDEX = "dists/trixie/main/binary-amd64/Packages.gz"

Files = Mapping[str, bytes | Reply]
Run = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def bootstrap(bench: Workbench, server: FaultyServer, tmp_path: Path) -> Run:
    """Return a function that serves files and bootstraps from them; returns the rootfs tar."""
    if shutil.which("bwrap") is None:
        pytest.skip("apt's faults need bubblewrap (bwrap)")
    (tmp_path / "keyring").write_bytes(KEY.public())

    def run(
        files: Files,
        *packages: str,
        mirrors: tuple[str, ...] = (),
        archives: tuple[Archive, ...] = (),
        bench: Workbench = bench,
    ) -> Path:
        for name, content in files.items():
            server.serve(f"/{name}", content if isinstance(content, Reply) else Reply(body=content))
        action = Bootstrap(
            suite="trixie",
            architecture="amd64",
            components=("main",),
            packages=packages or ("toy",),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            epoch=EPOCH,
            mirrors=(*mirrors, server.url),
            archives=archives,
            # Nothing is configured, so that no C library is needed: everything is still verified and downloaded.
            variant="extract",
            timeout_s=2,
            attempts=1,
        )
        step = Step(name="packages", subject="test-faults", action=action, builder=bench.planner.builder("rootfs"))
        return run_in_sandbox(bench, step).path("rootfs.tar")

    return run


def _flipped(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 1]) + content[61:]


def test_a_package_that_does_not_exist_is_named(bootstrap: Run) -> None:
    with pytest.raises(UsageError, match=r"package toyy does not exist in trixie \(main\)") as caught:
        bootstrap(FILES, "toyy")
    assert "--package" in caught.value.hint


def test_a_name_that_nothing_provides_is_named(bootstrap: Run) -> None:
    needy = Toy(name="toy", fields={"Depends": "ghost"})
    with pytest.raises(UsageError, match="package ghost is only a name"):
        bootstrap(Repository(key=KEY, packages=(BASE, needy)).files(), "ghost")


def test_a_dependency_that_cannot_be_met_is_named(bootstrap: Run) -> None:
    needy = Toy(name="toy", fields={"Depends": "ghost (>= 2)"})
    with pytest.raises(UsageError, match=r"toy needs ghost \(>= 2\)"):
        bootstrap(Repository(key=KEY, packages=(BASE, needy)).files())


def test_the_next_mirror_is_asked_when_one_refuses(bootstrap: Run) -> None:
    with pytest.raises(UsageError, match="package toyy does not exist"):  # which only the second one can know
        bootstrap(FILES, "toyy", mirrors=(closed_url("/debian"),))


def test_when_every_mirror_fails_each_is_told_with_its_fault(bootstrap: Run) -> None:
    dead = closed_url("/debian")
    with pytest.raises(FetchError, match=r"refuses connections; the mirror http://127.* has no trixie") as caught:
        bootstrap({}, mirrors=(dead,))
    assert dead in caught.value.message


def test_a_mirror_with_a_wrong_signature_is_not_passed_over(bootstrap: Run, server: FaultyServer) -> None:
    """The next mirror is good, but a forged index is an attack or a mistake to be told, not a hiccup."""
    with FaultyServer() as forged:
        for name, content in Repository(key=STRANGER, packages=(BASE, TOY)).files().items():
            forged.serve(f"/{name}", Reply(body=content))
        with pytest.raises(VerificationError, match="none of the trusted keys has signed"):
            bootstrap(FILES, mirrors=(forged.url,))
    assert server.seen(f"/{INRELEASE}") == []


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        pytest.param({INRELEASE: Reply(hang_before_headers=True)}, FetchError, "does not answer", id="silent"),
        pytest.param(
            {INDEX: Reply(body=FILES[INDEX], send_bytes=20, hang=True)}, FetchError, "does not answer", id="hangs"
        ),
        pytest.param(
            {INRELEASE: Reply(body=b"<html>Log in</html>\n", headers={"Content-Type": "text/html"})},
            FetchError,
            "no signed Release file, most likely a web page",
            id="login page",
        ),
        pytest.param(
            {TOY.path: Reply(body=FILES[TOY.path], send_bytes=20)}, FetchError, "broke the connection", id="breaks off"
        ),
        pytest.param(
            {INDEX: Reply(body=FILES[INDEX], send_bytes=20)}, FetchError, "broke the connection", id="breaks off early"
        ),
        pytest.param(
            {TOY.path: FILES[TOY.path][:-20]}, FetchError, r"toy_1.0_amd64.deb came with \d+ bytes", id="truncated"
        ),
        pytest.param(
            {TOY.path: _flipped(FILES[TOY.path])},
            VerificationError,
            r"toy_1.0_amd64.deb came with another sha256",
            id="corrupted package",
        ),
        pytest.param(
            {INDEX: _flipped(FILES[INDEX])},
            VerificationError,
            r"Packages.gz came with another sha256",
            id="corrupted index",
        ),
        pytest.param(
            {INRELEASE: FILES[INRELEASE].replace(b"Origin: Test", b"Origin: Evil")},
            VerificationError,
            "whose signature is wrong: it was altered",
            id="altered",
        ),
        pytest.param(
            {INRELEASE: GOOD.release({}).encode()}, FetchError, "no signed Release file", id="signature taken off"
        ),
        pytest.param(
            Repository(key=KEY, packages=(BASE, TOY), valid_until=EPOCH + 86400).files(),
            VerificationError,
            "an outdated or future index of trixie",
            id="expired",
        ),
        pytest.param(
            {TOY.path: Reply(status=404)},
            FetchError,
            r"answered 404 \(Not Found\) for http.*toy_1.0",
            id="missing file",
        ),
        pytest.param(
            {INRELEASE: Reply(status=503)}, FetchError, r"answered 503 .* for http.*InRelease", id="overloaded"
        ),
    ],
)
def test_a_mirrors_fault_is_told_with_what_to_do(
    bootstrap: Run, server: FaultyServer, files: Files, kind: type[OsbuilderError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        bootstrap({**FILES, **files})
    assert server.url in str(caught.value)
    assert caught.value.hint
    assert any(note.startswith("log: ") for note in caught.value.__notes__)


UPDATES = Archive(suite="trixie-updates", components=("main",))


def test_a_mirror_without_the_updates_that_it_should_have_is_told_with_the_setting(
    bootstrap: Run, server: FaultyServer
) -> None:
    with pytest.raises(FetchError, match=f"the mirror {server.url} has no trixie-updates") as caught:
        bootstrap(FILES, archives=(UPDATES,))
    assert "In the setting archives `URL trixie-updates` says where else it is, `none` does without." in (
        caught.value.hint
    )


def test_the_updates_may_be_on_the_next_mirror(bootstrap: Run) -> None:
    with FaultyServer() as first:
        for name, content in FILES.items():
            first.serve(f"/{name}", Reply(body=content))
        files = {**FILES, **Repository(key=KEY, packages=(), suite="trixie-updates").files()}
        with pytest.raises(UsageError, match="package toyy does not exist"):  # which only the second one can know
            bootstrap(files, "toyy", mirrors=(first.url,), archives=(UPDATES,))


@pytest.mark.parametrize("fault", ["refuses connections", "does not answer", "answered 503"])
def test_a_security_archive_that_fails_is_told_apart_from_the_mirror(
    bootstrap: Run, server: FaultyServer, fault: str
) -> None:
    with FaultyServer() as elsewhere:
        elsewhere.serve(
            "/dists/trixie-security/InRelease",
            Reply(status=503) if "503" in fault else Reply(hang_before_headers=True),
        )
        # Another address than the mirror's: apt gives a host up whole.
        url = closed_url("/security").replace("127.0.0.1", "127.0.0.2") if "refuses" in fault else elsewhere.url
        security = Archive(suite="trixie-security", url=url, components=("main",))
        with pytest.raises(FetchError, match=fault) as caught:
            bootstrap(FILES, mirrors=(f"{server.url}/",), archives=(security,))
    assert caught.value.message.count(fault) == 1  # no other mirror was tried: it could not help
    assert url in caught.value.message
    assert server.url not in caught.value.message
    assert "(setting archives)" in caught.value.hint
    assert "`URL trixie-security` says where else it is, `none` does without." in caught.value.hint


def test_an_archive_whose_key_is_not_trusted_is_refused(bootstrap: Run) -> None:
    with FaultyServer() as elsewhere:
        for name, content in Repository(key=STRANGER, packages=(TOY,), suite="stable").files().items():
            elsewhere.serve(f"/{name}", Reply(body=content))
        other = Archive(suite="stable", url=elsewhere.url, components=("main",))
        with pytest.raises(
            VerificationError, match=rf"the archive {elsewhere.url} \(stable\) serves an index of stable"
        ):
            bootstrap(FILES, archives=(other,))


def test_a_mirror_with_https_is_trusted_by_the_setting_alone(bench: Workbench, bootstrap: Run, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    settings = dataclasses.replace(bench.settings, ca_bundle=Path(f"{certificate}.crt"))
    trusting = Workbench(settings, root=bench.root, reporter=bench.executor.reporter)
    with FaultyServer(certificate=certificate) as secure:
        for name, content in FILES.items():
            secure.serve(f"/{name}", Reply(body=content))
        with pytest.raises(FetchError, match=f"the mirror {secure.url} has a certificate that is not trusted"):
            bootstrap({}, mirrors=(secure.url,))
        assert secure.seen(f"/{INRELEASE}") == []
        with pytest.raises(UsageError, match="package toyy does not exist"):  # which only its index can tell
            bootstrap({}, "toyy", mirrors=(secure.url,), bench=trusting)
        assert secure.seen(f"/{INDEX}")
