"""Walks a plan: for each step a hit in the store, else its action runs; in parallel where the DAG allows.

A step's key is known once its inputs are: the walk resolves dependencies first, computes the key from their content
digests, and looks the key up. What an action leaves in job.out is published at once or not at all.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from osbuilder.engine.base import Builder, Engine
from osbuilder.errors import CommandFailed, Interrupted, OfflineError, OsbuilderError, StoreError, ToolMissing
from osbuilder.fetch import GET, LOCK_FIRST, FetchSettings, Progress
from osbuilder.running import RunningJob
from osbuilder.settings import EngineChoice
from osbuilder.step import Step, is_online, key_of
from osbuilder.store import Artifact, Store, Workspace, explain, runs_in

if TYPE_CHECKING:
    from osbuilder.step import Json

BUILDER_TAR = "builder.tar"
_OUTLIVING = frozenset({EngineChoice.DOCKER.value, EngineChoice.PODMAN.value})  # a build that is killed
_LOCK_POLL_S = 0.2
_LITTLE_BYTES = 2**30

T = TypeVar("T")
Futures = Mapping[int, Future[Artifact]]


class Reporter(Protocol):
    """Hears what happens, from any thread. Implementations: osbuilder.reporter."""

    def waiting(self, step: Step) -> None:
        """Hear that a step waits: another build makes the same artifact."""

    def kept_out(self) -> None:
        """Hear that everything waits: the store is being tidied."""

    def started(self, step: Step, log: Path) -> None:
        """Hear that a step's action starts; its commands write to `log`."""

    def finished(self, step: Step, facts: Mapping[str, Json], *, seconds: float | None) -> None:
        """Hear that a step's artifact is there, with these facts; `seconds` is None when it was in the store."""

    def failed(self, step: Step) -> None:
        """Hear that a step's action ended with an error."""

    def left(self, folder: Path, engine: str) -> None:
        """Hear that what a killed build left stays in its folder: the engine that it ran in does not answer."""

    @property
    def downloads(self) -> Progress:
        """What downloads report to."""


