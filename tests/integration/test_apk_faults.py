"""Mirrors of Alpine that fail in every way that mirrors fail, and the installer that tells what happened.

The packages are real and signed; the server is on 127.0.0.1. No engine and no apk takes part.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from osbuilder.distro.apk.declared import SigningKey as Pinned
from osbuilder.distro.apk.install import InstallPackages, Keyring
from osbuilder.distro.apk.keys import sha512_of
from osbuilder.engine.base import Engine
from osbuilder.errors import FetchError, OsbuilderError, ToolMissing, UsageError, VerificationError
from osbuilder.execute import Executor
from osbuilder.fetch import FetchSettings
from osbuilder.reporter import LineReporter
from osbuilder.step import Step
from osbuilder.store import Artifact, Store
from osbuilder.tree import Tree
from tests.mirrors import apk
from tests.mirrors.apk import BUILT, File, Package, Repository, SigningKey
from tests.servers import FaultyServer, Reply, closed_url

KEY, STRANGER = SigningKey.named(), SigningKey.named("stranger@example.org-0001.rsa.pub")
BASE = Package(name="base", files=(File("etc/passwd", b"root:x:0:0::/:\n"), File("bin/sh", b"x", 0o755)))
TOY = Package(name="toy", files=(File("usr/bin/toy", b"t" * 100_000, 0o755),), depends=("base",))
MAIN = "v3.23/main/x86_64"
GOOD = Repository(key=KEY, packages=(BASE, TOY), path=MAIN)
FILES = GOOD.files()
INDEX, TOY_FILE = GOOD.index, f"{MAIN}/{TOY.file_name}"

Files = Mapping[str, bytes | Reply]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ground:
    """A server, and a store of a test's own to build into."""

    server: FaultyServer
    folder: Path

    def serve(self, files: Files, server: FaultyServer | None = None) -> None:
        for name, content in files.items():
            (server or self.server).serve(f"/{name}", content if isinstance(content, Reply) else Reply(body=content))

    def install(self, files: Files, *packages: str, mirrors: tuple[str, ...] = (), **changes: Any) -> Artifact:
        """Serve files and install from them; `mirrors` are asked first."""
        self.serve(files)
        action = InstallPackages(
            release="3.23",
            arch="x86_64",
            components=("main",),
            packages=packages or ("toy",),
            keyring=self.keyring(KEY),
            scripts=(),
            mirrors=(*mirrors, self.server.url),
            released=BUILT - 86400,
            epoch=BUILT,
        )
        step = Step(name="packages", subject="test-apk", action=dataclasses.replace(action, **changes))
        return self.executor.run(step)

    @functools.cached_property
    def executor(self) -> Executor:
        return Executor(
            Store(self.folder / "store"),
            engine=_no_engine,
            reporter=LineReporter(io.StringIO()),
            fetching=FetchSettings(read_timeout_s=1.0, attempts=1, backoff_s=0.0),
            jobs=2,
        )

    def keyring(self, key: SigningKey) -> Keyring:
        path = self.folder / key.name
        path.write_bytes(key.public)
        return Keyring.of_file(path)


def _no_engine() -> Engine:
    raise ToolMissing("installing apk packages has asked for an engine")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with FaultyServer() as server:
        yield Ground(server=server, folder=tmp_path)


def _flipped(content: bytes, at: int = -60) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_packages_are_installed_without_an_engine(ground: Ground) -> None:
    artifact = ground.install(FILES)
    assert artifact.facts["packages"] == [["base", "1.0-r0", "x86_64"], ["toy", "1.0-r0", "x86_64"]]
    assert artifact.facts["mirror"] == ground.server.url
    assert Tree.read(artifact.path("rootfs.tar")).read_bytes("usr/bin/toy") == b"t" * 100_000


def test_packages_stay_between_builds_and_the_index_is_asked_anew(ground: Ground) -> None:
    ground.install(FILES)
    ground.install(FILES, "toy", epoch=BUILT + 1)
    assert len(ground.server.seen(f"/{TOY_FILE}")) == 1
    assert len(ground.server.seen(f"/{INDEX}")) == 2


