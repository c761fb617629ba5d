"""SELinux labels on a host without SELinux: a real policy, thousands of paths, another program's word for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.engine.base import Command, Mounts
from osbuilder.engine.builder import BootstrapBuilder
from osbuilder.execute import BUILDER_TAR
from osbuilder.request import ImageRequest, RootfsRequest
from osbuilder.step import Step
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.ext4_reader import differences
from tests.integration.engines import workbench_under
from tests.mirrors.rpm import family, settings_for

CONTEXTS = "etc/selinux/default/contexts/files/file_contexts"
EPOCH = 1_700_000_000

# As matchpathcon(8) calls the kinds of files.
KINDS = {
    Kind.FILE: "file",
    Kind.DIR: "dir",
    Kind.SYMLINK: "lnk_file",
    Kind.CHAR: "chr_file",
    Kind.BLOCK: "blk_file",
    Kind.FIFO: "pipe",
}
# On top of Debian's policy, what an administrator may add: a rule that wins, and a folder that counts as another.
LOCAL = b"/usr/bin/env\t--\tsystem_u:object_r:local_env_t:s0\n/usr/share/doc(/.*)?\t<<none>>\n"
# A name that is not UTF-8, as a tree has it.
LATIN1 = b"usr/games/caf\xe9".decode("utf-8", "surrogateescape")
SUBSTITUTES = b"/usr/games /usr/bin\n"


@pytest.fixture(scope="module")
def policy(bench: Workbench) -> tuple[Step, Artifact]:
    """A Debian with its SELinux policy, as its package's script compiled it, and matchpathcon beside it."""
    action = bench.planner.builder("selinux").action
    assert isinstance(action, BootstrapBuilder)
    packages = ("selinux-policy-default", "selinux-utils")
    step = Step(name="builder", subject="test-selinux", action=dataclasses.replace(action, packages=packages))
    return step, bench.executor.run(step)


@pytest.fixture(scope="module")
def debian(policy: tuple[Step, Artifact]) -> Tree:
    """That Debian as a tree, with local additions to the policy."""
    tree = Tree.read(policy[1].path(BUILDER_TAR))
    tree.add_file(f"{CONTEXTS}.local", LOCAL)
    tree.add_file(f"{CONTEXTS}.subs", SUBSTITUTES)
    tree.add_file("usr/games/odd name \"'\\ \u00e4", b"")
    tree.add_file(LATIN1, b"")
    return tree


def asked(bench: Workbench, policy: tuple[Step, Artifact], tree: Tree, folder: Path) -> dict[str, str]:
    """Return the label of each path as matchpathcon has it; "" for none."""
    step, artifact = policy
    contexts = folder / "contexts"
    for each in (contexts, folder / "out", folder / "work"):
        each.mkdir()
    for name in tree.glob(f"{CONTEXTS}*"):
        if not name.endswith(".bin"):
            (contexts / name.rpartition("/")[2]).write_bytes(tree.read_bytes(name))
    answers: dict[str, str] = {}
    engine, builder = bench.executor.ready(step.subject, artifact)
    for kind, word in KINDS.items():
        names = [name for name, entry in tree.items() if entry.kind is kind]
        if not names:
            continue
        (folder / "names").write_bytes(b"".join(f"/{name}\0".encode("utf-8", "surrogateescape") for name in names))
        log = folder / f"log-{word}"
        argv = ("xargs", "-0", "-a", "/in/names", "matchpathcon", "-n", "-f", "/in/contexts/file_contexts")
        inputs = {"names": folder / "names", "contexts": contexts}
        mounts = Mounts(inputs=inputs, output=folder / "out", work=folder / "work")
        engine.run(builder, Command(argv=(*argv, "-m", word)), mounts, log=log, label="test-selinux")
        lines = [line for line in log.read_text().splitlines() if not line.startswith("$ ")]
        answers.update(zip(names, lines, strict=True))
    return {name: "" if label == "<<none>>" else label for name, label in answers.items()}


def labels(tree: Tree) -> Mapping[str, str]:
    found = {name: dict(entry.xattrs).get("security.selinux", b"\0") for name, entry in tree.items()}
    assert all(label.endswith(b"\0") for label in found.values())
    return {name: label[:-1].decode() for name, label in found.items()}


