"""Fixtures for tests against real engines; conftest.py hands them to every module.

Every engine is a row of ENGINES. Two of them run as an ordinary user who is made for the tests where root runs them.
"""

# ruff: noqa: S607 - useradd, chmod and the like are taken from PATH

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker.api.client import APIClient

from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.sandbox import SandboxEngine
from osbuilder.errors import ToolMissing
from osbuilder.execute import Executor
from tests.integration.engine_driver import obey, order

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Step
    from osbuilder.store import Artifact

ENGINES = ("docker", "docker-archive", "podman", "sandbox", "sandbox-user")
WITHOUT_PODMAN = tuple(name for name in ENGINES if name != "podman")
QUICK = ("docker", "sandbox", "sandbox-user")
DOCKER_URL = "unix:///var/run/docker.sock"

_USER = "osbuilder-tests"
_ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("docker", "requests", "urllib3", "idna", "certifi", "charset_normalizer", "yaml", "zstandard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a command: the error's class name (None: it succeeded), and what was said."""

    error: str | None
    message: str
    status: int | None
    tail: str
    log: str


@dataclasses.dataclass(kw_only=True)
class Room:
    """One engine with folders of its own. `user` is whom it runs as, if not as the test itself.

    `kept` is its cache, where that is not a folder of its own.
    """

    name: str
    spec: Mapping[str, str]
    builder: Builder
    folder: Path
    user: Stranger | None
    label: str = "t" * 64
    kept: Path | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "output", "work", "cache"):
            (self.folder / name).mkdir()
        self._own(self.folder)

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def uid(self) -> int:
        return self.user.uid if self.user else os.getuid()

    def write(self, name: str, content: bytes) -> None:
        """Add an input, /in/NAME."""
        path = self.folder / "inputs" / name
        path.write_bytes(content)
        self._own(path)

    def order(self, command: Command, **more: Any) -> dict[str, Any]:
        mounts = Mounts(
            inputs={path.name: path for path in (self.folder / "inputs").iterdir()},
            caches={"kept": self.kept or self.folder / "cache"},
            output=self.output,
            work=self.work,
        )
        return order(self.spec, self.builder, command, mounts, log=self.log, label=self.label, **more)

    def run(self, *argv: str, timeout_s: float | None = 120, **fields: Any) -> Result:
        """Run a command to its end."""
        told = self.order(Command(argv=argv, **fields), timeout_s=timeout_s)
        if self.user is None:
            answer = obey(told)
        else:
            process = self.start(told)
            stdout, _ = process.communicate(timeout=300)
            assert process.returncode == 0
            answer = json.loads(stdout)
        log = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return Result(**answer, log=log)

    def start(self, told: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Start a process that obeys an order."""
        paper = self.folder / "order.json"
        paper.write_text(json.dumps(told), encoding="utf-8")
        self._own(paper)
        if self.user:
            return self.user.start("-m", "tests.integration.engine_driver", str(paper))
        argv = [sys.executable, "-m", "tests.integration.engine_driver", str(paper)]
        return subprocess.Popen(argv, cwd=_ROOT, stdout=subprocess.PIPE)

    def _own(self, path: Path) -> None:
        if self.user:
            for item in (path, *path.rglob("*")):
                os.chown(item, self.user.uid, self.user.gid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stranger:
    """An ordinary user, and a folder that everybody can read with what Python needs to run an engine."""

    name: str
    uid: int
    gid: int
    python: str
    library: Path

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python as this user."""
        return self.popen(
            self.python, *arguments, env={"PYTHONPATH": str(self.library), "PYTHONDONTWRITEBYTECODE": "1"}
        )

    def popen(self, *argv: str, env: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            cwd=self.library,
            stdout=options.pop("stdout", subprocess.PIPE),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **env},
            user=self.uid,
            group=self.gid,
            extra_groups=(),
            **options,
        )


