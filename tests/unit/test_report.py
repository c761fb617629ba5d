"""The guest's report: read strictly, compared with what is required, shown."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from osbuilder.errors import BootError
from osbuilder.guest.report import (
    ProbeResult,
    Result,
    console_tail,
    parse_console,
    parse_delivery,
    parse_port,
    parse_report,
    render_report,
    scan_console,
    to_json,
)


def sample(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schema": 1,
        "agent": {"name": "osbuilder-probe", "version": "1.0.0"},
        "kernel": {"release": "6.12.9", "version": "#1 SMP", "machine": "x86_64", "cmdline": "console=ttyS0 quiet"},
        "pid1": True,
        "init": "osbuilder-probe",
        "uptime_s": 0.65,
        "ready_s": 1.234,
        "root": {
            "device": "/dev/pmem0p1",
            "source": "/dev/root",
            "fstype": "ext4",
            "options": "ro,relatime,dax=always",
        },
        "memory": {"total_kib": 239388, "available_kib": 221000},
        "vcpus": 1,
        "probes": [
            {"name": "tmpfs", "result": "pass", "detail": "mounted", "duration_us": 310},
            {"name": "ptp", "result": "skip", "detail": "no PTP clock is offered", "duration_us": 90},
            {"name": "9p", "result": "fail", "detail": "fsopen(9p): No such device", "duration_us": 120},
        ],
    }
    return value | changes


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def frame(body: bytes, schema: int = 1) -> bytes:
    return b"\n@osbuilder-report %d %d %08x %s @osbuilder-end\n" % (schema, len(body), zlib.crc32(body), body)


def test_a_report_from_the_port_is_read_into_its_type() -> None:
    report = parse_port(encode(sample()) + b"\n")
    assert report.kernel.release == "6.12.9"
    assert report.root.device == "/dev/pmem0p1"
    assert report.root.options == ("ro", "relatime", "dax=always")
    assert (report.uptime_s, report.ready_s) == (0.65, 1.234)
    assert report.memory.total_kib == 239388
    assert report.probes[0] == ProbeResult(name="tmpfs", result=Result.PASS, detail="mounted", duration_us=310)


def test_a_report_survives_its_own_json() -> None:
    report = parse_report(encode(sample()))
    assert parse_report(to_json(report).encode()) == report
    assert json.loads(to_json(report)) == sample()


@pytest.mark.parametrize("data", [b"", b"\n", b"  \r\n"])
def test_an_empty_port_is_an_error_that_points_to_the_console(data: bytes) -> None:
    with pytest.raises(BootError, match=r"sent no report(.|\n)*console"):
        parse_port(data)


def test_a_report_cut_off_on_the_port_is_an_error_that_says_where() -> None:
    with pytest.raises(BootError, match="cut off after 100 bytes"):
        parse_port(encode(sample())[:100])


def test_a_console_report_is_found_between_kernel_messages_and_carriage_returns() -> None:
    console = (
        b"[    0.1] hello\r\n" + frame(encode(sample())).replace(b"\n", b"\r\n") + b"[    1.3] reboot: Power down\r\n"
    )
    assert parse_console(console) == parse_report(encode(sample()))


def test_the_second_copy_is_read_when_something_wrote_into_the_first() -> None:
    whole = frame(encode(sample()))
    damaged = whole[:90] + b"[    1.2] random: crng init done\r\n" + whole[90:]
    assert parse_console(damaged + whole) == parse_report(encode(sample()))


def test_no_whole_copy_is_nothing_yet_while_the_guest_runs_and_an_error_once_it_has_ended() -> None:
    damaged = frame(encode(sample())).replace(b"quiet", b"qu!et")
    assert scan_console(damaged) is None
    with pytest.raises(BootError, match="none of the 1 copies is whole") as caught:
        parse_console(damaged)
    assert "@osbuilder-end" in caught.value.console


@pytest.mark.parametrize("cut", [2, 30, 60, 400])
def test_a_console_report_that_is_still_being_written_is_not_yet_a_report(cut: int) -> None:
    assert scan_console(frame(encode(sample()))[:-cut]) is None


def test_a_report_that_the_port_took_in_part_is_the_one_on_the_console() -> None:
    line = encode(sample()) + b"\n"
    console = b"hello\n" + frame(encode(sample(vcpus=3)))
    assert parse_delivery(line, console).vcpus == 1
    assert parse_delivery(line[:40], console).vcpus == parse_delivery(b"", console).vcpus == 3
    with pytest.raises(BootError, match="cut off after 40 bytes"):
        parse_delivery(line[:40], b"hello\n")
    with pytest.raises(BootError, match="did not report on its console"):
        parse_delivery(b"", b"hello\n")


def test_a_console_without_a_report_is_an_error_that_carries_its_tail() -> None:
    console = b"x" * 10_000 + b"\r\nKernel panic - not syncing: no init found\r\n"
    with pytest.raises(BootError, match="did not report on its console") as caught:
        parse_console(console)
    assert caught.value.console.endswith("no init found\n")
    assert len(caught.value.console) < 5_000


def test_the_tail_of_a_console_cannot_steer_a_terminal() -> None:
    assert console_tail(b"\x1b[2J\x1b[1;31mpanic\x1b[0m\r\n\x07\xff") == "panic\n\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2: this osbuilder reads schema 1"),
        ({"schema": "1"}, r"report\.schema\): expected a whole number, got '1'"),
        ({"vcpus": True}, r"report\.vcpus\): expected a whole number, got True"),
        ({"vcpus": -1}, r"report\.vcpus\): expected a whole number, 0 or more, got -1"),
        ({"ready_s": "soon"}, r"report\.ready_s\): expected a number, got 'soon'"),
        ({"pid1": 1}, r"report\.pid1\): expected true or false, got 1"),
        ({"root": []}, r"report\.root\): expected an object"),
        ({"root": {"device": ""}}, r"report\.root\): source is missing"),
        ({"mood": "fine"}, r"\(report\): unknown mood"),
        ({"memory": {"total_kib": 1, "available_kib": 1, "swap_kib": 0}}, r"report\.memory\): unknown swap_kib"),
        ({"probes": {}}, r"report\.probes\): expected an array"),
        ({"probes": ["tmpfs"]}, r"report\.probes\[0\]\): expected an object"),
    ],
)
def test_a_member_that_is_not_as_the_schema_says_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BootError, match=message):
        parse_report(encode(sample(**change)))


def test_a_verdict_that_is_none_is_named_with_the_ones_that_are() -> None:
    probe = {"name": "tmpfs", "result": "maybe", "detail": "", "duration_us": 0}
    with pytest.raises(BootError, match=r"probes\[0\]\.result\): expected pass, fail or skip, got 'maybe'"):
        parse_report(encode(sample(probes=[probe])))


def test_a_probe_that_is_named_twice_is_refused() -> None:
    probe = {"name": "tmpfs", "result": "pass", "detail": "", "duration_us": 0}
    with pytest.raises(BootError, match="names the probe tmpfs 2 times"):
        parse_report(encode(sample(probes=[probe, probe])))


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"\xff",
        b'{"schema":1,"schema":1}',
        encode(sample()).replace(b"0.65", b"NaN"),
        encode(sample()).replace(b"0.65", b"1e999"),
        b"[" * 200_000,
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(BootError, match=r"not JSON|report\.uptime_s"):
        parse_report(data)


def test_a_console_copy_of_another_schema_is_refused_even_if_whole() -> None:
    with pytest.raises(BootError, match="schema 7"):
        scan_console(frame(encode(sample()), schema=7))


def test_gaps_are_the_required_probes_that_failed_skipped_or_are_not_named() -> None:
    gaps = parse_report(encode(sample())).gaps(["veth", "tmpfs", "9p", "ptp"])
    assert [(gap.name, gap.result) for gap in gaps] == [
        ("veth", Result.FAIL),
        ("9p", Result.FAIL),
        ("ptp", Result.SKIP),
    ]
    assert gaps[0].detail == "the report does not name this probe"


def test_a_guest_that_passes_what_is_required_has_no_gaps() -> None:
    assert parse_report(encode(sample())).gaps(["tmpfs"]) == ()


def test_the_table_shows_facts_and_a_line_a_probe() -> None:
    assert render_report(parse_report(encode(sample()))) == (
        "kernel         6.12.9 x86_64\n"
        "root           /dev/pmem0p1 ext4\n"
        "mount options  ro,relatime,dax=always\n"
        "agent          osbuilder-probe 1.0.0, PID 1\n"
        "time to agent  0.650 s\n"
        "time to ready  1.234 s\n"
        "memory         239,388 KiB, 221,000 KiB available\n"
        "vcpus          1\n"
        "\n"
        "PASS  tmpfs  mounted\n"
        "SKIP  ptp    no PTP clock is offered\n"
        "FAIL  9p     fsopen(9p): No such device\n"
        "\n"
        "1 passed, 1 failed, 1 skipped\n"
    )


def test_the_table_cannot_steer_a_terminal() -> None:
    probe = {"name": "tmpfs", "result": "pass", "detail": "\x1b[2Jgone\n", "duration_us": 0}
    table = render_report(parse_report(encode(sample(probes=[probe], pid1=False, init="systemd"))))
    assert "\x1b" not in table
    assert "osbuilder-probe 1.0.0, under systemd" in table
