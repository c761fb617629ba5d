"""When a kernel reaches init, and what memory it leaves: guest uptime in seconds on each machine, interleaved boots.

    python -m bench.boot_time [--rounds N] [--kernel FILE ...]

The initrd holds nothing but the probe agent, which says when it started and runs no probe. Emulated (TCG), 256 MiB, one
vCPU, `quiet`. Give several kernels to compare them in one run; without one it is the project's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from osbuilder.api import open_workbench
from osbuilder.arch import host_arch
from osbuilder.guest.boot import HostPlace, start
from osbuilder.guest.qemu import Accel, Guest, RootKind
from osbuilder.guest.report import Report
from osbuilder.image.initrd import Compression, write_initrd
from osbuilder.request import AgentRequest, KernelRequest
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

ROOT = Path(__file__).resolve().parents[1]


def make_initrd(agent: Path, target: Path) -> None:
    """Write an initrd with the agent as /init, and the console that it writes to."""
    tree = Tree()
    tree.add_file("init", agent, mode=0o755)
    tree.add_device("dev/console", kind=Kind.CHAR, device=(5, 1), mode=0o600, parents_mode=0o755)
    write_initrd(tree, target, epoch=0, compression=Compression.NONE)


def boot(kernel: Path, initrd: Path, machine: str, folder: Path) -> Report:
    arch = host_arch()
    guest = Guest(
        arch=arch,
        machine=arch.machine(machine),
        accel=Accel.TCG,
        kernel=kernel,
        root=RootKind.INITRD,
        initrd=initrd,
        cmdline=("osbuilder.probes=none",),
        devices=(),
    )
    place = HostPlace(folder=folder)
    return start(guest, place, required=(), accels=(Accel.TCG,), timeout_s=120, remember=forget).report


def forget(works: bool) -> None:
    """Learn nothing about KVM: it is not asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kernel", type=Path, action="append")
    options = parser.parse_args()
    bench = open_workbench((), stream=sys.stderr, root=ROOT)
    kernels = options.kernel or [bench.build(KernelRequest()).artifact.path("vmlinux")]
    machines = [machine.name for machine in host_arch().machines]
    found: dict[tuple[Path, str], list[Report]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_initrd(bench.build(AgentRequest()).artifact.path("agent"), folder / "initrd")
        for _ in range(options.rounds):
            for kernel in kernels:
                for machine in machines:
                    report = boot(kernel, folder / "initrd", machine, folder)
                    found.setdefault((kernel, machine), []).append(report)
    for (kernel, machine), reports in found.items():
        times = sorted(report.uptime_s for report in reports)
        memory = reports[0].memory.total_kib
        print(
            f"{machine:<8} uptime at init: median {statistics.median(times):.2f} s, least {times[0]:.2f} s; "
            f"MemTotal {memory:,} kB; {kernel.name}"
        )


if __name__ == "__main__":
    main()
