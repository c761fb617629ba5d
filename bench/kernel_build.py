"""What compiling a kernel costs beside a reference configuration: the same source, compiler and options of make.

    python -m bench.kernel_build [--variant NAME ...] [--reference FILE]

The reference is a list of requested symbols, resolved over allnoconfig as ours is; the one beside this file names what
Kata Containers asks for on x86_64. Each kernel is compiled once, from nothing and without ccache, in the sandbox.
Instructions are counted by the processor for every process of the build (perf_event_open(2), inherited), so they hardly
depend on what else the machine does; CPU seconds do. Needs a processor whose counters can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import host_arch
from osbuilder.engine.base import Command, Mounts
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.kernel.compile import CONFIG, cpu_seconds
from osbuilder.request import KernelRequest

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "bench" / "kata-x86_64.config"
AIMS = {"base": 0.65, "minimal": 0.35}

_NR_PERF_EVENT_OPEN = 298
_HARDWARE, _INSTRUCTIONS = 0, 1
_INHERIT = 1 << 1

_SCRIPT = """\
set -euo pipefail
mkdir /work/linux /work/build
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1
kmake() { make --no-print-directory -C /work/linux O=/work/build ARCH="$ARCH" CROSS_COMPILE="$CROSS_COMPILE" "$@"; }
KCONFIG_ALLCONFIG=/in/config kmake allnoconfig
kmake -j"$(nproc)" $TARGETS
grep -c '=y$' /work/build/.config > /out/options
find /work/build -name '*.o' | wc -l > /out/objects
cp "/work/build/$IMAGE" /out/image
times > /out/times
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """One build: options =y, object files, bytes of the compressed image, CPU seconds, instructions."""

    options: int
    objects: int
    image_bytes: int
    cpu_s: float
    instructions: int

    def __str__(self) -> str:
        return (
            f"{self.options} =y, {self.objects} objects, {self.image_bytes / 1e6:.2f} MB, "
            f"{self.cpu_s:.0f} s of CPU, {self.instructions / 1e12:.2f} T instructions"
        )


@contextlib.contextmanager
def instructions() -> Iterator[Callable[[], int]]:
    """Count the instructions of this process and of all that it starts from now on; yields what reads the number.

    Raises OSError where the processor's counters cannot be read.
    """
    # struct perf_event_attr as of PERF_ATTR_SIZE_VER0; named here: type, size, config, three zeros, flags.
    attributes = struct.pack("=IIQQQQQ", _HARDWARE, 64, _INSTRUCTIONS, 0, 0, 0, _INHERIT).ljust(64, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    counter = libc.syscall(_NR_PERF_EVENT_OPEN, ctypes.c_char_p(attributes), 0, -1, -1, 0)
    if counter < 0:
        raise OSError(ctypes.get_errno(), "this processor's instructions cannot be counted (perf_event_open)")
    try:
        yield lambda: int(struct.unpack("=Q", os.read(counter, 8))[0])
    finally:
        os.close(counter)


def compiled(bench: Workbench, source: Path, config: Path) -> Cost:
    """Compile a configuration or a list of requests."""
    arch = host_arch()
    environment = {
        "ARCH": arch.kernel,
        "CROSS_COMPILE": f"{arch.triplet}-",
        "TARGETS": " ".join(arch.kernel_targets),
        "IMAGE": arch.vmlinuz_path,
    }
    with bench.builder("compiler") as (engine, builder), tempfile.TemporaryDirectory(dir=bench.store.root) as name:
        folder = Path(name)
        (folder / "out").mkdir()
        (folder / "script").write_text(_SCRIPT, encoding="utf-8")
        command = Command(argv=("bash", "/in/script"), env=tuple(sorted(environment.items())))
        mounts = Mounts(
            inputs={"script": folder / "script", "source": source, "config": config},
            output=folder / "out",
            work=folder,
        )
        with instructions() as counted:
            engine.run(builder, command, mounts, log=folder / "log", label="bench-kernel-build")
            total = counted()
        read = {each: (folder / "out" / each).read_text() for each in ("options", "objects", "times")}
        return Cost(
            options=int(read["options"]),
            objects=int(read["objects"]),
            image_bytes=(folder / "out" / "image").stat().st_size,
            cpu_s=cpu_seconds(read["times"]),
            instructions=total,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", action="append", help="of ours (default: base); may be repeated")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="requests of the reference")
    options = parser.parse_args()
    bench = open_workbench(("engine=sandbox",), stream=sys.stderr, root=ROOT)
    costs: dict[str, Cost] = {}
    for variant in options.variant or ["base"]:
        steps = list(bench.planner.plan(KernelRequest(variant=variant)).walk())
        made = {step.name: bench.executor.run(step) for step in steps if step.name in {"source", "patched", "config"}}
        source = made.get("patched", made["source"]).path(ARCHIVE)
        costs[variant] = compiled(bench, source, made["config"].path(CONFIG))
        print(f"{variant:<10} {costs[variant]}", flush=True)
    reference = compiled(bench, source, options.reference)
    print(f"{'reference':<10} {reference}  ({options.reference.name})")
    for variant, cost in costs.items():
        ratios = {
            "instructions": cost.instructions / reference.instructions,
            "CPU": cost.cpu_s / reference.cpu_s,
            "image": cost.image_bytes / reference.image_bytes,
        }
        told = ", ".join(f"{what} {ratio:.3f}x" for what, ratio in ratios.items())
        print(f"{variant:<10} {told} of the reference; aim {AIMS.get(variant, AIMS['base'])}x")


if __name__ == "__main__":
    main()
