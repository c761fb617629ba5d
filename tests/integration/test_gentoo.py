"""Gentoo from a mirror on loopback: a verified stage3 becomes a guest; how a mirror fails is told."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.archive import Unpack
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import FetchError, OsbuilderError, TreeError, UsageError, VerificationError
from osbuilder.pid1 import Init
from osbuilder.request import ImageRequest, RootfsRequest
from osbuilder.step import Step
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.integration.engines import workbench_under
from tests.kernel_bench import Compiler, Outcome
from tests.mirrors.stage3 import FOLDER, KEY, LATEST, STAMP, gentoo, stage3, tarball_name
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply, closed_url

ROOT = Path(__file__).resolve().parents[2]
GENTOO = RootfsRequest(distro="gentoo", arch="x86_64")
STRANGER = Key.of_seed(32, "Stranger <stranger@example.org>")
TARBALL = tarball_name()

Files = Mapping[str, bytes | Reply]
Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def gentoo_bench(gentoo_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench that builds Gentoo from the mirror."""
    return workbench_under("sandbox", tmp_path_factory.mktemp("build"), *gentoo_settings)


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    """The files of a mirror that is in order."""
    return gentoo()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def unpack(tmp_path: Path, server: FaultyServer) -> Run:
    """Return a function that serves files and runs the recipe's first step with them; it keeps what it downloads."""
    keyring = tmp_path / "keyring"
    keyring.write_bytes(KEY.public())
    builder = Compiler(workbench_under("sandbox", tmp_path, "read_timeout_s=1"), tmp_path, "rootfs")

    def run(files: Files, *, mirrors: tuple[str, ...] = (), **changes: Any) -> Outcome:
        for name, content in files.items():
            server.serve(f"/{name}", content if isinstance(content, Reply) else Reply(body=content))
        action = Unpack(
            subject="gentoo openrc",
            path=LATEST,
            sha256="",
            keyring=Keyring.of_file(keyring),
            keys_url="",
            mirrors=(*mirrors, server.url),
            released=0,
            epoch=1767225600,
        )
        return builder.run(dataclasses.replace(action, **changes))

    return run


