"""Runs single actions in a real builder of a workbench, into folders of the test."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osbuilder.step import Step
from osbuilder.store import Artifact, Workspace
from tests.jobs import BuilderJob, artifact

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Action


@dataclasses.dataclass(slots=True)
class Outcome:
    """What an action did: its files, its facts, its log."""

    folder: Path
    facts: Mapping[str, Any]
    log: Path

    def artifact(self) -> Artifact:
        """The result as the input of a next action."""
        return artifact(self.folder, self.facts)


class Compiler:
    """A builder, by default `compiler`. Each `run` has fresh folders below `base`; all share downloads and caches."""

    def __init__(self, bench: Workbench, base: Path, builder: Step | str | None = None) -> None:
        self._bench = bench
        self._base = base
        self._numbers = itertools.count(1)
        self.builder = bench.planner.builder(builder or "compiler") if not isinstance(builder, Step) else builder
        self.tools = bench.executor.run(self.builder)

    def run(self, action: Action, **inputs: Artifact) -> Outcome:
        """Run an action. Raises what it raises; its log is then at `last_log`."""
        base = self._base / str(next(self._numbers))
        space = Workspace(out=base / "out", work=base / "work", log=base / "log")
        space.out.mkdir(parents=True)
        space.work.mkdir()
        space.log.touch()
        self.last_log = space.log
        job = BuilderJob(
            executor=self._bench.executor,
            step=Step(name="test", subject=self.builder.subject, action=action, builder=self.builder),
            key=f"test-{base.name}",
            inputs={"builder": self.tools, **inputs},
            space=space,
            kept=self._base / "kept",
        )
        facts = action.run(job)
        return Outcome(folder=space.out, facts=facts, log=space.log)
