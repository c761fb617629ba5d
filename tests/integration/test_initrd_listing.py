"""Other programs read our initrds as they are meant: GNU cpio and libarchive list the same members."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.prerequisites import program
from tests.unit.test_cpio import cpio, sample

# As `ls -l` has it, owners as numbers: a device has its numbers where a file has its size.
_LINE = re.compile(
    r"(?P<mode>\S{10}) +(?P<links>\d+) +(?P<uid>\d+) +(?P<gid>\d+) +(?P<size>\d+(?:, *\d+)?)"
    r" (?P<day>\w{3} +\d+ +\d{4}) (?P<name>.+?)(?: link to .+)?"
)

MEMBERS = [
    "drwxr-xr-x 2 0 0 0 .",
    "drwxr-xr-x 2 0 0 0 dev",
    "crw------- 1 0 0 5,1 dev/console",
    "prw-r--r-- 1 0 0 0 dev/fifo",
    "brw-rw---- 1 0 0 254,0 dev/vda",
    "-rw-r--r-- 1 0 0 0 empty",
    "lrwxrwxrwx 1 0 0 14 init -> /usr/bin/probe",
    "drwxr-xr-x 2 0 0 0 usr",
    "drwxr-xr-x 2 0 0 0 usr/bin",
    "-rwxr-xr-x 3 1 2 0 usr/bin/a-probe",
    "-rwxr-xr-x 3 1 2 0 usr/bin/probe",
    "-rwxr-xr-x 3 1 2 5 usr/bin/z-probe",
]


@pytest.mark.parametrize("argv", [("cpio", "-itvn", "--quiet"), ("bsdtar", "-tvn")], ids=["cpio", "bsdtar"])
def test_another_program_lists_names_modes_owners_sizes_and_devices_as_they_are_meant(argv: tuple[str, ...]) -> None:
    listed = subprocess.run(
        (program(argv[0]), *argv[1:]),
        input=cpio(sample()),
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
        capture_output=True,
        check=True,
    )
    rows = [_LINE.fullmatch(line) for line in listed.stdout.decode().splitlines()]
    told = [row.group("mode", "links", "uid", "gid", "size", "name") for row in rows if row]
    assert [re.sub(", +", ",", " ".join(fields)) for fields in told] == MEMBERS
    assert {row["day"] for row in rows if row} == {"Nov 14  2023"}