class Executor:
    """Executes plans against one store. `engine` is called when the first command runs, not before.

    `engine_named` returns the engine in which a killed build ran its commands, where that is another one, or raises
    ToolMissing. With `keep_failed` the folders of a step whose command failed are kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        engine: Callable[[], Engine],
        reporter: Reporter,
        fetching: FetchSettings,
        jobs: int,
        engine_named: Callable[[str], Engine] | None = None,
        keep_failed: bool = False,
    ) -> None:
        self.store = store
        self.reporter = reporter
        self.fetching = fetching
        self.jobs = jobs
        self.keep_failed = keep_failed
        self._choose = engine
        self._choose_named = engine_named
        self._engine: Engine | None = None
        self._mutex = threading.Lock()
        self._told_of: set[Path] = set()
        self._slots = threading.BoundedSemaphore(max(2, jobs))
        self.stopped = threading.Event()

    @property
    def engine(self) -> Engine:
        """The engine, chosen on first use. Raises ToolMissing when none works."""
        with self._mutex:
            if self._engine is None:
                self._engine = self._choose()
            return self._engine

    def run(self, target: Step) -> Artifact:
        """Return the artifact of a step, building what is not in the store.

        Raises OfflineError for steps that would need the network when there is to be none: before anything runs for all
        that are known to be missing, else when it turns out; else the OsbuilderError of the first step that failed,
        with notes that name the step and its log, which has the line that repeats its command. A KeyboardInterrupt
        stops every command before it goes on.
        """
        with self.in_use():
            self.store.sweep(self.forget)
            self._refuse_online(target)
            return self._run((target,), self._first_failure_or)[0]

    def run_each(self, targets: Sequence[Step]) -> tuple[Artifact | OsbuilderError, ...]:
        """Return the artifact of each step, or the error with which it failed; one's failure stops no other.

        What several of them need is built once. Raises OfflineError as `run`.
        """
        if not targets:
            return ()
        with self.in_use():
            self.store.sweep(self.forget)
            for target in targets:
                self._refuse_online(target)
            return self._run(targets, self._each)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Keep everything in the store while its artifacts are built or read; the reporter hears that this waits."""
        return self.store.in_use(self.reporter.kept_out)

    def beside(self, store: Store) -> Executor:
        """Return an executor against another store. It has an engine of its own: to stop one leaves the other be.

        Which engine that is, is written down in the store's folder: it may keep caches of that store.
        """

        def choose() -> Engine:
            engine = self._choose()
            runs_in(engine.name, store.root)
            return engine

        return Executor(
            store,
            engine=choose,
            reporter=self.reporter,
            fetching=self.fetching,
            jobs=self.jobs,
            engine_named=self._choose_named,
            keep_failed=self.keep_failed,
        )

    def _refuse_online(self, target: Step) -> None:
        """Raise OfflineError for every step that would reach the network, at once, where there is to be none.

        What reads something that is still to be made without a network is not judged yet: it may turn out as before.
        """
        if not self.fetching.offline:
            return
        found = self.peek(target)
        lost: dict[str, bool] = {}
        for step in target.walk():
            lacks = [each.ident for _, each in step.dependencies() if found[each.ident] is None]
            needed = found[step.ident] is None
            lost[step.ident] = needed and (any(lost[each] for each in lacks) or (is_online(step.action) and not lacks))
        missing = [step for step in target.walk() if is_online(step.action) and lost[step.ident]]
        if missing:
            raise _offline(missing)

    def _run(self, targets: Sequence[Step], gather: Callable[[Sequence[Step], Futures], T]) -> T:
        steps = tuple({id(step): step for target in targets for step in target.walk()}.values())
        futures: dict[int, Future[Artifact]] = {}
        pool = ThreadPoolExecutor(max_workers=len(steps), thread_name_prefix="step")
        try:
            for step in steps:
                waits = {name: futures[id(dependency)] for name, dependency in step.dependencies()}
                futures[id(step)] = pool.submit(self._resolve, step, waits)
            return gather(targets, futures)
        except BaseException:
            self.stopped.set()
            if self._engine is not None:
                self._engine.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if self.stopped.is_set():
                # The next plan starts afresh; an engine that was stopped stays stopped.
                self.stopped = threading.Event()
                with self._mutex:
                    self._engine = None

    def ready(self, name: str, artifact: Artifact) -> tuple[Engine, Builder]:
        """Return the engine and a builder that it can run in, from the builder's artifact. Raises EngineError."""
        builder = Builder(name=name, tar=artifact.path(BUILDER_TAR), sha256=artifact.sha256(BUILDER_TAR))
        engine = self.engine
        with self._locked(f"builder-{builder.sha256}"):
            engine.prepare(builder)
        return engine, builder

    def peek(self, target: Step) -> Mapping[str, Artifact | None]:
        """Return, for each step of a plan by ident, its artifact if it is up to date in the store; builds nothing."""
        found: dict[str, Artifact | None] = {}
        for step in target.walk():
            inputs = {name: found[dependency.ident] for name, dependency in step.dependencies()}
            found[step.ident] = self._lookup(step, inputs) if all(inputs.values()) else None
        return found

    def _lookup(self, step: Step, inputs: Mapping[str, Artifact | None]) -> Artifact | None:
        digests = {name: artifact.digest for name, artifact in inputs.items() if artifact}
        return self._usable(key_of(step.ingredients(digests)))

    def _first_failure_or(self, targets: Sequence[Step], futures: Futures) -> tuple[Artifact, ...]:
        pending = list(futures.values())
        while pending:
            for future in [future for future in pending if future.done()]:
                pending.remove(future)
                future.result()
            # A short sleep rather than a bare wait: the main thread stays open to signals.
            time.sleep(0.01)
        return tuple(futures[id(target)].result() for target in targets)

    def _each(self, targets: Sequence[Step], futures: Futures) -> tuple[Artifact | OsbuilderError, ...]:
        while not all(future.done() for future in futures.values()):
            time.sleep(0.01)
        found: list[Artifact | OsbuilderError] = []
        for target in targets:
            try:
                found.append(futures[id(target)].result())
            except Interrupted:
                raise
            except OsbuilderError as error:
                found.append(error)
        return tuple(found)

    def _resolve(self, step: Step, waits: Mapping[str, Future[Artifact]]) -> Artifact:
        """Return a step's artifact once its inputs are there. Raises OsbuilderError alone."""
        try:
            return self._found_or_built(step, waits)
        except OSError as error:
            raise explain(error, f"{step.ident} failed", self.store.root) from error

    def _found_or_built(self, step: Step, waits: Mapping[str, Future[Artifact]]) -> Artifact:
        inputs = {name: future.result() for name, future in waits.items()}
        ingredients = step.ingredients({name: artifact.digest for name, artifact in inputs.items()})
        key = key_of(ingredients)
        artifact = self._usable(key)
        if artifact is None:
            with self._slots, self._locked(key, lambda: self.reporter.waiting(step)):
                self.check_stopped()
                artifact = self._usable(key)
                if artifact is None:
                    return self._build(step, key, ingredients, inputs)
        self.store.remember(step.ident, key)
        self.reporter.finished(step, artifact.facts, seconds=None)
        return artifact

    def _usable(self, key: str) -> Artifact | None:
        artifact = self.store.find(key)
        return artifact if artifact and self.store.intact(artifact) else None

    def _build(self, step: Step, key: str, ingredients: Mapping[str, Json], inputs: Mapping[str, Artifact]) -> Artifact:
        if self.fetching.offline and is_online(step.action):
            raise _offline([step])
        with self.store.workspace(key, step.ident) as space:
            self.reporter.started(step, space.log)
            began = time.monotonic()
            job = RunningJob(executor=self, step=step, key=key, inputs=inputs, space=space)
            try:
                with self._told(step, space):
                    facts = step.action.run(job)
                    self.check_stopped()
                    seconds = time.monotonic() - began
                    body = {
                        "ingredients": ingredients,
                        "facts": facts,
                        "input_keys": {name: item.key for name, item in inputs.items()},
                        "wall_s": round(seconds, 3),
                    }
                    artifact = self.store.publish(space, key=key, ident=step.ident, body=body)
            except BaseException:
                self.reporter.failed(step)
                raise
        self.store.remember(step.ident, key)
        self.reporter.finished(step, artifact.facts, seconds=seconds)
        return artifact

    @contextlib.contextmanager
    def _told(self, step: Step, space: Workspace) -> Iterator[None]:
        """Say in every error which step it was and where its log is; a full disk becomes a StoreError."""
        try:
            yield
        except OSError as error:
            raise explain(error, f"{step.ident} failed", self.store.root) from error
        except OsbuilderError as error:
            error.add_note(f"step: {step.ident}")
            if step.packages_hint and "--package" in error.hint:
                error.hint = step.packages_hint
            if space.log.stat().st_size:
                error.add_note(f"log: {space.log}")
            failed = _is_of_command(error)
            if self.keep_failed and failed:
                space.keep()
                error.add_note(f"kept: {space.folder}, for the line `# by hand:` in the log")
            if failed or isinstance(error, StoreError):
                self._tell_of_disk(error)
            raise

    def _tell_of_disk(self, error: OsbuilderError) -> None:
        """Add to an error how much room the store has, if that is little.

        Who says that a disk is full may not be heard: the log is on it, and so is where ccache keeps what a compiler
        said. Nor is it full any more when the compiler took its unfinished file away.
        """
        free = shutil.disk_usage(self.store.root).free
        if free < _LITTLE_BYTES:
            error.add_note(f"disk: the store's, {self.store.root}, has {free // 2**20} MiB left")
            error.hint = error.hint or (
                "If it was full: free some space (a kernel build needs about 4 GB; `inv cache --gc` drops old "
                "artifacts), or set OSBUILDER_STORE to another disk, and build again."
            )

    @contextlib.contextmanager
    def _locked(self, name: str, tell: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a lock of the store; `tell` hears that another has it. Waiting ends when the build is stopped."""
        told = False
        while True:
            with self.store.lock(name, wait=False) as held:
                if held:
                    yield
                    return
            if not told:
                tell()
                told = True
            if self.stopped.wait(_LOCK_POLL_S):
                raise Interrupted("stopped")

    def check_stopped(self) -> None:
        """Raise Interrupted when the build is being stopped."""
        if self.stopped.is_set():
            raise Interrupted("stopped")

    def forget(self, name: str, folder: Path) -> bool:
        """Have the engine of that name end what runs for a folder, and give back what was written there.

        Return whether that is done: not where a container engine does not answer, which may run it still.
        """
        try:
            self._engine_that(name).sweep(folder.name, folder)
        except ToolMissing:
            if name not in _OUTLIVING:
                return True  # what the sandbox runs ends with the build
            if folder not in self._told_of:
                self._told_of.add(folder)
                self.reporter.left(folder, name)
            return False
        return True

    def _engine_that(self, name: str) -> Engine:
        """Return the engine that a mark names, whichever the settings choose now. Raises ToolMissing."""
        chosen = self._engine
        if self._choose_named is None or not name or (chosen is not None and chosen.name == name):
            return self.engine
        return self._choose_named(name)


def _offline(missing: Sequence[Step]) -> OfflineError:
    """Return what to say of steps that would reach the network where there is to be none."""
    idents = ", ".join(step.ident for step in missing)
    unlocked = any(step.name == "packages" for step in missing)
    return OfflineError(
        f"the build is to use no network (setting offline), and this is not in the store: {idents}",
        hint=LOCK_FIRST if unlocked else GET,
    )


def _is_of_command(error: BaseException | None) -> bool:
    """Whether a command failed, also where the action says so in other words (`raise ... from`)."""
    while error is not None and not isinstance(error, CommandFailed):
        error = error.__cause__
    return error is not None
