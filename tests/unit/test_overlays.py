"""Archives of the user's: overlays are laid over the root in order and never leave it; an agent brings its units."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuilder.agents.given import plan_given
from osbuilder.arch import parse_arch
from osbuilder.errors import RootfsError, TreeError, UsageError, VerificationError
from osbuilder.pid1 import Init
from osbuilder.rootfs.archive import AgentArchive, Overlay, is_archive
from osbuilder.rootfs.compose import Compose
from osbuilder.rootfs.summary import AgentName
from osbuilder.tree import Tree
from tests.jobs import RecordingJob, refuse
from tests.jobs import artifact as result
from tests.unit.test_rootfs_compose import EPOCH, action, bootstrapped, elf

X86_64 = parse_arch("x86_64")


def tar(path: Path, *members: tuple[str, bytes | str], pack: Callable[[bytes], bytes] = bytes) -> Path:
    """Write a tar of files (bytes) and symlinks (str), each as it is named."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                info.mode = 0o755
                archive.addfile(info, io.BytesIO(content))
    path.write_bytes(pack(plain.getvalue()))
    return path


def compose(base: Path, *overlays: Overlay, agent: AgentArchive | None = None, init: Init = Init.SYSTEMD) -> Tree:
    """Return the root that the overlays are laid over, made by the real actions."""
    for name in ("packages", "plain"):
        (base / name).mkdir(exist_ok=True)
    bootstrapped().write(base / "packages/rootfs.tar", epoch=EPOCH)
    (base / "plain/agent").write_bytes(elf())
    inputs = {"rootfs": result(base / "packages", {}), "agent": result(base / "plain", {})}
    if agent is not None:
        facts = agent.run(RecordingJob(base / "archive", refuse))
        inputs["agent"] = result(base / "archive/out", facts)
    for number, overlay in enumerate(overlays):
        facts = overlay.action().run(RecordingJob(base / f"overlay-{number}", refuse))
        inputs[f"overlay-{number}"] = result(base / f"overlay-{number}/out", facts)
    plain = action(init, agent=AgentName(name=agent.install if agent else "toy-agent", version="1"))
    whole = Compose(**{name: getattr(plain, name) for name in plain.__slots__} | {"overlays": len(overlays)})
    job = RecordingJob(base, refuse, **inputs)
    facts = whole.run(job)
    assert [each["name"] for each in facts["overlays"]] == [overlay.path.name for overlay in overlays]
    return Tree.read(job.out / "rootfs.tar")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress], ids=["plain", "gzip", "bzip2"])
def test_overlays_are_laid_over_the_root_in_order_and_are_not_trimmed(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    first = tar(tmp_path / "a.tar", ("usr/share/doc/pause/README", b"kept"), ("etc/policy", b"1"), pack=pack)
    second = tar(tmp_path / "b.tar", ("./etc/policy", b"2"), ("lib/firmware/f", b"x"), pack=pack)
    tree = compose(tmp_path, Overlay(path=first), Overlay(path=second))
    assert tree.read_bytes("etc/policy") == b"2"
    assert tree.read_bytes("usr/share/doc/pause/README") == b"kept"
    assert tree.read_bytes("usr/lib/firmware/f") == b"x"  # /lib is a link to usr/lib there
    assert compose(tmp_path, Overlay(path=second), Overlay(path=first)).read_bytes("etc/policy") == b"1"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((("../evil", b"x"),), r"its name contains `\.\.`"),
        ((("etc/../../evil", b"x"),), r"its name contains `\.\.`"),
        ((("/etc/evil", b"x"),), "its name is absolute"),
        ((("out", "/"), ("out/evil", b"x")), "lies below 'out', which is a symlink"),
        ((("out", "../.."), ("out/evil", b"x")), "lies below 'out', which is a symlink"),
    ],
)
def test_an_overlay_that_would_leave_the_root_is_refused(
    tmp_path: Path, members: tuple[tuple[str, bytes | str], ...], message: str
) -> None:
    with pytest.raises(TreeError, match=message):
        compose(tmp_path, Overlay(path=tar(tmp_path / "evil.tar", *members)))


def test_a_link_of_an_earlier_overlay_leads_a_later_one_nowhere_else(tmp_path: Path) -> None:
    first = tar(tmp_path / "a.tar", ("out", "../../../.."))
    second = tar(tmp_path / "b.tar", ("out/inside", b"x"))
    tree = compose(tmp_path, Overlay(path=first), Overlay(path=second))
    assert tree.read_bytes("inside") == b"x"  # as in the guest: the root's parent is the root


def test_an_overlay_does_not_replace_a_folder_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="cannot replace a directory by something else"):
        compose(tmp_path, Overlay(path=tar(tmp_path / "a.tar", ("etc", b"x"))))


