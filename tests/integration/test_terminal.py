"""A command in a builder talks with a person's terminal through the two pipes that kernel.menuconfig lends it."""

from __future__ import annotations

import functools
import os
import pty
import termios
import threading
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.errors import CommandFailed
from osbuilder.kernel.menuconfig import TERMINAL, menus_command, menus_mounts
from osbuilder.terminal import lend

SHELL = "script --quiet --return --command 'bash /in/inner' /dev/null < /cache/terminal/keys > /cache/terminal/screen\n"


def converse(bench: Workbench, base: Path, inner: str) -> tuple[str, bool]:
    """Run a script in a builder, answer its question with `sure`; return its screen, and if the modes are as before."""
    (base / "inner").write_text(inner)
    mounts = menus_mounts(base, SHELL, {"inner": base / "inner"})
    person, terminal = pty.openpty()
    screen = bytearray()

    def answer() -> None:
        while b"end." not in screen:
            screen.extend(os.read(person, 1024))
            if screen.endswith(b"sure? "):
                os.write(person, b"sure\r")

    before = termios.tcgetattr(terminal)
    typist = threading.Thread(target=answer, daemon=True)
    typist.start()
    with bench.builder("compiler") as (engine, builder):
        run = functools.partial(engine.run, builder, menus_command(), mounts, log=base / "log", label="terminal-test")
        try:
            lend(terminal, mounts.caches[TERMINAL], functools.partial(run, timeout_s=120), stop=engine.stop)
        finally:
            os.write(terminal, b"end.")
            typist.join(timeout=10)
    return screen.decode(), termios.tcgetattr(terminal) == before


def test_keys_reach_the_command_and_its_screen_comes_back(bench: Workbench, tmp_path: Path) -> None:
    inner = 'test -t 0 && stty rows 40 cols 120 && stty size && read -r -p "sure? " a && echo "$a" > /out/answer\n'
    screen, as_before = converse(bench, tmp_path, inner)
    assert (tmp_path / "out" / "answer").read_text() == "sure\n"
    assert "40 120" in screen
    assert as_before


def test_a_command_that_fails_fails_here(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="status 7"):
        converse(bench, tmp_path, "exit 7\n")
