"""Agents that cargo compiles: what versions.yaml and a request may say about them, and what that plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osbuilder.agents.compile import BuildAgent
from osbuilder.agents.libraries import LIBRARIES, GuestLibraries
from osbuilder.agents.pin import AgentOptions, CargoPin, CratesPin, Libc, SourcePin
from osbuilder.agents.source import CRATES, SOURCE, CratesTarball, Download, Tree, VendorCrates
from osbuilder.errors import CommandFailed, DecodeError, PlanError, SourceError, UsageError
from osbuilder.guest.ready import Ready
from osbuilder.kernel.git import Git
from osbuilder.plan import Planner
from osbuilder.request import AgentRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step, is_online
from osbuilder.versions import FILE, load_versions
from tests.jobs import Ran, RecordingJob, artifact
from tests.unit.test_rootfs_compose import elf

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GIT = ("git=https://a.example/kata.git", f"ref={COMMIT}")


def plan(*options: str, agent: str = "kata", arch: str = "x86_64") -> dict[str, Step]:
    settings = load_settings({}, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent"))
    request = AgentRequest(agent=agent, arch=arch, agent_options=AgentOptions.parse(options))
    return {step.name: step for step in Planner(ROOT, settings).plan(request).walk()}


def built(steps: dict[str, Step]) -> BuildAgent:
    action = steps["agent"].action
    assert isinstance(action, BuildAgent)
    return action


def test_kata_without_a_source_says_what_to_write() -> None:
    with pytest.raises(UsageError) as caught:
        plan()
    assert "agent kata has no source: versions.yaml pins none, and none was named" in str(caught.value)
    assert "--agent-option git=URL --agent-option ref=COMMIT" in caught.value.hint
    assert "`source: {urls: [URL], sha256: HEX}` below agents/kata/cargo in versions.yaml" in caught.value.hint


def test_kata_is_linked_with_musl_where_rust_has_it_and_with_glibc_elsewhere() -> None:
    libcs = {arch: built(plan(*GIT, arch=arch)).libc for arch in ("x86_64", "aarch64", "ppc64le", "s390x", "riscv64")}
    assert libcs == {
        "x86_64": Libc.MUSL,
        "aarch64": Libc.MUSL,
        "ppc64le": Libc.GNU,
        "s390x": Libc.GNU,
        "riscv64": Libc.GNU,
    }
    with pytest.raises(PlanError, match="agent kata: no musl for s390x: expected gnu"):
        plan(*GIT, "libc=musl", arch="s390x")


def test_seccomp_is_on_and_policy_off_unless_a_request_switches_them() -> None:
    usual, switched = built(plan(*GIT)), built(plan(*GIT, "seccomp=no", "policy=yes"))
    assert (usual.features, usual.seccomp) == (("seccomp",), True)
    assert (switched.features, switched.seccomp) == (("agent-policy",), False)
    assert (usual.policy_file, switched.policy_file) == (None, "src/kata-opa/allow-all.rego")
    assert "cp /work/source/src/kata-opa/allow-all.rego /out/policy" in "\n".join(switched.describe())
    environment = "\n".join(usual.describe())
    assert "LIBSECCOMP_LINK_TYPE=static" in environment
    assert "LIBSECCOMP" not in "\n".join(switched.describe())


def test_the_compile_has_no_network_and_asks_for_none() -> None:
    script = "\n".join(built(plan(*GIT)).describe())
    assert "cargo build --release --locked --offline" in script
    assert "CARGO_NET_OFFLINE=true" in script


def test_only_musl_needs_a_standard_library_of_its_own() -> None:
    assert "agent-std" in plan(*GIT)
    steps = plan(*GIT, "libc=gnu", arch="s390x")
    assert "agent-std" not in steps
    libraries = steps["agent-libraries"].action
    assert isinstance(libraries, GuestLibraries)
    assert libraries.packages == ("libseccomp-dev", "libstd-rust-web-dev")
    assert "apt-get --quiet download libseccomp-dev:s390x libstd-rust-web-dev:s390x" in libraries.describe()


def test_a_repository_a_tree_and_crates_of_the_command_line_are_taken(tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").touch()
    git = plan(*GIT)["agent-source"].action
    assert git == Download(origin=Git(url="https://a.example/kata.git", ref=COMMIT))
    steps = plan(f"tree={tmp_path}", "crates-url=https://a.example/v.tar.zst", f"crates-sha256={'5' * 64}")
    assert isinstance(steps["agent-source"].action, Tree)
    assert isinstance(steps["agent-crates"].action, CratesTarball)
    assert isinstance(plan(f"tree={tmp_path}")["agent-crates"].action, VendorCrates)
    with pytest.raises(UsageError, match=r"--agent-option tree=.*/none: no such folder"):
        plan(f"tree={tmp_path}/none")


def test_crates_that_were_pinned_go_with_the_source_that_was_pinned() -> None:
    from osbuilder.agents.pin import AgentPin, choose
    from osbuilder.arch import parse_arch

    pinned = CratesPin(urls=("https://a.example/v.tar",), sha256="5" * 64)
    source = SourcePin(urls=("https://a.example/s.tar",), sha256="6" * 64)
    pin = AgentPin(install="a", ready=Ready(console="up"), cargo=CargoPin(source=source, crates=pinned))
    assert choose("a", pin, AgentOptions(), parse_arch("x86_64")).crates == pinned
    other = AgentOptions(source=SourcePin(git="https://a.example/a.git", ref=COMMIT))
    assert choose("a", pin, other, parse_arch("x86_64")).crates is None


def test_a_tree_that_changes_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").write_text("one")
    first = Tree.of_path(tmp_path)
    (tmp_path / "target").mkdir()
    (tmp_path / "target/left").touch()
    assert Tree.of_path(tmp_path) == first  # what cargo left is no source
    below = Tree.of_path(tmp_path, "src/agent")
    (tmp_path / "src/agent/target").mkdir(parents=True)
    (tmp_path / "src/agent/target/left.rs").touch()
    assert Tree.of_path(tmp_path, "src/agent") == below
    assert "--exclude=agent/src/agent/target" in "\n".join(below.describe())
    (tmp_path / "src/target").mkdir()
    (tmp_path / "src/target/own.rs").touch()  # what is called so elsewhere is a source's own
    assert Tree.of_path(tmp_path, "src/agent") != below
    (tmp_path / "Cargo.toml").write_text("three")
    assert Tree.of_path(tmp_path) != first


def compiled(base: Path, act: Callable[[Ran], None], **fields: Any) -> Path:
    """Run the compile with `act` in cargo's place; return the folder of what it made."""
    source = base / "source"
    source.mkdir()
    for name in (SOURCE, CRATES, LIBRARIES):
        (source / name).touch()
    inputs = dict.fromkeys(("source", "crates", "libraries"), artifact(source, {"commit": COMMIT}))
    action = dataclasses.replace(built(plan(*GIT, "libc=gnu")), units=(), **fields)
    job = RecordingJob(base / "job", act, **inputs)
    action.run(job)
    return job.out


