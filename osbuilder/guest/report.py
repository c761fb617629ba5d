"""What a guest says about itself: the probe agent's report, read strictly, and shown.

Owns the report's schema (agents/probe/README.md) and its framing on a console. Refuses anything that is not exactly
schema 1: a report that cannot be trusted is a guest that did not report. Nothing here starts a guest or prints.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from osbuilder.errors import BootError

SCHEMA = 1
PORT_NAME = "org.osbuilder.report"
"""The virtio-serial port that the agent prefers to the console."""

CONSOLE_TAIL_BYTES = 4096

_FRAME = re.compile(rb"@osbuilder-report (\d{1,6}) (\d{1,8}) ([0-9a-f]{8}) ")
_FRAME_END = b" @osbuilder-end"


class Result(enum.Enum):
    """A probe's verdict: SKIP says that the machine lacks what the probe would need, FAIL that the kernel does."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one probe found. `detail` is the guest's own text."""

    name: str
    result: Result
    detail: str
    duration_us: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """Who reports."""

    name: str
    version: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """The running kernel: uname(2) and the command line that it was given."""

    release: str
    version: str
    machine: str
    cmdline: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootFacts:
    """The root mount. `device` is the block device behind it ("" for an initrd), `source` what mountinfo calls it."""

    device: str
    source: str
    fstype: str
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """MemTotal and MemAvailable of /proc/meminfo."""

    total_kib: int
    available_kib: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One guest's report. `uptime_s` is when the agent started, `ready_s` when its probes were done: CLOCK_BOOTTIME."""

    agent: AgentFacts
    kernel: KernelFacts
    pid1: bool
    init: str
    uptime_s: float
    ready_s: float
    root: RootFacts
    memory: MemoryFacts
    vcpus: int
    probes: tuple[ProbeResult, ...]

    def gaps(self, required: Iterable[str]) -> tuple[ProbeResult, ...]:
        """Return every required probe that did not pass, in the order of `required`.

        A skipped probe is a gap, and so is one that the report does not name: it comes back as a FAIL that says so.
        """
        by_name = {probe.name: probe for probe in self.probes}
        absent = "the report does not name this probe"
        found = (
            by_name.get(name) or ProbeResult(name=name, result=Result.FAIL, detail=absent, duration_us=0)
            for name in required
        )
        return tuple(probe for probe in found if probe.result is not Result.PASS)


def parse_port(data: bytes) -> Report:
    """Parse what came through the virtio-serial port: one line of JSON.

    Raises BootError when there is nothing, when the line is cut off, or when it is not a report of schema 1.
    """
    if not data.strip():
        raise BootError("the guest sent no report through its port", hint="Read the console: it says how far it came.")
    if not data.endswith(b"\n"):
        raise BootError(
            f"the guest's report is cut off after {len(data)} bytes: expected a line end, got {data[-40:]!r}",
            hint="The guest ended while it was reporting: read the console.",
        )
    return parse_report(data)


def scan_console(data: bytes) -> Report | None:
    """Return the first whole report in console output, or None as long as there is none.

    The agent writes its report twice, each copy with its length and CRC-32, because others write to a console too.
    Raises BootError when a whole copy (its checksum is right) is not a report of schema 1.
    """
    for frame in _FRAME.finditer(data):
        length = int(frame[2])
        body = data[frame.end() : frame.end() + length]
        whole = len(body) == length and zlib.crc32(body) == int(frame[3], 16)
        if whole and data.startswith(_FRAME_END, frame.end() + length):
            _expect_schema(int(frame[1]))
            return parse_report(body)
    return None


def parse_console(data: bytes) -> Report:
    """Parse the report in a finished console output. Raises BootError, with the console's tail, when there is none."""
    report = scan_console(data)
    if report is not None:
        return report
    copies = len(_FRAME.findall(data))
    if copies:
        message = f"the guest reported on its console, but none of the {copies} copies is whole"
        hint = "Something else wrote to the console meanwhile; a virtio-serial port has no such neighbours."
    else:
        message = "the guest did not report on its console"
        hint = "The end of its console says how far it came."
    raise BootError(message, console=console_tail(data), hint=hint)


def parse_delivery(port: bytes, console: bytes) -> Report:
    """Parse the report that came through the port, or on the console where there is none, or none whole, on the port.

    The agent turns to the console when the port takes its report no further. Raises BootError as those two.
    """
    if not port.strip():
        return parse_console(console)
    try:
        return parse_port(port)
    except BootError:
        report = scan_console(console)
        if report is None:
            raise
        return report


def console_tail(data: bytes) -> str:
    """Return the end of console output as text fit for a terminal: no escape sequences, no carriage returns."""
    text = data[-CONSOLE_TAIL_BYTES:].decode("utf-8", "replace").replace("\r", "")
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)
    return "".join(character for character in text if character == "\n" or character.isprintable())


