"""The proof: kernels and distributions on every architecture, each built and started, and what their guests said.

Owns which guests those are and how their reports become tables. One that fails stops no other.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder import launch, show
from osbuilder.again import build_again
from osbuilder.api import render_error
from osbuilder.arch import ARCHES, Arch, Machine, parse_arch
from osbuilder.distro.recipe import find_recipe
from osbuilder.errors import BootError, OsbuilderError, UsageError
from osbuilder.guest.boot import Boot
from osbuilder.guest.qemu import USUAL_DEVICES, Device, RootKind
from osbuilder.guest.report import ProbeResult, Result
from osbuilder.kernel.catalogue import BASE
from osbuilder.kernel.compile import VMLINUX, VMLINUZ
from osbuilder.kernel.modules import MODULES
from osbuilder.request import BootRequest, KernelRequest

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.store import Artifact

AGENT_ALONE: Final = "scratch"
"""The distribution that kernels are tried with: nothing but the agent, so whatever fails is the kernel's."""

_CHOSEN_AT_BOOT: Final = ("selinux", "apparmor")
"""Capabilities that are off unless the kernel line names them: security=NAME."""

_ROOTS: Final = (RootKind.INITRD, RootKind.VIRTIO_BLK, RootKind.VERITY, RootKind.PMEM)
_ORDER: Final = (Result.PASS, Result.FAIL, Result.SKIP)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One guest: a kernel, a machine, where its root comes from, and what is in it."""

    arch: str
    variant: str
    machine: str
    root: RootKind
    distro: str
    devices: tuple[Device, ...] = ()
    append: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.arch, self.variant, self.machine, self.root.value, self.distro, *self.further])

    @property
    def further(self) -> tuple[str, ...]:
        """What it has besides, in words: devices with a plus, and what stands on the kernel line."""
        return (*(f"+{device.value}" for device in self.devices), *self.append)

    @property
    def kernel(self) -> tuple[str, str]:
        """What names its kernel: architecture and variant."""
        return self.arch, self.variant

    def request(self, line: str | None, modules: str | None) -> BootRequest:
        """Return what to boot, on the kernel `line` of versions.yaml (None: its default), with the kernel's modules."""
        return BootRequest(
            distro=self.distro,
            kernel=line,
            variant=self.variant,
            arch=self.arch,
            machine=self.machine,
            root=self.root,
            devices=(*USUAL_DEVICES, *self.devices),
            append=self.append,
            modules=Path(modules) if modules else None,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of a trial: its guest's report, and what is wrong, if anything is."""

    trial: Trial
    boot: Boot | None = None
    error: OsbuilderError | None = None

    def count(self, result: Result) -> int:
        """Return how many probes ended so."""
        return sum(probe.result is result for probe in self.boot.report.probes) if self.boot else 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """A kernel that was built: sizes in bytes, options =y, CPU seconds of its build, and its capabilities' probes."""

    version: str
    options_y: int
    vmlinux_bytes: int
    vmlinuz_bytes: int
    cpu_s: float
    ccache: Mapping[str, int]
    probes: Mapping[str, Sequence[str]]
    sha256: str
    """Of vmlinux."""
    modules: str | None = None
    """Where its modules are, for the root of its guests."""
    differing: Sequence[str] | None = None
    """The files that had other bytes when it was built again (none: it is reproducible); None: it was not."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that was tried, in order."""

    kernels: Mapping[tuple[str, str], BuiltKernel]
    tried: Sequence[Tried]

    def table(self) -> str:
        """Return the tables: kernels, guests, capabilities by kernel, and why probes were skipped."""
        parts = [_kernels_table(self), _guests_table(self.tried), _capabilities_table(self), _skipped_table(self.tried)]
        return "\n\n".join(part for part in parts if part)

    def json(self) -> str:
        """Return the same as JSON."""
        content = {
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "kernels": [
                {"arch": arch, "variant": variant, **dataclasses.asdict(built)}
                for (arch, variant), built in self.kernels.items()
            ],
            "guests": [_as_data(each) for each in self.tried],
        }
        return json.dumps(content, indent=2)

    def check(self) -> None:
        """Raise BootError with all that is wrong; a kernel that cannot be built is told once, with all its guests."""
        wrong: dict[int, tuple[OsbuilderError, list[str]]] = {}
        for each in self.tried:
            if each.error is not None:
                wrong.setdefault(id(each.error), (each.error, []))[1].append(str(each.trial))
        told = [
            "\n".join([f"{first}: {render_error(error)}", *(f"also: {other}" for other in others)])
            for error, (first, *others) in wrong.values()
        ]
        count = sum(len(names) for _, names in wrong.values())
        summary = [f"{count} of {len(self.tried)} guests are not right"] if wrong else []
        for (arch, variant), built in self.kernels.items():
            if built.differing:
                names = ", ".join(built.differing)
                summary.append(f"the kernel {arch} {variant}, built again, has other bytes in {names}")
        if summary:
            raise BootError("\n\n".join(["\n".join(summary), *told]))


class Proof:
    """Starts guests of one workbench's kernels and distributions, and holds what they say against what was promised."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def of_kernels(self, *, arches: Sequence[str], variants: Sequence[str]) -> tuple[Trial, ...]:
        """Return the guests that try kernels: each variant on each machine and root that it has the drivers for.

        No names mean all. Raises UsageError for unknown names, and for a variant that is for none of the architectures.
        """
        chosen = _arches(arches)
        pairs = [(arch, name) for arch in chosen for name in self._bench.kernels.variants(arch)]
        for name in variants:
            if name not in {each for _, each in pairs}:
                self._bench.kernels.capabilities_of(name, chosen[0])  # says what is wrong with it
        return tuple(
            trial
            for arch, name in pairs
            if not variants or name in variants
            for trial in _trials(
                arch,
                name,
                launch.machines(self._bench, name, arch),
                self._bench.kernels.capabilities_of(name, arch),
            )
        )

    def of_distro(self, distro: str, *, arches: Sequence[str]) -> tuple[Trial, ...]:
        """Return a guest of a distribution for each of its architectures: on the base kernel, from the best root.

        No names mean all. Raises UsageError for unknown names, and for an architecture that the distribution has not.
        """
        declared = find_recipe(distro, self._bench.planner.distros).arches
        for name in arches:
            if parse_arch(name).name not in declared:
                raise UsageError(f"{distro} has no guests for {name}", hint=f"It has: {', '.join(declared)}.")
        trials = []
        for arch in _arches(arches or declared):
            machine = launch.machines(self._bench, BASE, arch)[0]
            root = RootKind.PMEM if machine.nvdimm else RootKind.VIRTIO_BLK
            trials.append(Trial(arch=arch.name, variant=BASE, machine=machine.name, root=root, distro=distro))
        return tuple(trials)

    def run(
        self, trials: Iterable[Trial], *, line: str | None, again: bool = False, tell: Callable[[str], None]
    ) -> Verdict:
        """Build what the trials need, start each guest, and return what was found; `tell` gets a line for each.

        With `again` each kernel is built a second time, from nothing, and the bytes are compared.
        """
        kernels: dict[tuple[str, str], BuiltKernel] = {}
        broken: dict[tuple[str, str], OsbuilderError] = {}
        tried: list[Tried] = []
        for trial in trials:
            if trial.kernel not in kernels and trial.kernel not in broken:
                try:
                    kernels[trial.kernel] = _built(self._bench, trial, line, again=again)
                except OsbuilderError as error:
                    broken[trial.kernel] = error
            if trial.kernel in broken:
                tried.append(Tried(trial=trial, error=broken[trial.kernel]))
            else:
                tried.append(_try(self._bench, trial, trial.request(line, kernels[trial.kernel].modules)))
            tell(f"{trial}: {_result(tried[-1])}")
        return Verdict(kernels=kernels, tried=tried)


def _trials(arch: Arch, variant: str, machines: Sequence[Machine], capabilities: Collection[str]) -> Iterator[Trial]:
    """Yield the guests of one kernel: on each machine from each root, and with what is off or absent otherwise."""
    for machine in machines:
        for root in _ROOTS:
            able = {RootKind.PMEM: machine.nvdimm, RootKind.VERITY: "dm-verity" in capabilities}
            if able.get(root, True):
                yield Trial(arch=arch.name, variant=variant, machine=machine.name, root=root, distro=AGENT_ALONE)
    plain = Trial(arch=arch.name, variant=variant, machine=machines[0].name, root=RootKind.INITRD, distro=AGENT_ALONE)
    devices = tuple(device for device in (Device.PMEM, Device.IOMMU) if device.value in capabilities)
    if devices and machines[0].virtio == "pci":
        yield dataclasses.replace(plain, devices=devices)
    for module in _CHOSEN_AT_BOOT:
        if module in capabilities:
            yield dataclasses.replace(plain, append=(f"security={module}",))


def _try(bench: Workbench, trial: Trial, request: BootRequest) -> Tried:
    boot = None
    try:
        outcome = bench.boot(request)
        boot = outcome.boot
        outcome.check()
    except OsbuilderError as error:
        return Tried(trial=trial, boot=boot, error=error)
    return Tried(trial=trial, boot=boot)


def _built(bench: Workbench, trial: Trial, line: str | None, *, again: bool) -> BuiltKernel:
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
        differing=build_again(bench, bench.planner.plan(request)) if again else None,
    )


def _arches(names: Sequence[str]) -> tuple[Arch, ...]:
    return tuple(parse_arch(name) for name in names) or tuple(ARCHES.values())


# -- what it looks like ----------------------------------------------------------------------------------------------


def _result(tried: Tried) -> str:
    if tried.error is not None:
        return f"FAILED ({tried.error.message.splitlines()[0]})"
    passed, failed, skipped = (tried.count(result) for result in _ORDER)
    return f"{passed} probes passed, {failed} failed, {skipped} skipped"


def _kernels_table(verdict: Verdict) -> str:
    head = ("KERNEL", "VARIANT", "VERSION", "=Y", "VMLINUX", "VMLINUZ", "BUILD CPU", "CCACHE HITS", "SHA256", "AGAIN")
    rows = []
    for (arch, variant), built in verdict.kernels.items():
        sizes = [f"{size / 1e6:.2f} MB" for size in (built.vmlinux_bytes, built.vmlinuz_bytes)]
        objects = sum(built.ccache.values())
        hits = f"{built.ccache.get('hits', 0)} of {objects}"
        cost = (f"{built.cpu_s:.0f} s", hits)
        identity = (built.sha256[:12], _again(built))
        rows.append((arch, variant, built.version, str(built.options_y), *sizes, *cost, *identity))
    return show.columns(head, rows)


def _again(built: BuiltKernel) -> str:
    if built.differing is None:
        return "-"
    return f"DIFFERS: {' '.join(built.differing)}" if built.differing else "same"


def _guests_table(tried: Sequence[Tried]) -> str:
    head = ("GUEST", "VARIANT", "MACHINE", "ROOT", "DISTRO", "INIT AT", "MEMTOTAL", "PASS", "FAIL", "SKIP", "WITH")
    rows: list[tuple[str, ...]] = []
    for each in tried:
        trial = each.trial
        where = (trial.arch, trial.variant, trial.machine, trial.root.value, trial.distro)
        if each.boot is None:
            rows.append((*where, "-", "-", "-", "FAILED", "-", " ".join(trial.further)))
            continue
        report = each.boot.report
        counts = [str(each.count(result)) for result in _ORDER]
        rows.append(
            (*where, f"{report.uptime_s:.2f} s", f"{report.memory.total_kib:,} kB", *counts, " ".join(trial.further))
        )
    return show.columns(head, rows)


def _capabilities_table(verdict: Verdict) -> str:
    """Each capability of each kernel: what its guests found. `config` has no probe, `-` is not in that kernel."""
    kernels = list(verdict.kernels)
    names = dict.fromkeys(name for built in verdict.kernels.values() for name in built.probes)
    rows = [(name, *(_found(verdict, kernel, name) for kernel in kernels)) for name in names]
    return show.columns(("CAPABILITY", *(f"{arch}/{variant}" for arch, variant in kernels)), rows) if rows else ""


def _found(verdict: Verdict, kernel: tuple[str, str], capability: str) -> str:
    """Return the best that each of a capability's probes came to, summed up; a failure anywhere counts."""
    promised = verdict.kernels[kernel].probes.get(capability)
    if not promised:
        return "config" if promised is not None else "-"
    found: dict[str, set[Result]] = {name: set() for name in promised}
    for probe in _probes(verdict.tried, kernel):
        found.get(probe.name, set()).add(probe.result)
    if any(not results or Result.FAIL in results for results in found.values()):
        return "FAIL"
    return "pass" if all(Result.PASS in results for results in found.values()) else "skip"


def _probes(tried: Sequence[Tried], kernel: tuple[str, str]) -> Iterator[ProbeResult]:
    for each in tried:
        if each.trial.kernel == kernel and each.boot is not None:
            yield from each.boot.report.probes


def _skipped_table(tried: Sequence[Tried]) -> str:
    """Each probe that was skipped by every guest of a kernel, with the guests' own reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for kernel in dict.fromkeys(each.trial.kernel for each in tried):
        probes = list(_probes(tried, kernel))
        done = {probe.name for probe in probes if probe.result is not Result.SKIP}
        for probe in probes:
            if probe.name not in done:
                rows.setdefault((probe.name, probe.detail), []).append("/".join(kernel))
    listed = [(name, detail, " ".join(dict.fromkeys(kernels))) for (name, detail), kernels in rows.items()]
    return show.columns(("SKIPPED", "WHY", "IN"), listed) if listed else ""


def _as_data(each: Tried) -> dict[str, Any]:
    trial = each.trial
    data: dict[str, Any] = {
        "arch": trial.arch,
        "variant": trial.variant,
        "machine": trial.machine,
        "root": trial.root.value,
        "distro": trial.distro,
        "with": list(trial.further),
        "error": each.error.message if each.error else None,
    }
    if each.boot is not None:
        report = each.boot.report
        data |= {
            "uptime_s": report.uptime_s,
            "memory_total_kib": report.memory.total_kib,
            "probes": {probe.name: [probe.result.value, probe.detail] for probe in report.probes},
        }
    return data