def test_a_download_that_broke_off_is_resumed(ground: Ground) -> None:
    broken = Reply(body=FILES[TOY_FILE], send_bytes=200)
    with pytest.raises(FetchError, match=r"the connection ended early, at 200 of \d+ bytes"):
        ground.install({**FILES, TOY_FILE: broken})
    ground.install(FILES)
    assert ground.server.seen(f"/{TOY_FILE}")[-1].range == "bytes=200-"


def test_a_foreign_architectures_packages_are_installed_alike(ground: Ground) -> None:
    foreign = Repository(
        key=KEY,
        packages=(dataclasses.replace(BASE, arch="aarch64"), dataclasses.replace(TOY, arch="noarch")),
        path="v3.23/main/aarch64",
    )
    artifact = ground.install(foreign.files(), arch="aarch64")
    assert artifact.facts["packages"] == [["base", "1.0-r0", "aarch64"], ["toy", "1.0-r0", "noarch"]]
    assert Tree.read(artifact.path("rootfs.tar")).read_bytes("etc/apk/arch") == b"aarch64\n"


def test_a_package_for_another_architecture_than_its_folders_is_refused(ground: Ground) -> None:
    mixed = dataclasses.replace(GOOD, packages=(BASE, dataclasses.replace(TOY, arch="s390x")))
    with pytest.raises(FetchError, match=r"toy-1\.0-r0 is for s390x: expected x86_64 from http://127"):
        ground.install(mixed.files())


def test_a_package_that_does_not_exist_is_named_with_its_repositories(ground: Ground) -> None:
    with pytest.raises(UsageError, match=r"package tou does not exist in 3\.23 \(main\)") as caught:
        ground.install(FILES, "tou")
    assert "Did you mean toy?" in caught.value.hint


# --- keys


def _pinned(key: SigningKey, url: str) -> Keyring:
    return Keyring(pinned=(Pinned(arch="x86_64", name=key.name, sha512=sha512_of(key.public)),), url=url)


def test_pinned_keys_are_fetched_once_and_left_in_the_guest(ground: Ground) -> None:
    url = ground.server.serve(f"/keys/{KEY.name}", Reply(body=KEY.public)).rpartition("/")[0]
    artifact = ground.install(FILES, keyring=_pinned(KEY, url))
    ground.install(FILES, keyring=_pinned(KEY, url), epoch=BUILT + 1)
    assert Tree.read(artifact.path("rootfs.tar")).read_bytes(f"etc/apk/keys/{KEY.name}") == KEY.public
    assert len(ground.server.seen(f"/keys/{KEY.name}")) == 1


def test_a_key_with_other_bytes_than_its_pin_is_refused(ground: Ground) -> None:
    url = ground.server.serve(f"/keys/{KEY.name}", Reply(body=STRANGER.public)).rpartition("/")[0]
    with pytest.raises(VerificationError, match=r"expected sha512 [0-9a-f]{128}, got [0-9a-f]{128}"):
        ground.install(FILES, keyring=_pinned(KEY, url))
    assert ground.server.seen(f"/{INDEX}") == []


def test_a_keyring_that_changes_between_plan_and_build_is_refused(ground: Ground) -> None:
    path = ground.folder / "ours.pub"
    path.write_bytes(KEY.public)
    keyring = Keyring.of_file(path)
    path.write_bytes(STRANGER.public)
    with pytest.raises(VerificationError, match="the keyring changed during the build"):
        ground.install(FILES, keyring=keyring)


# --- mirrors in order


def test_the_next_mirror_is_asked_when_one_is_dead(ground: Ground) -> None:
    assert ground.install(FILES, mirrors=(closed_url("/alpine"),)).facts["mirror"] == ground.server.url


def test_a_package_that_the_first_mirror_has_damaged_comes_from_the_next(ground: Ground) -> None:
    with FaultyServer() as bad:
        ground.serve({**FILES, TOY_FILE: _flipped(FILES[TOY_FILE])}, bad)
        artifact = ground.install(FILES, mirrors=(bad.url,))
    assert artifact.facts["mirror"] == bad.url
    assert len(ground.server.seen(f"/{TOY_FILE}")) == 1


