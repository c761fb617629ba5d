"""Folders kept between builds: their files belong to whom a command runs as, and engines differ in whom that is.

What Docker runs for root is another user; what the sandbox runs is root. So whoever gives a cache to another owner
waits until nobody writes to it as the last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.2


@contextlib.contextmanager
def in_use(
    folders: Iterable[Path],
    *,
    fits: Callable[[Path], bool],
    give: Callable[[Path], None],
    alone: bool,
    check: Callable[[], None],
) -> Iterator[None]:
    """Keep the owner of caches what it is for as long as a command writes to them.

    Where `fits` says that it is not the right one, `give` changes it, once nobody else uses the cache. `alone`: nobody
    else uses them for the whole time. `check` is called while waiting; what it raises ends the wait.
    """
    with contextlib.ExitStack() as stack:
        # In one order, so that no two wait for each other.
        for folder in sorted(folders):
            # The folder is its own lock: it is there in any case, and its lock is gone with the process.
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, lock)
            _take(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, check)
            while not fits(folder):
                _take(lock, fcntl.LOCK_EX, check)
                if not fits(folder):
                    give(folder)
                if alone:
                    break
                _take(lock, fcntl.LOCK_SH, check)
        yield


def _take(lock: int, mode: int, check: Callable[[], None]) -> None:
    """Take a lock on what is open; a lock of the other mode is let go first (flock(2))."""
    while True:
        try:
            fcntl.flock(lock, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            check()
            time.sleep(_POLL_S)
        else:
            return