def guest(tree: Tree, agent: Path) -> Tree:
    """Make a tree one that composes as a guest with systemd: any executable of this machine will do."""
    tree.add_file("usr/lib/systemd/systemd", agent, mode=0o755, parents_mode=0o755)
    tree.add_symlink("usr/sbin/init", "/usr/lib/systemd/systemd", replace=True)
    return tree


def test_every_path_of_a_debian_gets_the_label_that_matchpathcon_names(
    bench: Workbench, policy: tuple[Step, Artifact], debian: Tree, tmp_path: Path
) -> None:
    from osbuilder.request import AgentRequest

    agent = bench.build(AgentRequest()).artifact.path("agent")
    guest(debian, agent).write(tmp_path / "debian.tar", epoch=EPOCH)
    built = bench.build(RootfsRequest(provision=tmp_path / "debian.tar", selinux=True))
    tree = Tree.read(built.artifact.path("rootfs.tar"))
    got = labels(tree)
    assert got == asked(bench, policy, tree, tmp_path)
    assert len(got) > 3000
    assert len(set(got.values())) > 30
    assert got["usr/bin/env"] == "system_u:object_r:local_env_t:s0"  # .local wins
    assert got["usr/games/odd name \"'\\ \u00e4"] == got["usr/bin/sort"] == "system_u:object_r:bin_t:s0"  # .subs
    assert got[LATIN1] == "system_u:object_r:bin_t:s0"
    assert got["usr/share/doc"] == ""  # <<none>>
    assert got["usr/lib/systemd/systemd"] == "system_u:object_r:init_exec_t:s0"
    assert built.artifact.facts["labelled"] == sum(1 for label in got.values() if label)


def test_an_image_holds_the_labels_of_the_tree(bench: Workbench, debian: Tree, tmp_path: Path) -> None:
    from osbuilder.request import AgentRequest

    small = Tree()
    for name in ("etc/selinux/config", CONTEXTS, f"{CONTEXTS}.subs_dist", "etc/selinux/default/policy/policy.34"):
        small.add_file(name, debian.read_bytes(name), parents_mode=0o755)
    small.add_dir("usr/sbin", parents_mode=0o755)
    small.add_symlink("sbin", "usr/sbin")
    small.add_file("usr/bin/one", b"one", mode=0o755, parents_mode=0o755)
    small.add_link("usr/bin/two", "usr/bin/one")
    guest(small, bench.build(AgentRequest()).artifact.path("agent")).write(tmp_path / "small.tar", epoch=EPOCH)
    request = RootfsRequest(provision=tmp_path / "small.tar", selinux=True)
    tree = Tree.read(bench.build(request).artifact.path("rootfs.tar"))
    assert labels(tree)["usr/bin/two"] == labels(tree)["usr/bin/one"] == "system_u:object_r:bin_t:s0"
    assert labels(tree)["sbin"]  # a symlink has its own
    image = bench.build(ImageRequest(rootfs=request, dax=False, align_mib=1)).artifact
    offset = image.facts["partitions"][0][0]
    epoch = bench.planner.ground(request).epoch
    assert differences(tree, image.path("image"), epoch=epoch, offset=offset) == []


def test_centos_from_its_mirror_is_labelled(rpm_mirror: str, tmp_path: Path) -> None:
    bench = workbench_under("sandbox", tmp_path, *settings_for(family()["centos"], rpm_mirror, tmp_path))
    built = bench.build(RootfsRequest(distro="centos", selinux=True))
    tree = Tree.read(built.artifact.path("rootfs.tar"))
    got = labels(tree)
    assert built.artifact.facts["policy"] == "targeted"
    assert "selinux-policy-targeted" in {name for name, _, _ in _packages(bench, built.artifact)}
    assert got["usr/bin/bash"] == "system_u:object_r:shell_exec_t:s0"
    assert got["usr/bin/osbuilder-probe"] == "system_u:object_r:bin_t:s0"
    assert got["etc"] == "system_u:object_r:etc_t:s0"


def _packages(bench: Workbench, artifact: Artifact) -> list[list[str]]:
    composed = bench.store.find(artifact.manifest["input_keys"]["rootfs"])
    assert composed is not None
    return list(composed.facts["packages"])
