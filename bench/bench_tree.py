"""Reading and writing a rootfs: CPU seconds and peak memory against the budget, and against Python's tarfile.

    python bench/bench_tree.py [ROOTFS.tar] [--initrd]

Without a tar, one like a Debian rootfs is made first (200 MB, 10,771 entries, deterministic). Each measurement runs in
a process of its own, so that memory is its own. --initrd adds the initrd writer against `cpio | zstd -T0 -3`.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from osbuilder.image.initrd import Compression, write_initrd
from osbuilder.tree import Tree

EPOCH = 1_700_000_000
# The budget for a rootfs of this size.
ENTRIES = 10_771
CONTENT_BYTES = 200 << 20
BUDGET_CPU_S = 2.0
BUDGET_MEMORY_MIB = 300
BUDGET_INITRD_RATIO = 1.3

Measured = tuple[float, float, float]


def make_rootfs(path: Path) -> None:
    """Write a tar with as many entries and bytes as the rootfs that the budget was set for."""
    tree = Tree()
    folders, links = ENTRIES // 8, ENTRIES // 12
    files = ENTRIES - folders - links - 1
    for number in range(folders):
        tree.add_dir(f"folder{number:05d}")
    for number in range(links):
        tree.add_symlink(f"folder{number:05d}/link", "../target")
    # Few large files, many small ones: sizes fall with the square of the rank.
    weights = [1 / (rank + 20) ** 2 for rank in range(files)]
    scale = (CONTENT_BYTES - files * 1000) / sum(weights)
    for number, weight in enumerate(weights):
        size = int(weight * scale) + 1000
        block = hashlib.shake_128(str(number).encode()).digest(min(size, 65536))
        half = (block[: len(block) // 2].hex().encode() * (size // len(block) + 1))[:size]  # compresses by half
        tree.add_file(f"folder{number % folders:05d}/file{number:05d}", half)
    tree.write(path, epoch=EPOCH)


def with_tree(source: Path, target: Path) -> None:
    Tree.read(source).write(target, epoch=EPOCH)


def with_tarfile(source: Path, target: Path) -> None:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in sorted(old, key=lambda info: info.name):
            new.addfile(info, old.extractfile(info) if info.isreg() else None)


def with_initrd(source: Path, target: Path) -> None:
    write_initrd(Tree.read(source), target, epoch=EPOCH, compression=Compression.ZSTD)


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is missing: apt install {name}")
    return path


def with_cpio(source: Path, target: Path) -> None:
    """The reference works on an unpacked folder, as its users' scripts do; unpacking is not measured."""
    with target.open("wb") as out:
        names = subprocess.Popen([tool("find"), "."], cwd=source, stdout=subprocess.PIPE)
        cpio = subprocess.Popen(
            [tool("cpio"), "--quiet", "-o", "-H", "newc"], cwd=source, stdin=names.stdout, stdout=subprocess.PIPE
        )
        zstd = subprocess.Popen([tool("zstd"), "-q", "-T0", "-3", "-c"], stdin=cpio.stdout, stdout=out)
        if any(process.wait() for process in (names, cpio, zstd)):
            raise RuntimeError("find, cpio or zstd failed")


def _report(
    work: Callable[[Path, Path], None], source: Path, target: Path, queue: multiprocessing.Queue[Measured]
) -> None:
    began = time.perf_counter()
    work(source, target)
    wall = time.perf_counter() - began
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    queue.put((cpu, wall, own.ru_maxrss / 1024))


def measure(work: Callable[[Path, Path], None], source: Path, target: Path) -> Measured:
    """Return (CPU seconds, wall seconds, peak MiB) of the best of three runs, interpreter start included."""
    context = multiprocessing.get_context("spawn")
    runs = []
    for _ in range(3):
        queue: multiprocessing.Queue[Measured] = context.Queue()
        process = context.Process(target=_report, args=(work, source, target, queue))
        process.start()
        runs.append(queue.get())
        process.join()
    return min(runs)


def verdict(value: float, budget: float) -> str:
    return "ok" if value <= budget else "OVER BUDGET"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tar", nargs="?", type=Path)
    parser.add_argument("--initrd", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = options.tar or folder / "rootfs.tar"
        if options.tar is None:
            # In a process of its own: a child's peak memory counts from what its parent has in use.
            maker = multiprocessing.get_context("spawn").Process(target=make_rootfs, args=(source,))
            maker.start()
            maker.join()
        summary = Tree.read(source).summary()
        print(f"{source.name}: {summary.entries} entries, {summary.content_bytes / (1 << 20):.0f} MiB of content")
        cpu, wall, memory = measure(with_tree, source, folder / "out.tar")
        print(f"tree read + write    {cpu:6.2f} s CPU (budget {BUDGET_CPU_S:g}: {verdict(cpu, BUDGET_CPU_S)})")
        print(f"                     {memory:6.0f} MiB peak (budget {BUDGET_MEMORY_MIB}: ", end="")
        print(f"{verdict(memory, BUDGET_MEMORY_MIB)}), {wall:.2f} s wall")
        reference = measure(with_tarfile, source, folder / "reference.tar")
        print(
            f"tarfile read + write {reference[0]:6.2f} s CPU, {reference[2]:.0f} MiB: we take {cpu / reference[0]:.2f}x"
        )
        if options.initrd:
            bench_initrd(source, folder)


def bench_initrd(source: Path, folder: Path) -> None:
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    subprocess.run([tool("tar"), "-xpf", str(source), "-C", str(unpacked), "--exclude=./dev/*"], check=True)
    ours = measure(with_initrd, source, folder / "initrd")
    theirs = measure(with_cpio, unpacked, folder / "reference.zst")
    ratio = ours[1] / theirs[1]
    print(
        f"initrd, tar read too {ours[1]:6.2f} s wall, {ours[0]:.2f} s CPU, {(folder / 'initrd').stat().st_size} bytes"
    )
    print(f"cpio | zstd -T0 -3   {theirs[1]:6.2f} s wall, {theirs[0]:.2f} s CPU: we take {ratio:.2f}x", end=" ")
    print(f"(budget {BUDGET_INITRD_RATIO:g}: {verdict(ratio, BUDGET_INITRD_RATIO)})")


if __name__ == "__main__":
    main()
