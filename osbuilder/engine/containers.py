"""The life of containers on one daemon: created, watched to their end, and removed whatever happens.

One object serves several threads. `stop` may be called from any of them, and from a signal handler.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import docker.errors
from docker.api.client import APIClient
from docker.types import CancellableStream

from osbuilder.engine.container import Container
from osbuilder.engine.daemon import Endpoint, connect, translated
from osbuilder.errors import EngineError, Interrupted, TimeLimit

_TIMEOUT_S: Final = 120
_RETRIES_S: Final = (0.2, 1.0, 0.0)


class Containers:
    """Containers at one endpoint. What its methods raise is what the client library raises (see daemon.translated)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._local = threading.local()
        self._lock = threading.RLock()
        self._names: set[str] = set()
        self._stopped = threading.Event()
        self._init = True

    @property
    def client(self) -> APIClient:
        """The client of this thread's session."""
        client: APIClient = self._local.client
        return client

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Give this thread a connection of its own; what it opened is closed at the end. Raises EngineError."""
        with contextlib.closing(connect(self._endpoint, timeout_s=_TIMEOUT_S)) as client:
            self._local.client = client
            try:
                yield
            finally:
                del self._local.client

    @contextlib.contextmanager
    def created(self, container: Container, *, even_stopped: bool = False) -> Iterator[str]:
        """Create a container, yield its name, and remove it. Raises Interrupted after `stop`, unless `even_stopped`."""
        name = container.name
        with self._lock:
            self._names.add(name)
        try:
            self._create(container)
            if not even_stopped:
                self.check_stopped()
            yield name
        finally:
            self.forget(container=name)
            with self._lock:
                self._names.discard(name)

    def _create(self, container: Container) -> None:
        try:
            dataclasses.replace(container, init=self._init).create(self.client)
        except docker.errors.APIError as error:
            # Podman's init is a package of its own. Without it the command is PID 1: nobody reaps orphans, no more.
            if not self._init or "init binary not found" not in str(error.explanation):
                raise
            self._init = False
            dataclasses.replace(container, init=False).create(self.client)

    def supervise(self, container: Container, *, what: str, log: Path, timeout_s: float | None) -> int:
        """Run a container to its end and return its exit status; what it prints is appended to `log` as it comes.

        Raises TimeLimit, which names `what` runs.
        """
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.forget(container=container.name, kill_only=True)

        with contextlib.ExitStack() as stack:
            name = stack.enter_context(self.created(dataclasses.replace(container, argv=_in_order(container.argv))))
            sink = stack.enter_context(log.open("ab", buffering=0))
            output = self.client.attach(name, stdout=True, stderr=True, stream=True)
            stack.callback(_hang_up, output)
            self.client.start(name)
            timer = threading.Timer(threading.TIMEOUT_MAX if timeout_s is None else timeout_s, expire)
            timer.daemon = True
            timer.start()
            try:
                for chunk in output:
                    sink.write(chunk)
                status = self.client.wait(name)["StatusCode"]
            finally:
                timer.cancel()
        if expired.is_set():
            raise TimeLimit(f"{what} took longer than {timeout_s:g} s", hint=f"See {log}.")
        return int(status)

    def finish(self, name: str) -> None:
        """Run a created container to its end without looking at what it prints. Raises EngineError if it fails."""
        self.client.start(name)
        status = self.client.wait(name)["StatusCode"]
        if status:
            raise EngineError(f"helper container {name} failed: expected status 0, got {status}")

    def execute(self, name: str, argv: tuple[str, ...], *, log: Path) -> int:
        """Run a further process in a running container and return its exit status."""
        created = self.client.exec_create(name, list(_in_order(argv)))
        output = self.client.exec_start(created["Id"], stream=True)
        with log.open("ab", buffering=0) as sink:
            try:
                for chunk in output:
                    sink.write(chunk)
            finally:
                _hang_up(output)
        return int(self.client.exec_inspect(created["Id"])["ExitCode"])

    def forget(self, *, container: str = "", volume: str = "", kill_only: bool = False) -> None:
        """Remove something through a connection of its own; that it is gone already, or the daemon, is no error.

        A daemon under load may refuse once (a layer that is busy): it is asked again.
        """
        try:
            client = connect(self._endpoint, timeout_s=_TIMEOUT_S)
        except EngineError:
            return  # sweep removes it when the daemon is back
        with contextlib.closing(client):
            for wait_s in _RETRIES_S:
                try:
                    with translated("removing", self._endpoint):
                        _remove(client, container=container, volume=volume, kill_only=kill_only)
                    return
                except EngineError:
                    time.sleep(wait_s)

    def sweep(self, labels: Mapping[str, str]) -> None:
        """Remove every container and volume with these labels, whoever made it."""
        wanted = {"label": [f"{key}={value}" for key, value in labels.items()]}
        for container in self.client.containers(all=True, filters=wanted):
            self.forget(container=container["Id"])
        for volume in self.client.volumes(filters=wanted)["Volumes"] or ():
            self.forget(volume=volume["Name"])

    def stop(self) -> None:
        """Remove every container of this object, for good: `created` raises Interrupted from now on."""
        self._stopped.set()
        with self._lock:
            names = sorted(self._names)
        for name in names:
            self.forget(container=name)

    def check_stopped(self) -> None:
        """Raise Interrupted after `stop`."""
        if self._stopped.is_set():
            raise Interrupted("stopped")


def _in_order(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return an argv whose output and errors are one stream: of two, a daemon passes on what comes in any order."""
    return ("/bin/sh", "-c", 'exec "$@" 2>&1', "sh", *argv)


def _remove(client: APIClient, *, container: str, volume: str, kill_only: bool) -> None:
    with contextlib.suppress(docker.errors.NotFound):
        if volume:
            client.remove_volume(volume, force=True)
        elif kill_only:
            client.kill(container)
        else:
            client.remove_container(container, v=True, force=True)


def _hang_up(output: CancellableStream[bytes]) -> None:
    """Close the connection that a container's output came through; it may have been closed from the other side."""
    with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
        output.close()
    # close() shuts the socket down but keeps its descriptor, which the response owns.
    output._response.close()  # type: ignore[attr-defined]
