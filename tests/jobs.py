"""Jobs to run single actions with: one that only remembers, and one that runs in a real builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from osbuilder.engine.base import Command, Engine
from osbuilder.fetch import Source, fetch
from osbuilder.running import RunningJob
from osbuilder.store import Artifact
from tests.silence import SilentProgress


def artifact(folder: Path, facts: Mapping[str, Any]) -> Artifact:
    """Return a folder's files as if a step had made them."""
    outputs: dict[str, object] = {path.name: {} for path in folder.iterdir()}
    manifest = {"ident": f"test/{folder.name}", "outputs": outputs, "facts": dict(facts)}
    return Artifact(folder=folder, key="0" * 64, digest="0" * 64, manifest=manifest)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One command that a job was asked to run."""

    command: Command
    inputs: Mapping[str, Path]
    caches: tuple[str, ...]
    output: Path
    script: str


def refuse(ran: Ran) -> None:
    """The `act` of an action that needs no builder."""
    raise AssertionError(f"this action runs no command: {ran.command.argv}")


class RecordingJob:
    """A step.Job that starts nothing: `act` stands for the command; it may write into `output`, or raise."""

    def __init__(self, base: Path, act: Callable[[Ran], None], **inputs: Artifact) -> None:
        self.out, self.work, self.log = base / "out", base / "work", base / "log"
        for folder in (self.out, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self.inputs: Mapping[str, Artifact] = inputs
        self.jobs = 3
        self.key = "0" * 64
        self.proxies: Mapping[str, str] = {}
        self.ca_bundle: Path | None = None
        self.ran: list[Ran] = []
        self._act = act

    def run(
        self,
        command: Command,
        *,
        inputs: Mapping[str, Path] | None = None,
        caches: tuple[str, ...] = (),
        output: Path | None = None,
    ) -> None:
        given = inputs or {}
        ran = Ran(
            command=command,
            inputs=given,
            caches=caches,
            output=output or self.out,
            script=given["script"].read_text(encoding="utf-8"),
        )
        self.ran.append(ran)
        self._act(ran)

    def fetch(self, source: Source, *, into: Path | None = None) -> Path:
        raise AssertionError(f"a unit test downloads nothing: {source}")

    @property
    def engine(self) -> Engine:
        raise AssertionError("this action has no business with the engine")

    def check_stopped(self) -> None:
        pass

    def cache(self, name: str) -> Path:
        folder = self.out.parent / "caches" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuilderJob(RunningJob):
    """A step.Job in a real builder that keeps downloads and caches to the folder `kept`, not to the user's store."""

    kept: Path

    def fetch(self, source: Source, *, into: Path | None = None) -> Path:
        folder = into or self.kept / "downloads"
        folder.mkdir(parents=True, exist_ok=True)
        settings = dataclasses.replace(self.executor.fetching, attempts=1)
        return fetch(source, folder / source.name, settings=settings, progress=SilentProgress())

    def cache(self, name: str) -> Path:
        folder = self.kept / "caches" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
