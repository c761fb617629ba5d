"""What adapters share that download in this process: mirrors in turn, proofs, and how old an index may be.

A mirror that does not answer or has stopped updating gives way to the next. A wrong signature does not: that is an
attack or a mistake to be told, not a hiccup.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from osbuilder.distro.problems import ANOTHER, STOPPED, Outdated
from osbuilder.errors import FetchError, OsbuilderError, VerificationError
from osbuilder.outfile import replacing
from osbuilder.step import canonical

if TYPE_CHECKING:
    from osbuilder.step import Json

M = TypeVar("M")
T = TypeVar("T")

LAG_MAX_S: Final = 7 * 86400
"""Servers are minutes to hours behind one another; one that is a week behind has stopped, or serves an old state."""


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """A fetch proof: `check` reads a file's bytes and raises OsbuilderError for what is wrong with it."""

    pin: str
    check: Callable[[bytes], object]

    def problem(self, path: Path) -> str:
        try:
            self.check(path.read_bytes())
        except OsbuilderError as error:
            return error.message
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Digest:
    """A fetch proof by another digest than sha256, as an index gives it."""

    algorithm: str
    hexadecimal: str

    @property
    def pin(self) -> str:
        return f"{self.algorithm} {self.hexadecimal}"

    def problem(self, path: Path) -> str:
        """Return why a file is not the one, or ""."""
        with path.open("rb") as file:
            came = hashlib.file_digest(file, self.algorithm).hexdigest()
        return "" if came == self.hexadecimal else f"expected {self.pin}, got {came}"


def from_first(mirrors: Iterable[M], attempt: Callable[[M], T]) -> T:
    """Return what the first mirror gives that serves.

    Raises FetchError that tells what was wrong with each, and VerificationError at once.
    """
    told: list[str] = []
    hint = ""
    for mirror in mirrors:
        try:
            return attempt(mirror)
        except VerificationError:
            raise
        except FetchError as error:
            told.append(error.message)
            hint = error.hint
        except Outdated as error:
            told.append(str(error))
            hint = STOPPED
    kind = VerificationError if hint == STOPPED and len(told) == 1 else FetchError
    raise kind("\n".join(told), hint=hint)


def on_one_line(error: FetchError) -> FetchError:
    """Return a failed download's error without its first line, which names the pin, for a list of several mirrors."""
    lines = [line.strip() for line in error.message.splitlines()]
    return FetchError("; ".join(lines[1:]) if len(lines) > 1 else error.message, hint=ANOTHER)


def refuse_old(
    memory: Path, stamp: int, *, lag_max_s: int, url: str, day: int = 0, what: str = "its newest package"
) -> None:
    """Raise Outdated for an index that cannot be today's; `memory` is a file that keeps the newest that was seen.

    `stamp` is the time of the newest thing in the index (`what`), `day` that of the release, in seconds since 1970. A
    time that is yet to come is remembered as now: not every index is signed, and one lie would bar all that is true.
    """
    if stamp < day:
        raise Outdated(f"{url} is older than the release: {what} is of {date(stamp)}, the release of {date(day)}")
    try:
        seen = int(json.loads(memory.read_text(encoding="utf-8"))["newest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        seen = 0
    if stamp + lag_max_s < seen:
        raise Outdated(
            f"{url} is out of date, or an old state that is served again: {what} is of {date(stamp)}, "
            f"one of {date(seen)} was seen before (remembered in {memory})"
        )
    stamp = min(stamp, int(time.time()))
    if stamp > seen:
        with (
            replacing(memory, FetchError) as descriptor,
            open(descriptor, "w", encoding="utf-8", closefd=False) as file,
        ):
            json.dump({"newest": stamp, "url": url}, file)


def memory_of(folder: Path, url: str, trusted: Json) -> Path:
    """Return the file for `refuse_old` in which an address is remembered; other keys vouch for another state of it."""
    digest = hashlib.sha256(canonical([url, trusted])).hexdigest()[:16]
    return folder / f"{re.sub('[^A-Za-z0-9.]+', '-', url)[-100:].strip('-')}-{digest}.json"


def date(seconds: int) -> str:
    """Return the day of a time, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
