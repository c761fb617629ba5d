"""What kernels ask for, what they weigh, what they cost to build, and how their guests start: docs/kernel.md's table.

    python -m bench.kernel_table [--arch ARCH ...] [--variant VARIANT] [--rounds N] [--setting NAME=VALUE ...]

One column for each architecture that the variant is for (default: base, on all that there are). A kernel that is not in
the store is built first. Its CPU seconds are those of the build that made it, and tell little where objects came from
ccache: their share stands below. Guests are emulated (TCG) by the builder's QEMU, with 256 MiB, one vCPU, `quiet`, and
an initrd with nothing but the agent: the median of the guest's own uptime when the agent starts, and MemTotal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.boot_time import boot, make_initrd
from osbuilder import launch
from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import ARCHES, Arch
from osbuilder.guest.place import BuilderPlace
from osbuilder.kernel.compile import VMLINUX, VMLINUZ
from osbuilder.request import AgentRequest, KernelRequest

ROOT = Path(__file__).resolve().parents[1]


def column(bench: Workbench, arch: Arch, variant: str, rounds: int) -> Iterator[tuple[str, str]]:
    """Yield names and values of one kernel, in the order of the table."""
    request = KernelRequest(arch=arch.name, variant=variant)
    kernel = bench.build(request).artifact
    (config,) = [
        artifact
        for step in bench.planner.plan(request).walk()
        if step.name == "config" and (artifact := bench.store.last(step.ident)) is not None
    ]
    yield "capabilities", str(len(config.facts["capabilities"]))
    yield "requests", str(config.facts["requests"])
    yield "of these waived", str(len(config.facts["waived"]))
    modules = f", {config.facts['options_m']} =m" if config.facts["options_m"] else ""
    yield "options =y", f"{config.facts['options_y']}{modules}"
    for name in (VMLINUX, VMLINUZ):
        yield f"`{name}`, MB", f"{kernel.path(name).stat().st_size / 1e6:.2f}"
    ccache = kernel.facts["ccache"]
    yield "build CPU, s", f"{kernel.facts['cpu_s']:,.0f}"
    yield "of its objects from ccache", f"{ccache.get('hits', 0) / (sum(ccache.values()) or 1):.0%}"
    yield from guests(bench, arch, variant, rounds, {name: kernel.path(name) for name in (VMLINUX, VMLINUZ)})


def guests(
    bench: Workbench, arch: Arch, variant: str, rounds: int, kernels: dict[str, Path]
) -> Iterator[tuple[str, str]]:
    """Yield when guests reach init on each machine that the variant is for, and what memory they have."""
    agent = bench.build(AgentRequest(arch=arch.name)).artifact.path("agent")
    with tempfile.TemporaryDirectory() as name, bench.builder("qemu", arch) as (engine, builder):
        folder = Path(name)
        make_initrd(agent, folder / "initrd")
        place = BuilderPlace(engine=engine, builder=builder, folder=folder, label="bench-kernel-table")
        for number, machine in enumerate(launch.machines(bench, variant, arch), start=1):
            file = kernels[machine.kernels[0]]
            reports = [boot(file, folder / "initrd", machine, place, arch=arch) for _ in range(rounds)]
            uptimes = [report.uptime_s for report in reports]
            told = f"{statistics.median(uptimes):.2f} ({machine.name})"
            yield f"uptime at init on machine {number}, s", told
            if number == 1:
                yield "MemTotal of 256 MiB there, kB", f"{reports[0].memory.total_kib:,}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", action="append", choices=list(ARCHES))
    parser.add_argument("--variant", default="base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--setting", action="append", default=[], help="NAME=VALUE, as for inv")
    options = parser.parse_args()
    bench = open_workbench(tuple(options.setting), stream=sys.stderr, root=ROOT)
    arches = [
        arch
        for arch in ARCHES.values()
        if arch.name in (options.arch or ARCHES) and options.variant in bench.kernels.variants(arch)
    ]
    columns = [dict(column(bench, arch, options.variant, options.rounds)) for arch in arches]
    print("| " + " | ".join([options.variant, *(arch.name for arch in arches)]) + " |")
    print("|---" * (len(arches) + 1) + "|")
    for name in dict.fromkeys(name for each in columns for name in each):
        print("| " + " | ".join([name, *(each.get(name, "-") for each in columns)]) + " |")


if __name__ == "__main__":
    main()