def leave(content: bytes) -> Callable[[Ran], None]:
    def act(ran: Ran) -> None:
        (ran.output / "agent").write_bytes(content)
        (ran.output / "version").write_text("3.1\n")

    return act


def fail(tail: str) -> Callable[[Ran], None]:
    def act(ran: Ran) -> None:
        raise CommandFailed("bash exited with status 101", status=101, tail=tail)

    return act


def test_the_version_is_the_sources_own_with_its_commit(tmp_path: Path) -> None:
    assert (compiled(tmp_path, leave(elf())) / "version").read_text() == f"3.1-{COMMIT}"


def test_an_agent_that_came_out_dynamic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"agent kata is not static: it asks for /lib64/ld-linux-x86-64\.so\.2"):
        compiled(tmp_path, leave(elf(interpreter="/lib64/ld-linux-x86-64.so.2")))


def test_an_agent_that_came_out_for_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"for another architecture .* expected x86_64, got s390x"):
        compiled(tmp_path, leave(elf(machine=22, endian=">")))


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (
            "error[E0514]: found crate `std` compiled by an incompatible version",
            "another version than the compiler",
        ),
        ("error: no matching package named `itoa` found", r"its crates lack one that Cargo\.lock names"),
        ("error: cannot update the lock file /work/source/Cargo.lock because --locked was passed", "does not fit"),
    ],
)
def test_what_cargo_says_becomes_what_to_do(tmp_path: Path, tail: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        compiled(tmp_path, fail(tail))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("libc",), "--agent-option 'libc': expected NAME=VALUE"),
        (("lib=gnu",), "unknown --agent-option 'lib'"),
        (("libc=uclibc",), "--agent-option libc=uclibc: expected musl or gnu"),
        (("policy=on",), "--agent-option policy=on: expected yes or no"),
        (("libc=gnu", "libc=musl"), "--agent-option libc is given twice"),
        (("git=https://a.example/a.git",), "--agent-option: git needs ref beside it"),
        (("sha256=5",), "--agent-option: expected exactly one of url, git, tree, got none of them"),
        (("url=https://a.example/a.tar",), "--agent-option: url needs sha256 beside it"),
        (("tree=a", f"ref={COMMIT}"), "--agent-option: ref does not go with tree"),
        (("git=http://a.example/a.git", "ref=main"), "http does not protect what 'main' means"),
        (("crates-url=https://a.example/v.tar",), "crates-url and crates-sha256 .* go together"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AgentOptions.parse(options)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("libc=gnu", "seccomp=no", "policy=yes", "tree=/src/agent"),
        (
            "git=https://a.example/a.git",
            f"ref={COMMIT}",
            "crates-url=https://a.example/v.tar",
            f"crates-sha256={'5' * 64}",
        ),
        (f"sha256={'5' * 64}", "url=https://a.example/a.tar", "url=https://b.example/a.tar"),
    ],
)
def test_options_are_told_as_they_are_given(options: tuple[str, ...]) -> None:
    assert tuple(AgentOptions.parse(options).words()) == options


