"""What compiling a kernel costs beside a reference configuration: the same step, source and compiler, without a cache.

    python -m bench.kernel_build [--variant NAME ...] [--reference FILE] [--keep FOLDER]

The reference is a list of requested symbols, resolved over allnoconfig as ours is, and without our patches; the one
beside this file names what Kata Containers asks for on x86_64. Each kernel is compiled once, in the sandbox, into a
store that is thrown away, with ccache switched off; all at the same time, one job each, so that whatever else the
machine does costs them alike. Where the processor lets its instructions be counted (perf_event_open(2), inherited by
every process of the build) they are told too: they hardly depend on the load. Ours must have the bytes of the kernel in
the user's store, if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import parse_arch
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.sandbox import SandboxEngine
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed
from osbuilder.execute import Executor
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.kernel.compile import CONFIG, VMLINUX, VMLINUZ
from osbuilder.kernel.series import NO_PATCHES
from osbuilder.request import KernelRequest
from osbuilder.step import Job, Step
from osbuilder.store import Artifact, Store

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "bench" / "kata-x86_64.config"
ARCH = parse_arch("x86_64")
AIMS = {"base": 0.65, "minimal": 0.35}

_NR_PERF_EVENT_OPEN = 298
_HARDWARE, _INSTRUCTIONS = 0, 1
_INHERIT = 1 << 1

_RESOLVE = """\
mkdir /work/linux
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1
KCONFIG_ALLCONFIG=/in/requests make -C /work/linux O=/work/build ARCH={{ arch }} CROSS_COMPILE={{ cross }} allnoconfig
cp /work/build/.config /out/config
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolve:
    """Makes the configuration of a list of requests; nothing checks what became of them."""

    requests: str

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        requests = job.work / "requests"
        requests.write_text(self.requests, encoding="utf-8")
        run_script(job, self._script(), inputs={"requests": requests, "source": job.inputs["source"].path(ARCHIVE)})
        text = (job.out / CONFIG).read_text(encoding="utf-8")
        return {"options_y": text.count("=y\n"), "options_m": text.count("=m\n")}

    def _script(self) -> str:
        return render(_RESOLVE, arch=ARCH.kernel, cross=f"{ARCH.triplet}-")


