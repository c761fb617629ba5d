"""What only a daemon does: go away, run where the files are not, keep images of builders."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from docker.api.client import APIClient

from osbuilder.engine import images
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.daemon import Endpoint
from osbuilder.engine.docker import DockerEngine
from osbuilder.errors import EngineError
from tests.integration.engine_driver import make_engine
from tests.integration.engines import Room, left_over, make_room


@pytest.fixture
def docker_room(engine_builder: Builder, ground: Path, request: pytest.FixtureRequest) -> Iterator[Room]:
    with make_room("docker", engine_builder, ground, request) as made:
        yield made


class _Relay:
    """A unix socket in front of another one, which can be cut."""

    def __init__(self, path: Path, target: str) -> None:
        self._target = target
        self._pairs: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._pairs += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client library's, for a refused connection
def test_a_daemon_that_goes_away_is_told_and_swept_when_it_is_back(docker_room: Room) -> None:
    path = docker_room.folder / "relay.sock"
    relay = _Relay(path, docker_room.spec["url"].removeprefix("unix://"))
    engine = DockerEngine(Endpoint(url=f"unix://{path}"), store_id="tests")
    engine.prepare(docker_room.builder)
    mounts = Mounts(inputs={}, output=docker_room.output, work=docker_room.work)

    def cut_when_it_runs() -> None:
        with contextlib.closing(APIClient(base_url=docker_room.spec["url"], version="auto")) as client:
            wanted = {"label": f"osbuilder.label={docker_room.label}", "status": "running"}
            while not client.containers(filters=wanted):
                time.sleep(0.1)
        relay.cut()

    threading.Thread(target=cut_when_it_runs, daemon=True).start()
    with pytest.raises(EngineError, match="the engine went away") as caught:
        engine.run(
            docker_room.builder, Command(argv=("sleep", "300")), mounts, log=docker_room.log, label=docker_room.label
        )
    assert "inv doctor" in caught.value.hint
    del caught
    gc.collect()
    assert left_over(docker_room) != []
    make_engine(docker_room.spec).sweep(docker_room.label, docker_room.folder)
    assert left_over(docker_room) == []


def test_a_daemon_that_cannot_see_the_files_gets_them_as_archives(docker_room: Room) -> None:
    """Files on a tmpfs that is mounted in this process' own namespace stand for another machine."""
    script = 'mount -t tmpfs none "$1" && mkdir "$1/o" "$1/w" && echo word > "$1/i" && shift && exec "$@"'
    spec = docker_room.spec
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from osbuilder.engine.base import Builder, Command, Mounts\n"
        "from tests.integration.engine_driver import make_engine\n"
        "top = Path(sys.argv[1])\n"
        f"engine = make_engine({dict(spec)!r})\n"
        f"builder = Builder(name='tests', tar=Path({str(docker_room.builder.tar)!r}), "
        f"sha256={docker_room.builder.sha256!r})\n"
        "engine.prepare(builder)\n"
        "mounts = Mounts(inputs={'i': top / 'i'}, output=top / 'o', work=top / 'w')\n"
        f"engine.run(builder, Command(argv=('cp', '/in/i', '/out/o')), mounts, log=top / 'log', "
        f"label={docker_room.label!r})\n"
        "print((top / 'o/o').read_text(), end='')\n"
    )
    if os.getuid() != 0:
        pytest.skip("only root can hide files from the daemon here")
    hidden = docker_room.folder / "hidden"
    hidden.mkdir()
    argv = ["unshare", "--mount", "sh", "-ec", script, "sh", str(hidden), sys.executable, "-c", code, str(hidden)]
    result = subprocess.run(
        argv, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120
    )
    assert result.stdout == "word\n"
    assert left_over(docker_room) == []


def test_inputs_that_only_the_caller_may_read_reach_the_command(docker_room: Room) -> None:
    docker_room.write("secret", b"word\n")
    (docker_room.folder / "inputs/secret").chmod(0o600)
    result = docker_room.run("cat", "/in/secret")
    assert (result.error, result.log) == (None, "word\n")


def test_a_cache_of_another_store_is_another_and_goes_with_its_folder(docker_room: Room) -> None:
    """Where files travel as archives a cache is a volume of the daemon, whatever it is called inside."""
    docker_room.spec = {**docker_room.spec, "transfer": "archive"}
    stores = [docker_room.folder / name for name in ("first", "second")]

    def left() -> list[str]:
        told = []
        for store in stores:
            docker_room.kept = store / "ccache"
            docker_room.kept.mkdir(parents=True, exist_ok=True)
            result = docker_room.run("sh", "-c", f"touch /cache/kept/{store.name} && ls /cache/kept")
            assert result.error is None, result.message
            docker_room.log.unlink()
            told.append(result.log)
        return told

    assert left() == ["first\n", "second\n"]
    engine = make_engine(docker_room.spec)
    assert isinstance(engine, DockerEngine)
    engine.sweep(docker_room.label, stores[0])
    with contextlib.closing(APIClient(base_url=docker_room.spec["url"], version="auto")) as client:

        def kept() -> list[str]:
            volumes = client.volumes(filters={"label": "osbuilder.store=tests"})["Volumes"] or ()
            caches = [Path(volume["Labels"]["osbuilder.cache"]) for volume in volumes]
            return [cache.parent.name for cache in caches if cache.is_relative_to(docker_room.folder.resolve())]

        assert kept() == ["second"]
        engine.collect(_AllBut(""))
        assert kept() == ["second"]
        (stores[1] / "ccache").rmdir()
        engine.collect(_AllBut(""))
        assert kept() == []


class _AllBut(Collection[str]):
    """Every builder but one: what others import meanwhile is theirs."""

    def __init__(self, one: str) -> None:
        self._one = one

    def __contains__(self, sha256: object) -> bool:
        return sha256 != self._one

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


def test_old_builders_leave_the_daemon_and_the_kept_one_stays(docker_room: Room, tmp_path: Path) -> None:
    engine = make_engine(docker_room.spec)
    builders = []
    for name in ("old", "kept-libstdc++-14-dev"):  # called by a package that it has besides
        tar = tmp_path / name
        with tarfile.open(tar, "w") as archive:
            info = tarfile.TarInfo(name)
            info.size = 1000
            archive.addfile(info, io.BytesIO(bytes(1000)))
        builders.append(Builder(name=name, tar=tar, sha256=hashlib.sha256(tar.read_bytes()).hexdigest()))
        engine.prepare(builders[-1])
    old, kept = builders
    assert isinstance(engine, DockerEngine)
    client = APIClient(base_url=docker_room.spec["url"], version="auto")
    try:
        made = {image["Labels"]["osbuilder.sha256"] for image in client.images(filters={"label": "osbuilder.sha256"})}
        assert {old.sha256, kept.sha256} <= made
        assert engine.collect(_AllBut(old.sha256)) > 0
        assert (images.find(client, old), bool(images.find(client, kept))) == (None, True)
    finally:
        client.remove_image(images.name_of(kept), force=True)
        client.close()
