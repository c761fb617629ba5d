"""The patches of every kernel line and variant: what they are, and whether they apply to the source that they are for.

They are tried by the step that a build runs, so what passes here is ready in the store when a kernel is built.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from osbuilder.errors import Interrupted, OsbuilderError, PatchError
from osbuilder.kernel.build import series_of
from osbuilder.kernel.patches import ApplyPatches, Patch, known_series, read_series
from osbuilder.kernelplan import own_patches, plan_request_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from osbuilder.kernel.series import SeriesNames
    from osbuilder.plan import Planner
    from osbuilder.request import KernelRequest
    from osbuilder.step import Step
    from osbuilder.store import Artifact


def listing(planner: Planner, line: str | None = None) -> str:
    """Return each series with who uses it and its patches, in order; with `line` those of that kernel line.

    Raises PatchError for a malformed one and for one that is named and not there, UsageError for an unknown line.
    """
    root = planner.root / "kernel"
    users: dict[str, list[str]] = {} if line else {name: [] for name in known_series(root / "patches")}
    named: set[str] = set()
    for user, name, patches in _sources(planner, line):
        of_line = planner.versions.kernel(name)
        given = patches or of_line.patches
        for series in series_of(name, dataclasses.replace(of_line, patches=given), root=root).names:
            users.setdefault(series, []).append(user)
            named.update([series] if given else [])
    lines = []
    for name, by in users.items():
        patches_of = read_series(root / "patches", name, required=name in named)
        if patches_of is not None:
            users_of = ", ".join(by) or "no kernel line: name it (--patches)"
            lines += _listed(f"{name}: {_count(len(patches_of))}, of {users_of}", patches_of)
    return "\n".join(lines) or "no patches"


def listing_of(planner: Planner, request: KernelRequest) -> str:
    """Return the patches that the source of one request gets, in order. Raises as `check_of`, but for what is tried."""
    name, step = plan_request_source(planner, request)
    patches = _patches_of(step)
    return "\n".join(_listed(f"{name}: {_count(len(patches))}", patches))


def _listed(title: str, patches: Iterable[Patch]) -> list[str]:
    return [title, *(f"  {patch.label}: {patch.summary}" for patch in patches)]


def _count(patches: int) -> str:
    return "1 patch" if patches == 1 else f"{patches or 'no'} patches"


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


def check_of(planner: Planner, run: Callable[[Step], Artifact], request: KernelRequest) -> str:
    """Apply the patches of one request to its source; returns what was tried, in a line.

    `run` as in `check`. Raises PatchError for what does not apply, UsageError and SourceError for what there is not.
    """
    name, step = plan_request_source(planner, request)
    return f"{name}: {_tried(step, run)}"


def _sources(planner: Planner, line: str | None) -> Iterator[tuple[str, str, SeriesNames | None]]:
    """Yield what has patches for a kernel line (None: for any): a name for people, the line, series if not the line's.

    Series that nothing but --patches names are for no source that is known.
    """
    for name in (line,) if line else planner.versions.kernels:
        yield name, name, None
    for variant, source, patches in own_patches(planner):
        if line in (None, source):
            yield f"variant {variant} on {source}", source, patches


def _tried(step: Step, run: Callable[[Step], Artifact]) -> str:
    if not (patches := _patches_of(step)):
        return "no patches"
    artifact = run(step)
    return f"applied to {artifact.facts['version']}: {', '.join(patch.label for patch in patches)}"


def _patches_of(step: Step) -> tuple[Patch, ...]:
    return step.action.patches if isinstance(step.action, ApplyPatches) else ()
