"""The patches of every kernel line: what they are, and whether they apply to the source that the line pins.

They are tried by the step that a build runs, so what passes here is ready in the store when a kernel is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from osbuilder.errors import Interrupted, OsbuilderError, PatchError
from osbuilder.kernel.patches import ApplyPatches, known_series, load_series

if TYPE_CHECKING:
    from collections.abc import Callable

    from osbuilder.plan import Planner
    from osbuilder.step import Step
    from osbuilder.store import Artifact


def listing(planner: Planner, line: str | None = None) -> str:
    """Return each series of kernel/patches with its patches, in order; with `line` the one of that kernel line.

    Raises PatchError for a malformed one, UsageError for an unknown line.
    """
    root = planner.root / "kernel" / "patches"
    if line is None:
        found = [load_series(root, name) for name in known_series(root)]
    else:
        action = planner.kernel_source(line).action
        found = [load_series(root, action.series)] if isinstance(action, ApplyPatches) else []
    lines = [f"{series.series}/{patch.name}: {patch.summary}" for series in found if series for patch in series.patches]
    return "\n".join(lines) or "no patches"


def check(planner: Planner, run: Callable[[Step], Artifact], line: str | None = None) -> str:
    """Apply the series of a kernel line, or of all, to its source; returns what was tried, a line each.

    `run` makes a step's artifact. Raises PatchError with everything that does not apply or could not be tried.
    """
    lines, failures = [], []
    for name in (line,) if line else planner.versions.kernels:
        try:
            step = planner.kernel_source(name)
            lines.append(f"{name}: {_tried(step, run)}")
        except Interrupted:
            raise
        except OsbuilderError as error:
            failures.append(f"{name}: {error}")
    if failures:
        raise PatchError("\n".join([*lines, *failures]))
    return "\n".join(lines)


def _tried(step: Step, run: Callable[[Step], Artifact]) -> str:
    if not isinstance(step.action, ApplyPatches):
        return "no patches"
    artifact = run(step)
    names = ", ".join(f"{step.action.series}/{patch.name}" for patch in step.action.patches)
    return f"applied to {artifact.facts['version']}: {names}"