def test_a_mirror_that_is_out_of_date_gives_way_to_the_next(ground: Ground) -> None:
    ground.install(FILES)
    with FaultyServer() as stale:
        ground.serve(_built(BUILT - 8 * 86400).files(), stale)
        artifact = ground.install(FILES, mirrors=(stale.url,), released=BUILT - 90 * 86400)
    assert artifact.facts["mirror"] == ground.server.url


def test_a_mirror_with_a_wrong_signature_is_not_passed_over(ground: Ground) -> None:
    """The next mirror is good, but a forged index is an attack or a mistake to be told, not a hiccup."""
    with FaultyServer() as forged:
        ground.serve(dataclasses.replace(GOOD, key=STRANGER).files(), forged)
        with pytest.raises(
            VerificationError, match=r"none of the trusted keys has signed http://127.*stranger@example"
        ):
            ground.install(FILES, mirrors=(forged.url,))
    assert ground.server.seen(f"/{INDEX}") == []


def test_when_every_mirror_fails_each_is_told_with_its_fault(ground: Ground) -> None:
    dead = closed_url("/alpine")
    with pytest.raises(FetchError) as caught:
        ground.install({INDEX: Reply(status=404)}, mirrors=(dead,))
    first, second = caught.value.message.splitlines()
    assert first == f"{dead}/{INDEX}: cannot connect: Connection refused"
    assert second == f"{ground.server.url}/{INDEX}: HTTP 404 Not Found"
    assert "setting mirrors" in caught.value.hint


# --- one fault each


def _built(moment: int) -> Repository:
    return dataclasses.replace(GOOD, packages=tuple(dataclasses.replace(each, built=moment) for each in (BASE, TOY)))


