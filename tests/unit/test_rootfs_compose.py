from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from osbuilder.arch import parse_arch
from osbuilder.errors import RootfsError
from osbuilder.pid1 import Init
from osbuilder.rootfs.compose import Compose, ComposeExtension
from osbuilder.rootfs.summary import AgentName, Base
from osbuilder.rootfs.trim import Keep
from osbuilder.step import parameters
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.jobs import RecordingJob, refuse

EPOCH = 1754697600
CHRONY = "pool example.org iburst\nkeyfile /etc/chrony/chrony.keys\nuser _chrony\nmakestep 1 3\n"
AGENT = AgentName(name="toy-agent", version="1.2")


def elf(*, machine: int = 62, interpreter: str = "", kind: int = 2, endian: str = "<") -> bytes:
    """Return a 64-bit ELF file of nothing but headers."""
    name = interpreter.encode() + b"\0"
    count = 1 if interpreter else 0
    ident = b"\x7fELF" + bytes([2, 1 if endian == "<" else 2, 1]) + bytes(9)
    header = ident + struct.pack(endian + "HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    table = struct.pack(endian + "IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1) if interpreter else b""
    return header + table + (name if interpreter else b"")


def artifact(folder: Path, name: str, facts: Mapping[str, Any] = MappingProxyType({})) -> Artifact:
    manifest = {"ident": name, "outputs": {name: {"sha256": "0" * 64}}, "facts": facts}
    return Artifact(folder=folder, key="0" * 64, digest="0" * 64, manifest=manifest)


def bootstrapped(*, systemd: bool = True) -> Tree:
    """Return what a bootstrap leaves, in small: usr-merged, with chrony, and with traces of the machine it ran on."""
    tree = Tree()
    for folder in (
        "usr/bin",
        "usr/sbin",
        "usr/lib/systemd/system",
        "etc/ssh",
        "var/lib/dpkg",
        "var/log/apt",
        "run/lock",
    ):
        tree.add_dir(folder, parents_mode=0o755)
    for name in ("bin", "sbin", "lib"):
        tree.add_symlink(name, f"usr/{name}")
    files = {
        "etc/chrony/chrony.conf": CHRONY,
        "usr/lib/systemd/system/chrony.service": "[Service]\nExecStart=/usr/sbin/chronyd -u _chrony -F 1\n",
        "usr/lib/systemd/system/dbus.socket": "[Socket]\n",
        "usr/lib/systemd/system/systemd-journald.service": "[Service]\n",
        "usr/lib/systemd/system/systemd-journald.socket": "[Socket]\n",
        "usr/lib/systemd/system/sysinit.target.wants/systemd-journald.service": "[Service]\n",
        "usr/lib/systemd/system/systemd-sysctl.service": "[Service]\n",
        "usr/lib/systemd/system-generators/systemd-fstab-generator": "x",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/hostname": "builder-of-today\n",
        "etc/resolv.conf": "nameserver 192.0.2.1\n",
        "etc/passwd-": "old",
        "etc/ssh/ssh_host_ed25519_key": "secret",
        "var/cache/ldconfig/aux-cache": "x",
        "var/log/dpkg.log": "today",
        "var/log/apt/history.log": "today",
        "var/lib/dpkg/status-old": "x",
        "var/tmp/left": "x",
        "tmp/left": "x",
        "run/left": "x",
        "usr/share/doc/toy/README": "long",
        "usr/share/doc/toy/copyright": "yours",
        "usr/share/man/man1/toy.1": "x",
        "usr/share/locale/de/LC_MESSAGES/toy.mo": "x",
        "usr/lib/locale/C.utf8/LC_CTYPE": "x",
        "usr/share/zoneinfo/Etc/UTC": "x",
        "usr/share/zoneinfo/Europe/Oslo": "x",
        "usr/share/zoneinfo/leap-seconds.list": "x",
    }
    for path, text in files.items():
        tree.add_file(path, text.encode(), parents_mode=0o755)
    tree.add_symlink("usr/share/doc/toy-doc", "toy")
    tree.add_device("dev/ptmx", Kind.CHAR, (5, 2), parents_mode=0o755)
    tree.add_file("usr/bin/bash", elf(), mode=0o755)
    if systemd:
        tree.add_file("usr/lib/systemd/systemd", elf(), mode=0o755)
        tree.add_symlink("usr/sbin/init", "../lib/systemd/systemd")
    return tree


