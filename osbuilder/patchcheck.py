"""The patches of every kernel line and variant: what they are, and whether they apply to the source that they are for.

They are tried by the step that a build runs, so what passes here is ready in the store when a kernel is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from osbuilder.errors import Interrupted, OsbuilderError, PatchError
from osbuilder.kernel.patches import ApplyPatches, known_series, load_series
from osbuilder.kernelplan import own_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from osbuilder.plan import Planner
    from osbuilder.step import Step
    from osbuilder.store import Artifact


def listing(planner: Planner, line: str | None = None) -> str:
    """Return each series of kernel/patches with its patches, in order; with `line` those for that kernel line.

    Raises PatchError for a malformed one, UsageError for an unknown line.
    """
    root = planner.root / "kernel" / "patches"
    if line is None:
        found = [load_series(root, name) for name in known_series(root)]
    else:
        actions = [planner.kernel_source(line, patches).action for _, line, patches in _sources(planner, line)]
        found = [load_series(root, action.series) for action in actions if isinstance(action, ApplyPatches)]
    lines = [f"{series.series}/{patch.name}: {patch.summary}" for series in found if series for patch in series.patches]
    return "\n".join(lines) or "no patches"


def check(planner: Planner, run: Callable[[Step], Artifact], line: str | None = None) -> str:
    """Apply the series that are for a kernel line, or for any, to its source; returns what was tried, a line each.

    `run` makes a step's artifact. Raises PatchError with everything that does not apply or could not be tried,
    UsageError for an unknown line.
    """
    lines, failures = [], []
    if line is not None:
        planner.versions.kernel(line)
    for name, source, patches in _sources(planner, line):
        try:
            lines.append(f"{name}: {_tried(planner.kernel_source(source, patches), run)}")
        except Interrupted:
            raise
        except OsbuilderError as error:
            failures.append(f"{name}: {error}")
    if failures:
        raise PatchError("\n".join([*lines, *failures]))
    return "\n".join(lines)


def _sources(planner: Planner, line: str | None) -> Iterator[tuple[str, str, str | None]]:
    """Yield what has patches for a kernel line (None: for any): a name for people, the line, the series if not its own.

    Series that nothing but --patches names are for no source that is known.
    """
    for name in (line,) if line else planner.versions.kernels:
        yield name, name, None
    for variant, source, patches in own_patches(planner):
        if line in (None, source):
            yield f"variant {variant} on {source}", source, patches


def _tried(step: Step, run: Callable[[Step], Artifact]) -> str:
    if not isinstance(step.action, ApplyPatches):
        return "no patches"
    artifact = run(step)
    names = ", ".join(f"{step.action.series}/{patch.name}" for patch in step.action.patches)
    return f"applied to {artifact.facts['version']}: {names}"
