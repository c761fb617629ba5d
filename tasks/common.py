"""What every command shares: the help of common flags, the workbench and its exit codes, and how results are told."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.request import BuildRequest

ROOTFS = {
    "distro": "distribution, a folder of distros/ (see `inv distros`)",
    "release": "its release (default: the recipe's)",
    "arch": "architecture of the guest (default: this machine's)",
    "init": "what is PID 1: systemd or agent (default: the recipe's; for an initrd: agent)",
    "agent": "an agent of versions.yaml, or the path of a file (default: that of versions.yaml)",
    "package": "a further package; may be given several times",
    "feature": "a feature of the recipe (debian: debug); may be given several times",
    "keep": "do not trim docs, locales or units; may be given several times",
}
KERNEL = {
    "kernel": "a kernel of versions.yaml (see `inv versions`)",
    "variant": "a folder of kernel/configs/variant: base, debug, minimal, ...",
}
COMMON = {
    "dry": "print the plan and each command, run nothing",
    "setting": "a setting as NAME=VALUE (see `inv settings`); may be given several times",
}
OUTPUT = {"output": "also write a copy of the result to this path"}


@contextlib.contextmanager
def workbench(settings: Sequence[str] | None) -> Iterator[Workbench]:
    """Yield the workbench of a task; an error becomes its message on stderr and the exit code of its type."""
    from osbuilder import api
    from osbuilder.errors import Interrupted, OsbuilderError

    def terminate(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    try:
        yield api.open_workbench(tuple(settings or ()), stream=sys.stderr)
    except OsbuilderError as error:
        raise Exit(api.render_error(error), error.exit_code) from None
    except OSError as error:
        raise Exit(f"error: {error}", 1) from None
    except KeyboardInterrupt:
        raise Exit("interrupted", Interrupted.exit_code) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        raise Exit(code=1) from None


def make(bench: Workbench, request: BuildRequest, *, output: str | None, dry: bool) -> None:
    if dry:
        print(bench.describe(request))
        return
    for path in bench.build(request, output=Path(output) if output else None).files:
        print(path)