def test_an_overlay_is_checked_where_its_checksum_is_given(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("etc/policy", b"1"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    given = Overlay.parse(f"{path},sha256={sha256}")
    assert given == Overlay(path=path, sha256=sha256)
    assert compose(tmp_path, given).exists("etc/policy")
    with pytest.raises(VerificationError, match=rf"a\.tar: expected sha256 {'5' * 64}, got {sha256}"):
        Overlay.parse(f"{path},sha256={'5' * 64}").action()
    with pytest.raises(UsageError, match="expected FILE,sha256= and 64 lower-case hexadecimal digits, got 'abc'"):
        Overlay.parse(f"{path},sha256=abc")
    with pytest.raises(UsageError, match="expected a file, it is missing"):
        Overlay.parse(str(tmp_path / "none.tar")).action()


def test_an_overlay_that_changed_after_planning_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("etc/policy", b"1"))
    planned = Overlay(path=path).action()
    tar(path, ("etc/policy", b"2"))
    with pytest.raises(VerificationError, match="changed during the build"):
        planned.run(RecordingJob(tmp_path / "job", refuse))


UNIT = "usr/lib/systemd/system/kata-agent.service"


def test_an_archive_brings_the_agent_its_units_and_what_else_is_in_it(tmp_path: Path) -> None:
    members = (("./usr/bin/kata-agent", elf()), ("./usr/bin/helper", elf()), (f"./{UNIT}", b"its own"))
    path = tar(tmp_path / "agent.tar.gz", *members, pack=gzip.compress)
    assert is_archive(path)
    agent = AgentArchive.of_path(path, X86_64)
    assert agent.install == "kata-agent"
    tree = compose(tmp_path, agent=agent)
    assert tree.read_bytes("usr/bin/kata-agent") == elf()
    assert tree.read_bytes("usr/bin/helper") == elf()
    assert tree.read_bytes(UNIT) == b"its own"
    (tmp_path / "init").mkdir()
    assert not compose(tmp_path / "init", agent=agent, init=Init.AGENT).exists(UNIT)


@pytest.mark.parametrize("init", list(Init))
def test_an_archive_with_a_unit_of_its_own_replaces_what_the_packages_have_of_the_agent(
    tmp_path: Path, init: Init
) -> None:
    own = "usr/lib/systemd/system/bash.service"
    agent = AgentArchive.of_path(tar(tmp_path / "a.tar", ("usr/bin/bash", elf() + b"2"), (own, b"its own")), X86_64)
    tree = compose(tmp_path, agent=agent, init=init)
    assert tree.read_bytes("usr/bin/bash") == elf() + b"2"
    (tmp_path / "bare").mkdir()
    bare = AgentArchive.of_path(tar(tmp_path / "bare.tar", ("usr/bin/bash", elf())), X86_64)
    with pytest.raises(RootfsError, match=r"the agent cannot be called bash: .* got that of /usr/bin/bash"):
        compose(tmp_path / "bare", agent=bare, init=init)


@pytest.mark.parametrize("name", ["my agent", "-agent", ".agent", "agent%h", "agent@1", "ägent", "a\nb"])
def test_an_agent_whose_name_would_break_its_unit_is_refused(tmp_path: Path, name: str) -> None:
    archive = tar(tmp_path / "a.tar", (f"usr/bin/{name}", elf()))
    (tmp_path / name).write_bytes(elf())
    for path in (archive, tmp_path / name):
        with pytest.raises(UsageError, match=r"names a program and a unit in the guest: expected letters, .*, got "):
            plan_given(str(path), X86_64, registries=())


def test_an_archive_without_an_agent_for_the_guest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one program in usr/bin, or kata-agent among them, got none"):
        AgentArchive.of_path(tar(tmp_path / "a.tar", ("opt/agent", elf())), X86_64)
    with pytest.raises(UsageError, match="among them, got a, b"):
        AgentArchive.of_path(tar(tmp_path / "a.tar", ("usr/bin/a", elf()), ("usr/bin/b", elf())), X86_64)
    with pytest.raises(UsageError, match="usr/bin/a: expected an executable, got not an ELF file"):
        AgentArchive.of_path(tar(tmp_path / "a.tar", ("usr/bin/a", b"#!/bin/sh")), X86_64)
    with pytest.raises(UsageError, match="usr/bin/a is for s390x: expected x86_64"):
        AgentArchive.of_path(tar(tmp_path / "a.tar", ("usr/bin/a", elf(machine=22, endian=">"))), X86_64)


def test_a_program_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "agent").write_bytes(elf())
    assert not is_archive(tmp_path / "agent")
    assert not is_archive(tmp_path / "none")


def test_the_summary_has_the_version_that_only_the_build_knew(tmp_path: Path) -> None:
    tree = bootstrapped()
    for name in ("packages", "built"):
        (tmp_path / name).mkdir()
    tree.write(tmp_path / "packages/rootfs.tar", epoch=EPOCH)
    (tmp_path / "built/agent").write_bytes(elf())
    (tmp_path / "built/version").write_text("3.1-abc")
    inputs = {"rootfs": result(tmp_path / "packages", {}), "agent": result(tmp_path / "built", {})}
    job = RecordingJob(tmp_path, refuse, **inputs)
    facts = action(Init.AGENT, agent=AgentName(name="toy-agent", version="")).run(job)
    assert facts["agent"] == {"name": "toy-agent", "version": "3.1-abc"}
    summary = Tree.read(job.out / "rootfs.tar").read_bytes("var/lib/osbuilder/osbuilder.yaml").decode()
    assert '  version: "3.1-abc"' in summary
