"""Root filesystems of every distribution at once: what is planned, what becomes of each, and when that is a failure.

Left out is only what cannot be: a distribution without the architecture or init asked for, or whose mirror nobody
named. Whatever else keeps one from being planned is a failure, and so is it when there is nothing to build at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from osbuilder import show
from osbuilder.distro.recipe import RECIPE
from osbuilder.errors import Interrupted, NoMirror, NotOffered, OsbuilderError, UsageError, render_error

if TYPE_CHECKING:
    from osbuilder.api import Built
    from osbuilder.plan import Planner
    from osbuilder.request import RootfsRequest
    from osbuilder.step import Step
    from osbuilder.store import Artifact

ALL: Final = "all"
"""What stands for every distribution in the place of a name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """The plan of every distribution, each by its name in one of the three; `requests` are those of `steps`."""

    requests: Mapping[str, RootfsRequest]
    steps: Mapping[str, Step]
    failed: Mapping[str, OsbuilderError]
    left_out: Mapping[str, OsbuilderError]

    def text(self, peek: Callable[[Step], Mapping[str, Artifact | None]]) -> str:
        """Return each distribution's plan, or why it has none; `peek` says what of a plan is there already."""
        parts = {name: show.plan_text(step.walk(), peek(step)) for name, step in self.steps.items()}
        for result, errors in (("FAILED", self.failed), ("left out", self.left_out)):
            parts |= {name: f"{result}: {error}" for name, error in errors.items()}
        return "\n\n".join(f"# {name}\n{parts[name]}" for name in sorted(parts))

    def check(self) -> None:
        """Raise OsbuilderError with all that each failure has to say, or when there is nothing to build."""
        _check(len(self.steps), self.failed, self.left_out)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """What became of every distribution, each by its name in one of the three."""

    built: Mapping[str, Built]
    failed: Mapping[str, OsbuilderError]
    left_out: Mapping[str, OsbuilderError]

    def table(self) -> str:
        """Return a line for each."""
        rows = [
            (name, "built", f"{built.files[0].stat().st_size / 2**20:.1f} MiB", str(built.files[0]))
            for name, built in self.built.items()
        ]
        for result, errors in (("FAILED", self.failed), ("left out", self.left_out)):
            rows += [(name, result, "-", error.message.splitlines()[0]) for name, error in errors.items()]
        return show.all_text(sorted(rows))

    def check(self) -> None:
        """Raise OsbuilderError with all that each failure has to say, or when nothing was built."""
        _check(len(self.built), self.failed, self.left_out)


def plan_all(planner: Planner, request: RootfsRequest) -> Plans:
    """Plan a request for every distribution of a checkout. Raises UsageError for one that can be no distribution's."""
    if request.release is not None:
        raise UsageError(f"--release does not go with --distro {ALL}", hint="Each distribution has its own releases.")
    names = sorted(path.parent.name for path in planner.distros.glob(f"*/{RECIPE}"))
    requests = {name: dataclasses.replace(request, distro=name) for name in names}
    steps: dict[str, Step] = {}
    failed: dict[str, OsbuilderError] = {}
    left_out: dict[str, OsbuilderError] = {}
    for name, each in requests.items():
        try:
            # What cannot be built at all is left out whether or not there is a lock.
            planner.plan(dataclasses.replace(each, locked=False))
            steps[name] = planner.plan(each)
        except (NoMirror, NotOffered) as error:
            left_out[name] = error
        except Interrupted:
            raise
        except OsbuilderError as error:
            failed[name] = error
    return Plans(requests={name: requests[name] for name in steps}, steps=steps, failed=failed, left_out=left_out)


def _check(done: int, failed: Mapping[str, OsbuilderError], left_out: Mapping[str, OsbuilderError]) -> None:
    if failed:
        told = "\n\n".join(f"{name}: {render_error(error)}" for name, error in failed.items())
        raise OsbuilderError(f"{len(failed)} of {len(failed) + done} failed\n\n{told}")
    if not done:
        raise OsbuilderError(
            f"nothing to build: {len(left_out)} distributions, and each is left out",
            hint="It is said above why each is: name mirrors, or ask for what some of them have (`inv distros`).",
        )
