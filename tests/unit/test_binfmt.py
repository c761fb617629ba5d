"""Whether foreign programs run is read from binfmt_misc, and what would make them run is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.binfmt import check_emulation, emulates, setup
from osbuilder.errors import ToolMissing

ARM = parse_arch("aarch64")


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("enabled\ninterpreter /x\nflags: POF\noffset 0\n", True),
        ("enabled\ninterpreter /x\nflags: PO\noffset 0\n", False),  # no interpreter in a sandbox
        ("disabled\ninterpreter /x\nflags: POF\noffset 0\n", False),
        (None, False),
    ],
)
def test_an_emulator_must_be_enabled_and_be_there_in_a_sandbox(tmp_path: Path, text: str | None, well: bool) -> None:
    if text is not None:
        (tmp_path / "qemu-aarch64").write_text(text)
    assert emulates(ARM, tmp_path) is well


def test_the_error_names_the_command_that_sets_it_up(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="programs of aarch64 do not run here") as caught:
        check_emulation(ARM, tmp_path)
    assert "inv doctor --fix --setting foreign=emulated" in caught.value.hint


def test_the_file_system_is_mounted_only_where_it_is_not(tmp_path: Path) -> None:
    assert setup((ARM,), tmp_path)[0][0] == "mount"
    (tmp_path / "register").write_text("")
    ((shell, _, script),) = setup((ARM,), tmp_path)
    assert shell == "sh"
    assert script == f"[ -e {tmp_path}/qemu-aarch64 ] || cp /usr/lib/binfmt.d/qemu-aarch64.conf {tmp_path}/register"


def test_an_entry_that_does_not_serve_is_removed_first(tmp_path: Path) -> None:
    for name in ("register", "qemu-aarch64"):
        (tmp_path / name).write_text("disabled\n")
    assert [command[2].split()[0] for command in setup((ARM,), tmp_path)] == ["echo", "["]