WEB_PAGE = Reply(body=b"<html>Log in</html>\n", headers={"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        pytest.param({INDEX: Reply(hang_before_headers=True)}, FetchError, "no answer within 1 s", id="silent"),
        pytest.param(
            {INDEX: Reply(body=FILES[INDEX], send_bytes=100, hang=True)}, FetchError, "nothing came for 1 s", id="hangs"
        ),
        pytest.param(
            {INDEX: Reply(body=FILES[INDEX], send_bytes=100)}, FetchError, "the connection ended early", id="breaks off"
        ),
        pytest.param({INDEX: Reply(status=503)}, FetchError, "HTTP 503 Service Unavailable", id="overloaded"),
        pytest.param({INDEX: WEB_PAGE}, FetchError, "is no package index: it is not gzip; it is text/html", id="login"),
        pytest.param(
            {INDEX: FILES[INDEX][:-100]},
            VerificationError,
            r"APKINDEX\.tar\.gz is wrong .*altered",
            id="truncated index",
        ),
        pytest.param(
            {INDEX: _flipped(FILES[INDEX])},
            VerificationError,
            r"APKINDEX\.tar\.gz is wrong .*altered",
            id="corrupt index",
        ),
        pytest.param(
            {INDEX: apk.streams(FILES[INDEX])[1]}, VerificationError, r"APKINDEX\.tar\.gz is not signed", id="unsigned"
        ),
        pytest.param(
            _built(BUILT - 3 * 86400).files(),
            VerificationError,
            r"is older than the release: its newest package is of 2026-09-18, the release of 2026-09-20",
            id="older than the release",
        ),
        pytest.param({TOY_FILE: Reply(status=404)}, FetchError, r"toy-1\.0-r0\.apk: HTTP 404 Not Found", id="no file"),
        pytest.param(
            {TOY_FILE: Reply(body=FILES[TOY_FILE], send_bytes=100, hang=True)},
            FetchError,
            r"toy-1\.0-r0\.apk: nothing came for 1 s",
            id="package hangs",
        ),
        pytest.param(
            {TOY_FILE: FILES[TOY_FILE][:-20]},
            FetchError,
            r"toy-1\.0-r0\.apk: expected \d+ bytes, \d+ are announced",
            id="truncated package",
        ),
        pytest.param(
            {TOY_FILE: _flipped(FILES[TOY_FILE])},
            VerificationError,
            r"toy-1\.0-r0\.apk has other data: expected sha256",
            id="corrupt data",
        ),
        pytest.param(
            {TOY_FILE: _flipped(FILES[TOY_FILE], len(apk.streams(FILES[TOY_FILE])[0]) + 30)},
            VerificationError,
            r"toy-1\.0-r0\.apk is no(t the)? package",
            id="corrupt control segment",
        ),
        pytest.param(
            dict(zip(FILES, [*dataclasses.replace(GOOD, key=STRANGER).files().values()][:2], strict=False)),
            FetchError,
            "none of the trusted keys has signed base|expected .* bytes",
            id="packages of a stranger",
        ),
    ],
)
def test_a_mirrors_fault_is_told_with_what_to_do(
    ground: Ground, files: Files, kind: type[OsbuilderError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        ground.install({**FILES, **files})
    assert ground.server.url in str(caught.value)
    assert caught.value.hint


def test_an_old_state_that_is_served_again_is_refused_by_a_store_that_has_seen_a_newer_one(ground: Ground) -> None:
    ground.install(FILES)
    with pytest.raises(
        VerificationError,
        match=r"an old state that is served again: .* of 2026-09-13, one of 2026-09-21 was seen before",
    ):
        ground.install(_built(BUILT - 8 * 86400).files(), released=BUILT - 90 * 86400)
    # A mirror may be some days behind the one that was asked before.
    ground.install(_built(BUILT - 6 * 86400).files(), released=BUILT - 90 * 86400)


@pytest.mark.parametrize(
    ("description", "release"),
    [
        ("v3.22.2-113-g0123abcd", "3.22"),
        ("v3.24.0", "3.24"),
        ("v3.24.0_rc1-5-g0123abcd", "3.24"),
        ("v20220809-216-g7a8e9f1179", "edge"),
    ],
)
def test_an_index_of_another_release_does_not_pass_and_the_next_mirror_is_not_asked(
    ground: Ground, description: str, release: str
) -> None:
    """It is validly signed: Alpine's keys sign all its releases."""
    with FaultyServer() as mixed:
        ground.serve(dataclasses.replace(GOOD, description=description).files(), mixed)
        with pytest.raises(VerificationError, match=f"expected one of 3.23, got {release}, ") as caught:
            ground.install(FILES, mirrors=(mixed.url,))
    assert f"another release's index came ({mixed.url}/{INDEX})" in caught.value.message
    assert description in caught.value.message
    assert ground.server.seen(f"/{INDEX}") == []


@pytest.mark.parametrize(
    "description", ["", "v3.23.0", "v3.23.0_rc1-5-g0123abcd", "main v3.22.1", "ours, of 3.22", "v1"]
)
def test_a_repository_of_ones_own_may_describe_itself_as_it_likes(ground: Ground, description: str) -> None:
    artifact = ground.install(dataclasses.replace(GOOD, description=description).files())
    assert artifact.facts["mirror"] == ground.server.url


@pytest.mark.parametrize("name", ["renamed.rsa.pub", "a/b.rsa.pub", KEY.name])
def test_an_old_state_is_known_whatever_its_signature_calls_the_key(ground: Ground, name: str) -> None:
    """Nobody signs the name of the member that a signature is in."""
    ground.install(FILES)
    old = _built(BUILT - 8 * 86400)
    renamed = {old.index: dataclasses.replace(old, key=dataclasses.replace(KEY, name=name)).files()[old.index]}
    with pytest.raises(VerificationError, match=r"an old state that is served again|is not signed"):
        ground.install({**old.files(), **renamed}, released=BUILT - 90 * 86400)


def test_an_old_state_is_known_when_one_of_its_signatures_was_taken_away(ground: Ground) -> None:
    keyring = ground.folder / "both.pub"
    keyring.write_bytes(KEY.public + STRANGER.public)
    trusted = Keyring.of_file(keyring)
    both = STRANGER.segment(apk.streams(FILES[INDEX])[1], "RSA512") + FILES[INDEX]
    ground.install({**FILES, INDEX: both}, keyring=trusted)
    with pytest.raises(VerificationError, match="an old state that is served again"):
        ground.install(_built(BUILT - 8 * 86400).files(), keyring=trusted, released=BUILT - 90 * 86400)
