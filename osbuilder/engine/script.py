"""Scripts that run several commands of a step in one builder.

A script is a template (Jinja2; an undefined name is an error) whose values pass through the `sh` filter. It is run by
bash with errexit, nounset and pipefail. Its text comes from the fields of the action that renders it and from the
module that holds the template, so it is part of the step's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.engine.base import Command
from osbuilder.errors import CommandFailed, StoreError
from osbuilder.template import render as template_text

if TYPE_CHECKING:
    from osbuilder.step import Job

_FULL: Final = "No space left on device"


def render(template: str, **values: object) -> str:
    """Return the text of a script. Raises jinja2.UndefinedError for a name that has no value: a programming error."""
    return "set -euo pipefail\n" + template_text(template, **values)


def lines(script: str) -> tuple[str, ...]:
    """Return the lines of a script, for Action.describe."""
    return tuple(line for line in script.splitlines() if line.strip())


def run_script(
    job: Job,
    script: str,
    *arguments: str,
    inputs: Mapping[str, Path] | None = None,
    env: Mapping[str, str] | None = None,
    caches: tuple[str, ...] = (),
    output: Path | None = None,
    network: bool = False,
) -> None:
    """Run a rendered script in the step's builder, as an ordinary user.

    `inputs`, `caches` and `output` are those of Job.run; the script itself is /in/script. Raises CommandFailed, or
    StoreError when the disk filled up.
    """
    path = job.work / "script"
    path.write_text(script, encoding="utf-8")
    command = Command(argv=("bash", "/in/script", *arguments), env=tuple(sorted((env or {}).items())), network=network)
    try:
        job.run(command, inputs={"script": path, **(inputs or {})}, caches=caches, output=output)
    except CommandFailed as error:
        if _FULL in error.tail:
            raise StoreError(
                f"the disk is full: a command of the build said {_FULL!r} (log: {job.log})",
                hint="Free some space (a kernel build needs about 4 GB), or set OSBUILDER_STORE to another disk.",
            ) from error
        raise