BASE = Base(name="debian", release="trixie", default_packages=("chrony",), extra_packages=("bash",))


def action(
    init: Init, keep: tuple[Keep, ...] = (), agent: AgentName = AGENT, without_units: tuple[str, ...] = ()
) -> Compose:
    x86_64 = parse_arch("x86_64")
    return Compose.of(BASE, arch=x86_64, init=init, agent=agent, epoch=EPOCH, keep=keep, without_units=without_units)


@dataclasses.dataclass(frozen=True)
class Room:
    """Composes trees in one folder."""

    folder: Path

    def run(
        self,
        tree: Tree,
        init: Init = Init.SYSTEMD,
        *,
        agent: bytes | None = None,
        keep: tuple[Keep, ...] = (),
        without_units: tuple[str, ...] = (),
    ) -> tuple[Tree, Mapping[str, Any]]:
        (self.folder / "agent").mkdir(exist_ok=True)
        (self.folder / "agent/agent").write_bytes(elf() if agent is None else agent)
        composed = action(init, keep, without_units=without_units)
        return self.act(composed, tree, agent=artifact(self.folder / "agent", "agent"))

    def act(
        self, composed: Compose | ComposeExtension, tree: Tree, **inputs: Artifact
    ) -> tuple[Tree, Mapping[str, Any]]:
        (self.folder / "packages").mkdir(exist_ok=True)
        tree.write(self.folder / "packages/rootfs.tar", epoch=EPOCH)
        rootfs = artifact(self.folder / "packages", "rootfs.tar", {"packages": [["bash", "5.2", "amd64"]]})
        facts = composed.run(RecordingJob(self.folder, refuse, rootfs=rootfs, **inputs))
        return Tree.read(self.folder / "out/rootfs.tar"), facts


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_nothing_of_the_machine_that_bootstrapped_is_left(room: Room) -> None:
    tree, _ = room.run(bootstrapped())
    gone = (
        *("etc/hostname", "etc/passwd-", "etc/ssh/ssh_host_ed25519_key", "var/lib/dpkg/status-old"),
        *("var/cache/ldconfig/aux-cache", "var/log/dpkg.log", "var/log/apt/history.log"),
        *("tmp/left", "run/left", "run/lock", "var/tmp/left", "dev/ptmx"),
    )
    assert [name for name in gone if tree.exists(name)] == []
    assert tree.exists("var/log/apt")  # folders stay: services own them


def test_files_that_are_bound_over_are_empty_regular_files(room: Room) -> None:
    tree, _ = room.run(bootstrapped())
    for path in ("etc/resolv.conf", "etc/machine-id"):
        assert tree.get(path).kind is Kind.FILE
        assert tree.read_bytes(path) == b""


def test_a_dangling_resolv_conf_becomes_a_regular_file(room: Room) -> None:
    tree = bootstrapped()
    tree.remove("etc/resolv.conf")
    tree.add_symlink("etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf")
    assert room.run(tree)[0].get("etc/resolv.conf").kind is Kind.FILE


def test_temporary_folders_lie_on_memory(room: Room) -> None:
    tree, _ = room.run(bootstrapped())
    assert (tree.get("tmp").mode, tree.get("var/tmp").target) == (0o1777, "../tmp")
    assert b"Where=/tmp" in tree.read_bytes("etc/systemd/system/tmp.mount")
    assert tree.resolve("etc/systemd/system/local-fs.target.wants/tmp.mount") == "etc/systemd/system/tmp.mount"


