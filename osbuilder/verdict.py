"""What a proof found, as tables and a verdict: its kernels, its guests' reports, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from osbuilder import show
from osbuilder.errors import BootError, OsbuilderError, render_error
from osbuilder.guest import lacking
from osbuilder.guest.boot import Boot
from osbuilder.guest.report import ProbeResult, Result
from osbuilder.kernel.compile import VMLINUX
from osbuilder.trials import Trial

_ORDER: Final = (Result.PASS, Result.FAIL, Result.SKIP)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of a trial: its guest's report, and what is wrong, if anything is."""

    trial: Trial
    boot: Boot | None = None
    error: OsbuilderError | None = None
    recorded: str = ""
    """When a record has it from; "": it was started now."""

    def count(self, result: Result) -> int:
        """Return how many probes ended so."""
        return sum(probe.result is result for probe in self.boot.report.probes) if self.boot else 0

    def summary(self) -> str:
        """Return how it ended, in a line."""
        if self.error is not None:
            return f"FAILED ({self.error.message.splitlines()[0]})"
        passed, failed, skipped = (self.count(result) for result in _ORDER)
        taken = f" (recorded {self.recorded})" if self.recorded else ""
        return f"{passed} probes passed, {failed} failed, {skipped} skipped{taken}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """A kernel that was built: sizes in bytes, options =y, CPU seconds of its build, and its capabilities' probes."""

    version: str
    key: str
    """Of the step that built it: its inputs."""
    build: str
    """What tells this build from every other one of the same inputs, wherever its files are copied."""
    options_y: int
    vmlinux_bytes: int
    vmlinuz_bytes: int
    cpu_s: float
    ccache: Mapping[str, int]
    probes: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]
    """The sha256 of each of its files."""
    differing: tuple[str, ...] | None = None
    """The files that had other bytes when it was built again (none: it is reproducible); None: it was not."""

    @property
    def sha256(self) -> str:
        """The sha256 of vmlinux."""
        return self.files[VMLINUX]

    def disagreeing(self, other: Mapping[str, str]) -> Sequence[tuple[str, str, str]]:
        """Return the files that another build has with other bytes, or has alone: name, sha256 here, sha256 there."""
        both = [(name, self.files.get(name, "none"), other.get(name, "none")) for name in {**self.files, **other}]
        return [(name, here, there) for name, here, there in both if here != there]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that was tried, in order."""

    kernels: Mapping[tuple[str, str], BuiltKernel]
    tried: Sequence[Tried]
    others: Mapping[tuple[str, str], Sequence[Mapping[str, str]]] = dataclasses.field(default_factory=dict)
    """The files of other builds of the same kernels, from the same inputs, that a record tells of."""
    unbuilt: Collection[tuple[str, str]] = ()
    """The kernels that are not here: a record tells of them."""

    def table(self) -> str:
        """Return the tables: kernels, guests, capabilities by kernel, why probes were skipped; and what is recorded."""
        parts = [_kernels_table(self), _guests_table(self.tried), _capabilities_table(self), _skipped_table(self.tried)]
        parts.append(_recorded(self))
        return "\n\n".join(part for part in parts if part)

    def json(self) -> str:
        """Return the same as JSON."""
        content = {
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "kernels": [
                {
                    "arch": kernel[0],
                    "variant": kernel[1],
                    "sha256": built.sha256,
                    **dataclasses.asdict(built),
                    "built": kernel not in self.unbuilt,
                    "others": [dict(files) for files in self._others(kernel)],
                }
                for kernel, built in self.kernels.items()
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
        summary += [line for kernel in self.kernels for line in self._not_reproducible(kernel)]
        summary += [
            f"{probe} of capability {capability} passed in no guest of {'/'.join(kernel)}"
            for kernel in self.kernels
            for capability, probe in self.unproven(kernel)
        ]
        if summary:
            raise BootError("\n\n".join(["\n".join(summary), *told]))

    def again(self, kernel: tuple[str, str]) -> str:
        """Return whether a kernel has the same bytes wherever it was built more than once; `-`: it was not."""
        built, others = self.kernels[kernel], self._others(kernel)
        if built.differing is None and not others:
            return "-"
        names = dict.fromkeys(name for files in others for name, _, _ in built.disagreeing(files))
        names |= dict.fromkeys(built.differing or ())
        return f"DIFFERS: {' '.join(names)}" if names else "same"

    def _others(self, kernel: tuple[str, str]) -> Sequence[Mapping[str, str]]:
        return self.others.get(kernel, ())

    def _not_reproducible(self, kernel: tuple[str, str]) -> Iterator[str]:
        """Yield what says that a kernel has other bytes in another build of the same inputs."""
        built, name = self.kernels[kernel], " ".join(kernel)
        if built.differing:
            yield f"the kernel {name}, built again, has other bytes in {', '.join(built.differing)}"
        found = (each for files in self._others(kernel) for each in built.disagreeing(files))
        for file, here, there in dict.fromkeys(found):
            yield (
                f"the kernel {name} is not reproducible: in two builds of the same inputs (key {built.key[:12]}) "
                f"{file} has sha256 {here} and {there}"
            )

    def unproven(self, kernel: tuple[str, str]) -> Sequence[tuple[str, str]]:
        """Return the promises that no guest of a kernel kept, as (capability, probe), but for what guests here lack.

        Only where the kernel was tried in every way, and each of its guests reported.
        """
        guests = [each for each in self.tried if each.trial.kernel == kernel and each.trial.whole]
        if not guests or any(each.boot is None for each in guests):
            return ()
        passed = {probe.name for probe in _probes(guests, kernel) if probe.result is Result.PASS}
        return [
            (capability, probe)
            for capability, probes in self.kernels[kernel].probes.items()
            for probe in probes
            if probe not in passed and not _excuse(probe, kernel[0], guests)
        ]


def _kernels_table(verdict: Verdict) -> str:
    built_as = ("KERNEL", "VARIANT", "VERSION", "=Y", "VMLINUX", "VMLINUZ", "BUILD CPU", "CCACHE HITS")
    rows = []
    for (arch, variant), built in verdict.kernels.items():
        sizes = [f"{size / 1e6:.2f} MB" for size in (built.vmlinux_bytes, built.vmlinuz_bytes)]
        objects = sum(built.ccache.values())
        hits = f"{built.ccache.get('hits', 0)} of {objects}"
        cost = (f"{built.cpu_s:.0f} s", hits)
        identity = (built.sha256[:12], verdict.again((arch, variant)))
        guests = [each for each in verdict.tried if each.trial.kernel == (arch, variant)]
        wrong = sum(each.error is not None for each in guests)
        counts = (str(len(guests)), str(wrong))
        rows.append((arch, variant, built.version, str(built.options_y), *sizes, *cost, *counts, *identity))
    return show.columns((*built_as, "GUESTS", "WRONG", "SHA256", "AGAIN"), rows)


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
    """Each capability on each architecture: what guests of the kernels that have it found. `config` has no probe."""
    arches = dict.fromkeys(arch for arch, _ in verdict.kernels)
    names = dict.fromkeys(name for built in verdict.kernels.values() for name in built.probes)
    rows = [(name, *(_found_on(verdict, arch, name) for arch in arches)) for name in names]
    return show.columns(("CAPABILITY", *arches), rows) if rows else ""


def _found_on(verdict: Verdict, arch: str, capability: str) -> str:
    """Return what most kernels of an architecture came to, and which came to something else; `-`: none has it."""
    found = {
        kernel[1]: _found(verdict, kernel, capability)
        for kernel, built in verdict.kernels.items()
        if kernel[0] == arch and capability in built.probes
    }
    if not found:
        return "-"
    most = max(dict.fromkeys(found.values()), key=[*found.values()].count)
    others = ", ".join(f"{variant}: {result}" for variant, result in found.items() if result != most)
    return f"{most} ({others})" if others else most


def _found(verdict: Verdict, kernel: tuple[str, str], capability: str) -> str:
    """Return the best that each of a capability's probes came to, summed up; a failure anywhere counts."""
    promised = verdict.kernels[kernel].probes[capability]
    if not promised:
        return "config"
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


