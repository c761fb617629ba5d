"""What every command shares beside its flags: the workbench and its exit codes, and how results are told."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit

from tasks.flags import DEFAULTS

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.request import BuildRequest


@contextlib.contextmanager
def workbench(
    settings: Sequence[str] | None, *, command: str | None = None, given: dict[str, Any] | None = None
) -> Iterator[Workbench]:
    """Yield the workbench of a task; an error becomes its message on stderr and the exit code of its type.

    For a `command` that Kata's scripts had too, their variables become flags in `given`, with a note each.
    """
    from osbuilder import api
    from osbuilder.errors import Interrupted, OsbuilderError, render_error

    try:
        with _stoppable():
            fallbacks = _take_kata_variables(command, given) if command and given is not None else {}
            offline = ("offline=true",) if (given or {}).get("offline") else ()
            yield api.open_workbench((*(settings or ()), *offline), stream=sys.stderr, fallbacks=fallbacks)
    except OsbuilderError as error:
        raise Exit(render_error(error), error.exit_code) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Exit(f"error: {error}", 1) from None
    except KeyboardInterrupt:
        raise Exit("interrupted", Interrupted.exit_code) from None


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop what runs, as Ctrl-C does; one that is ignored (nohup) stays so."""
    from osbuilder.errors import Interrupted

    def terminate(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heeded:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def _take_kata_variables(command: str, given: dict[str, Any]) -> Mapping[str, str]:
    """Put what Kata's variables mean into a command's flags, say so, and return what they mean as settings."""
    from osbuilder.kata.translate import translate
    from osbuilder.settings import read_kata_variables

    found = translate(command, read_kata_variables(), given, DEFAULTS)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    given.update(found.flags)
    return found.settings


def path_of(text: str | None) -> Path | None:
    """Return the path that a flag gives, if it is given. It may begin with ~: no shell sees that in --image=~/a."""
    from osbuilder.userpath import parse_path

    return parse_path(text, text) if text else None


def paths_of(texts: Sequence[str]) -> tuple[Path, ...]:
    """Return the paths that a flag gives that may be given several times."""
    from osbuilder.userpath import parse_path

    return tuple(parse_path(text, text) for text in texts)


def name_or_path(text: str | None) -> str | None:
    """Return what a flag gives that may be a name of versions.yaml or a path, which it is by its slash."""
    return str(path_of(text)) if text and text.startswith("~") else text


def make(bench: Workbench, request: BuildRequest, *, output: str | None, dry: bool) -> None:
    path = path_of(output)
    if dry:
        print(bench.describe(request, output=path))
        return
    built = bench.build(request, output=path)
    if sizes := bench.sizes(built):
        print(sizes, file=sys.stderr)
    for path in built.files:
        print(path)