@pytest.mark.parametrize("init", list(Init))
def test_an_init_finds_its_console_and_its_mount_points(room: Room, init: Init) -> None:
    tree, _ = room.run(bootstrapped(systemd=init is Init.SYSTEMD), init)
    devices = {name: tree.get(f"dev/{name}").device for name in ("console", "null", "tty", "zero")}
    assert devices == {"console": (5, 1), "null": (1, 3), "tty": (5, 0), "zero": (1, 5)}
    assert all(tree.get(name).kind is Kind.DIR for name in ("proc", "sys", "run", "dev", "tmp"))


def test_systemd_reaches_the_agent_with_or_without_the_runtimes_kernel_line(room: Room) -> None:
    tree, _ = room.run(bootstrapped())
    target = "usr/lib/systemd/system/kata-containers.target"
    assert tree.resolve("etc/systemd/system/default.target") == target
    assert tree.resolve("etc/systemd/system/basic.target.wants/kata-containers.target") == target
    assert b"Requires=basic.target tmp.mount toy-agent.service" in tree.read_bytes(target)
    assert b"ExecStart=/usr/bin/toy-agent\n" in tree.read_bytes("usr/lib/systemd/system/toy-agent.service")
    wanted = tree.resolve("etc/systemd/system/kata-containers.target.wants/dbus.socket")
    assert wanted == "usr/lib/systemd/system/dbus.socket"


def test_units_that_came_with_an_agent_are_kept(room: Room) -> None:
    tree = bootstrapped()
    tree.add_file("usr/lib/systemd/system/kata-containers.target", b"its own")
    assert room.run(tree)[0].read_bytes("usr/lib/systemd/system/kata-containers.target") == b"its own"


def test_the_clock_follows_the_host_and_asks_no_server(room: Room) -> None:
    tree, _ = room.run(bootstrapped())
    lines = tree.read_bytes("etc/chrony/chrony.conf").decode().splitlines()
    active = [line for line in lines if line and not line.startswith("#")]
    assert active == [
        "keyfile /etc/chrony/chrony.keys",
        "refclock PHC /dev/ptp0 poll 3 dpoll -2 offset 0",
        "makestep 1 -1",
    ]
    assert "# pool example.org iburst" in lines
    drop_in = tree.read_bytes("etc/systemd/system/chrony.service.d/ptp.conf").decode()
    assert "ConditionPathExists=/dev/ptp0" in drop_in
    assert "ExecStart=\nExecStart=/usr/sbin/chronyd -F 1\n" in drop_in


def test_a_tree_without_chrony_is_left_without(room: Room) -> None:
    tree = bootstrapped()
    tree.remove_glob("etc/chrony", "usr/lib/systemd/system/chrony.service")
    assert not room.run(tree)[0].exists("etc/systemd/system/chrony.service.d")


def test_an_agent_that_is_init_is_found_on_a_disk_and_in_an_initrd(room: Room) -> None:
    tree, _ = room.run(bootstrapped(systemd=False), Init.AGENT)
    assert tree.resolve("sbin/init") == tree.resolve("init") == "usr/bin/toy-agent"
    assert tree.get("usr/bin/toy-agent").mode == 0o755
    assert not tree.exists("etc/systemd/system/default.target")


def test_units_without_a_use_go_wherever_they_are(room: Room) -> None:
    tree, facts = room.run(bootstrapped())
    assert tree.glob("**/systemd-journald.*", "**/systemd-fstab-generator") == ()
    assert tree.exists("usr/lib/systemd/system/systemd-sysctl.service")
    assert {"what": "units", "entries": 4, "content_bytes": 30} in facts["trimmed"]


def test_documentation_and_translations_go_but_licences_and_utc_stay(room: Room) -> None:
    tree, _ = room.run(bootstrapped())
    left = tree.glob("usr/share/**", "usr/lib/locale/**")
    assert [name for name in left if tree.get(name).kind is not Kind.DIR] == [
        "usr/lib/locale/C.utf8/LC_CTYPE",
        "usr/share/doc/toy/copyright",
        "usr/share/doc/toy-doc",
        "usr/share/zoneinfo/Etc/UTC",
        "usr/share/zoneinfo/leap-seconds.list",
    ]


