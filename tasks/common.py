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

    def terminate(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    try:
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


def _take_kata_variables(command: str, given: dict[str, Any]) -> Mapping[str, str]:
    """Put what Kata's variables mean into a command's flags, say so, and return what they mean as settings."""
    from osbuilder.kata.translate import translate
    from osbuilder.settings import read_kata_variables

    found = translate(command, read_kata_variables(), given, DEFAULTS)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    given.update(found.flags)
    return found.settings


def make(bench: Workbench, request: BuildRequest, *, output: str | None, dry: bool) -> None:
    if dry:
        print(bench.describe(request))
        return
    built = bench.build(request, output=Path(output) if output else None)
    if sizes := bench.sizes(built):
        print(sizes, file=sys.stderr)
    for path in built.files:
        print(path)
