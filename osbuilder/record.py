"""The record of a proof: a file that says what was built and started, so that what was right need not be done again.

Owns the file's form. It is JSON lines: first `{"record": ...}` with the schema, then a line for each kernel and each
guest, written and synced as they come. Several records, one after the other, are a record (cat), so a first line may
stand anywhere. A last line that is cut off, as where a machine lost its power, is left out, and told; what else is no
record's is refused. One process at a time writes to a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from osbuilder import decode
from osbuilder.errors import BootError, DecodeError, StoreError, UsageError
from osbuilder.guest.report import Report, parse_report, to_json
from osbuilder.guest.spec import Accel
from osbuilder.verdict import BuiltKernel

SCHEMA: Final = 1
"""The form of the lines; a member that goes or means something else makes it another one."""

_BEGIN: Final = b'{"record": '
_HEADER: Final = json.dumps({"record": {"schema": SCHEMA, "of": "inv verify"}}).encode() + b"\n"
_ANOTHER: Final = "Name a file that `inv verify --record` wrote, or one that is not there yet."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a guest was: two with the same start are the same guest.

    `kernel` is the sha256 of the file that it was started with, `root` the content digest of the artifact that its root
    was made from, `command` what ran it, with names of no host (osbuilder.guest.boot.command_of).
    """

    kernel: str
    root: str
    accel: Accel
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedKernel:
    """A kernel that was built."""

    arch: str
    variant: str
    date: str
    built: BuiltKernel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGuest:
    """A guest that was tried: the trial's name, what is wrong (None: nothing), and its report and start if it reported.

    `qemu` is the version that ran it, `wall_s` how long in seconds.
    """

    trial: str
    date: str
    error: str | None = None
    qemu: str | None = None
    wall_s: float = 0
    start: Start | None = None
    report: Report | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line but for the first."""

    kernel: RecordedKernel | None = None
    guest: RecordedGuest | None = None

    def __post_init__(self) -> None:
        if (self.kernel is None) is (self.guest is None):
            raise ValueError("expected either a kernel or a guest")


class Record:
    """What a file says, and what is added to it. See `open_record`."""

    def __init__(self, path: Path, descriptor: int, *, tell: Callable[[str], None]) -> None:
        self._path = path
        self._descriptor = descriptor
        lines = _Reader(path, descriptor, tell)
        self._kernels = [line.kernel for line in lines.found if line.kernel is not None]
        self._guests = [line.guest for line in lines.found if line.guest is not None]
        self._whole_bytes = lines.whole_bytes
        self._missing = lines.missing

    def kernels(self, arch: str, variant: str) -> Sequence[RecordedKernel]:
        """Return all that it says of an architecture's variant, the newest last."""
        found = (each for each in self._kernels if (each.arch, each.variant) == (arch, variant))
        return sorted(found, key=lambda each: each.date)

    def guests(self, trial: str) -> Sequence[RecordedGuest]:
        """Return all that it says of a trial, the newest last."""
        return sorted((each for each in self._guests if each.trial == trial), key=lambda each: each.date)

    def add_kernel(self, arch: str, variant: str, built: BuiltKernel) -> None:
        """Add a kernel, unless it says the same already. Raises StoreError when the file cannot be written."""
        if all(each.built.build != built.build or each.built.differing != built.differing for each in self._kernels):
            kernel = RecordedKernel(arch=arch, variant=variant, date=now(), built=built)
            self._add({"kernel": dataclasses.asdict(kernel)})
            self._kernels.append(kernel)

    def add_guest(self, guest: RecordedGuest) -> None:
        """Add a guest. Raises StoreError when the file cannot be written."""
        said = dataclasses.asdict(dataclasses.replace(guest, error=_printable(guest.error), report=None))
        report = json.loads(to_json(guest.report)) if guest.report else None
        self._add({"guest": {**said, "report": report}})
        self._guests.append(guest)

    def _add(self, line: Mapping[str, Any]) -> None:
        """Append a line, whole and on the disk or not at all; before the first one, what makes the file whole."""
        content = self._missing + json.dumps(line, default=_value).encode() + b"\n"
        try:
            if self._whole_bytes is not None:
                os.ftruncate(self._descriptor, self._whole_bytes)
            before = os.fstat(self._descriptor).st_size
            try:
                _write(self._descriptor, content)
                os.fsync(self._descriptor)
            except BaseException:
                os.ftruncate(self._descriptor, before)
                raise
        except OSError as error:
            raise StoreError(
                f"the record cannot be written ({self._path}): {error.strerror or error}",
                hint="What it has is whole: mend that, and give the same command again.",
            ) from error
        self._whole_bytes, self._missing = None, b""


