"""How long builds take beside the bare tools that they stand on, side by side in one run.

    python -m bench.speed [--engine docker|sandbox] [NAME ...]

Each row names its reference. Ours and the reference run in turns, ROUNDS times each; what counts is the ratio of the
least wall times. Builders and the agent come from the user's own store, results go into one that is thrown away.
The initrd and the tree have a bench of their own, bench_tree.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from osbuilder.api import Workbench, open_workbench
from osbuilder.distro.apt import Bootstrap
from osbuilder.engine.base import Command, Mounts
from osbuilder.image import filesystem
from osbuilder.request import ImageRequest, RootfsRequest
from osbuilder.step import Step
from osbuilder.store import Store
from osbuilder.tree import Tree

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
DEBIAN = ImageRequest(rootfs=RootfsRequest(distro="debian"))
DATA = ("agents", "distros", "kernel", "versions.yaml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line: seconds of ours, seconds of the reference (None: `aim` is in seconds), and what the reference is."""

    name: str
    ours_s: float
    reference_s: float | None
    against: str
    aim: float

    def __str__(self) -> str:
        value = self.ours_s / self.reference_s if self.reference_s else self.ours_s
        unit = "x" if self.reference_s else "s"
        verdict = "ok" if value <= self.aim else "OVER"
        beside = f" beside {self.reference_s:.2f} s" if self.reference_s else ""
        aim = f"aim {self.aim:.2f} {unit}  {verdict:<4}"
        return f"{self.name:<10} {value:6.2f} {unit}  {aim}  {self.ours_s:.2f} s{beside}, {self.against}"


class Ground:
    """A workbench on a store to throw away, which shares what the user's store has: builders ready to run in."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.folder = folder
        self.engine = engine
        users = open_workbench((f"engine={engine}", f"build={folder}/build"), stream=io.StringIO(), root=ROOT)
        self.target = users.planner.plan(DEBIAN)
        users.executor.run(self.target)
        store = Store(folder / "store")
        for step in self.target.walk():
            artifact = users.store.last(step.ident)
            assert artifact is not None
            users.store.share(artifact, store)
        self.bench = self.workbench(ROOT)
        self.bench.executor.run(self.target)
        self.steps = {step.name: step for step in self.target.walk() if step.name != "builder"}
        for builder in ("rootfs", "compiler"):
            step = next(each for each in self.target.walk() if each.ident == f"{builder}/builder")
            self.bare(step, Command(argv=("true",)))

    def workbench(self, root: Path) -> Workbench:
        settings = (f"engine={self.engine}", f"store={self.folder}/store", f"build={self.folder}/build")
        return open_workbench(settings, stream=io.StringIO(), root=root)

    def checkout(self) -> Path:
        """Return a copy of this checkout's data, to be changed."""
        root = Path(tempfile.mkdtemp(dir=self.folder))
        for name in DATA:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, root / name)
        return root

    def mmdebstrap(self) -> tuple[Step, Command]:
        """Return the step of Debian's packages, and the bare command that gets the same ones."""
        step = self.steps["packages"]
        action = step.action
        assert isinstance(action, Bootstrap)
        argv = (
            *("mmdebstrap", "--mode=root", "--format=tar", f"--variant={action.variant}"),
            *(f"--include={','.join(action.packages)}", '--aptopt=APT::Install-Recommends "false"'),
            *(f"--keyring={action.keyring.builder_path}", action.suite, "/out/rootfs.tar"),
        )
        env = (("SOURCE_DATE_EPOCH", str(action.epoch)), ("TMPDIR", "/target"))
        return step, Command(argv=argv, env=env, root=True, network=True, tmpfs=("/target",))

    def forget(self, *names: str) -> None:
        """Remove all that some of the image's steps left, locked or not."""
        idents = {self.steps[name].ident for name in names}
        gone = [each for each in self.bench.store.artifacts() if each.manifest["ident"] in idents]
        assert gone
        for artifact in gone:
            shutil.rmtree(artifact.folder)

    def bare(self, step: Step, command: Command, **inputs: Path) -> float:
        """Return the wall seconds of one command in the builder of a step."""
        with (
            self.bench.builder((step.builder or step).subject) as (engine, builder),
            tempfile.TemporaryDirectory(dir=self.folder) as name,
        ):
            folder = Path(name)
            for part in ("out", "work"):
                (folder / part).mkdir()
            mounts = Mounts(inputs=inputs, output=folder / "out", work=folder / "work")
            return seconds(lambda: engine.run(builder, command, mounts, log=folder / "log", label="bench"))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rootfs(ground: Ground) -> Row:
    """Packages and composition, from nothing, against mmdebstrap alone with the same packages and target medium."""
    step, command = ground.mmdebstrap()
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(ground.bare(step, command))
        ground.forget("packages", "rootfs")
        ours.append(seconds(lambda: ground.bench.executor.run(ground.bench.planner.plan(DEBIAN.rootfs))))
    return Row(name="rootfs", ours_s=min(ours), reference_s=min(bare), against="mmdebstrap", aim=1.15)


