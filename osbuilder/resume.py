"""What of a proof a record has already: the guests that were right and would be the same, and kernels for their sake.

Owns when a guest is the same: trial, bytes of its kernel, content of its root, and the command that starts it. What was
right is not taken on trust: today's promises and rules are held against the report that the record has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from osbuilder import launch
from osbuilder.errors import BootError, Interrupted, OsbuilderError
from osbuilder.guest.boot import Boot, command_of
from osbuilder.guest.spec import Accel
from osbuilder.kernel.modules import MODULES
from osbuilder.offline import told_what_to_fetch
from osbuilder.record import RecordedGuest, Start, now
from osbuilder.request import KernelRequest
from osbuilder.settings import Accel as AccelChoice
from osbuilder.step import key_of
from osbuilder.verdict import BuiltKernel, Tried

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.record import Record
    from osbuilder.trials import Trial


class Resumption:
    """Holds the trials of one workbench, on one kernel line, against a record, and adds to it what comes."""

    def __init__(self, bench: Workbench, record: Record, line: str | None) -> None:
        self._bench = bench
        self._record = record
        self._line = line
        self._plans: dict[Trial, launch.Planned] = {}

    # -- taking ----------------------------------------------------------------------------------------------------

    def kernel(
        self, kernel: tuple[str, str], trials: Sequence[Trial], *, again: bool, tell: Callable[[str], None]
    ) -> BuiltKernel | None:
        """Return what the record says of a kernel that need not be built, as all of its trials are taken; else None.

        That is one which is not in the store. Its key says that it would be the same; to know that, what the kernel is
        made of is built (source, configuration, compiler). With `again` it has to have been built again.
        """
        arch, variant = kernel
        recorded = self._record.kernels(arch, variant)
        if not recorded:
            return None
        request = KernelRequest(arch=arch, line=self._line, variant=variant)
        step = self._bench.planner.plan(request)
        if self._bench.peek(step)[step.ident] is not None:
            return None
        if any(MODULES in each.built.files for each in recorded):
            tell(f"{arch} {variant} is built, though the record has it: its modules are a part of its guests' roots")
            return None
        with told_what_to_fetch(request):
            digests = {name: self._bench.executor.run(each).digest for name, each in step.dependencies()}
        key = key_of(step.ingredients(digests))
        found = [each.built for each in recorded if each.built.key == key]
        if not found:
            return None
        differing = self.differing(kernel, key, found[-1].files)
        built = dataclasses.replace(found[-1], probes=promised(self._bench, request), differing=differing)
        done = built.differing == () or not again
        return built if done and all(self.guest(trial, built, modules=None) for trial in trials) else None

    def guest(self, trial: Trial, built: BuiltKernel, *, modules: str | None) -> Tried | None:
        """Return a trial as the record has it; None for one that has to be started.

        The newest line about the same guest counts, or about one that did not report, of which nobody knows more.
        """
        recorded = self._record.guests(str(trial))
        planned = self._planned(trial, modules) if recorded else None
        if planned is None:
            return None
        same = [each for each in recorded if each.start is None or self._is_same(each.start, planned, built)]
        last = same[-1] if same else None
        if last is None or last.error is not None or last.start is None or last.report is None:
            return None
        boot = Boot(
            reported=last.report,
            guest=dataclasses.replace(planned.guest, accel=last.start.accel),
            wall_s=last.wall_s,
            required=planned.required,
        )
        try:
            boot.check()
        except BootError:
            return None
        return Tried(trial=trial, boot=boot, recorded=last.date)

    def differing(self, kernel: tuple[str, str], key: str, files: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return what came of building a kernel with these bytes again; None: nobody did, as far as the record says."""
        recorded = [each.built for each in self._record.kernels(*kernel) if each.built.key == key]
        found = [each.differing for each in recorded if each.differing is not None and each.files == files]
        return found[-1] if found else None

    def others(self, kernel: tuple[str, str], built: BuiltKernel) -> Sequence[Mapping[str, str]]:
        """Return the files of each other build of a kernel from the same inputs, of which the record tells."""
        recorded = [each.built for each in self._record.kernels(*kernel) if each.built.key == built.key]
        mine = (built.build, built.files)
        return tuple({each.build: each.files for each in recorded if (each.build, each.files) != mine}.values())

    # -- adding ----------------------------------------------------------------------------------------------------

    def add_kernel(self, kernel: tuple[str, str], built: BuiltKernel) -> None:
        """Add a kernel that was built. Raises StoreError when the record cannot be written."""
        self._record.add_kernel(*kernel, built)

    def add_guest(self, tried: Tried, built: BuiltKernel | None, *, modules: str | None) -> None:
        """Add a guest that was tried, of a kernel that was built if it was. Raises as `add_kernel`."""
        guest = RecordedGuest(
            trial=str(tried.trial), date=now(), error=tried.error.message if tried.error is not None else None
        )
        if built and tried.boot and (planned := self._planned(tried.trial, modules)):
            guest = dataclasses.replace(
                guest,
                qemu=launch.emulator_version(self._bench, tried.boot.guest),
                wall_s=round(tried.boot.wall_s, 3),
                start=_start(planned, built, tried.boot.guest.accel),
                report=tried.boot.reported,
            )
        self._record.add_guest(guest)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _planned(self, trial: Trial, modules: str | None) -> launch.Planned | None:
        """Return a trial's guest, its root built; None where that fails, which starting it will tell."""
        if trial not in self._plans:
            try:
                self._plans[trial] = launch.planned(self._bench, trial.request(self._line, modules))
            except Interrupted:
                raise
            except OsbuilderError:
                return None
        return self._plans[trial]

    def _is_same(self, start: Start, planned: launch.Planned, built: BuiltKernel) -> bool:
        """Whether a guest would be started so today, on an accelerator that may be used."""
        wanted = self._bench.settings.accel
        usable = wanted is AccelChoice.AUTO or wanted.value == start.accel.value
        return usable and start == _start(planned, built, start.accel)


def promised(bench: Workbench, request: KernelRequest) -> Mapping[str, tuple[str, ...]]:
    """Return the capabilities of a kernel with their probes; see Kernels.promises."""
    return {name: tuple(probes) for name, probes in bench.kernels.promises(request).items()}


def _start(planned: launch.Planned, built: BuiltKernel, accel: Accel) -> Start:
    return Start(
        kernel=built.files[planned.guest.kernel.name],
        root=planned.root.digest,
        accel=accel,
        command=command_of(dataclasses.replace(planned.guest, accel=accel)),
    )
