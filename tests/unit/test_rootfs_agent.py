from __future__ import annotations

import os
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import RootfsError, UsageError, VerificationError
from osbuilder.pid1 import Init
from osbuilder.rootfs.agent import AgentFile, BuildProbe
from osbuilder.rootfs.check import check_output
from osbuilder.rootfs.elf import parse_elf
from osbuilder.rootfs.time import commands_without_user, configure, set_up_time
from osbuilder.step import parameters
from osbuilder.template import render
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.jobs import RecordingJob, refuse
from tests.unit.test_rootfs_compose import elf

X86_64 = parse_arch("x86_64")


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "my-agent"
    path.write_bytes(content)
    return path


def test_a_header_is_read_in_either_byte_order() -> None:
    little, big = parse_elf(elf()), parse_elf(elf(machine=22, endian=">"))
    assert (little.machine, little.bits, little.little_endian, little.interpreter) == (62, 64, True, "")
    assert (big.machine, big.little_endian) == (22, False)


def test_the_interpreter_of_this_python_is_read() -> None:
    running = parse_elf(Path("/proc/self/exe").read_bytes())
    assert running.interpreter == "" or Path(running.interpreter).exists()


def test_an_agents_key_is_its_content_not_its_path(tmp_path: Path) -> None:
    first = AgentFile.of_path(_file(tmp_path, elf()), X86_64)
    (tmp_path / "elsewhere").mkdir()
    second = AgentFile.of_path(_file(tmp_path / "elsewhere", elf()), X86_64)
    assert parameters(first) == parameters(second)
    assert parameters(first) != parameters(AgentFile.of_path(_file(tmp_path, elf() + b"x"), X86_64))


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    action = AgentFile.of_path(_file(tmp_path, elf()), X86_64)
    facts = action.run(RecordingJob(tmp_path, refuse))
    assert (tmp_path / "out/agent").read_bytes() == elf()
    assert facts == {"size_bytes": len(elf()), "interpreter": ""}


def test_a_file_that_changed_after_planning_is_refused(tmp_path: Path) -> None:
    action = AgentFile.of_path(_file(tmp_path, elf()), X86_64)
    _file(tmp_path, elf() + b"more")
    with pytest.raises(VerificationError, match="changed during the build"):
        action.run(RecordingJob(tmp_path, refuse))


def test_a_missing_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such agent \(.*my-agent\)"):
        AgentFile.of_path(tmp_path / "my-agent", X86_64)


def test_an_agent_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the agent is a folder .*: expected a file") as caught:
        AgentFile.of_path(tmp_path, X86_64)
    assert f"--agent oci:{tmp_path}" in caught.value.hint


def test_an_agent_that_would_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="the agent is not a regular file"):
        AgentFile.of_path(tmp_path / "fifo", X86_64)


def test_an_agent_that_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected an executable, got not an ELF file \(it starts with b'#!/b'\)"):
        AgentFile.of_path(_file(tmp_path, b"#!/bin/sh\n"), X86_64)


def test_an_agent_for_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected x86_64, got aarch64") as caught:
        AgentFile.of_path(_file(tmp_path, elf(machine=183)), X86_64)
    assert "--arch" in caught.value.hint


def test_an_agent_for_the_other_byte_order_is_one_for_another_architecture(tmp_path: Path) -> None:
    big_endian = elf(machine=21, endian=">")
    with pytest.raises(UsageError, match="expected ppc64le, got ELF machine 21, 64 bits, big endian"):
        AgentFile.of_path(_file(tmp_path, big_endian), parse_arch("ppc64le"))
    assert AgentFile.of_path(_file(tmp_path, elf(machine=22, endian=">")), parse_arch("s390x")).arch == "s390x"


def test_the_probes_key_is_its_sources(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "a.h").write_text("")
    (tmp_path / "README.md").write_text("not a source")
    first = BuildProbe.of_folder(tmp_path, X86_64)
    assert [name for name, _ in first.sources] == ["a.c", "a.h"]
    (tmp_path / "a.h").write_text("#define A\n")
    assert parameters(BuildProbe.of_folder(tmp_path, X86_64)) != parameters(first)


