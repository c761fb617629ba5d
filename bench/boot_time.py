"""When a kernel reaches init, and what memory it leaves: guest uptime in seconds on each machine, interleaved boots.

    python -m bench.boot_time [--rounds N] [--kernel FILE ...]
    python -m bench.boot_time --initcalls [--kernel FILE ...]

The initrd holds nothing but the probe agent, which says when it started and runs no probe. Emulated (TCG), 256 MiB, one
vCPU, `quiet`. Give several kernels to compare them in one run; without one it is the project's. With --initcalls, where
the time goes instead: the slowest of the kernel's initcalls, in one boot on each machine.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path

from osbuilder.api import open_workbench
from osbuilder.arch import Arch, Machine, host_arch
from osbuilder.guest.boot import start
from osbuilder.guest.place import HostPlace, Place
from osbuilder.guest.report import Report
from osbuilder.guest.spec import Accel, Guest, RootKind
from osbuilder.image.initrd import Compression, write_initrd
from osbuilder.request import AgentRequest, KernelRequest
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

ROOT = Path(__file__).resolve().parents[1]
_INITCALL = re.compile(r"initcall (\w+)\+\S* returned -?\d+ after (\d+) usecs")
_SLOWEST = 25


def make_initrd(agent: Path, target: Path) -> None:
    """Write an initrd with the agent as /init, and the console that it writes to."""
    tree = Tree()
    tree.add_file("init", agent, mode=0o755)
    tree.add_device("dev/console", kind=Kind.CHAR, device=(5, 1), mode=0o600, parents_mode=0o755)
    write_initrd(tree, target, epoch=0, compression=Compression.NONE)


def boot(kernel: Path, initrd: Path, machine: Machine, place: Place, *words: str, arch: Arch | None = None) -> Report:
    guest = Guest(
        arch=arch or host_arch(),
        machine=machine,
        accel=Accel.TCG,
        kernel=kernel,
        root=RootKind.INITRD,
        initrd=initrd,
        cmdline=("osbuilder.probes=none", *words),
        devices=(),
    )
    return start(guest, place, required=(), accels=(Accel.TCG,), timeout_s=120, remember=forget).report


def forget(works: bool) -> None:
    """Learn nothing about KVM: it is not asked for."""


def initcalls(console: str) -> list[tuple[int, str]]:
    """Return the microseconds and names of the initcalls that a console log tells of, slowest first."""
    found = _INITCALL.findall(console)
    return sorted(((int(took), name) for name, took in found), reverse=True)


def show_initcalls(kernel: Path, initrd: Path, machine: Machine, folder: Path) -> None:
    report = boot(kernel, initrd, machine, HostPlace(folder=folder), "initcall_debug", "loglevel=8")
    calls = initcalls((folder / "console").read_text(encoding="utf-8", errors="replace"))
    total = sum(took for took, _ in calls)
    sums = f"{len(calls)} initcalls, {total / 1000:.0f} ms of {report.uptime_s:.2f} s to init"
    print(f"{machine.name}: {sums}; {kernel.name}")
    for took, name in calls[:_SLOWEST]:
        print(f"  {took / 1000:8.1f} ms  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kernel", type=Path, action="append")
    parser.add_argument("--machine", action="append", choices=[machine.name for machine in host_arch().machines])
    parser.add_argument("--initcalls", action="store_true")
    options = parser.parse_args()
    machines = [machine for machine in host_arch().machines if machine.name in (options.machine or (machine.name,))]
    bench = open_workbench((), stream=sys.stderr, root=ROOT)
    kernels = options.kernel or [bench.build(KernelRequest()).artifact.path("vmlinux")]
    found: dict[tuple[Path, str], list[Report]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_initrd(bench.build(AgentRequest()).artifact.path("agent"), folder / "initrd")
        if options.initcalls:
            for kernel in kernels:
                for machine in machines:
                    show_initcalls(kernel, folder / "initrd", machine, folder)
            return
        for _ in range(options.rounds):
            for kernel in kernels:
                for machine in machines:
                    report = boot(kernel, folder / "initrd", machine, HostPlace(folder=folder))
                    found.setdefault((kernel, machine.name), []).append(report)
    for (kernel, name), reports in found.items():
        times = sorted(report.uptime_s for report in reports)
        memory = reports[0].memory.total_kib
        print(
            f"{name:<8} uptime at init: median {statistics.median(times):.2f} s, least {times[0]:.2f} s; "
            f"MemTotal {memory:,} kB; {kernel.name}"
        )


if __name__ == "__main__":
    main()
