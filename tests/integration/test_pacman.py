"""Arch Linux from a mirror on loopback: installed by the real pacman, and every way in which a mirror fails."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from osbuilder.api import Workbench
from osbuilder.distro.choice import select_packages
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.pacman import Install
from osbuilder.errors import FetchError, OsbuilderError, UsageError, VerificationError
from osbuilder.execute import BUILDER_TAR
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.tree import Tree
from osbuilder.tree.entry import Content, Entry, Kind
from tests.integration.engines import run_in_sandbox, workbench_under
from tests.mirrors.pacman import BUILT, KEY, Package, repository, settings_for, signature
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply, closed_url

STRANGER = Key.of_seed(42, "Stranger <stranger@example.org>")
ARCH = RootfsRequest(distro="archlinux", arch="x86_64")
FILE = Entry(kind=Kind.FILE, mode=0o644, content=Content.of(bytes(4096)))
FOLDERS = tuple((name, Entry(kind=Kind.DIR, mode=0o755)) for name in ("usr", "usr/share"))


def _toy(name: str = "toy", **changes: Any) -> Package:
    return Package(name=name, members=(*FOLDERS, (f"usr/share/{name}", FILE)), **changes)


PACKAGES = (
    _toy(),
    _toy("needy", depends=("ghost>=2",)),
    _toy("rival", conflicts=("toy",)),
    _toy("broken", install="post_install() { false; }\n"),
)
TOY = f"core/os/x86_64/{_toy().file_name}"
CORE = "core/os/x86_64/core.db"

Files = Mapping[str, bytes | Reply]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def arch(arch_mirror: tuple[str, Mapping[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench that builds Arch Linux from the mirror in the sandbox."""
    folder = tmp_path_factory.mktemp("arch")
    return workbench_under("sandbox", folder, *settings_for(arch_mirror[0], folder))


def _packages_step(bench: Workbench, init: Init = Init.SYSTEMD) -> Step:
    target = bench.planner.plan(dataclasses.replace(ARCH, init=init))
    return next(step for step in target.walk() if step.name == "packages")


