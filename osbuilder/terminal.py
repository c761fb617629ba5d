"""A person's terminal lent to a command elsewhere, through two named pipes: `keys` one way, `screen` the other."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from osbuilder.errors import UsageError

KEYS: Final = "keys"
SCREEN: Final = "screen"
_CHUNK_BYTES: Final = 1 << 16
_POLL_S: Final = 0.1
_USUAL: Final = (80, 24)  # a serial line does not tell its size


def terminal_size(terminal: int) -> os.terminal_size:
    """Return columns and rows of a terminal. Raises UsageError for a file descriptor that is none."""
    if not os.isatty(terminal):
        raise UsageError("this command needs a terminal: it shows menus", hint="Run it in one, without a pipe.")
    columns, rows = os.get_terminal_size(terminal)
    return os.terminal_size((columns or _USUAL[0], rows or _USUAL[1]))


def lend(terminal: int, folder: Path, command: Callable[[], None], *, stop: Callable[[], None]) -> None:
    """Run `command` in a thread while the pipes in `folder` carry the terminal's keys to it and its screen back.

    `stop` ends the command when the terminal goes away. Raises what `command` raises. The terminal is left as it was.
    """
    for name in (KEYS, SCREEN):
        os.mkfifo(folder / name)
        (folder / name).chmod(0o666)  # the command may be another user in its builder
    with (
        _opened(folder / KEYS) as keys,
        _opened(folder / SCREEN) as screen,
        _raw(terminal),
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        future = pool.submit(command)
        try:
            _carry(terminal, keys, screen, future)
        except BaseException:
            stop()
            raise
        future.result()


def _carry(terminal: int, keys: int, screen: int, future: Future[None]) -> None:
    """Copy both ways until the command has ended and all that it wrote is shown."""
    while True:
        ended = future.done()
        ready, _, _ = select.select([terminal, screen], [], [], 0 if ended else _POLL_S)
        if screen in ready:
            os.write(terminal, os.read(screen, _CHUNK_BYTES))
        elif ended:
            return
        if terminal in ready and not ended:
            os.write(keys, os.read(terminal, _CHUNK_BYTES))


@contextlib.contextmanager
def _opened(pipe: Path) -> Iterator[int]:
    # For reading and writing: opening does not wait for the other end (fifo(7)), and its closing is no end of file.
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Let every key through, Ctrl-C too, as the menus want it."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