def workbench_under(engine: str, build: Path, *settings: str) -> Workbench:
    """Return a workbench on the user's own store that uses one engine. Skips where that does not work."""
    from osbuilder.api import open_workbench

    bench = open_workbench((f"engine={engine}", f"build={build}", *settings), stream=sys.stderr, root=_ROOT)
    try:
        _ = bench.executor.engine
    except ToolMissing as error:
        pytest.skip(f"the engine {engine} does not work here: {error.message}")
    return bench


def lend(bench: Workbench, store: Path, *steps: Step) -> None:
    """Give another store what is dear, a builder or a source, of the user's; it is built there if it has to be."""
    for step in steps:
        artifact = bench.executor.run(step)
        there = store / "objects" / artifact.key
        if not there.exists():
            shutil.copytree(artifact.folder, there, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def run_in_sandbox(bench: Workbench, step: Step) -> Artifact:
    """Run a step in the sandbox: there a builder with a network shares this host's 127.0.0.1."""
    executor = Executor(
        bench.store,
        engine=lambda: SandboxEngine(trees=bench.store.folder("trees")),
        reporter=bench.executor.reporter,
        fetching=bench.executor.fetching,
        jobs=1,
    )
    return executor.run(step)


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="osbuilder-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def engine_builder(bench: Workbench, ground: Path) -> Builder:
    """The builder of the rootfs steps, where every user can read it."""
    artifact = bench.executor.run(bench.planner.builder("rootfs"))
    tar = ground / "builder.tar"
    shutil.copyfile(artifact.path("builder.tar"), tar)
    return Builder(name="tests", tar=tar, sha256=artifact.sha256("builder.tar"))


@pytest.fixture(scope="session")
def stranger(ground: Path) -> Iterator[Stranger]:
    """A user with subordinate ids, made for the tests and removed after them."""
    if os.getuid() != 0:
        pytest.skip("the test's own user is ordinary: engines run as it in the other tests")
    subprocess.run(["userdel", "--force", _USER], check=False, capture_output=True)
    made = subprocess.run(["useradd", "--no-create-home", _USER], check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no user can be made here: {made.stderr.strip()}")
    try:
        account = pwd.getpwnam(_USER)
        library = ground / "library"
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("osbuilder", "tests"):
            shutil.copytree(_ROOT / name, library / name, ignore=ignore)
        for name in _LIBRARIES:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.submodule_search_locations
            shutil.copytree(spec.submodule_search_locations[0], library / name, ignore=ignore)
        subprocess.run(["chmod", "-R", "a+rX", str(library)], check=True)
        person = Stranger(
            name=_USER, uid=account.pw_uid, gid=account.pw_gid, python="/usr/bin/python3", library=library
        )
        yield person
    finally:
        _end_processes(pwd.getpwnam(_USER).pw_uid)
        subprocess.run(["userdel", "--force", _USER], check=True, capture_output=True)


def _end_processes(uid: int) -> None:
    """Kill what the tests' user still runs: Podman leaves a process that holds its user namespace."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nUid:\t{uid}\t" in status.read_text(encoding="utf-8"):
                os.kill(int(status.parent.name), signal.SIGKILL)


@pytest.fixture(scope="session")
def docker_url() -> Iterator[str]:
    """The system's Docker, where this process may use it. What tests leave in it is removed at the end."""
    from osbuilder.engine.choose import detect
    from osbuilder.settings import load_settings

    (report,) = detect(load_settings({"engine": "docker", "engine_url": DOCKER_URL}))
    if not report.works:
        pytest.skip(f"Docker: {report.found}")
    yield DOCKER_URL
    with contextlib.closing(APIClient(base_url=DOCKER_URL, version="auto")) as client:
        for image in client.images(name="osbuilder/builder-tests"):
            client.remove_image(image["Id"], force=True)
        for volume in client.volumes(filters={"label": "osbuilder.store=tests"})["Volumes"] or ():
            client.remove_volume(volume["Name"], force=True)


@pytest.fixture(scope="session")
def podman_url(stranger: Stranger, ground: Path) -> Iterator[str]:
    """A rootless Podman service of the ordinary user, with its storage in a temporary folder."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    home = ground / "podman"
    home.mkdir(mode=0o700)
    os.chown(home, stranger.uid, stranger.gid)
    # What the service needs that this machine may not have: a systemd session and a runtime for both cgroup versions.
    options = ["--root", str(home / "root"), "--runroot", str(home / "run"), "--cgroup-manager", "cgroupfs"]
    options += ["--storage-driver", "overlay"]
    options += ["--runtime", "runc"] if shutil.which("runc") else []
    url = f"unix://{home}/api.sock"
    env = {"XDG_RUNTIME_DIR": str(home), "HOME": str(home)}
    service = stranger.popen(
        "podman",
        *options,
        "system",
        "service",
        "--time=0",
        url,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not (home / "api.sock").exists():
            if service.poll() is not None or time.monotonic() > deadline:
                pytest.skip("a rootless Podman service does not start here")
            time.sleep(0.1)
        yield url
    finally:
        service.terminate()
        service.wait()
        # Its layers belong to subordinate ids.
        clean = stranger.popen("podman", "unshare", "rm", "-rf", str(home / "root"), str(home / "run"), env=env)
        clean.communicate()


@pytest.fixture(params=QUICK)
def engine_name(request: pytest.FixtureRequest) -> str:
    """The engines that start a command in less than a second; a test parametrises it with ENGINES for all."""
    return str(request.param)


@pytest.fixture
def room(engine_name: str, engine_builder: Builder, ground: Path, request: pytest.FixtureRequest) -> Iterator[Room]:
    """An engine that is ready to run in. Skips, with the reason, where the machine does not have it."""
    with make_room(engine_name, engine_builder, ground, request) as made:
        yield made


@contextlib.contextmanager
def make_room(name: str, builder: Builder, ground: Path, request: pytest.FixtureRequest) -> Iterator[Room]:
    """Return a room for an engine by its name."""
    user: Stranger | None = None
    if name.startswith("docker"):
        transfer = "archive" if name.endswith("archive") else "auto"
        spec = {"kind": "api", "url": request.getfixturevalue("docker_url"), "transfer": transfer}
    elif name == "podman":
        user = request.getfixturevalue("stranger")
        spec = {"kind": "api", "url": request.getfixturevalue("podman_url"), "transfer": "auto"}
    else:
        user = request.getfixturevalue("stranger") if name == "sandbox-user" else None
        spec = {"kind": "sandbox", "trees": str(_trees(ground, user))}
        from osbuilder.engine.choose import probe_sandbox

        report = probe_sandbox()
        if not report.works:
            pytest.skip(f"sandbox: {report.found}")
    folder = Path(tempfile.mkdtemp(dir=ground, prefix="room-"))
    # What one test names must not be found by another that runs at the same time.
    label = hashlib.sha256(str(folder).encode()).hexdigest()
    try:
        yield Room(name=name, spec=spec, builder=builder, folder=folder, user=user, label=label)
    finally:
        shutil.rmtree(folder)


def _trees(ground: Path, user: Stranger | None) -> Path:
    folder = ground / (f"trees-{user.name}" if user else "trees")
    folder.mkdir(exist_ok=True)
    if user:
        os.chown(folder, user.uid, user.gid)
    return folder


def left_over(room: Room) -> list[str]:
    """Containers and volumes of a room, and processes of its sandbox."""
    if room.spec["kind"] == "api":
        client = APIClient(base_url=room.spec["url"], version="auto")
        wanted = {"label": f"osbuilder.label={room.label}"}
        found = [each["Id"] for each in client.containers(all=True, filters=wanted)]
        found += [each["Name"] for each in client.volumes(filters=wanted)["Volumes"] or ()]
        client.close()
        return found
    words = (str(room.folder).encode(), room.label.encode())
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if any(word in line for word in words):
            found.append(line.decode("utf-8", "replace"))
    return found