@pytest.mark.parametrize(
    ("keep", "path"),
    [
        (Keep.DOCS, "usr/share/man/man1/toy.1"),
        (Keep.LOCALES, "usr/share/zoneinfo/Europe/Oslo"),
        (Keep.UNITS, "usr/lib/systemd/system/systemd-journald.service"),
    ],
)
def test_what_is_asked_for_is_kept(room: Room, keep: Keep, path: str) -> None:
    assert not room.run(bootstrapped())[0].exists(path)
    assert room.run(bootstrapped(), keep=(keep,))[0].exists(path)


def test_the_facts_report_sizes_by_folder_before_and_after(room: Room) -> None:
    tree, facts = room.run(bootstrapped())
    assert facts["before"]["content_bytes"] > 0
    assert facts["after"] == {
        "content_bytes": tree.summary().content_bytes,
        "entries": len(tree),
        "folders": [
            {"path": usage.path, "content_bytes": usage.content_bytes, "entries": usage.entries}
            for usage in tree.summary().folders
        ],
    }
    assert facts["packages"] == [["bash", "5.2", "amd64"]]


def test_the_same_packages_give_the_same_bytes_whatever_machine_installed_them(room: Room) -> None:
    room.run(bootstrapped())
    first = (room.folder / "out/rootfs.tar").read_bytes()
    other = bootstrapped()
    other.add_file("etc/hostname", b"another\n", replace=True)
    other.add_file("var/log/alternatives.log", b"tomorrow")
    other.add_file("run/motd", b"x")
    other.remove_glob("dev/*")
    room.run(other)
    assert (room.folder / "out/rootfs.tar").read_bytes() == first


def test_every_text_that_goes_into_the_tree_is_part_of_the_key() -> None:
    names = {name for name, _ in parameters(action(Init.SYSTEMD))["files"]}
    assert names == {"agent.service", "chrony-ptp.conf", "kata-containers.target", "tmp.mount"}
    renamed = action(Init.SYSTEMD, agent=AgentName(name="kata-agent", version="1.2"))
    assert parameters(renamed) != parameters(action(Init.SYSTEMD))


def test_the_summary_is_what_kata_collect_data_reads(room: Room) -> None:
    tree, _ = room.run(bootstrapped(systemd=False), Init.AGENT)
    text = tree.read_bytes("var/lib/osbuilder/osbuilder.yaml").decode()
    assert text.startswith('---\nosbuilder:\n  url: "')
    assert '\n  packages:\n    default:\n      - "chrony"\n    extra:\n      - "bash"\nagent:\n' in text
    data = yaml.safe_load(text)
    assert data["rootfs-creation-time"] == "2025-08-09T00:00:00.000000000+0000Z"
    assert (data["description"], data["file-format-version"]) == ("osbuilder rootfs", "0.0.2")
    assert (data["architecture"], data["base-distro"]["name"], data["base-distro"]["version"]) == (
        "x86_64",
        "debian",
        "trixie",
    )
    assert data["agent"] == {"url": "", "name": "toy-agent", "version": "1.2", "agent-is-init-daemon": "yes"}


# What cannot start is refused.


def test_an_empty_tree_is_refused(room: Room) -> None:
    with pytest.raises(RootfsError, match="the root filesystem is empty"):
        room.run(Tree())


def test_an_archive_of_something_else_is_refused(room: Room) -> None:
    tree = Tree()
    tree.add_file("rootfs/usr/bin/bash", b"", parents_mode=0o755)
    with pytest.raises(RootfsError, match="expected usr/bin or bin in it, got rootfs"):
        room.run(tree)


def test_a_tree_without_an_init_is_refused(room: Room) -> None:
    with pytest.raises(RootfsError, match="no init: /sbin/init leads nowhere") as caught:
        room.run(bootstrapped(systemd=False))
    assert "systemd-sysv" in caught.value.hint