def test_options_are_refused_for_agents_that_have_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="agent probe has no options: they are for agents that are compiled"):
        plan("libc=gnu", agent="probe")
    with pytest.raises(UsageError, match="has no options"):
        plan("libc=gnu", agent=str(tmp_path / "agent"))
    with pytest.raises(UsageError, match="--agent oci:kata/agent has no options"):
        plan("libc=gnu", agent="oci:kata/agent")


def test_an_agent_of_an_image_is_asked_for_where_its_name_says() -> None:
    steps = plan(agent="oci:quay.io/kata/agent:3.1")
    assert list(steps) == ["agent-reference", "agent-image", "agent"]
    assert steps["agent-reference"].action.describe() == (
        "ask https://quay.io for quay.io/kata/agent:3.1",
        "choose what is for linux/amd64",
    )
    assert is_online(steps["agent-reference"].action)
    assert not is_online(steps["agent"].action)
    with pytest.raises(UsageError, match=r"http://quay\.io does not protect what the tag 'latest' of kata/agent means"):
        Planner(ROOT, load_settings({"mirrors": "oci=http://quay.io"})).plan(
            AgentRequest(agent="oci:quay.io/kata/agent")
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("      folder: src/agent\n", "      folder: ../agent\n", "expected a path inside the source, got '../agent'"),
        (
            "      units: [kata-agent.service,",
            "      units: [a/kata-agent.service,",
            "expected the name of a file",
        ),
        ("    ready: {console: ttRPC server started}\n", "", "ready goes with cargo"),
        ("{console: ttRPC server started}", "ttRPC server started", "expected a mapping"),
        ("{console: ttRPC server started}", "{}", "expected either console, a pattern, or port, a name"),
        ("{console: ttRPC server started}", "{console: ' '}", "console: expected one line that is not empty"),
        ("{console: ttRPC server started}", "{port: a/b}", "port: expected the name of a virtio-serial port"),
        ("    install: kata-agent\n", "    install: kata/agent\n", "install: expected the name of a file"),
        ("    cargo:\n", "    source: agents/kata\n    cargo:\n", "expected exactly one of source and cargo"),
        ("      folder: src/agent\n", "      source: {urls: [a.tar], sha256: x}\n", "sha256"),
        ("      folder: src/agent\n", "      source: {git: https://a.example/a}\n", "git needs ref beside it"),
    ],
)
def test_a_malformed_agent_in_versions_yaml_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / FILE).read_text()
    assert old in text
    (tmp_path / FILE).write_text(text.replace(old, new, 1))
    with pytest.raises(DecodeError) as caught:
        load_versions(tmp_path)
    assert message in str(caught.value)
