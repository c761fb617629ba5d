"""An agent of ours is compiled by cargo for two architectures: crates verified, static, the same bytes each time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from osbuilder.agents.build import BUILDER, plan_agent
from osbuilder.agents.pin import AgentOptions, AgentPin, CargoPin, CratesPin, Libc, SourcePin
from osbuilder.agents.source import CRATES
from osbuilder.api import Workbench
from osbuilder.arch import parse_arch
from osbuilder.errors import OfflineError, OsbuilderError, SourceError, VerificationError
from osbuilder.guest.ready import Ready
from osbuilder.rootfs.agent import fits
from osbuilder.rootfs.elf import parse_elf
from osbuilder.step import Step
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from tests.kernel_bench import Compiler, Outcome
from tests.servers import FaultyServer, Reply

CRATE = Path(__file__).resolve().parents[1] / "crates/tiny-agent"
PIN = AgentPin(
    install="tiny-agent",
    ready=Ready(console="tiny-agent .* serves"),
    cargo=CargoPin(
        seccomp="seccomp",
        policy="policy",
        policy_file="policy/tiny.rego",
        make=("src/version.rs", "tiny-agent.service"),
        units=("tiny-agent.service",),
        version_file="VERSION",
    ),
)
BARE = AgentPin(install="bare", ready=Ready(console="up"), cargo=CargoPin())
ITOA = 'itoa = "1"'


@dataclasses.dataclass(frozen=True)
class Smithy:
    """Where agents are compiled: a real builder, folders of the test."""

    bench: Workbench
    base: Path

    def steps(self, pin: AgentPin, tree: Path, *, arch: str = "x86_64", **options: Any) -> dict[str, Step]:
        step = plan_agent(
            "test",
            pin,
            dataclasses.replace(AgentOptions(libc=Libc.GNU, source=SourcePin(tree=str(tree))), **options),
            parse_arch(arch),
            builder=functools.partial(self.bench.planner.builder, BUILDER),
            root=self.base,
        )
        return {each.name: each for each in step.walk()} | {"agent": step}

    def made(self, name: str, steps: dict[str, Step], **inputs: Artifact) -> Outcome:
        """Run one step's action in fresh folders, with a cache of its own."""
        number = len(list(self.base.glob("run-*")))
        return Compiler(self.bench, self.base / f"run-{number}", steps[name].builder).run(steps[name].action, **inputs)

    def crates(self, steps: dict[str, Step], source: Artifact | None = None) -> Outcome:
        """Get the crates of a source, or of a tarball, from empty caches."""
        if "agent-manifests" not in steps:
            return self.made("agent-crates", steps)
        source = source or self.made("agent-source", steps).artifact()
        return self.made("agent-crates", steps, source=self.made("agent-manifests", steps, source=source).artifact())

    def agent(self, pin: AgentPin, tree: Path, *, arch: str = "x86_64", **options: Any) -> Outcome:
        """Make an agent from nothing but the builder and the libraries, which are kept."""
        steps = self.steps(pin, tree, arch=arch, **options)
        source = self.made("agent-source", steps).artifact()
        crates = self.crates(steps, source).artifact()
        libraries = self.bench.executor.run(steps["agent-libraries"])
        further = {"std": self.bench.executor.run(steps["agent-std"])} if "agent-std" in steps else {}
        return self.made("agent", steps, source=source, crates=crates, libraries=libraries, **further)