def test_a_dangling_init_link_is_refused(room: Room) -> None:
    tree = bootstrapped()
    tree.remove("usr/lib/systemd/systemd")
    with pytest.raises(RootfsError, match="leads nowhere"):
        room.run(tree)


def test_an_init_that_is_no_systemd_is_refused_where_systemd_was_asked_for(room: Room) -> None:
    tree = bootstrapped()
    tree.add_symlink("usr/sbin/init", "../bin/bash", replace=True)
    with pytest.raises(RootfsError, match="/sbin/init is not systemd: it leads to /usr/bin/bash"):
        room.run(tree)


def test_an_init_that_cannot_be_executed_is_refused(room: Room) -> None:
    tree = bootstrapped()
    tree.chmod("usr/lib/systemd/systemd", 0o644)
    with pytest.raises(RootfsError, match=r"the init cannot be executed \(/usr/lib/systemd/systemd\).*mode 0644"):
        room.run(tree)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (b"#!/bin/sh\n", r"expected an ELF executable, got not an ELF file"),
        (b"", r"not an ELF file \(it is empty\)"),
        (elf()[:30], "a damaged or truncated ELF file"),
        (elf(kind=1), "an ELF object file, not an executable"),
        (elf(machine=183), "is for another architecture .*expected x86_64, got aarch64"),
        (elf(interpreter="/lib/ld-musl-x86_64.so.1"), "it is linked dynamically and asks for /lib/ld-musl-x86_64.so.1"),
    ],
)
def test_an_agent_that_cannot_start_is_refused(room: Room, agent: bytes, message: str) -> None:
    with pytest.raises(RootfsError, match=message):
        room.run(bootstrapped(systemd=False), Init.AGENT, agent=agent)


@pytest.mark.parametrize(
    ("taken", "init"),
    [
        ("usr/bin/toy-agent", Init.SYSTEMD),
        ("usr/bin/toy-agent", Init.AGENT),
        ("usr/lib/systemd/system/toy-agent.service", Init.SYSTEMD),
        ("etc/systemd/system/toy-agent.service", Init.SYSTEMD),
    ],
)
def test_an_agent_that_is_called_like_something_of_the_packages_is_refused(room: Room, taken: str, init: Init) -> None:
    tree = bootstrapped()
    tree.add_file(taken, elf(), parents_mode=0o755)
    with pytest.raises(RootfsError, match=f"the agent cannot be called toy-agent: .* got that of /{taken}"):
        room.run(tree, init)


def test_a_unit_of_the_agents_name_is_nothing_to_an_agent_as_init(room: Room) -> None:
    tree = bootstrapped()
    tree.add_file("usr/lib/systemd/system/toy-agent.service", b"[Service]\n")
    assert room.run(tree, Init.AGENT)[0].exists("usr/bin/toy-agent")


def test_a_dynamic_agent_is_accepted_where_its_interpreter_is(room: Room) -> None:
    tree = bootstrapped()
    tree.add_file("usr/lib/ld-musl-x86_64.so.1", elf(), mode=0o755)
    room.run(tree, agent=elf(interpreter="/lib/ld-musl-x86_64.so.1"))


def test_a_named_unit_goes_with_its_drop_ins_links_and_aliases(room: Room) -> None:
    tree = bootstrapped()
    units = "usr/lib/systemd/system"
    tree.add_file(f"{units}/systemd-sysctl.service.d/extra.conf", b"[Unit]", parents_mode=0o755)
    tree.add_symlink("etc/systemd/system/sysinit.target.wants/systemd-sysctl.service", "x", parents_mode=0o755)
    tree.add_symlink("etc/systemd/system/procps.service", f"/{units}/systemd-sysctl.service")
    tree.add_file("usr/share/doc/systemd-sysctl.service/copyright", b"kept", parents_mode=0o755)
    result, facts = room.run(tree, without_units=("systemd-sysctl.service",))
    left = [name for name in result.names() if "sysctl.service" in name or "procps.service" in name]
    assert left == ["usr/share/doc/systemd-sysctl.service", "usr/share/doc/systemd-sysctl.service/copyright"]
    named = [group for group in facts["trimmed"] if group["what"] == "named units"]
    assert named == [{"what": "named units", "entries": 5, "content_bytes": len("[Service]\n[Unit]")}]