def parse_report(data: bytes) -> Report:
    """Parse one report of schema 1 from its JSON. Raises BootError naming the member that is wrong."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BootError(f"the guest's report is not JSON: {error}", hint=_HINT) from None
    top = _Object("report", value)
    _expect_schema(top.integer("schema"))
    agent, kernel = top.object("agent"), top.object("kernel")
    root, memory = top.object("root"), top.object("memory")
    probes = tuple(_parse_probe(_Object(f"report.probes[{at}]", item)) for at, item in enumerate(top.array("probes")))
    report = Report(
        agent=AgentFacts(name=agent.string("name"), version=agent.string("version")),
        kernel=KernelFacts(
            release=kernel.string("release"),
            version=kernel.string("version"),
            machine=kernel.string("machine"),
            cmdline=kernel.string("cmdline"),
        ),
        pid1=top.boolean("pid1"),
        init=top.string("init"),
        uptime_s=top.number("uptime_s"),
        ready_s=top.number("ready_s"),
        root=RootFacts(
            device=root.string("device"),
            source=root.string("source"),
            fstype=root.string("fstype"),
            options=tuple(option for option in root.string("options").split(",") if option),
        ),
        memory=MemoryFacts(total_kib=memory.integer("total_kib"), available_kib=memory.integer("available_kib")),
        vcpus=top.integer("vcpus"),
        probes=probes,
    )
    for part in (top, agent, kernel, root, memory):
        part.expect_nothing_else()
    names = [probe.name for probe in probes]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise BootError(f"the guest's report names the probe {name} {names.count(name)} times", hint=_HINT)
    return report


def render_report(report: Report) -> str:
    """Render a report as a table for a person: facts first, then a line a probe. Ends with a line end."""
    agent = f"{report.agent.name} {report.agent.version}, {'PID 1' if report.pid1 else f'under {report.init}'}"
    facts = {
        "kernel": f"{report.kernel.release} {report.kernel.machine}",
        "root": f"{report.root.device or report.root.source} {report.root.fstype}",
        "mount options": ",".join(report.root.options),
        "agent": agent,
        "time to agent": f"{report.uptime_s:.3f} s",
        "time to ready": f"{report.ready_s:.3f} s",
        "memory": f"{report.memory.total_kib:,} KiB, {report.memory.available_kib:,} KiB available",
        "vcpus": str(report.vcpus),
    }
    label_width = max(len(label) for label in facts)
    lines = [f"{label:<{label_width}}  {_printable(value)}" for label, value in facts.items()]
    if report.probes:
        name_width = max(len(probe.name) for probe in report.probes)
        lines += [
            "",
            *(
                f"{probe.result.name}  {_printable(probe.name):<{name_width}}  {_printable(probe.detail)}".rstrip()
                for probe in report.probes
            ),
            "",
            _render_count(report.probes),
        ]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """Render a report as JSON in the agent's own schema, indented, keys in schema order. Ends with a line end."""
    value = {"schema": SCHEMA, **dataclasses.asdict(report)}
    value["root"]["options"] = ",".join(report.root.options)
    value["probes"] = [{**dataclasses.asdict(probe), "result": probe.result.value} for probe in report.probes]
    return json.dumps(value, indent=2) + "\n"


_HINT = (
    "The agent in the guest and this osbuilder are of different versions, or the report was damaged: rebuild the guest."
)


def _parse_probe(item: _Object) -> ProbeResult:
    word = item.string("result")
    try:
        result = Result(word)
    except ValueError:
        raise BootError(
            f"the guest's report is malformed ({item.where}.result): expected pass, fail or skip, got {word!r}",
            hint=_HINT,
        ) from None
    probe = ProbeResult(
        name=item.string("name"),
        result=result,
        detail=item.string("detail"),
        duration_us=item.integer("duration_us"),
    )
    item.expect_nothing_else()
    return probe


def _expect_schema(got: int) -> None:
    if got != SCHEMA:
        raise BootError(f"the guest's report has schema {got}: this osbuilder reads schema {SCHEMA}", hint=_HINT)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"an object names a member twice: {[name for name, _ in pairs]}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _printable(text: str) -> str:
    """The guest's text must not steer the terminal that it is shown on."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _render_count(probes: tuple[ProbeResult, ...]) -> str:
    counts = {result: sum(probe.result is result for probe in probes) for result in Result}
    return f"{counts[Result.PASS]} passed, {counts[Result.FAIL]} failed, {counts[Result.SKIP]} skipped"


class _Object:
    """A JSON object whose members are taken by type; what is left at the end is an error."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise BootError(f"the guest's report is malformed ({where}): expected an object", hint=_HINT)
        self.where = where
        self._left = dict(value)

    def _take(self, name: str, kind: str, types: tuple[type, ...]) -> Any:
        if name not in self._left:
            raise BootError(f"the guest's report is malformed ({self.where}): {name} is missing", hint=_HINT)
        value = self._left.pop(name)
        # bool is an int in Python, but not in JSON.
        good = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        self._expect(good, name, kind, value)
        return value

    def _expect(self, good: bool, name: str, kind: str, value: object) -> None:
        if not good:
            raise BootError(
                f"the guest's report is malformed ({self.where}.{name}): expected {kind}, got {value!r}", hint=_HINT
            )

    def string(self, name: str) -> str:
        return str(self._take(name, "a string", (str,)))

    def boolean(self, name: str) -> bool:
        return bool(self._take(name, "true or false", (bool,)))

    def integer(self, name: str) -> int:
        value = int(self._take(name, "a whole number", (int,)))
        self._expect(value >= 0, name, "a whole number, 0 or more", value)
        return value

    def number(self, name: str) -> float:
        value = float(self._take(name, "a number", (int, float)))
        self._expect(math.isfinite(value) and value >= 0, name, "a number, 0 or more", value)
        return value

    def array(self, name: str) -> list[Any]:
        return list(self._take(name, "an array", (list,)))

    def object(self, name: str) -> _Object:
        return _Object(f"{self.where}.{name}", self._take(name, "an object", (dict,)))

    def expect_nothing_else(self) -> None:
        if self._left:
            raise BootError(
                f"the guest's report is malformed ({self.where}): unknown {', '.join(sorted(self._left))}", hint=_HINT
            )