@pytest.fixture(scope="module")
def tiny(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The agent of tests/crates for this architecture, made from empty caches."""
    return Smithy(bench, tmp_path_factory.mktemp("tiny")).agent(PIN, CRATE, policy=True)


@pytest.fixture
def smithy(bench: Workbench, tmp_path: Path) -> Smithy:
    return Smithy(bench, tmp_path)


def bare(folder: Path, *, main: str = "fn main() {}", toml: str = "", lock: str = "", build: str = "") -> Path:
    """Write a crate without dependencies."""
    (folder / "src").mkdir(parents=True)
    package = '[package]\nname = "bare"\nversion = "1.2.3"\nedition = "2021"\n'
    (folder / "Cargo.toml").write_text(package + toml)
    (folder / "Cargo.lock").write_text(lock or 'version = 4\n\n[[package]]\nname = "bare"\nversion = "1.2.3"\n')
    (folder / "src/main.rs").write_text(main)
    if build:
        (folder / "build.rs").write_text(build)
    return folder


def test_an_agent_is_static_tells_its_version_and_comes_out_the_same_from_empty_caches(
    smithy: Smithy, tiny: Outcome
) -> None:
    first, second = tiny, smithy.agent(PIN, CRATE, policy=True)
    data = (first.folder / "agent").read_bytes()
    for name in ("agent", "files.tar", "version"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    elf = parse_elf(data)
    assert fits(elf, parse_arch("x86_64"))
    assert elf.interpreter == ""
    assert first.facts["version"] == (first.folder / "version").read_text() == "0.3.1-test"
    assert first.facts["features"] == ["policy", "seccomp"]
    assert b"/work/" not in data
    files = Tree.read(first.folder / "files.tar")
    assert files.read_bytes("etc/kata-opa/default-policy.rego") == (CRATE / "policy/tiny.rego").read_bytes()
    assert files.get("etc/kata-opa/default-policy.rego").target == first.facts["policy"] == "tiny.rego"
    unit = files.read_bytes("usr/lib/systemd/system/tiny-agent.service")
    assert b"Description=tiny agent 0.3.1-test" in unit
    (first.folder / "agent").chmod(0o755)
    said = subprocess.run([first.folder / "agent", "--once"], check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(r"tiny-agent 0\.3\.1-test serves: seccomp, policy, sum 733, pid \d+\ncaught: true\n", said)


def test_an_agent_for_another_architecture_is_static_and_for_that_one(smithy: Smithy) -> None:
    outcome = smithy.agent(PIN, CRATE, arch="aarch64")
    # Without policies in it, it brings none.
    assert outcome.facts["policy"] is None
    assert not Tree.read(outcome.folder / "files.tar").exists("etc")
    elf = parse_elf((outcome.folder / "agent").read_bytes())
    assert fits(elf, parse_arch("aarch64"))
    assert elf.interpreter == ""


@pytest.mark.matrix
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_an_agent_is_linked_with_musl(smithy: Smithy, arch: str) -> None:
    outcome = smithy.agent(PIN, CRATE, arch=arch, libc=Libc.MUSL)
    data = (outcome.folder / "agent").read_bytes()
    assert fits(parse_elf(data), parse_arch(arch))
    assert parse_elf(data).interpreter == ""
    assert b"glibc" not in data.lower()
    if arch == "x86_64":
        (outcome.folder / "agent").chmod(0o755)
        said = subprocess.run([outcome.folder / "agent", "--once"], check=True, capture_output=True, text=True).stdout
        assert "serves: seccomp, free" in said
        assert said.endswith("caught: true\n")


NETWORK = """
fn main() {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap();
    let names: Vec<&str> = table.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    println!("cargo:rustc-env=INTERFACES={}", names.join(","));
    let answer = std::net::TcpStream::connect("192.0.2.1:80").map(|_| ()).map_err(|error| error.kind());
    println!("cargo:rustc-env=ANSWER={answer:?}");
}
"""
SAYS = 'fn main() { println!("{} {}", env!("INTERFACES"), env!("ANSWER")); }'


def test_the_compile_sees_no_network_but_its_own_loopback(smithy: Smithy, tmp_path: Path) -> None:
    outcome = smithy.agent(BARE, bare(tmp_path / "crate", main=SAYS, build=NETWORK))
    (outcome.folder / "agent").chmod(0o755)
    said = subprocess.run([outcome.folder / "agent"], check=True, capture_output=True, text=True).stdout
    assert said == "lo Err(NetworkUnreachable)\n"
    assert outcome.facts["version"] == "1.2.3"  # without a version file it is Cargo.toml's


def crates_of(smithy: Smithy, tree: Path) -> Outcome:
    return smithy.crates(smithy.steps(BARE, tree))


def test_a_crate_with_another_checksum_than_the_lock_has_is_refused(smithy: Smithy, tmp_path: Path) -> None:
    tree = tmp_path / "crate"
    shutil.copytree(CRATE, tree)
    lock = (tree / "Cargo.lock").read_text()
    checksum = re.search(r'name = "itoa".*?checksum = "([0-9a-f]{64})"', lock, re.DOTALL)
    assert checksum
    (tree / "Cargo.lock").write_text(lock.replace(checksum[1], "5" * 64))
    with pytest.raises(VerificationError, match=r"agent test: the crate itoa v[0-9.]+ is not what Cargo\.lock says"):
        crates_of(smithy, tree)


def test_a_lock_without_an_entry_for_what_is_needed_is_refused(smithy: Smithy, tmp_path: Path) -> None:
    tree = bare(tmp_path / "crate", toml=f"[dependencies]\n{ITOA}\n")
    with pytest.raises(SourceError, match=r"agent test: Cargo\.lock does not fit Cargo\.toml"):
        crates_of(smithy, tree)


def test_a_source_without_a_lock_is_refused(smithy: Smithy, tmp_path: Path) -> None:
    tree = bare(tmp_path / "crate")
    (tree / "Cargo.lock").unlink()
    with pytest.raises(SourceError, match=r"agent test: its source has no Cargo\.lock"):
        crates_of(smithy, tree)


def test_what_an_edit_of_the_code_leaves_needs_no_network_and_what_asks_for_a_crate_does(
    smithy: Smithy, tmp_path: Path
) -> None:
    tree = bare(tmp_path / "crate")
    (tree / "Cargo.lock").rename(tree / "deps.lock")
    (tree / "Cargo.lock").symlink_to("deps.lock")
    executor = smithy.bench.executor
    without = executor.beside(executor.store)
    without.fetching = dataclasses.replace(executor.fetching, offline=True)
    first = executor.run(smithy.steps(BARE, tree)["agent-crates"])
    executor.run(smithy.steps(BARE, tree)["agent-libraries"])
    (tree / "src/main.rs").write_text('fn main() { println!("another") }')
    (tree / "README.md").write_text("New, and no matter of cargo's.\n")
    steps = smithy.steps(BARE, tree)
    assert without.run(steps["agent-crates"]).key == first.key
    agent = tmp_path / "agent"
    agent.write_bytes(without.run(steps["agent"]).path("agent").read_bytes())
    agent.chmod(0o755)
    assert subprocess.run([agent], check=True, capture_output=True, text=True).stdout == "another\n"
    (tree / "src/bin").mkdir()
    (tree / "src/bin/second.rs").write_text("fn main() {}")
    with pytest.raises(OfflineError, match=r"not in the store: test/agent-crates\n"):
        without.run(smithy.steps(BARE, tree)["agent"])


def vendored(smithy: Smithy, change: Callable[[str], bool]) -> bytes:
    """Return a tarball as a person makes it with `cargo vendor`, of those crates of tiny-agent that are wanted."""
    made = smithy.crates(smithy.steps(PIN, CRATE))
    plain = zstandard.ZstdDecompressor().stream_reader((made.folder / CRATES).read_bytes()).read()
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(plain)) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for member in old:
            name = member.name.removeprefix("./")
            if name.startswith("vendor/") and change(name.split("/")[1]):
                member.name = name
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return zstandard.compress(packed.getvalue())


def test_crates_of_a_pinned_tarball_make_the_same_agent_and_a_missing_one_is_named(
    smithy: Smithy, tiny: Outcome
) -> None:
    whole, short = vendored(smithy, bool), vendored(smithy, lambda name: not name.startswith("itoa-"))
    with FaultyServer() as server:
        pins = {
            url: CratesPin(urls=(server.serve(url, Reply(body=data)),), sha256=hashlib.sha256(data).hexdigest())
            for url, data in (("/whole.tar.zst", whole), ("/short.tar.zst", short))
        }
        outcome = smithy.agent(PIN, CRATE, crates=pins["/whole.tar.zst"], policy=True)
        assert (outcome.folder / "agent").read_bytes() == (tiny.folder / "agent").read_bytes()
        with pytest.raises(SourceError, match=r"agent test: its crates lack one that Cargo\.lock names"):
            smithy.agent(PIN, CRATE, crates=pins["/short.tar.zst"])
        wrong = dataclasses.replace(pins["/whole.tar.zst"], sha256="5" * 64)
        with pytest.raises(VerificationError, match="sha256"):
            smithy.agent(PIN, CRATE, crates=wrong)


@pytest.mark.usefixtures("builders")
def test_code_that_does_not_compile_fails_with_what_the_compiler_said(smithy: Smithy, tmp_path: Path) -> None:
    with pytest.raises(OsbuilderError) as caught:
        smithy.agent(BARE, bare(tmp_path / "crate", main="fn main() { nonsense() }"))
    assert "cannot find function `nonsense`" in getattr(caught.value, "tail", "")