def test_the_probe_is_compiled_static_and_without_traces_of_the_build(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("")
    (command,) = BuildProbe.of_folder(tmp_path, X86_64).describe()
    assert command.startswith("x86_64-linux-gnu-gcc ")
    assert command.endswith(" -o /out/agent /in/source/a.c")
    for option in ("-static", "-s", "-Wl,--build-id=none", "-ffile-prefix-map=/in/source=."):
        assert option in command.split()
    assert str(tmp_path) not in command


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sources of an agent"):
        BuildProbe.of_folder(tmp_path, X86_64)


def _tree() -> Tree:
    tree = Tree()
    for folder in ("dev", "proc", "run", "sys", "tmp", "usr/bin", "sbin"):
        tree.add_dir(folder, parents_mode=0o755)
    tree.add_file("usr/bin/agent", elf(), mode=0o755)
    tree.add_symlink("sbin/init", "/usr/bin/agent")
    tree.add_symlink("init", "/sbin/init")
    tree.add_device("dev/console", Kind.CHAR, (5, 1))
    return tree


def _check(tree: Tree) -> None:
    check_output(tree, init=Init.AGENT, arch=X86_64, agent_path="/usr/bin/agent")


def test_a_tree_that_can_start_passes() -> None:
    _check(_tree())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("proc", "no folder /proc to mount on: got nothing"),
        ("dev/console", "no /dev/console for the agent as init"),
        ("usr/bin/agent", "no agent in the root filesystem: expected it at /usr/bin/agent"),
        ("init", "no init: /init leads nowhere"),
        ("sbin/init", "no init: /init leads nowhere"),
    ],
)
def test_each_thing_that_a_start_needs_is_missed(path: str, message: str) -> None:
    tree = _tree()
    tree.remove(path)
    with pytest.raises(RootfsError, match=message):
        _check(tree)


def test_a_console_that_is_a_file_is_refused() -> None:
    tree = _tree()
    tree.add_file("dev/console", b"", replace=True)
    with pytest.raises(RootfsError, match="expected the character device 5:1, got file"):
        _check(tree)


def test_an_agent_that_is_not_executable_is_refused() -> None:
    tree = _tree()
    tree.chmod("usr/bin/agent", 0o644)
    with pytest.raises(RootfsError, match="the agent cannot be executed"):
        _check(tree)


def test_chrony_loses_its_servers_and_its_user_and_keeps_the_rest() -> None:
    text = configure(
        "server a\n  pool b\n#pool c\nsourcedir /etc/chrony/sources.d\npeers-are-fine x\nuser chrony\nuserless\n"
    )
    kept = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert kept[:2] == ["peers-are-fine x", "userless"]
    assert configure("x").count("refclock PHC /dev/ptp0") == 1


def test_only_a_command_with_a_user_is_written_anew() -> None:
    assert commands_without_user("[Service]\nExecStart=!/usr/sbin/chronyd $DAEMON_OPTS\n") == ()
    assert commands_without_user("ExecStart=/usr/sbin/chronyd -u chrony $OPTIONS\n") == ("/usr/sbin/chronyd $OPTIONS",)


def test_what_is_not_utf8_in_a_tree_of_the_users_stays_as_it_is() -> None:
    tree = Tree()
    tree.add_file("etc/chrony.conf", b"# Uhr f\xfcr G\xe4ste\nserver a\n", parents_mode=0o755)
    unit = b"[Service]\n# f\xfcr\nExecStart=/usr/sbin/chronyd -u chrony -f /etc/\xe4.conf\n"
    tree.add_file("usr/lib/systemd/system/chronyd.service", unit, parents_mode=0o755)
    conf, drop_in = set_up_time(tree, drop_in="{{ commands | join }}")
    assert tree.read_bytes(conf).startswith(b"# Uhr f\xfcr G\xe4ste\n# server a\n\n")
    assert tree.read_bytes(drop_in) == b"/usr/sbin/chronyd -f /etc/\xe4.conf"


def test_a_template_with_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(Exception, match="'agent' is undefined"):
        render("Wants={{ agent }}.service\n")
