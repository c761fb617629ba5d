"""How an agent that makes no report is known to serve."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from osbuilder.api import open_workbench
from osbuilder.errors import PlanError, UsageError
from osbuilder.guest.ready import Ready
from osbuilder.request import BootRequest

# What QEMU 7.2 prints, and the same as other versions may order it.
GREETING = '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}'
STAMP = '"timestamp": {"seconds": 1795358400, "microseconds": 4711}'
OPENED = f'{{{STAMP}, "event": "VSERPORT_CHANGE", "data": {{"open": true, "id": "port"}}}}'
REORDERED = f'{{"data": {{"id": "port", "open": true}}, "event": "VSERPORT_CHANGE", {STAMP}}}'
CLOSED = OPENED.replace("true", "false")
OTHER = f'{{{STAMP}, "event": "DEVICE_TRAY_MOVED", "data": {{"device": "cd", "tray-open": true, "id": "port"}}}}'


def matched(ready: Ready, *lines: str) -> list[str]:
    """Return the lines that match; the pattern means the same to Python as to grep."""
    return [line for line in lines if re.search(ready.pattern, line)]


@pytest.mark.parametrize("line", [OPENED, REORDERED])
def test_a_port_is_ready_when_qemu_tells_that_it_was_opened(line: str) -> None:
    assert matched(Ready(port="agent.0"), GREETING, CLOSED, OTHER, line) == [line]


def test_a_port_that_was_closed_and_other_events_are_not_taken_for_it() -> None:
    assert matched(Ready(port="agent.0"), GREETING, '{"return": {}}', CLOSED, OTHER) == []


def test_what_is_told_is_the_line_of_the_console_or_the_name_of_the_port() -> None:
    assert Ready(console="up").told("the agent is up") == "the agent is up"
    assert Ready(port="agent.0").told(OPENED) == "the agent has opened its port agent.0"


@pytest.mark.parametrize("name", ["", "a/b", "a,b", "a b", "-a", "a" * 65])
def test_a_port_that_can_be_no_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="port: expected the name of a virtio-serial port"):
        Ready(port=name)


def test_the_flags_of_a_boot_exclude_each_other_and_are_refused_by_name() -> None:
    assert Ready.of_flags(None, None) is None
    assert Ready.of_flags("up", None) == Ready(console="up")
    assert Ready.of_flags(None, "agent.0") == Ready(port="agent.0")
    with pytest.raises(UsageError, match="--ready and --ready-port exclude each other"):
        Ready.of_flags("up", "agent.0")
    with pytest.raises(UsageError, match=r"--ready: expected one line that is not empty, got ' '"):
        Ready.of_flags(" ", None)
    with pytest.raises(UsageError, match=r"--ready-port: expected the name of a virtio-serial port .*, got 'a/b'"):
        Ready.of_flags(None, "a/b")


def test_a_guest_gets_the_port_where_its_kernel_has_ports(tmp_path: Path) -> None:
    bench = open_workbench((f"store={tmp_path / 'store'}",), stream=sys.stderr)
    request = BootRequest(distro="scratch", arch="x86_64", ready=Ready(port="agent.0"))
    assert "virtserialport,id=port,chardev=port,name=agent.0" in bench.describe_boot(request)
    with pytest.raises(
        PlanError, match=r"variant minimal has no port agent\.0: it lacks the capability virtio-console"
    ):
        bench.describe_boot(dataclasses.replace(request, variant="minimal"))