def test_a_stage3_becomes_a_guest_with_the_agent_as_init(gentoo_bench: Workbench) -> None:
    artifact = gentoo_bench.build(GENTOO).artifact
    tree = Tree.read(artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"
    assert tree.read_bytes("bin/sh") == tree.read_bytes("usr/bin/busybox")
    assert dict(tree.get("usr/bin/ping").xattrs)["security.capability"].startswith(b"\x01\0\0\x02")
    assert tree.get("dev/console").kind is Kind.CHAR
    assert not tree.exists("usr/share/doc/busybox-1.37.0/README")
    assert artifact.facts["packages"] == [["sys-apps/busybox", "1.37.0-r2", ""], ["sys-libs/glibc", "2.42", ""]]


def test_the_manifest_tells_what_came_and_who_signed_it(gentoo_bench: Workbench, good: dict[str, bytes]) -> None:
    step = next(each for each in gentoo_bench.planner.plan(GENTOO).walk() if each.name == "packages")
    facts = gentoo_bench.executor.run(step).facts
    assert facts["tarball"] == TARBALL
    assert facts["signed_by"] == KEY.fingerprint
    assert len(facts["sha512"]) == 128


@pytest.mark.parametrize("engine", ["docker", "sandbox"])
def test_an_image_is_the_same_bytes_under_every_engine(
    gentoo_bench: Workbench, gentoo_settings: tuple[str, ...], tmp_path: Path, engine: str
) -> None:
    expected = gentoo_bench.build(ImageRequest(rootfs=GENTOO)).artifact.digest
    bench = workbench_under(engine, tmp_path, *gentoo_settings)
    step = bench.planner.plan(ImageRequest(rootfs=GENTOO))
    assert isinstance(step.inputs[0][1].inputs[1][1].action, Unpack)
    again = _anew(step)
    assert bench.executor.run(again).digest == expected


def _anew(image: Step) -> Step:
    """Return an image's step whose tarball is verified and unpacked once more: the comment reaches no file."""
    ((_, rootfs),) = image.inputs
    inputs = dict(rootfs.inputs)
    packages = inputs["rootfs"]
    assert isinstance(packages.action, Unpack)
    action = dataclasses.replace(packages.action, script=f"{packages.action.script}# again\n")
    inputs["rootfs"] = dataclasses.replace(packages, subject="test-again", action=action)
    rootfs = dataclasses.replace(rootfs, subject="test-again", inputs=tuple(inputs.items()))
    return dataclasses.replace(image, subject="test-again", inputs=(("rootfs", rootfs),))


def test_packages_cannot_be_added_to_a_stage3(gentoo_bench: Workbench) -> None:
    with pytest.raises(UsageError, match="gentoo installs no packages: got strace"):
        gentoo_bench.planner.plan(RootfsRequest(distro="gentoo", packages=("strace",)))


def test_systemd_is_not_offered(gentoo_bench: Workbench) -> None:
    with pytest.raises(UsageError, match="gentoo has no init 'systemd'"):
        gentoo_bench.planner.plan(RootfsRequest(distro="gentoo", init=Init.SYSTEMD))


# --- what vouches for a tarball


def test_a_tarball_that_is_pinned_needs_no_signature(unpack: Run) -> None:
    content = stage3()
    digest = hashlib.sha256(content).hexdigest()
    assert unpack({"root.tar.xz": content}, path="root.tar.xz", sha256=digest).facts["sha256"] == digest


def test_a_pinned_tarball_that_is_another_is_refused(unpack: Run) -> None:
    with pytest.raises(VerificationError, match=f"expected sha256 {'0' * 64}, got "):
        unpack({"root.tar.xz": stage3()}, path="root.tar.xz", sha256="0" * 64)


def test_keys_come_from_the_recipes_address_and_count_by_fingerprint(
    unpack: Run, server: FaultyServer, good: dict[str, bytes]
) -> None:
    keys = server.serve("/keys.gpg", Reply(body=STRANGER.public() + KEY.public()))
    pinned = Keyring(fingerprints=(KEY.fingerprint,))
    assert unpack(good, keyring=pinned, keys_url=keys).facts["signed_by"] == KEY.fingerprint


def test_a_key_that_came_along_but_is_not_pinned_does_not_count(unpack: Run, server: FaultyServer) -> None:
    keys = server.serve("/keys.gpg", Reply(body=STRANGER.public() + KEY.public()))
    pinned = Keyring(fingerprints=(KEY.fingerprint,))
    with pytest.raises(VerificationError, match="not among the pinned ones") as caught:
        unpack(gentoo(STRANGER), keyring=pinned, keys_url=keys)
    assert KEY.fingerprint in caught.value.message


def test_text_in_front_of_what_was_signed_counts_for_nothing(unpack: Run, good: dict[str, bytes]) -> None:
    forged = b"20261108T000000Z/stage3-amd64-openrc-20261108T000000Z.tar.xz 5\n" + good[LATEST]
    assert unpack({**good, LATEST: forged}).facts["tarball"] == TARBALL


@pytest.mark.parametrize("name", [LATEST, f"{TARBALL}.DIGESTS"])
def test_the_next_mirror_is_not_asked_when_one_forges(
    unpack: Run, server: FaultyServer, good: dict[str, bytes], name: str
) -> None:
    with FaultyServer() as forged:
        for path, content in {**good, name: gentoo(STRANGER)[name]}.items():
            forged.serve(f"/{path}", Reply(body=content))
        with pytest.raises(VerificationError, match="not among the pinned ones"):
            unpack(good, mirrors=(forged.url,))
    assert server.seen(f"/{LATEST}") == []


def test_the_next_mirror_is_asked_when_one_is_dead(unpack: Run, good: dict[str, bytes]) -> None:
    assert unpack(good, mirrors=(closed_url("/gentoo"),)).facts["mirror"].startswith("http://127.0.0.1:")


def test_when_every_mirror_fails_each_is_told(unpack: Run) -> None:
    dead = closed_url("/gentoo")
    with pytest.raises(FetchError, match=r"cannot connect.*\n.*HTTP 404") as caught:
        unpack({}, mirrors=(dead,))
    assert dead in caught.value.message


def test_an_old_text_that_is_served_again_is_refused(unpack: Run, good: dict[str, bytes]) -> None:
    unpack(good)
    old = gentoo(stamp="20260901T170000Z")
    with pytest.raises(VerificationError, match="an old state that is served again: its tarball is of 2026-09-01"):
        unpack(old)


def test_a_text_that_is_older_than_the_release_is_refused(unpack: Run, good: Files) -> None:
    with pytest.raises(VerificationError, match="is older than the release: its tarball is of 2026-11-01"):
        unpack(good, released=1893456000)


@pytest.mark.parametrize(
    "flavour", ["amd64-systemd", "arm64-openrc", "amd64-openrc-splitusr", "amd64-hardened-openrc", "amd64"]
)
def test_the_text_of_another_tarball_is_refused_and_the_next_mirror_is_not_asked(
    unpack: Run, server: FaultyServer, good: Files, flavour: str
) -> None:
    """It is validly signed: one key signs all flavours and architectures."""
    with FaultyServer() as mixed:
        for path, content in gentoo(flavour=flavour).items():
            mixed.serve(f"/{path}", Reply(body=content))
        with pytest.raises(VerificationError, match="expected it to name stage3-amd64-openrc-TIME") as caught:
            unpack(good, mirrors=(mixed.url,))
    assert f"another tarball's text came ({mixed.url}/{LATEST})" in caught.value.message
    assert f"got {STAMP}/stage3-{flavour}-{STAMP}.tar.xz" in caught.value.message
    assert server.seen(f"/{LATEST}") == []


def test_a_text_of_ones_own_may_name_any_tarball(unpack: Run, good: Files) -> None:
    files = {**gentoo(flavour="mine"), f"{FOLDER}/newest": gentoo(flavour="mine")[LATEST]}
    assert unpack(files, path=f"{FOLDER}/newest").facts["tarball"] == tarball_name(flavour="mine")


def test_a_damaged_tarball_that_is_validly_signed_is_told(unpack: Run) -> None:
    with pytest.raises(TreeError, match="xz data is truncated or corrupt"):
        unpack(gentoo(tarball=stage3()[:-200]))


@pytest.mark.parametrize(
    ("name", "fault", "kind", "message"),
    [
        (LATEST, {"status": 404}, FetchError, "HTTP 404"),
        (LATEST, {"hang_before_headers": True}, FetchError, "no answer within 1 s"),
        (LATEST, {"flip": 60}, VerificationError, "bad signature: this is not what was signed"),
        (LATEST, {"body": b"<html>Log in</html>\n"}, VerificationError, "no OpenPGP signature"),
        (f"{TARBALL}.DIGESTS", {"status": 404}, FetchError, "HTTP 404"),
        (f"{TARBALL}.DIGESTS", {"flip": 60}, VerificationError, "bad signature"),
        (TARBALL, {"status": 404}, FetchError, "HTTP 404"),
        (TARBALL, {"send_bytes": 1000}, FetchError, "the connection ended early, at 1000 of"),
        (TARBALL, {"send_bytes": 1000, "hang": True}, FetchError, "nothing came for 1 s"),
        (TARBALL, {"flip": 5000}, VerificationError, "expected sha512"),
    ],
)
def test_a_mirrors_fault_is_told_with_what_to_do(
    unpack: Run,
    server: FaultyServer,
    good: dict[str, bytes],
    name: str,
    fault: dict[str, object],
    kind: type[OsbuilderError],
    message: str,
) -> None:
    body = good[name]
    if "flip" in fault:
        at = fault["flip"]
        assert isinstance(at, int)
        reply = Reply(body=body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    else:
        reply = Reply(**{"body": body, **fault})  # type: ignore[arg-type]
    with pytest.raises(kind, match=message) as caught:
        unpack({**good, name: reply})
    assert server.url in caught.value.message
    assert caught.value.hint


def test_a_signed_text_that_names_no_tarball_is_refused(unpack: Run, good: Files) -> None:
    with pytest.raises(VerificationError, match="expected one line with a tarball and its size, got 0"):
        unpack({**good, LATEST: KEY.clearsign("# nothing\n").encode()})


def test_digests_that_leave_the_tarball_out_are_refused(unpack: Run, good: Files) -> None:
    with pytest.raises(VerificationError, match=r"expected the SHA512 of stage3-.* in it, got 0"):
        unpack({**good, f"{TARBALL}.DIGESTS": KEY.clearsign("# SHA512 HASH\n").encode()})


def test_a_name_without_a_time_is_refused(unpack: Run, good: Files) -> None:
    text = KEY.clearsign(f"{STAMP[:4]}/stage3.tar.xz 5\n").encode()
    with pytest.raises(VerificationError, match=f"{FOLDER}/.* names 2026/stage3.tar.xz: expected a name with a time"):
        unpack({**good, f"{FOLDER}/newest": text}, path=f"{FOLDER}/newest")


def test_the_command_line_writes_a_mirror_that_can_be_built_from(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.mirrors", "gentoo", str(tmp_path)]
    printed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    bench = workbench_under("sandbox", tmp_path / "build", *(each.strip() for each in printed.split("--setting ")[1:]))
    step = next(each for each in bench.planner.plan(GENTOO).walk() if each.name == "packages")
    assert bench.executor.run(step).facts["mirror"] == f"file://{tmp_path}/gentoo"
