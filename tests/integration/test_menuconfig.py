"""A person in the kernel's own menus: finds a symbol, turns it on, saves; the difference comes back as a fragment."""

from __future__ import annotations

import os
import pty
import re
import select
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.request import KernelRequest

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x0e\x0f]")
_LEAVE = b"\x1b\x1b"
_WAIT_S = 300  # the menus are compiled first


class Person:
    """Reads a screen and types: what stands on it is waited for before the next keys."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.screen = b""

    def waits_for(self, text: bytes, *, pressing: bytes = b"") -> None:
        """Read until the text stands on the screen; press keys each time that the screen is at rest."""
        self.screen = b""
        ends = time.monotonic() + _WAIT_S
        while text not in _ESCAPES.sub(b"", self.screen):
            assert time.monotonic() < ends, self.screen
            if select.select([self._terminal], [], [], 1)[0]:
                self.screen += os.read(self._terminal, 1 << 16)
            else:
                self.press(pressing)

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def finds(self, symbol: bytes, *, value: bytes) -> None:
        """Search a symbol as mconf does it."""
        self.press(b"/")
        self.waits_for(b"Search Configuration Parameter")
        self.press(b"^" + symbol + b"$\r")
        self.waits_for(b"Symbol: " + symbol + b" [=" + value + b"]")

    def sets(self, symbol: bytes, prompt: bytes, *, value: bytes, key: bytes, shows: bytes) -> None:
        """Search a symbol, jump to where it is, and press a key that changes its value."""
        self.finds(symbol, value=value)
        self.press(b"1")
        self.waits_for(prompt)
        self.press(key)
        self.waits_for(shows)

    def leaves(self, answer: bytes) -> None:
        """Go up and out, and answer the question whether to save."""
        self.waits_for(b"save your new configuration", pressing=_LEAVE)
        self.press(answer)


def edited(bench: Workbench, visit: Callable[[Person], None], fragments: tuple[Path, ...] = ()) -> str:
    """Return the fragment of a person's visit to the menus of the debug kernel, with fragments of theirs."""
    side, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))

    def sit_down() -> None:
        person = Person(side)
        person.waits_for(b"General setup")
        visit(person)

    thread = threading.Thread(target=sit_down, daemon=True)
    thread.start()
    try:
        return bench.kernels.menuconfig(
            KernelRequest(arch="x86_64", variant="debug", fragments=fragments), terminal=terminal
        )
    finally:
        thread.join(timeout=10)
        os.close(side)
        os.close(terminal)


@pytest.mark.usefixtures("builders")
def test_what_is_saved_comes_back_as_a_fragment(bench: Workbench) -> None:
    def visit(person: Person) -> None:
        person.sets(b"DUMMY", b"Dummy net driver support", value=b"n", key=b"y", shows=b"[*]")
        person.leaves(b"\r")

    assert edited(bench, visit) == "# What for?\nCONFIG_DUMMY=y\n"


@pytest.mark.usefixtures("builders")
def test_what_is_not_saved_is_no_change_and_a_contract_that_fails_no_hindrance(
    bench: Workbench, tmp_path: Path
) -> None:
    (tmp_path / "mine.conf").write_text("CONFIG_NFS_V4=y\n")  # which NFS_FS is missing for

    def visit(person: Person) -> None:
        # It takes pahole, which only the compilers' builder of this variant has.
        person.finds(b"DEBUG_INFO_BTF", value=b"y")
        person.press(_LEAVE)
        person.waits_for(b"General setup")
        person.sets(b"VXLAN", b"Virtual eXtensible", value=b"y", key=b"n", shows=b"[ ]")
        person.leaves(b"n")

    assert edited(bench, visit, (tmp_path / "mine.conf",)) == ""