def locked(ground: Ground) -> Row:
    """The same from a lock whose packages are in the store, against mmdebstrap from the mirror."""
    root = ground.checkout()
    bench = ground.workbench(root)
    bench.locks.write(DEBIAN.rootfs)
    request = dataclasses.replace(DEBIAN.rootfs, locked=True)
    target = bench.planner.plan(request)
    bench.executor.run(target)
    step, command = ground.mmdebstrap()
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(ground.bare(step, command))
        ground.forget("packages", "rootfs")
        ours.append(seconds(lambda: bench.executor.run(target)))
    against = "mmdebstrap from the mirror, ours from fetched packages"
    return Row(name="locked", ours_s=min(ours), reference_s=min(bare), against=against, aim=0.75)


def image(ground: Ground) -> Row:
    """From rootfs.tar to a DAX image against mke2fs -d alone."""
    step = ground.steps["image"]
    artifact = ground.bench.store.last(ground.steps["rootfs"].ident)
    assert artifact is not None
    tar = artifact.path("rootfs.tar")
    size = filesystem.size_ext4(Tree.read(tar))
    argv = filesystem.render_mke2fs(tar="/in/tar", output="/out/fs", size=size, content_key="bench")
    command = Command(argv=argv, env=tuple(filesystem.mkfs_environment(epoch=0).items()))
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(ground.bare(step, command, tar=tar))
        ground.forget("image")
        ours.append(seconds(lambda: ground.bench.executor.run(ground.bench.planner.plan(DEBIAN))))
    return Row(name="image", ours_s=min(ours), reference_s=min(bare), against="mke2fs -d", aim=1.5)


def unchanged(ground: Ground) -> Row:
    """`inv image` with nothing changed, as a command."""
    argv = [str(ROOT / "inv"), "image", "--setting", f"engine={ground.engine}"]
    argv += ["--setting", f"store={ground.folder}/store", "--setting", f"build={ground.folder}/build"]
    taken = [seconds(lambda: subprocess.run(argv, check=True, capture_output=True)) for _ in range(ROUNDS)]
    return Row(name="unchanged", ours_s=min(taken), reference_s=None, against="inv image, nothing changed", aim=1.0)


def agent(ground: Ground) -> Row:
    """An image again after a change in the agent's source: compile, compose, image."""
    taken = []
    for number in range(ROUNDS):
        root = ground.checkout()
        with (root / "agents" / "probe" / "main.c").open("a") as stream:
            stream.write(f'const char osbuilder_bench[] __attribute__((used)) = "{number}";\n')
        bench = ground.workbench(root)
        taken.append(seconds(lambda bench=bench: bench.build(DEBIAN)))  # type: ignore[misc]
    return Row(name="agent", ours_s=min(taken), reference_s=None, against="an image, only the agent changed", aim=6.0)


ROWS: dict[str, Callable[[Ground], Row]] = {
    "rootfs": rootfs,
    "locked": locked,
    "image": image,
    "unchanged": unchanged,
    "agent": agent,
}


def measure(names: list[str], engine: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        ground = Ground(engine, Path(name))
        for chosen in names:
            yield ROWS[chosen](ground)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    unknown = set(options.names) - set(ROWS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for row in measure(options.names or list(ROWS), options.engine):
        print(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
