"""Builds that are killed, stopped or doubled leave a correct store, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.engine.base import Command
from osbuilder.errors import CommandFailed, ToolMissing
from osbuilder.step import Job, Json, Step
from osbuilder.store import remove_tree
from tests.integration.engines import workbench_under
from tests.prerequisites import program

ROOT = Path(__file__).resolve().parents[2]


class Home:
    """A store of its own that has the compiler builder already, and `inv agent` to build in it."""

    def __init__(self, folder: Path, bench: Workbench, engine: str) -> None:
        self.folder = folder
        self.engine = engine
        artifact = bench.executor.run(bench.planner.builder("compiler"))
        target = folder / "store" / "objects" / artifact.key
        target.mkdir(parents=True)
        for path in artifact.folder.iterdir():
            (target / path.name).hardlink_to(path)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(ROOT / "inv"), "agent"],
            cwd=self.folder,
            env={**os.environ, "OSBUILDER_STORE": str(self.folder / "store"), "OSBUILDER_ENGINE": self.engine},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def agents(self) -> list[Path]:
        return list((self.folder / "store" / "objects").glob("*/agent"))

    def leftovers(self) -> list[Path]:
        return list((self.folder / "store" / "tmp").iterdir())

    def bench(self) -> Workbench:
        return open_workbench((f"store={self.folder}/store", f"engine={self.engine}"), stream=sys.stderr, root=ROOT)

    def compiling(self) -> bool:
        logs = (self.folder / "store" / "logs").glob("probe-*.agent-*.log")
        return any("gcc" in log.read_text() for log in logs)


@pytest.fixture(params=["docker", "sandbox"])
def home(request: pytest.FixtureRequest, tmp_path: Path, bench: Workbench) -> Iterator[Home]:
    try:
        _ = open_workbench((f"engine={request.param}",), stream=sys.stderr, root=ROOT).executor.engine
    except ToolMissing as error:
        pytest.skip(error.message)
    yield Home(tmp_path, bench, request.param)
    remove_tree(tmp_path / "store")


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def processes(needle: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle in (folder / "cmdline").read_text(errors="replace"):
                found.append(int(folder.name))
    return found


def test_a_build_that_was_killed_is_swept_and_done_again(home: Home) -> None:
    process = home.start()
    wait_for(home.compiling)
    process.kill()
    process.communicate(timeout=60)
    assert home.agents() == []
    status, out, err = home.finish(home.start())
    assert status == 0, err
    assert Path(out.split()[0]).stat().st_size > 100_000
    assert len(home.agents()) == 1
    assert home.leftovers() == []
    wait_for(lambda: processes(str(home.folder)) == [], timeout_s=20)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_build_that_is_asked_to_stop_takes_everything_with_it(home: Home, number: int, expected: int) -> None:
    process = home.start()
    wait_for(home.compiling)
    process.send_signal(number)
    status, _, err = home.finish(process)
    assert status == expected, err
    assert "Traceback" not in err
    assert home.agents() == []
    assert home.leftovers() == []
    assert processes(str(home.folder)) == []


def test_two_builds_of_the_same_thing_do_it_once_and_both_have_it(home: Home) -> None:
    first, second = home.start(), home.start()
    (status_1, out_1, err_1), (status_2, out_2, err_2) = home.finish(first), home.finish(second)
    assert (status_1, status_2) == (0, 0), err_1 + err_2
    assert out_1 == out_2
    assert len(home.agents()) == 1
    assert (err_1 + err_2).count("agent      probe-x86_64: done in") == 1
    assert (err_1 + err_2).count("agent      probe-x86_64: in the store") == 1


def test_an_artifact_that_was_damaged_is_built_again(home: Home) -> None:
    assert home.finish(home.start())[0] == 0
    (agent,) = home.agents()
    whole = agent.read_bytes()
    agent.chmod(0o644)
    agent.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    status, out, err = home.finish(home.start())
    assert status == 0
    assert "agent      probe-x86_64: done in" in err
    assert Path(out.split()[0]).read_bytes() == whole


FULL = """
import sys
from osbuilder.api import open_workbench
from osbuilder.errors import render_error
from osbuilder.errors import OsbuilderError
from osbuilder.request import AgentRequest
try:
    open_workbench(("store=STORE", "engine=sandbox"), stream=sys.stderr).build(AgentRequest())
except OsbuilderError as error:
    print(render_error(error))
    sys.exit(error.exit_code)
"""


def test_a_full_disk_is_an_error_that_says_so_and_loses_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk in a namespace of its own")
    program("mmdebstrap")
    store = tmp_path / "store"
    store.mkdir()
    script = FULL.replace("STORE", str(store))
    setup = f"mount -t tmpfs -o size=20m none {store} && exec {sys.executable} -c '{script}'"
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", setup],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.startswith("error: no space left while the packages were unpacked"), ran.stdout + ran.stderr
    assert "free some of either and build again" in ran.stdout
    assert "Traceback" not in ran.stderr


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Failing:
    """A command that reads what the step wrote, leaves a copy, and fails."""

    def describe(self) -> tuple[str, ...]:
        return ()

    def run(self, job: Job) -> dict[str, Json]:
        (job.work / "word").write_text("once")
        argv = ("sh", "-c", "cat /in/word > /out/copy; exit 3")
        job.run(Command(argv=argv), inputs={"word": job.work / "word"})
        return {}


def test_a_command_that_failed_is_repeated_by_hand_in_the_folders_that_were_kept(tmp_path: Path) -> None:
    bench = workbench_under("sandbox", tmp_path, "keep_failed=true")
    step = Step(name="fail", subject="kept", action=_Failing(), builder=bench.planner.builder("compiler"))
    with pytest.raises(CommandFailed) as caught:
        bench.executor.run(step)
    (kept,) = (Path(note.split()[1].rstrip(",")) for note in caught.value.__notes__ if note.startswith("kept: "))
    (log,) = (Path(note.removeprefix("log: ")) for note in caught.value.__notes__ if note.startswith("log: "))
    try:
        (kept / "work" / "word").write_text("again")
        line = next(line for line in log.read_text().splitlines() if line.startswith("# by hand: "))
        assert subprocess.run([program("sh"), "-c", line.removeprefix("# by hand: ")], check=False).returncode == 3
        assert (kept / "out" / "copy").read_text() == "again"
    finally:
        remove_tree(kept)
        log.unlink()