def _excuse(probe: str, arch: str, tried: Sequence[Tried]) -> str:
    """Return why a probe passes in none of the guests of one kernel; "" where it has to."""
    boots = [each.boot for each in tried if each.boot is not None]
    accels = {boot.guest.accel for boot in boots}
    patches = {patch for boot in boots for patch in boot.guest.patches}
    release = next((boot.report.kernel.release for boot in boots), None)
    return lacking.reason(probe, arch, accels, patches, release)


def _skipped_table(tried: Sequence[Tried]) -> str:
    """Each probe that was skipped by every guest of a kernel, with the guests' own reason, and whether it may be."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for kernel in dict.fromkeys(each.trial.kernel for each in tried):
        guests = [each for each in tried if each.trial.kernel == kernel]
        whole = any(each.trial.whole for each in guests)
        probes = list(_probes(guests, kernel))
        done = {probe.name for probe in probes if probe.result is not Result.SKIP}
        for probe in probes:
            if probe.name not in done:
                allowed = _excuse(probe.name, kernel[0], guests)
                allowed = allowed or ("NOTHING: it has to pass" if whole else "not tried in every way")
                rows.setdefault((probe.name, probe.detail, allowed), []).append("/".join(kernel))
    listed = [(*row, " ".join(dict.fromkeys(kernels))) for row, kernels in rows.items()]
    return show.columns(("SKIPPED", "WHY", "WHAT EXCUSES IT", "IN"), listed) if listed else ""


def _recorded(verdict: Verdict) -> str:
    """Return what was taken from a record; "" where nothing was."""
    count = sum(bool(each.recorded) for each in verdict.tried)
    if not count:
        return ""
    kernels = f"{len(verdict.unbuilt)} of {len(verdict.kernels)} kernels, which are not built here"
    return f"taken from the record: {count} of {len(verdict.tried)} guests; {kernels}"


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
        "recorded": each.recorded or None,
    }
    if each.boot is not None:
        report = each.boot.report
        data |= {
            "uptime_s": report.uptime_s,
            "memory_total_kib": report.memory.total_kib,
            "probes": {probe.name: [probe.result.value, probe.detail] for probe in report.probes},
        }
    return data
