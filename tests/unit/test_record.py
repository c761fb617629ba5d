"""What a record of a proof holds, whatever happened to the one that wrote it, and what is no record."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest

from osbuilder.errors import StoreError, UsageError
from osbuilder.guest.spec import Accel
from osbuilder.record import SCHEMA, Record, RecordedGuest, Start, open_record
from tests.unit.test_verify import KERNEL, said

START = Start(kernel="11" * 32, root="22" * 32, accel=Accel.TCG, command=("qemu-system-x86_64", "-append", 'a="b c"\n'))
RIGHT = RecordedGuest(
    trial="x86_64 base q35 initrd scratch",
    date="2026-11-23T01:02:03Z",
    qemu="10.0.13",
    wall_s=12.345,
    start=START,
    report=said(vsock="skip", inet="pass"),
)
WRONG = RecordedGuest(trial="x86_64 base q35 verity scratch", date="2026-11-23T01:02:04Z", error="no report")


def filled(path: Path, *guests: RecordedGuest) -> bytes:
    """Write a record of the kernel and guests, and return its content."""
    with open_record(path, tell=quiet) as record:
        record.add_kernel("x86_64", "base", KERNEL)
        for guest in guests:
            record.add_guest(guest)
    return path.read_bytes()


def quiet(text: str) -> None:
    raise AssertionError(f"nothing was to be told, and this was: {text}")


def dates(record: Record, trial: str = RIGHT.trial) -> list[str]:
    return [guest.date for guest in record.guests(trial)]


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    built = dataclasses.replace(KERNEL, differing=("vmlinux",))
    with open_record(tmp_path / "record", tell=quiet) as record:
        record.add_kernel("x86_64", "base", KERNEL)
        record.add_kernel("x86_64", "base", KERNEL)  # it has that already
        record.add_kernel("x86_64", "base", built)
        record.add_guest(RIGHT)
        record.add_guest(WRONG)
    assert len((tmp_path / "record").read_bytes().splitlines()) == 5
    with open_record(tmp_path / "record", tell=quiet) as record:
        assert [each.built for each in record.kernels("x86_64", "base")] == [KERNEL, built]
        assert record.kernels("x86_64", "minimal") == []
        assert list(record.guests(RIGHT.trial)) == [RIGHT]
        assert list(record.guests(WRONG.trial)) == [WRONG]


def test_each_line_is_json_and_the_report_has_the_agents_own_schema(tmp_path: Path) -> None:
    first, kernel, guest = map(json.loads, filled(tmp_path / "record", RIGHT).splitlines())
    assert first == {"record": {"schema": SCHEMA, "of": "inv verify"}}
    assert kernel["kernel"]["built"]["files"] == dict(KERNEL.files)
    assert guest["guest"]["report"]["root"]["options"] == "ro,relatime,dax=always"
    assert guest["guest"]["start"]["accel"] == "tcg"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a \x1b[31mred\x7f word", "a \ufffd[31mred\ufffd word"),
        ("half \ud800 of \U0001f600", "half \ufffd of \U0001f600"),
        ("\x85line\u2028", "\ufffdline\ufffd"),
        ('two\nlines: "{"', 'two\nlines: "{"'),
    ],
)
def test_an_error_may_say_anything(tmp_path: Path, text: str, kept: str) -> None:
    filled(tmp_path / "record", dataclasses.replace(WRONG, error=text))
    with open_record(tmp_path / "record", tell=quiet) as record:
        (guest,) = record.guests(WRONG.trial)
    assert guest.error == kept


def test_the_newest_line_stands_last_wherever_it_is_in_the_file(tmp_path: Path) -> None:
    later = dataclasses.replace(RIGHT, date="2026-11-24T00:00:00Z")
    filled(tmp_path / "record", later, RIGHT)
    with open_record(tmp_path / "record", tell=quiet) as record:
        assert dates(record) == [RIGHT.date, later.date]


def test_records_one_after_the_other_are_a_record(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "one", RIGHT), filled(tmp_path / "other", WRONG)
    (tmp_path / "both").write_bytes(one + other)
    with open_record(tmp_path / "both", tell=quiet) as record:
        assert (len(record.guests(RIGHT.trial)), len(record.guests(WRONG.trial))) == (1, 1)


def test_a_line_that_was_cut_off_anywhere_is_left_out_and_told_and_the_next_begins_a_line(tmp_path: Path) -> None:
    path, told = tmp_path / "record", list[str]()
    begin = filled(path)
    whole = filled(path, RIGHT)
    for length in (*range(1, len(begin)), *range(len(begin) + 1, len(whole) - 1, 97), len(whole) - 2):
        path.write_bytes(whole[:length])
        told.clear()
        with open_record(path, tell=told.append) as record:
            record.add_guest(WRONG)
        complete = whole[:length].rpartition(b"\n")[0].count(b"\n") + 1 if b"\n" in whole[:length] else 0
        cut = not whole[:length].endswith(b"\n") and whole[length : length + 1] != b"\n"
        assert told == ([f"{path}:{complete + 1}: cut off, so this line is left out"] if cut else []), length
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert lines[0] == {"record": {"schema": SCHEMA, "of": "inv verify"}}
        assert lines[-1]["guest"]["trial"] == WRONG.trial


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(filled(path, RIGHT).rstrip(b"\n"))
    with open_record(path, tell=quiet) as record:
        assert dates(record) == [RIGHT.date]
        record.add_guest(WRONG)
    with open_record(path, tell=quiet) as record:
        assert (len(record.guests(RIGHT.trial)), len(record.guests(WRONG.trial))) == (1, 1)


def test_what_was_cut_off_may_have_another_record_behind_it(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "one", RIGHT), filled(tmp_path / "other", WRONG)
    (tmp_path / "both").write_bytes(one[:-100] + other)
    told: list[str] = []
    with open_record(tmp_path / "both", tell=told.append) as record:
        assert (dates(record), len(record.guests(WRONG.trial))) == ([], 1)
    assert told == [f"{tmp_path}/both:3: cut off, so this line is left out"]


def test_a_record_that_gets_no_line_leaves_no_file_and_an_empty_file_becomes_one(tmp_path: Path) -> None:
    with open_record(tmp_path / "new", tell=quiet):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").touch()
    with open_record(tmp_path / "empty", tell=quiet):
        pass
    assert (tmp_path / "empty").read_bytes() == b""
    assert filled(tmp_path / "empty").startswith(b'{"record": ')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02", r"expected a record of `inv verify` \(JSON lines\), got b'\\x7fELF\\x02'"),
        (b'{"kernels": []}\n', "expected a record of `inv verify`"),
        (b"\n", "expected a record of `inv verify`"),
        (b'{"record": {"schema": 2}}\n', "record:1: expected a record of schema 1, got schema 2"),
        (b'{"record": []}\n', "record:1: expected a record of schema 1, got schema None"),
        (b'HEADER{"gue\n{"guest": {}}\n', "record:2: not JSON: "),
        (b'HEADER{"gast": {}}\n', "record:2: unknown key 'gast'"),
        (b"HEADER{}\n", "record:2: expected either a kernel or a guest"),
        (b"HEADER[1]\n", "record:2: expected a mapping, got a list"),
        (b'HEADER\n\n{"guest": {"date": "d"}}\n', "record:4: guest: missing key 'trial'"),
        (b'HEADER{"guest": {"trial": "t", "date": "d", "wall_s": "x"}}\n', "record:2: guest.wall_s: expected a number"),
        (
            b'HEADER{"guest": {"trial": "t", "date": "d", "report": {"schema": 9}}}\n',
            "record:2: guest.report: .*schema 9",
        ),
    ],
)
def test_what_is_no_record_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "record"
    content = content.replace(b"HEADER", b'{"record": {"schema": 1, "of": "inv verify"}}\n')
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message), open_record(path, tell=quiet):
        pass
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none" / "record", "No such file or directory"),
        (tmp_path / "file" / "record", "Not a directory"),
        (tmp_path / "pipe", "it is no file"),
    ):
        message = f"--record {path}: expected a file that can be read and written: {why}"
        with pytest.raises(UsageError) as caught, open_record(path, tell=quiet):
            pass
        assert caught.value.message == message


def test_one_process_at_a_time_writes_to_a_record(tmp_path: Path) -> None:
    path = tmp_path / "record"
    message = "another process writes to it"
    with open_record(path, tell=quiet), pytest.raises(UsageError, match=message), open_record(path, tell=quiet):
        pass
    filled(path, RIGHT)


def test_on_a_full_disk_the_record_is_whole_and_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record"
    before = filled(path, RIGHT)
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with open_record(path, tell=quiet) as record:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(
                StoreError, match=r"the record cannot be written \(.*/record\): No space left on device"
            ):
                record.add_guest(WRONG)
        assert path.read_bytes() == before
        record.add_guest(WRONG)
    with open_record(path, tell=quiet) as record:
        assert (dates(record), len(record.guests(WRONG.trial))) == ([RIGHT.date], 1)