class Uncached(SandboxEngine):
    """The sandbox, in which ccache does nothing but call the compiler."""

    def run(self, builder: Builder, command: Command, mounts: Mounts, *, log: Path, **more: Any) -> None:
        uncached = dataclasses.replace(command, env=(*command.env, ("CCACHE_DISABLE", "1")))
        super().run(builder, uncached, mounts, log=log, **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """One build: options =y, bytes of the compressed image, CPU seconds, instructions (None: not counted here)."""

    options: int
    image_bytes: int
    cpu_s: float
    instructions: int | None

    def __str__(self) -> str:
        counted = "" if self.instructions is None else f"  {self.instructions / 1e12:.3f} T instructions"
        return f"{self.options:>5} =y  {self.image_bytes / 1e6:5.2f} MB  {self.cpu_s:5.0f} s of CPU{counted}"

    def beside(self, other: Cost) -> str:
        """Return the ratios to another one."""
        ratios = {"image": self.image_bytes / other.image_bytes, "CPU": self.cpu_s / other.cpu_s}
        if self.instructions and other.instructions:
            ratios["instructions"] = self.instructions / other.instructions
        return ", ".join(f"{what} {ratio:.3f}x" for what, ratio in ratios.items())


@contextlib.contextmanager
def instructions() -> Iterator[Callable[[], int | None]]:
    """Count the instructions of this thread and of all that it starts from now on; yields what reads the number."""
    # struct perf_event_attr as of PERF_ATTR_SIZE_VER0; named here: type, size, config, three zeros, flags.
    attributes = struct.pack("=IIQQQQQ", _HARDWARE, 64, _INSTRUCTIONS, 0, 0, 0, _INHERIT).ljust(64, b"\0")
    libc = ctypes.CDLL(None)
    counter = libc.syscall(_NR_PERF_EVENT_OPEN, ctypes.c_char_p(attributes), 0, -1, -1, 0)
    if counter < 0:
        yield lambda: None
        return
    try:
        yield lambda: int(struct.unpack("=Q", os.read(counter, 8))[0])
    finally:
        os.close(counter)


def compiled(executor: Executor, step: Step) -> tuple[Cost, Artifact]:
    """Run the step of a kernel, its inputs before it."""
    for item in (*(each for _, each in step.inputs), *([step.builder] if step.builder else [])):
        executor.run(item)
    with instructions() as counted:
        kernel = executor.run(step)
        total = counted()
    cost = Cost(
        options=kernel.facts["options_y"],
        image_bytes=kernel.path(VMLINUZ).stat().st_size,
        cpu_s=kernel.facts["cpu_s"],
        instructions=total,
    )
    return cost, kernel


def lend(users: Workbench, plans: Iterable[Step], store: Store, *, without: Collection[str]) -> None:
    """Give a store what plans need, from the user's, where it is made if need be; but for the steps of these names."""
    for step in {each.ident: each for plan in plans for each in plan.walk() if each.name not in without}.values():
        users.store.share(users.executor.run(step), store)


def seeded(users: Workbench, plans: list[Step], folder: Path) -> Callable[[], Executor]:
    """Return what makes executors, of one job, on a store that has what these plans need but the kernels."""
    store = Store(folder / "store")
    lend(users, plans, store, without=("kernel",))
    engine = Uncached(trees=users.store.folder("trees"))
    ours = users.executor
    return lambda: Executor(store, engine=lambda: engine, reporter=ours.reporter, fetching=ours.fetching, jobs=1)


def planned_reference(users: Workbench, requests: Path) -> tuple[Step, Step]:
    """Return the steps that resolve and that compile the reference."""
    plain = users.planner.plan(KernelRequest(arch=ARCH.name, patches=NO_PATCHES))
    source = dict(plain.inputs)["source"]
    action = Resolve(requests=requests.read_text(encoding="utf-8"))
    resolved = Step(
        name="config", subject="reference", action=action, inputs=(("source", source),), builder=plain.builder
    )
    return resolved, dataclasses.replace(plain, subject="reference", inputs=(("config", resolved), ("source", source)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", action="append", help="of ours (default: base); may be repeated")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="requests of the reference")
    parser.add_argument("--keep", type=Path, help="a folder for each kernel's vmlinux, as bench.boot_time takes it")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    users = open_workbench(("engine=sandbox",), stream=sys.stderr, root=ROOT)
    plans = {
        variant: users.planner.plan(KernelRequest(arch=ARCH.name, variant=variant))
        for variant in options.variant or ["base"]
    }
    resolved, reference = planned_reference(users, options.reference)
    everything = plans | {"reference": reference}
    with tempfile.TemporaryDirectory(dir=users.store.root) as name, ThreadPoolExecutor(len(everything)) as pool:
        executor = seeded(users, [*plans.values(), *(step for _, step in resolved.inputs)], Path(name))
        executor().run(resolved)
        builds = {what: pool.submit(compiled, executor(), step) for what, step in everything.items()}
        costs = {}
        for what, build in builds.items():
            try:
                costs[what], kernel = build.result()
            except CommandFailed as error:
                print(f"{what:<10} cannot be built, its log ends with:\n{error.tail}", flush=True)
                continue
            print(f"{what:<10} {costs[what]}", flush=True)
            before = users.executor.peek(everything[what])[everything[what].ident]
            if before is not None:
                same = all(before.sha256(file) == kernel.sha256(file) for file in (VMLINUX, VMLINUZ))
                print(f"{what:<10} {'has' if same else 'DOES NOT HAVE'} the bytes of the one in the store")
            if options.keep:
                shutil.copyfile(kernel.path(VMLINUX), options.keep / f"vmlinux-{what}")
    if len(costs) < len(everything):
        sys.exit("there is nothing to compare")
    for variant in plans:
        ratios = costs[variant].beside(costs["reference"])
        print(f"{variant:<10} of the reference: {ratios}; aim {AIMS.get(variant, AIMS['base']):.2f}x")


if __name__ == "__main__":
    main()
