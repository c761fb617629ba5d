"""What a foreign root costs carried over from a native twin and emulated, and whether the two are the same.

    python -m bench.foreign [--distro debian] [--release trixie] aarch64 ppc64le s390x

Each way is run once, from nothing but its builder, with the packages of the recipe, in the sandbox. CPU seconds are
user and system time of every process in the builders and of this one; carried counts its twin. Emulation must be set
up: `inv doctor --fix --setting foreign=emulated`. Ends with status 1 when a tree is not the same or the aim is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from osbuilder.api import Workbench, open_workbench
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.sandbox import SandboxEngine
from osbuilder.execute import Executor
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.tree import Tree
from tests.foreign import BACKUPS, anew
from tests.trees import differences

ROOT = Path(__file__).resolve().parents[1]
AIM = 0.35
_TIMED = '"$@"; status=$?; echo; echo cpu; times; exit $status'


class MeteredEngine(SandboxEngine):
    """The sandbox, which adds up the CPU seconds of what ran in it: bwrap does not wait for what it starts."""

    cpu_s = 0.0

    def run(self, builder: Builder, command: Command, mounts: Mounts, *, log: Path, **more: Any) -> None:
        began = log.stat().st_size if log.exists() else 0
        timed = dataclasses.replace(command, argv=("bash", "-c", _TIMED, "bench", *command.argv))
        super().run(builder, timed, mounts, log=log, **more)
        text = log.read_bytes()[began:].decode("utf-8", "replace").rpartition("\ncpu\n")[2]
        times = re.findall(r"(\d+)m([\d.]+)s", text)
        self.cpu_s += sum(int(minutes) * 60 + float(seconds) for minutes, seconds in times)


def measured(bench: Workbench, step: Step) -> tuple[float, Tree]:
    """Run a step; return its CPU seconds and its tree. Its artifact is removed again (the tree keeps it open)."""
    engine = MeteredEngine(trees=bench.store.folder("trees"))
    executor = Executor(
        bench.store, engine=lambda: engine, reporter=bench.executor.reporter, fetching=bench.executor.fetching, jobs=2
    )
    for builder in {each.builder.subject: each.builder for each in step.walk() if each.builder}.values():
        executor.run(builder)
    engine.cpu_s, began = 0.0, time.process_time()
    artifact = executor.run(step)
    spent_s = engine.cpu_s + time.process_time() - began
    tree = Tree.read(artifact.path("rootfs.tar"))
    for each in step.walk():
        made = bench.store.last(each.ident)
        if each.name == "packages" and made is not None:
            shutil.rmtree(made.folder)
    return spent_s, tree


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.foreign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--distro", default="debian")
    parser.add_argument("--release")
    parser.add_argument("--setting", action="append", default=[], help="NAME=VALUE, as for inv")
    parser.add_argument("arch", nargs="+")
    wanted = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as build:
        for arch in wanted.arch:
            spent, trees = {}, {}
            for way in ("carried", "emulated"):
                settings = (f"foreign={way}", f"build={build}", *wanted.setting)
                bench = open_workbench(settings, stream=io.StringIO(), root=ROOT)
                request = RootfsRequest(distro=wanted.distro, release=wanted.release, arch=arch)
                spent[way], trees[way] = measured(bench, anew(bench, request, str(time.time())))
            found = differences(trees["carried"], trees["emulated"])
            ratio = spent["carried"] / spent["emulated"]
            good = good and ratio <= AIM and not found.keys() - BACKUPS
            print(
                f"{arch:<8} {ratio:.2f} x  aim {AIM} x  carried {spent['carried']:.1f} s of CPU, "
                f"emulated {spent['emulated']:.1f} s; {len(trees['emulated'])} names, {len(found)} differ"
            )
            for name, what in found.items():
                print(f"  {name}: {what}")
            sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
