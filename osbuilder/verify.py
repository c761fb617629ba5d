"""The proof: kernels and distributions on every architecture, each built and started.

Owns what is built and started, and in which order; osbuilder.trials says which guests there are, osbuilder.verdict what
came of them. One that fails stops no other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from osbuilder.again import building_again
from osbuilder.errors import Interrupted, OsbuilderError
from osbuilder.kernel.build import compiled
from osbuilder.kernel.compile import VMLINUX, VMLINUZ
from osbuilder.kernel.modules import MODULES
from osbuilder.request import BootRequest, KernelRequest
from osbuilder.resume import Resumption, promised
from osbuilder.step import canonical
from osbuilder.trials import Trial, distro_trials, kernel_trials
from osbuilder.verdict import BuiltKernel, Tried, Verdict

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.record import Record
    from osbuilder.step import Step
    from osbuilder.store import Artifact

    # Architecture and variant.
    Kernel = tuple[str, str]
    # What makes a step's result again, and returns the files that differ.
    Differing = Callable[[Step], tuple[str, ...]]


class Proof:
    """Starts guests of one workbench's kernels and distributions, and holds what they say against what was promised."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def of_kernels(
        self,
        *,
        arches: Sequence[str],
        variants: Sequence[str],
        line: str | None = None,
        dry: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> tuple[Trial, ...]:
        """Return the guests that try kernels; see osbuilder.trials.kernel_trials."""
        return kernel_trials(self._bench, arches=arches, variants=variants, line=line, dry=dry, tell=tell)

    def of_distro(self, distro: str, *, arches: Sequence[str]) -> tuple[Trial, ...]:
        """Return a guest of a distribution for each of its architectures; see osbuilder.trials.distro_trials."""
        return distro_trials(self._bench, distro, arches=arches)

    def run(
        self,
        trials: Iterable[Trial],
        *,
        line: str | None,
        again: bool = False,
        record: Record | None = None,
        tell: Callable[[str], None],
    ) -> Verdict:
        """Build what the trials need, start each guest, and return what was found; `tell` gets a line for each.

        With `again` each kernel is built a second time, in a store that begins empty, and the bytes are compared. What
        `record` has is not done again (osbuilder.resume), and what is done is added to it. Raises StoreError when it
        cannot be written.
        """
        past = Resumption(self._bench, record, line) if record is not None else None
        with (
            self._bench.executor.in_use(),
            building_again(self._bench) if again else contextlib.nullcontext() as differing,
        ):
            return _Run(self._bench, line=line, differing=differing, past=past, tell=tell).of(tuple(trials))


class _Run:
    """One proof under way."""

    def __init__(
        self,
        bench: Workbench,
        *,
        line: str | None,
        differing: Differing | None,
        past: Resumption | None,
        tell: Callable[[str], None],
    ) -> None:
        self._bench = bench
        self._line = line
        self._differing = differing
        self._past = past
        self._tell = tell
        self._kernels: dict[Kernel, BuiltKernel] = {}
        self._broken: dict[Kernel, OsbuilderError] = {}
        self._unbuilt: set[Kernel] = set()

    def of(self, trials: Sequence[Trial]) -> Verdict:
        tried = []
        for trial in trials:
            if trial.kernel not in self._kernels and trial.kernel not in self._broken:
                self._provide(trial.kernel, [each for each in trials if each.kernel == trial.kernel])
            tried.append(self._tried(trial))
            self._tell(f"{trial}: {tried[-1].summary()}")
        past = self._past
        others = {kernel: past.others(kernel, built) for kernel, built in self._kernels.items()} if past else {}
        return Verdict(kernels=self._kernels, tried=tried, others=others, unbuilt=self._unbuilt)

    def _provide(self, kernel: Kernel, trials: Sequence[Trial]) -> None:
        """Take a kernel from the record, if all of its trials can be, or build it."""
        again = self._differing is not None
        try:
            built = self._past.kernel(kernel, trials, again=again, tell=self._tell) if self._past else None
            if built is not None:
                self._unbuilt.add(kernel)
            else:
                built = _built(self._bench, kernel, self._line, self._differing, self._past)
        except Interrupted:
            raise
        except OsbuilderError as error:
            self._broken[kernel] = error
            return
        self._kernels[kernel] = built
        if self._past and kernel not in self._unbuilt:
            self._past.add_kernel(kernel, built)

    def _tried(self, trial: Trial) -> Tried:
        """Return what the record has of a trial, else start it, and add what came of it to the record."""
        built = self._kernels.get(trial.kernel)
        modules = _modules(self._bench, built) if built else None
        taken = self._past.guest(trial, built, modules=modules) if self._past and built else None
        if taken is not None:
            return taken
        if built is None:
            tried = Tried(trial=trial, error=self._broken[trial.kernel])
        else:
            tried = _try(self._bench, trial, trial.request(self._line, modules))
        if self._past:
            self._past.add_guest(tried, built, modules=modules)
        return tried


def _try(bench: Workbench, trial: Trial, request: BootRequest) -> Tried:
    boot = None
    try:
        outcome = bench.boot(request)
        boot = outcome.boot
        outcome.check()
    except Interrupted:
        raise
    except OsbuilderError as error:
        return Tried(trial=trial, boot=boot, error=error)
    return Tried(trial=trial, boot=boot)


def _built(
    bench: Workbench, kernel: Kernel, line: str | None, differing: Differing | None, past: Resumption | None
) -> BuiltKernel:
    """Build a kernel, and with `differing` once more, unless the record knows that this gives the same bytes."""
    arch, variant = kernel
    request = KernelRequest(arch=arch, line=line, variant=variant)
    artifact = bench.build(request).artifact
    files = {name: artifact.sha256(name) for name in artifact.manifest["outputs"]}
    found = past.differing(kernel, artifact.key, files) if past else None
    if differing is not None and found != ():
        found = differing(bench.planner.plan(request))
    return BuiltKernel(
        version=artifact.facts["version"],
        key=artifact.key,
        build=_build_of(bench, request, artifact),
        options_y=artifact.facts["options_y"],
        vmlinux_bytes=artifact.path(VMLINUX).stat().st_size,
        vmlinuz_bytes=artifact.path(VMLINUZ).stat().st_size,
        cpu_s=artifact.facts["cpu_s"],
        ccache=artifact.facts["ccache"],
        probes=promised(bench, request),
        files=files,
        differing=found,
    )


def _build_of(bench: Workbench, request: KernelRequest, artifact: Artifact) -> str:
    """Return what tells the compilation of a kernel from every other one: the sha256 of its manifest.

    The times that it took are in there; where the store's files are copied, it goes with them.
    """
    step = bench.planner.plan(request)
    built = bench.peek(step)[compiled(step).ident] or artifact
    return hashlib.sha256(canonical(built.manifest)).hexdigest()


def _modules(bench: Workbench, built: BuiltKernel) -> str | None:
    """Return where the modules of a kernel in the store are, for the roots of its guests; None for one without."""
    artifact = bench.store.find(built.key) if MODULES in built.files else None
    return str(artifact.path(MODULES)) if artifact else None
