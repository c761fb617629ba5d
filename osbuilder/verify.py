"""The proof: kernels and distributions on every architecture, each built and started.

Owns what is built and started, and in which order; osbuilder.trials says which guests there are, osbuilder.verdict what
came of them. One that fails stops no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from osbuilder.again import building_again
from osbuilder.errors import Interrupted, OsbuilderError
from osbuilder.kernel.compile import VMLINUX, VMLINUZ
from osbuilder.kernel.modules import MODULES
from osbuilder.request import BootRequest, KernelRequest
from osbuilder.trials import Trial, distro_trials, kernel_trials
from osbuilder.verdict import BuiltKernel, Tried, Verdict

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Step
    from osbuilder.store import Artifact

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
        self, trials: Iterable[Trial], *, line: str | None, again: bool = False, tell: Callable[[str], None]
    ) -> Verdict:
        """Build what the trials need, start each guest, and return what was found; `tell` gets a line for each.

        With `again` each kernel is built a second time, in a store that begins empty, and the bytes are compared.
        """
        with (
            self._bench.executor.in_use(),
            building_again(self._bench) if again else contextlib.nullcontext() as differing,
        ):
            return self._run(trials, line=line, differing=differing, tell=tell)

    def _run(
        self, trials: Iterable[Trial], *, line: str | None, differing: Differing | None, tell: Callable[[str], None]
    ) -> Verdict:
        kernels: dict[tuple[str, str], BuiltKernel] = {}
        broken: dict[tuple[str, str], OsbuilderError] = {}
        tried: list[Tried] = []
        for trial in trials:
            if trial.kernel not in kernels and trial.kernel not in broken:
                try:
                    kernels[trial.kernel] = _built(self._bench, trial, line, differing)
                except Interrupted:
                    raise
                except OsbuilderError as error:
                    broken[trial.kernel] = error
            if trial.kernel in broken:
                tried.append(Tried(trial=trial, error=broken[trial.kernel]))
            else:
                tried.append(_try(self._bench, trial, trial.request(line, kernels[trial.kernel].modules)))
            tell(f"{trial}: {tried[-1].summary()}")
        return Verdict(kernels=kernels, tried=tried)


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


def _built(bench: Workbench, trial: Trial, line: str | None, differing: Differing | None) -> BuiltKernel:
    request = KernelRequest(arch=trial.arch, line=line, variant=trial.variant)
    artifact: Artifact = bench.build(request).artifact
    return BuiltKernel(
        version=artifact.facts["version"],
        options_y=artifact.facts["options_y"],
        vmlinux_bytes=artifact.path(VMLINUX).stat().st_size,
        vmlinuz_bytes=artifact.path(VMLINUZ).stat().st_size,
        cpu_s=artifact.facts["cpu_s"],
        ccache=artifact.facts["ccache"],
        probes=bench.kernels.promises(request),
        sha256=artifact.sha256(VMLINUX),
        modules=str(artifact.path(MODULES)) if "modules_bytes" in artifact.facts else None,
        differing=differing(bench.planner.plan(request)) if differing else None,
    )