@pytest.mark.parametrize(
    ("unit", "message", "hint"),
    [
        ("systemd-sysctl.servce", "no such unit", "Did you mean: systemd-sysctl.service"),
        ("zzz.slice", "no such unit", "Its units lie in /usr/lib/systemd/system and /etc/systemd/system."),
        ("toy-agent.service", "cannot start without it", "Leave it in"),
        ("kata-containers.target", "cannot start without it", "Leave it in"),
    ],
)
def test_a_unit_that_is_not_there_or_that_the_guest_needs_is_refused(
    room: Room, unit: str, message: str, hint: str
) -> None:
    with pytest.raises(RootfsError, match=f"--without-unit {unit}: .*{message}") as error:
        room.run(bootstrapped(), without_units=(unit,))
    assert (error.value.hint or "").startswith(hint)


def test_an_extension_has_no_agent_no_init_and_nothing_of_the_machine(room: Room) -> None:
    extension = ComposeExtension(base=BASE, arch="x86_64", epoch=EPOCH)
    tree, facts = room.act(extension, bootstrapped(systemd=False))
    gone = ("init", "usr/sbin/init", "usr/bin/toy-agent", "dev/ptmx", "dev/console", "tmp/left", "etc/systemd/system")
    assert [name for name in gone if tree.exists(name)] == []
    assert tree.get("etc/machine-id").content.size_bytes == 0
    summary = yaml.safe_load(tree.read_bytes("var/lib/osbuilder/osbuilder.yaml"))
    assert summary["base-distro"]["name"] == "debian"
    assert summary["agent"] == {"url": "", "name": "", "version": "", "agent-is-init-daemon": "no"}
    assert [group["what"] for group in facts["trimmed"]] == ["caches", "docs", "locales", "units"]


def test_the_same_tree_with_systemd_as_init_is_no_guest_for_another_architecture(room: Room) -> None:
    tree = bootstrapped()
    tree.add_file("usr/lib/systemd/systemd", elf(machine=183), mode=0o755, replace=True)
    with pytest.raises(RootfsError, match=r"init is for another architecture .*expected x86_64, got aarch64"):
        room.run(tree)


def test_a_tree_says_itself_which_distribution_it_is(room: Room) -> None:
    tree = bootstrapped()
    tree.add_file("usr/lib/os-release", b'# a comment\nNAME="Toy Linux"\nID=toy\nVERSION_ID="7.1"\n')
    tree.add_symlink("etc/os-release", "../usr/lib/os-release")
    result, _ = room.act(ComposeExtension(base=None, arch="x86_64", epoch=EPOCH), tree)
    summary = yaml.safe_load(result.read_bytes("var/lib/osbuilder/osbuilder.yaml"))
    assert (summary["base-distro"]["name"], summary["base-distro"]["version"]) == ("toy", "7.1")


@pytest.mark.parametrize("init", list(Init))
def test_a_tree_that_was_set_up_before_comes_out_the_same(room: Room, init: Init) -> None:
    first = bootstrapped()
    first.add_file("etc/os-release", b"ID=toy\nVERSION_ID=7.1\n")
    users = dataclasses.replace(action(init), base=None)
    (room.folder / "agent").mkdir()
    (room.folder / "agent/agent").write_bytes(elf())
    once, _ = room.act(users, first, agent=artifact(room.folder / "agent", "agent"))
    once.write(room.folder / "once.tar", epoch=EPOCH)
    tree = Tree.read(room.folder / "once.tar")
    again, _ = room.act(users, tree, agent=artifact(room.folder / "agent", "agent"))
    again.write(room.folder / "again.tar", epoch=EPOCH)
    assert (room.folder / "once.tar").read_bytes() == (room.folder / "again.tar").read_bytes()