def test_the_recipes_packages_make_a_guest_with_systemd(arch: Workbench) -> None:
    artifact = arch.build(ARCH).artifact
    wanted = select_packages(arch.planner.choice(ARCH)).default
    assert {package for package, _, _ in artifact.facts["packages"]} == set(wanted)
    tree = Tree.read(artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init").endswith("/systemd")
    assert b"ID=arch" in tree.read_bytes("etc/os-release")
    assert tree.exists("etc/chrony.installed"), "scripts of packages run in the new root"


def test_the_agent_can_be_the_init(arch: Workbench) -> None:
    tree = Tree.read(arch.build(dataclasses.replace(ARCH, init=Init.AGENT)).artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"


def test_another_day_of_the_archive_is_another_path_and_another_date(arch: Workbench) -> None:
    step = arch.planner.plan(dataclasses.replace(ARCH, release="2026/10/07"))
    packages = next(each for each in step.walk() if each.name == "packages")
    assert isinstance(packages.action, Install)
    assert packages.action.repositories[0] == ("core", "2026/10/07/core/os/x86_64")
    assert packages.action.epoch == 1791331200
    with pytest.raises(UsageError, match="unknown release '2026' of archlinux: expected a day such as 2026/11/01"):
        arch.planner.plan(dataclasses.replace(ARCH, release="2026"))


def test_an_architecture_that_arch_is_not_made_for_is_refused_with_the_reason(arch: Workbench) -> None:
    with pytest.raises(UsageError, match="is not offered for s390x: Arch Linux is x86_64 alone"):
        arch.planner.plan(dataclasses.replace(ARCH, arch="s390x"))


def test_the_state_of_the_repositories_is_recorded(arch: Workbench) -> None:
    facts = arch.executor.run(_packages_step(arch)).facts
    assert facts["repositories"] == [{"name": "core", "date": "2025-11-01"}, {"name": "extra"}]
    assert facts["failed_scripts"] == []


def test_nothing_tells_of_this_build_in_the_root(arch: Workbench) -> None:
    tree = Tree.read(arch.executor.run(_packages_step(arch)).path("rootfs.tar"))
    assert tree.glob("dev/*", "tmp/*", "var/lib/pacman/sync", "var/cache/pacman/**", "var/log/pacman.log") == ()
    description = tree.read_bytes("var/lib/pacman/local/bash-1-1/desc").decode()
    assert "%INSTALLDATE%\n1793491200\n" in description
    assert tree.read_bytes("etc/machine-id") == b""


def test_packages_are_the_same_bytes_each_time(arch: Workbench) -> None:
    step = _packages_step(arch, Init.AGENT)
    assert isinstance(step.action, Install)
    again = dataclasses.replace(step.action, script=f"{step.action.script}# again\n")
    made = arch.executor.run(dataclasses.replace(step, subject="test-again", action=again))
    assert made.sha256("rootfs.tar") == arch.executor.run(step).sha256("rootfs.tar")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WithMirror:
    """A builder (input `tools`) with a mirror in /srv: leaves builder.tar. `files` are (name, sha256) of its files."""

    files: tuple[tuple[str, str], ...]
    contents: Mapping[str, bytes] = dataclasses.field(metadata={"in_key": False})
    epoch: int = BUILT

    def describe(self) -> tuple[str, ...]:
        return ("put a mirror into the builder",)

    def run(self, job: Any) -> Mapping[str, Any]:
        tree = Tree.read(job.inputs["tools"].path(BUILDER_TAR))
        for name, _ in self.files:
            tree.add_file(f"srv/2026/11/01/{name}", self.contents[name], parents_mode=0o755)
        tree.write(job.out / BUILDER_TAR, epoch=self.epoch)
        return {}


def test_packages_are_the_same_bytes_under_docker(
    arch: Workbench, arch_mirror: tuple[str, Mapping[str, bytes]], tmp_path: Path
) -> None:
    """A container does not see this host's loopback, so the mirror is in its own, as files: pacman takes either."""
    step = _packages_step(arch, Init.AGENT)
    assert isinstance(step.action, Install)
    assert step.builder
    contents = arch_mirror[1]
    builder = Step(
        name="builder",
        subject="test-pacman-mirror",
        action=WithMirror(
            files=tuple((name, hashlib.sha256(contents[name]).hexdigest()) for name in sorted(contents)),
            contents=contents,
        ),
        inputs=(("tools", step.builder),),
    )
    script = f"sed --in-place s,http://mirror.invalid,file:///srv, /tmp/pacman.conf\n{step.action.script}"
    script = "cp /in/pacman.conf /tmp/pacman.conf\n" + script.replace("/in/pacman.conf", "/tmp/pacman.conf")
    action = dataclasses.replace(step.action, mirrors=("http://mirror.invalid",), script=script)
    inside = dataclasses.replace(step, subject="test-again", action=action, builder=builder)
    docker = workbench_under("docker", tmp_path)
    assert docker.executor.run(inside).sha256("rootfs.tar") == arch.executor.run(step).sha256("rootfs.tar")


# --- mirrors that fail


@pytest.fixture(scope="module")
def good() -> Mapping[str, bytes]:
    """Return the files of a repository that is in order."""
    return repository(PACKAGES)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def install(bench: Workbench, server: FaultyServer, tmp_path: Path) -> Run:
    """Return a function that serves files and installs from them; returns the artifact."""
    if shutil.which("bwrap") is None:
        pytest.skip("pacman's faults need bubblewrap (bwrap)")
    (tmp_path / "keyring").write_bytes(KEY.public())

    def run(files: Files, *packages: str, mirrors: tuple[str, ...] = (), **changes: Any) -> Any:
        for name, content in files.items():
            server.serve(f"/{name}", content if isinstance(content, Reply) else Reply(body=content))
        action = Install(
            subject="archlinux 2026/11/01",
            arch="x86_64",
            repositories=(("core", "core/os/x86_64"),),
            packages=packages or ("toy",),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            epoch=BUILT,
            mirrors=(*mirrors, server.url),
        )
        action = dataclasses.replace(action, **changes)
        step = Step(name="packages", subject="test-faults", action=action, builder=bench.planner.builder("pacman"))
        return run_in_sandbox(bench, step)

    return run


def _signed_by(files: Mapping[str, bytes], key: Key) -> dict[str, bytes]:
    return {**files, f"{TOY}.sig": signature(key, files[TOY])}


def test_a_package_that_does_not_exist_is_named_with_one_that_is_like_it(install: Run, good: Files) -> None:
    with pytest.raises(UsageError, match="package toyy does not exist in archlinux 2026/11/01") as caught:
        install(good, "toyy")
    assert "Did you mean toy?" in caught.value.hint


def test_a_dependency_that_cannot_be_met_is_named(install: Run, good: Files) -> None:
    with pytest.raises(UsageError, match=r"needy needs ghost>=2, which nothing provides"):
        install(good, "needy")


def test_packages_that_exclude_each_other_are_named(install: Run, good: Files) -> None:
    with pytest.raises(UsageError, match=r"rival\S* conflicts with toy|toy\S* conflicts with rival"):
        install(good, "toy", "rival")


def test_a_script_that_fails_is_told_in_the_manifest(install: Run, good: Files) -> None:
    assert install(good, "toy", "broken").facts["failed_scripts"] == ["broken"]


def test_the_next_mirror_is_asked_when_one_refuses(install: Run, good: Files, server: FaultyServer) -> None:
    assert install(good, mirrors=(closed_url("/arch"),)).facts["mirror"] == server.url


def test_when_every_mirror_fails_each_is_told_with_its_fault(install: Run) -> None:
    dead = closed_url("/arch")
    with pytest.raises(FetchError, match=r"refuses connections; the mirror http://127.* has no core.db") as caught:
        install({}, mirrors=(dead,))
    assert dead in caught.value.message


def test_a_mirror_with_a_wrong_signature_is_not_passed_over(
    install: Run, good: Mapping[str, bytes], server: FaultyServer
) -> None:
    with FaultyServer() as forged:
        for name, content in _signed_by(good, STRANGER).items():
            forged.serve(f"/{name}", Reply(body=content))
        with pytest.raises(VerificationError, match="a package that none of the trusted keys has signed"):
            install(good, mirrors=(forged.url,))
    assert server.seen(f"/{CORE}") == []


def test_keys_that_the_builder_does_not_have_are_told(install: Run) -> None:
    keyring = Keyring(builder_path="/usr/share/keyrings/archlinux", fingerprints=("0" * 40,))
    with pytest.raises(VerificationError, match=f"none of the keys that may sign archlinux .*{'0' * 40}"):
        install({}, keyring=keyring)


def test_archs_own_keys_are_there_and_trust_nobody_else(bench: Workbench, install: Run, good: Files) -> None:
    """The recipe's pins, with the builder's archlinux-keyring: our packager is nobody to Arch."""
    release = bench.planner.choice(dataclasses.replace(ARCH)).recipe.releases["2026/11/01"]
    keyring = Keyring(
        builder_path="/usr/share/keyrings/archlinux", fingerprints=tuple(key.text for key in release.signed_by)
    )
    with pytest.raises(VerificationError, match="a package that none of the trusted keys has signed"):
        install(good, keyring=keyring)


@pytest.mark.parametrize(
    ("name", "fault", "kind", "message"),
    [
        (CORE, {"status": 404}, FetchError, r"has no core.db of archlinux 2026/11/01"),
        (CORE, {"status": 503}, FetchError, "answered 503 for core.db"),
        (CORE, {"hang_before_headers": True}, FetchError, "does not answer"),
        (CORE, {"send_bytes": 20}, FetchError, "broke the connection in the middle of core.db"),
        (CORE, {"body": b"<html>Log in</html>\n"}, FetchError, "something that is no database of a repository"),
        (TOY, {"status": 404}, FetchError, "has no toy-1-1-x86_64.pkg.tar.zst"),
        (TOY, {"send_bytes": 20}, FetchError, "broke the connection in the middle of toy-1-1"),
        (TOY, {"cut": 9}, VerificationError, "toy-1-1-x86_64.pkg.tar.zst with a"),
        (TOY, {"flip": -60}, VerificationError, "toy-1-1-x86_64.pkg.tar.zst with a"),
        (f"{TOY}.sig", {"status": 404}, FetchError, "has no toy-1-1-x86_64.pkg.tar.zst.sig"),
        (f"{TOY}.sig", {"flip": -9}, VerificationError, "signature"),
    ],
)
def test_a_mirrors_fault_is_told_with_what_to_do(
    install: Run,
    server: FaultyServer,
    good: Mapping[str, bytes],
    name: str,
    fault: dict[str, Any],
    kind: type[OsbuilderError],
    message: str,
) -> None:
    body = good[name]
    if "flip" in fault:
        at = fault["flip"] % len(body)
        reply = Reply(body=body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    elif "cut" in fault:
        reply = Reply(body=body[: -fault["cut"]])
    else:
        reply = Reply(**{"body": body, **fault})
    with pytest.raises(kind, match=message) as caught:
        install({**good, name: reply})
    assert server.url in str(caught.value)
    assert caught.value.hint


def _built(days: int) -> dict[str, bytes]:
    return repository(tuple(dataclasses.replace(package, built=BUILT + days * 86400) for package in PACKAGES))


def test_an_old_state_that_is_served_again_is_refused(install: Run, server: FaultyServer) -> None:
    assert install(_built(30))
    # Servers behind one address are not all of one day. Each time another key: nothing comes from the store.
    assert install(_built(29), epoch=BUILT + 1)
    with pytest.raises(
        VerificationError,
        match=rf"{server.url}/core/os/x86_64 is out of date, or an old state that is served again: its newest"
        " package is of 2025-11-01, one of 2025-12-01 was seen before",
    ):
        install(_built(0), epoch=BUILT + 2)


def test_another_day_of_the_archive_is_no_old_state(install: Run, good: Mapping[str, bytes]) -> None:
    """It has an address of its own; so has another mirror, to which one with an old state gives way."""
    assert install(_built(30))
    day = {f"2025/11/01/{name}": content for name, content in good.items()}
    assert install(day, repositories=(("core", "2025/11/01/core/os/x86_64"),))
    with FaultyServer() as other:
        for name, content in good.items():
            other.serve(f"/{name}", Reply(body=content))
        assert install(good, mirrors=(other.url,)).facts["mirror"] == other.url