@contextlib.contextmanager
def open_record(path: Path, *, tell: Callable[[str], None]) -> Iterator[Record]:
    """Yield the record in a file, a new one if there is none; `tell` gets a line for what was cut off.

    Raises UsageError, before anything is written, for what is no record of this schema, for what cannot be written, and
    while another process writes to it. One that gets no line leaves no file behind.
    """
    new = not path.exists()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unusable(path, "it is no file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            taken = isinstance(error, BlockingIOError)
            raise _unusable(path, "another process writes to it" if taken else str(error.strerror)) from error
        try:
            yield Record(path, descriptor, tell=tell)
        finally:
            if new and not os.fstat(descriptor).st_size:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def now() -> str:
    """Return the time as records have it."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


class _Reader:
    """The lines of a file, and what is to be done before more is appended."""

    def __init__(self, path: Path, descriptor: int, tell: Callable[[str], None]) -> None:
        self.found: list[_Line] = []
        self.missing = b""
        """What has to stand before the next line: a first line, or the end of the last one."""
        self.whole_bytes: int | None = None
        """How long the file is without what is cut off at its end; None: nothing is."""
        self._path = path
        self._tell = tell
        begin = os.pread(descriptor, 40, 0)
        if not begin.startswith(_BEGIN[: len(begin)]):
            raise UsageError(
                f"--record {path}: expected a record of `inv verify` (JSON lines), got {begin!r}", hint=_ANOTHER
            )
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            self._read(stream.read())

    def _read(self, content: bytes) -> None:
        *ended, last = content.split(b"\n")
        for number, text in enumerate(ended, 1):
            self._take(number, text, at_end=False)
        if not self._take(len(ended) + 1, last, at_end=True):
            self.whole_bytes = len(content) - len(last)
        elif last:
            self.missing = b"\n"
        if self.whole_bytes == 0 or not content:
            self.missing = _HEADER

    def _take(self, number: int, text: bytes, *, at_end: bool) -> bool:
        """Take a line in, and say whether it is whole.

        What follows one that was cut off may stand on the same line: it begins with a first line, as it is another's.
        """
        line, begin, rest = text.partition(_BEGIN)
        if not begin:
            return self._take_whole(number, line, may_be_cut=at_end)
        self._take_whole(number, line, may_be_cut=True)
        return self._take_whole(number, begin + rest, may_be_cut=at_end)

    def _take_whole(self, number: int, text: bytes, *, may_be_cut: bool) -> bool:
        if not text.strip():
            return True
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not may_be_cut:
                raise UsageError(f"{self._path}:{number}: not JSON: {error}", hint=_ANOTHER) from None
            self._tell(f"{self._path}:{number}: cut off, so this line is left out")
            return False
        if text.startswith(_BEGIN):
            self._check(number, value["record"])
        else:
            self.found.append(_parse(self._path, number, value))
        return True

    def _check(self, number: int, header: Any) -> None:
        schema = header.get("schema") if isinstance(header, dict) else None
        if schema != SCHEMA:
            raise UsageError(
                f"{self._path}:{number}: expected a record of schema {SCHEMA}, got schema {schema}",
                hint="It is another osbuilder's: name another file, or use the osbuilder that wrote it.",
            )


def _parse(path: Path, number: int, value: Any) -> _Line:
    """Return a line from its JSON. Raises DecodeError, naming file, line and member."""
    guest = value.get("guest") if isinstance(value, dict) else None
    report = guest.pop("report", None) if isinstance(guest, dict) else None
    # The empty lines have the messages count as the file does.
    line = decode.loads("\n" * (number - 1) + json.dumps(value, ensure_ascii=False), _Line, where=str(path))
    if line.kernel is not None:
        built = line.kernel.built
        # To be written again some day: what is read is no dict, which is all that JSON takes.
        built = dataclasses.replace(
            built, ccache=dict(built.ccache), probes=dict(built.probes), files=dict(built.files)
        )
        return _Line(kernel=dataclasses.replace(line.kernel, built=built))
    if line.guest is None or report is None:
        return line
    try:
        return _Line(guest=dataclasses.replace(line.guest, report=parse_report(json.dumps(report).encode())))
    except BootError as error:
        raise DecodeError(f"{path}:{number}: guest.report: {error.message}", hint=_ANOTHER) from error


def _unusable(path: Path, why: str) -> UsageError:
    return UsageError(
        f"--record {path}: expected a file that can be read and written: {why}",
        hint="Name a file in a folder that is there and that you may write to, and one for each command that runs.",
    )


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _value(member: object) -> Any:
    if isinstance(member, enum.Enum):
        return member.value
    raise TypeError(f"{type(member).__name__} has no place in a record")


def _printable(text: str | None) -> str | None:
    """Return a text without what no YAML reader takes; guests and tools say what they like."""
    if text is None:
        return None
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
