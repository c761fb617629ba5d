"""What resolving configurations and holding them to their contract costs, beside the same without written-down answers.

    python -m bench.kernel_config [--arch NAME ...] [--variant NAME] [--setting NAME=VALUE ...]

The reference resolves as a person would, with `make allnoconfig` in the builder, which asks the compiler everything
again; its bytes have to be ours. Ours is told twice: the first time, when the answers have to be asked for, and again,
when they are in the store as after any change of a fragment. Builders and resolver are in the store each time; the
stores are thrown away. CPU seconds are those of the builder's processes and of this one, all architectures together.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import parse_arch
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.sandbox import SandboxEngine
from osbuilder.engine.script import lines, render
from osbuilder.execute import Executor
from osbuilder.kernel.answers import ANSWERS
from osbuilder.kernel.build import compiled
from osbuilder.kernel.catalogue import BASE
from osbuilder.kernel.compile import cpu_seconds
from osbuilder.kernel.configure import CONFIG, Resolve
from osbuilder.request import KernelRequest
from osbuilder.step import Job, Step
from osbuilder.store import Store

ROOT = Path(__file__).resolve().parents[1]
ARCHES = ("x86_64", "aarch64", "ppc64le", "s390x")
AIM_S = 10
MADE = ("resolved", CONFIG)  # the steps that are measured; what they need is there

_BY_MAKE = """\
mkdir /work/build
tar --extract --file=/in/resolver --directory=/work
make -C /work/linux O=/work/build ARCH={{ arch | sh }} CROSS_COMPILE={{ cross_compile | sh }} \\
  KCONFIG_ALLCONFIG=/in/requests allnoconfig
cp /work/build/.config /out/config
"""


class Timed(SandboxEngine):
    """The sandbox, counting the CPU seconds of what it runs, one command after the other."""

    def __init__(self, *, trees: Path) -> None:
        super().__init__(trees=trees)
        self.cpu_s = 0.0

    def run(self, builder: Builder, command: Command, mounts: Mounts, *, log: Path, **more: Any) -> None:
        timed = dataclasses.replace(command, argv=("bash", "-c", '"$@" && times', "timed", *command.argv))
        super().run(builder, timed, mounts, log=log, **more)
        self.cpu_s += cpu_seconds("\n".join(log.read_text(encoding="utf-8").splitlines()[-2:]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ByMake:
    """The reference: another action's configuration, resolved with make."""

    resolve: Resolve

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        script = job.work / "by-make"
        script.write_text(self._script(), encoding="utf-8")
        return self.resolve.run(cast("Job", _OtherScript(job, script)))

    def _script(self) -> str:
        arch = parse_arch(self.resolve.configure.arch)
        return render(_BY_MAKE, arch=arch.kernel, cross_compile=f"{arch.triplet}-")


class _OtherScript:
    """A job that runs a script in place of each one that it is asked to run."""

    def __init__(self, job: Job, script: Path) -> None:
        self._job = job
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    def run(self, command: Command, *, inputs: Mapping[str, Path], **more: Any) -> None:
        self._job.run(command, inputs={**inputs, "script": self._script}, **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What configurations took, in seconds, and their texts by architecture."""

    wall_s: float
    builder_s: float
    own_s: float
    configs: Mapping[str, bytes]

    @property
    def cpu_s(self) -> float:
        """CPU seconds, the builder's and our own."""
        return self.builder_s + self.own_s

    def __str__(self) -> str:
        return (
            f"{self.cpu_s:5.1f} s of CPU (builder {self.builder_s:.1f}, contract {self.own_s:.1f}), {self.wall_s:.1f} s"
        )


def measured(users: Workbench, steps: Mapping[str, Step], store: Store) -> Cost:
    """Make configurations in a store, one after the other."""
    engine = Timed(trees=users.store.folder("trees"))
    ours = users.executor
    executor = Executor(store, engine=lambda: engine, reporter=ours.reporter, fetching=ours.fetching, jobs=1)
    began, own = time.monotonic(), time.process_time()
    configs = {arch: executor.run(step).path(CONFIG).read_bytes() for arch, step in steps.items()}
    return Cost(
        wall_s=time.monotonic() - began,
        builder_s=engine.cpu_s,
        own_s=time.process_time() - own,
        configs=configs,
    )


def seeded(users: Workbench, steps: Mapping[str, Step], folder: Path, *, answers: Store | None = None) -> Store:
    """Return a store that has what these configurations need; their answers only where a store has them."""
    store = Store(folder)
    shared: set[str] = set()
    for step in (each for config in steps.values() for each in config.walk() if each.name not in MADE):
        source = users.executor.run(step) if step.name != ANSWERS else answers and answers.last(step.ident)
        if source and source.key not in shared:
            users.store.share(source, store)
            shared.add(source.key)
            if step.name == "builder":
                users.executor.ready(step.subject, source)
    return store


def by_make(config: Step) -> Step:
    """Return the step that makes a configuration, with what make resolves."""
    resolved = dict(config.inputs)["resolved"]
    resolved = dataclasses.replace(resolved, action=ByMake(resolve=cast("Resolve", resolved.action)))
    return dataclasses.replace(config, inputs=tuple({**dict(config.inputs), "resolved": resolved}.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_config", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", action="append", help=f"may be repeated (default: {', '.join(ARCHES)})")
    parser.add_argument("--variant", default=BASE)
    parser.add_argument("--setting", action="append", default=[], help="NAME=VALUE, as of every task")
    options = parser.parse_args()
    users = open_workbench(("engine=sandbox", *options.setting), stream=sys.stderr, root=ROOT)
    steps = {
        arch: dict(compiled(users.planner.plan(KernelRequest(arch=arch, variant=options.variant))).inputs)[CONFIG]
        for arch in options.arch or ARCHES
    }
    reference = {arch: by_make(step) for arch, step in steps.items()}
    with tempfile.TemporaryDirectory(dir=users.store.root) as name:
        folder = Path(name)
        asked = seeded(users, steps, folder / "asked")
        costs = {"first": measured(users, steps, asked)}
        for what, plan in (("again", steps), ("with make", reference)):
            costs[what] = measured(users, plan, seeded(users, steps, folder / what, answers=asked))
    for what, cost in costs.items():
        print(f"{what:<10} {cost}", flush=True)
    reference_cost = costs.pop("with make")
    for what, cost in costs.items():
        if cost.configs != reference_cost.configs:
            sys.exit(f"{what}: OTHER BYTES than with make")
        print(f"{what:<10} {cost.cpu_s / reference_cost.cpu_s:.2f}x of the CPU with make; the same bytes")
    print(f"again      {costs['again'].cpu_s:.1f} s of CPU; aim {AIM_S} s")


if __name__ == "__main__":
    main()
