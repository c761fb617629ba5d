"""What a package manager's log tells of a failure, and which mirror to ask next. Shared by the adapters.

An adapter brings its patterns: what its tools print, in the C locale (which the engines fix).
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from osbuilder.errors import CommandFailed, FetchError, OsbuilderError, VerificationError

if TYPE_CHECKING:
    from osbuilder.step import Job

ANOTHER: Final = "Try again later, or name another mirror (setting mirrors)."
CERTIFICATE: Final = "Name the authorities that vouch for it (setting ca_bundle), or another mirror (setting mirrors)."
UNTRUSTED: Final = "{mirror} has a certificate that is not trusted"
STOPPED: Final = "A mirror that has stopped updating must be replaced (setting mirrors)."
CLOCK: Final = "Check this machine's clock; a mirror that has stopped updating must be replaced (setting mirrors)."

M = TypeVar("M")


class Outdated(Exception):
    """An index that is valid, and too old."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A known failure. With `next_mirror` another mirror may do better; otherwise every mirror would fail alike."""

    kind: type[OsbuilderError]
    text: str
    hint: str
    next_mirror: bool

    def error(self) -> OsbuilderError:
        """Return the exception that tells it."""
        return self.kind(self.text, hint=self.hint)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A regular expression for one line, and how to tell it; groups of the expression fill {1}, {2}, ..."""

    regex: str
    text: str
    hint: str
    kind: type[OsbuilderError] = FetchError
    next_mirror: bool = True


def find_problem(log: str, patterns: tuple[Pattern, ...], words: Mapping[str, str]) -> Problem | None:
    """Return the problem that a log tells, or None when it is not a known one (see `find_match`).

    `words` fill the names in a pattern's text and hint.
    """
    match = find_match(log, patterns)
    return match and filled(*match, words)


def find_match(log: str, patterns: tuple[Pattern, ...]) -> tuple[Pattern, re.Match[str]] | None:
    """Return the first pattern that matches any line of a log, and the match; None when none does.

    Causes stand before the consequences that are reported as well.
    """
    lines = [line.strip() for line in log.splitlines()]
    for pattern in patterns:
        regex = re.compile(pattern.regex)
        for line in lines:
            if found := regex.fullmatch(line):
                return pattern, found
    return None


def filled(pattern: Pattern, found: re.Match[str], words: Mapping[str, str]) -> Problem:
    """Return the problem of a pattern that matched."""
    return Problem(
        kind=pattern.kind,
        text=_fill(pattern.text, words, found),
        hint=_fill(pattern.hint, words, found),
        next_mirror=pattern.next_mirror,
    )


def first_that_serves(
    job: Job, mirrors: tuple[M, ...], attempt: Callable[[M], None], explain: Callable[[str, M], Problem | None]
) -> M:
    """Make an attempt with each mirror in turn until one serves, and return that one.

    `explain` gets what the attempt added to the job's log; an attempt that raises Outdated explains itself. What a
    failed one left in job.out is removed. Raises the error of a problem that no other mirror would mend, or a
    FetchError that tells what was wrong with each.
    """
    told: list[Problem] = []
    for mirror in mirrors:
        began = job.log.stat().st_size if job.log.exists() else 0
        try:
            attempt(mirror)
        except CommandFailed as failure:
            problem = explain(_since(job.log, began), mirror)
            if problem is None:
                raise
            if not problem.next_mirror:
                raise problem.error() from failure
            told.append(problem)
            _clear(job.out)
        except Outdated as error:
            told.append(Problem(kind=VerificationError, text=str(error), hint=STOPPED, next_mirror=True))
            _clear(job.out)
        else:
            return mirror
    if len(told) == 1:
        raise told[0].error()
    raise FetchError("; ".join(problem.text for problem in told), hint=told[-1].hint)


def _fill(text: str, words: Mapping[str, str], found: re.Match[str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: words.get(name[1]) or found[int(name[1])], text)


def _since(log: Path, offset: int) -> str:
    with log.open("rb") as stream:
        stream.seek(offset)
        return stream.read().decode("utf-8", "replace")


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
