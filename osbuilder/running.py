"""What a step's action works with while it runs: its folders, its inputs, commands in a builder, downloads."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.engine.authorities import trusting
from osbuilder.engine.base import Command, Engine, Mounts
from osbuilder.errors import CommandFailed
from osbuilder.fetch import Source, fetch
from osbuilder.leavings import refuse_links
from osbuilder.settings import without_login
from osbuilder.store import Artifact, Workspace, runs_in

if TYPE_CHECKING:
    from osbuilder.execute import Executor
    from osbuilder.step import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningJob:
    """The step.Job of a step that runs now."""

    executor: Executor
    step: Step
    key: str
    inputs: Mapping[str, Artifact]
    space: Workspace

    @property
    def out(self) -> Path:
        return self.space.out

    @property
    def work(self) -> Path:
        return self.space.work

    @property
    def log(self) -> Path:
        return self.space.log

    @property
    def jobs(self) -> int:
        return self.executor.jobs

    @property
    def proxies(self) -> Mapping[str, str]:
        return self.executor.fetching.proxies

    @property
    def ca_bundle(self) -> Path | None:
        return self.executor.fetching.ca_bundle

    @property
    def engine(self) -> Engine:
        engine = self.executor.engine
        runs_in(engine.name, self.space.folder)
        return engine

    def check_stopped(self) -> None:
        self.executor.check_stopped()

    def cache(self, name: str) -> Path:
        folder = self.executor.store.folder("caches") / name
        folder.mkdir(exist_ok=True)
        return folder

    def fetch(self, source: Source, *, into: Path | None = None) -> Path:
        folder = into or self.executor.store.folder("downloads")
        destination = folder / f"{(source.ident or self.key)[:16]}-{source.name}"
        executor = self.executor
        return fetch(
            source,
            destination,
            settings=executor.fetching,
            progress=executor.reporter.downloads,
            stop=executor.stopped,
        )

    def run(
        self,
        command: Command,
        *,
        inputs: Mapping[str, Path] | None = None,
        caches: tuple[str, ...] = (),
        output: Path | None = None,
    ) -> None:
        executor = self.executor
        executor.check_stopped()
        inputs = inputs or {}
        if command.network and self.ca_bundle is not None:
            command, inputs = trusting(command, inputs, self.ca_bundle)
        name = self.step.builder.subject if self.step.builder else ""
        _, builder = executor.ready(name, self.inputs["builder"])
        engine = self.engine
        mounts = Mounts(
            inputs=inputs,
            output=output or self.out,
            work=self.work,
            caches={name: self.cache(name) for name in caches},
        )
        with self.log.open("a", encoding="utf-8") as stream:
            line = engine.repeat_line(builder, command, mounts)
            for url in self.proxies.values():
                line = line.replace(url, without_login(url))
            stream.write(f"$ {shlex.join(command.argv)}\n# by hand: {line}\n")
        executor.check_stopped()
        try:
            engine.run(builder, command, mounts, log=self.log, label=self.key)
        except CommandFailed:
            # A second error of a build that is being stopped is noise: the first one is told.
            executor.check_stopped()
            refuse_links(mounts.output)  # what says why it failed is looked for there
            raise
        refuse_links(mounts.output)
