"""The whole exception tree. Library code raises these; only tasks/ turns them into exit codes.

A message answers four questions: what happened, where, what was expected (and what came instead), and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OsbuilderError(Exception):
    """Anything that osbuilder refuses or fails to do, with a message for a person.

    `hint` says what to do next; it is printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(OsbuilderError):
    """The request itself is wrong: an unknown name, an impossible pair, a path that cannot be used."""

    exit_code = 2


class DecodeError(UsageError):
    """A data file of the project or the user is malformed (always names file:line)."""


class PlanError(UsageError):
    """The request is well-formed but no plan can satisfy it."""


class NotOffered(PlanError):
    """A distribution lacks what is asked for: the architecture, the init, a policy, packages to lock."""


class NoMirror(UsageError):
    """A distribution whose mirrors (or keys) the user has to name, and did not."""


class ToolMissing(OsbuilderError):
    """The host, or a builder, lacks a program; the hint says what installs it."""

    exit_code = 3


class EngineError(OsbuilderError):
    """The engine (Docker, Podman, sandbox) could not do its part: gone, unreachable, refused."""


class CommandFailed(EngineError):
    """A command ran inside a builder and exited non-zero.

    `status` is its exit status, `tail` the last lines that it printed.
    """

    def __init__(self, message: str, *, status: int, tail: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.tail = tail


class TimeLimit(EngineError):
    """A command ran longer than it was allowed to, and was stopped."""


class FetchError(OsbuilderError):
    """A download failed on every mirror, or what came is not what was pinned.

    `challenge` is what a server said about how to ask (WWW-Authenticate), where it wanted to know who does.
    """

    def __init__(self, message: str, *, hint: str = "", challenge: str = "") -> None:
        super().__init__(message, hint=hint)
        self.challenge = challenge


class VerificationError(FetchError):
    """What came does not match its checksum or signature. Never retried, never kept."""


class LockMoved(FetchError):
    """Locked packages are not on the mirrors any more as they were locked; `packages` are their names."""

    def __init__(self, message: str, *, packages: tuple[str, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.packages = packages


class OfflineError(OsbuilderError):
    """The build is to use no network, and something that it needs is not in the store."""


class StoreError(OsbuilderError):
    """The artifact store cannot be used: not writable, full, or an entry is damaged."""


class TreeError(OsbuilderError):
    """A root filesystem archive or edit is refused: escaping, shadowing or malformed members."""


class RootfsError(OsbuilderError):
    """A composed root filesystem fails its checks (no init, wrong agent, empty tree)."""


class ImageError(OsbuilderError):
    """An image cannot be laid out, or a file is not the image it is said to be."""


class FragmentError(OsbuilderError):
    """Kernel configuration fragments are malformed or disagree (names both file:line)."""


class ContractError(OsbuilderError):
    """The resolved kernel configuration does not hold what was requested; `problems` has a line for each loss."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class BudgetError(OsbuilderError):
    """A kernel is larger than the budget that was saved for it."""


class PatchError(OsbuilderError):
    """A kernel patch does not apply (names file and hunk)."""


class SourceError(OsbuilderError):
    """A kernel source is not usable: no Makefile, unsafe archive member, unknown version."""


class BootError(OsbuilderError):
    """The guest did not say that it is ready. `console` holds the end of what it printed."""

    def __init__(self, message: str, *, console: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.console = console


class Interrupted(OsbuilderError):
    """The user or the system asked to stop (SIGINT, SIGTERM)."""

    exit_code = 130


def render_error(error: OsbuilderError) -> str:
    """Return an error as a person should see it: message, hint, where, and the end of a failed command's output."""
    lines = [f"error: {error.message}"]
    if isinstance(error, CommandFailed) and error.tail:
        lines += ["", *(f"  | {line}" for line in error.tail.splitlines()), ""]
    console = getattr(error, "console", "")
    if console:
        lines += ["the end of its console:", "", *(f"  | {line}" for line in console.splitlines()), ""]
    lines += [f"  {note}" for note in getattr(error, "__notes__", ())]
    if error.hint:
        lines.append(f"  {error.hint}")
    return "\n".join(lines)


def suggest(got: str, known: Iterable[str]) -> str:
    """Return a "did you mean" hint that lists the known names, nearest first.

    >>> suggest("debain", ["alpine", "debian"])
    'Did you mean debian? Known: alpine, debian.'
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1)
    listing = f"Known: {', '.join(names)}." if names else "None is known."
    return f"Did you mean {near[0]}? {listing}" if near else listing
