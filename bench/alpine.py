"""Alpine's packages from a mirror on loopback to a rootfs tar, beside gunzip and a write of the same bytes.

    python -m bench.alpine

15 packages with real programs and libraries of this host (their content decides what decompression costs). The mirror
is a process of its own. Each round installs into an empty store; what counts is the least of ROUNDS. CPU seconds are
user and system time: ours with the downloads, every verification and the database, until the tar is written; the
reference is one `gzip -dc` of the same package files into one file.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from osbuilder.distro.apk.install import InstallPackages, Keyring
from osbuilder.engine.base import Engine
from osbuilder.errors import ToolMissing
from osbuilder.execute import Executor
from osbuilder.fetch import FetchSettings
from osbuilder.reporter import LineReporter
from osbuilder.running import RunningJob
from osbuilder.step import Step
from osbuilder.store import Store
from tests.mirrors.apk import BUILT, File, Package, Repository, SigningKey

ROUNDS = 5
PACKAGES = 15
CONTENT_BYTES = 32 << 20
WALL_AIM_S = 1.5
CPU_AIM = 1.2
FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")


def packages() -> tuple[Package, ...]:
    """Return packages of this host's files: as many programs and libraries as fit, dealt out in turn."""
    dealt: list[list[File]] = [[] for _ in range(PACKAGES)]
    total = 0
    paths = sorted(
        path for folder in FOLDERS for path in Path(folder).iterdir() if path.is_file() and not path.is_symlink()
    )
    for number, path in enumerate(path for path in paths if path.stat().st_size < 2 << 20):
        content = path.read_bytes()
        total += len(content)
        if total > CONTENT_BYTES:
            break
        dealt[number % PACKAGES].append(File(str(path)[1:], content, 0o755))
    return tuple(Package(name=f"package{number:02d}", files=tuple(files)) for number, files in enumerate(dealt))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback, in a process of its own; yield its address."""
    argv = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            port = server.stdout.readline().split("port ")[1].split()[0]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def measured(work: Callable[[], object], who: int) -> tuple[float, float]:
    """Return the wall and CPU seconds of some work, of this process or of its children."""
    before, began = resource.getrusage(who), time.perf_counter()
    work()
    wall, after = time.perf_counter() - began, resource.getrusage(who)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def install(action: InstallPackages, folder: Path) -> tuple[float, float]:
    """Run the action in an empty store; return its wall and CPU seconds."""
    executor = Executor(
        Store(folder),
        engine=_no_engine,
        reporter=LineReporter(io.StringIO()),
        fetching=FetchSettings(),
        jobs=len(os.sched_getaffinity(0)),
    )
    step = Step(name="packages", subject="bench", action=action)
    with executor.store.workspace("0" * 64, step.ident) as space:
        job = RunningJob(executor=executor, step=step, key="0" * 64, inputs={}, space=space)
        return measured(lambda: action.run(job), resource.RUSAGE_SELF)


def _no_engine() -> Engine:
    raise ToolMissing("installing apk packages has asked for an engine")


def gunzip(files: list[Path], target: Path) -> None:
    with target.open("wb") as stream:
        subprocess.run(["/bin/gzip", "-dc", *map(str, files)], stdout=stream, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        key = SigningKey.named()
        (folder / key.name).write_bytes(key.public)
        keyring = Keyring.of_file(folder / key.name)
        made = packages()
        for path, content in Repository(key=key, packages=made, path="v3.24/main/x86_64").files().items():
            (folder / "mirror" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "mirror" / path).write_bytes(content)
        files = sorted((folder / "mirror").rglob("*.apk"))
        ours, bare = [], []
        with served(folder / "mirror") as url:
            action = InstallPackages(
                release="3.24",
                arch="x86_64",
                components=("main",),
                packages=tuple(package.name for package in made),
                keyring=keyring,
                scripts=(),
                mirrors=(url,),
                released=0,
                epoch=BUILT,
            )
            for number in range(ROUNDS):
                bare.append(measured(lambda: gunzip(files, folder / "out"), resource.RUSAGE_CHILDREN))
                ours.append(install(action, folder / f"store{number}"))
        size = sum(package.installed_size for package in made)
        entries = sum(len(package.files) for package in made)
    wall, cpu, reference = min(each[0] for each in ours), min(each[1] for each in ours), min(each[1] for each in bare)
    print(f"{len(made)} packages, {entries} files, {size >> 20} MiB")
    print(f"wall {wall:6.2f} s  aim {WALL_AIM_S:.2f} s  {'ok' if wall <= WALL_AIM_S else 'OVER'}")
    verdict = "ok" if cpu / reference <= CPU_AIM else "OVER"
    print(
        f"cpu  {cpu / reference:6.2f} x  aim {CPU_AIM:.2f} x  {verdict}  {cpu:.2f} s beside {reference:.2f} s, gzip -dc"
    )


if __name__ == "__main__":
    main()
