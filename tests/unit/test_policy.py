"""The policy of a guest's agent: a file of the user's goes where Kata's agent looks for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.errors import UsageError
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.rootfs.archive import FILES
from osbuilder.rootfs.policy import PolicyFile, install_policy
from osbuilder.tree import Tree
from tests.jobs import RecordingJob, artifact, refuse
from tests.unit.test_rootfs_compose import EPOCH, action, bootstrapped, elf

TEXT = b"package agent_policy\n\ndefault CreateContainerRequest := true\n"
LINK = "etc/kata-opa/default-policy.rego"


def with_policy(name: str, content: bytes) -> Tree:
    tree = Tree()
    install_policy(tree, name, content)
    return tree


def compose(base: Path, policy: Path, *, init: Init, theirs: Tree | None = None) -> Tree:
    """Return the root that has a policy, made by the real actions; `theirs` comes with the agent."""
    for name in ("packages", "agent"):
        (base / name).mkdir()
    bootstrapped().write(base / "packages/rootfs.tar", epoch=EPOCH)
    (base / "agent/agent").write_bytes(elf())
    if theirs is not None:
        theirs.write(base / "agent" / FILES, epoch=EPOCH)
    facts = PolicyFile.of_path(policy).run(RecordingJob(base / "policy", refuse))
    inputs = {
        "rootfs": artifact(base / "packages", {}),
        "agent": artifact(base / "agent", {}),
        "policy": artifact(base / "policy/out", facts),
    }
    job = RecordingJob(base, refuse, **inputs)
    dataclasses.replace(action(init), policy=True).run(job)
    return Tree.read(job.out / "rootfs.tar")


def test_a_policy_of_another_name_is_another_input_of_the_root(tmp_path: Path) -> None:
    made = []
    for name in ("a.rego", "b.rego"):
        (tmp_path / name).write_bytes(TEXT)
        job = RecordingJob(tmp_path / f"job-{name}", refuse)
        PolicyFile.of_path(tmp_path / name).run(job)
        made.append({path.name: path.read_bytes() for path in job.out.iterdir()})
    assert made[0] != made[1]


@pytest.mark.parametrize("init", Init)
def test_a_policy_is_a_file_of_roots_that_the_agent_reads_through_a_link(tmp_path: Path, init: Init) -> None:
    (tmp_path / "mine.rego").write_bytes(TEXT)
    tree = compose(tmp_path, tmp_path / "mine.rego", init=init)
    assert tree.get(LINK).target == "mine.rego"
    assert tree.read_bytes(LINK) == TEXT
    entry = tree.get("etc/kata-opa/mine.rego")
    assert (entry.mode, entry.uid, entry.gid) == (0o644, 0, 0)


def test_a_policy_that_is_named_takes_the_place_of_the_one_that_the_agent_brings(tmp_path: Path) -> None:
    (tmp_path / "mine.rego").write_bytes(TEXT)
    theirs = with_policy("allow-all.rego", b"package agent_policy\n")
    tree = compose(tmp_path, tmp_path / "mine.rego", init=Init.SYSTEMD, theirs=theirs)
    assert tree.children("etc/kata-opa") == ("default-policy.rego", "mine.rego")
    assert tree.read_bytes(LINK) == TEXT


def test_a_policy_with_the_name_that_is_read_needs_no_link(tmp_path: Path) -> None:
    tree = with_policy("default-policy.rego", TEXT)
    assert tree.read_bytes(LINK) == TEXT
    assert tree.children("etc/kata-opa") == ("default-policy.rego",)
    install_policy(tree, "default-policy.rego", b"other\n")
    assert tree.read_bytes(LINK) == b"other\n"


def test_a_link_that_leads_nowhere_is_replaced() -> None:
    tree = Tree()
    tree.add_symlink(LINK, "allow-all.rego", parents_mode=0o755)
    install_policy(tree, "mine.rego", TEXT)
    assert tree.read_bytes(LINK) == TEXT


@pytest.mark.parametrize(
    ("content", "message"), [(None, "expected a file, it is missing"), (b"\xff\xfe", "expected a text in UTF-8")]
)
def test_what_can_be_no_policy_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "mine.rego").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        PolicyFile.of_path(tmp_path / "mine.rego")


def test_an_extension_has_no_agent_to_have_a_policy() -> None:
    with pytest.raises(UsageError, match="--extension and --agent-policy exclude each other"):
        RootfsRequest(extension=True, agent_policy=Path("mine.rego"))
