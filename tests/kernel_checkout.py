"""A checkout whose kernels are small, with a store of its own: all of `inv kernel`, in seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel_configs import write_configs
from tests.kernel_sources import write_tree

if TYPE_CHECKING:
    from osbuilder.api import Workbench

ROOT = Path(__file__).resolve().parents[1]

# A statement that the preprocessor repeats until gcc has some seconds to do with it. What is compiled before it is in
# the ccache when make says that it starts.
LONG_ONE = """\
#define R(x) x x x x x x x x x x
int long_one(int x) { R(R(R(R(R(x = x * 3 + 1;))))) return x; }
"""


class Checkout:
    """A copy of the program with a small kernel/configs, the source `linux` beside it, and a store that has a builder.

    `files` are those of the source. The builder is the workbench's compiler for x86_64, unpacked where that keeps it.
    """

    def __init__(self, folder: Path, bench: Workbench, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.root = folder / "checkout"
        self.tree = write_tree(folder / "linux", files)
        self.store = folder / "store"
        # On a disk of its own: how a command gets there, and where others see it.
        self.enter: tuple[str, ...] = ()
        self.seen = self.store
        for name in ("osbuilder", "tasks"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.root / "distros").symlink_to(ROOT / "distros")
        shutil.copy(ROOT / "versions.yaml", self.root)
        write_configs(self.root / "kernel" / "configs", {"common/speed.conf": "CONFIG_FAST=y\n"})
        builder = bench.executor.run(bench.planner.builder("compiler"))
        bench.executor.ready("compiler", builder)
        self.lent = {f"objects/{builder.key}": builder.folder, "trees": bench.store.folder("trees")}

    def lend(self) -> None:
        """Put the builder into the store, by links."""
        (self.seen / "objects").mkdir(parents=True)
        for name, target in self.lent.items():
            (self.seen / name).symlink_to(target)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `inv kernel` in a process group of its own."""
        environment = {
            "PYTHONPATH": str(self.root),
            "OSBUILDER_STORE": str(self.store),
            "OSBUILDER_BUILD": str(self.folder / "build"),
            "OSBUILDER_ENGINE": "sandbox",
        }
        invoke = (sys.executable, "-P", str(self.root / "tasks" / "program.py"))
        return subprocess.Popen(
            [*self.enter, *invoke, "kernel", "--tree", str(self.tree), *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `inv kernel`; return its exit status and what it said on stdout and on stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def interrupt(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Press Ctrl-C: every process of the group has it. Returns its exit status and what it said on stderr."""
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def logs(self, step: str) -> str:
        """Return what the commands of a step printed, in all builds."""
        return "".join(path.read_text() for path in (self.seen / "logs").glob(f"*.{step}-*.log"))

    def kernels(self) -> list[Mapping[str, Any]]:
        """Return the facts of each kernel in the store."""
        found = (self.seen / "objects").glob("*/vmlinux")
        return [json.loads((path.parent / "manifest.json").read_text())["facts"] for path in found]

    def leftovers(self) -> list[Path]:
        """Return what unfinished builds left."""
        return list((self.seen / "tmp").iterdir())
