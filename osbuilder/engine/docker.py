"""Docker and Podman, both through the Docker API: builders become images, commands become containers.

Files reach a container as bind mounts where the daemon sees this host's files, and as archives through its API where it
does not (a remote daemon, one in a virtual machine). Which of the two is found out with a file that only this process
knows. Everything that is created carries labels, and is removed again by name, whatever happens.

Who runs a command without root: the caller's own uid, as the daemon shows it inside. Where that would be uid 0 (root
calls, or the daemon is rootless) it is NOBODY_UID instead, and what it may write changes hands before and after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import tarfile
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import docker.errors
from docker.api.client import APIClient

from osbuilder.engine import base, caches, images, transfer
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.container import Bind, Container
from osbuilder.engine.containers import Containers
from osbuilder.engine.daemon import Daemon, Endpoint, connect, inspect_daemon, translated
from osbuilder.engine.volumes import STORE_LABEL, Volumes
from osbuilder.errors import EngineError, TimeLimit
from osbuilder.settings import Transfer

_LABEL: Final = "osbuilder.label"

_IMPORT_TIMEOUT_S: Final = 1800
_UNFETCHED: Final = (EngineError, OSError, tarfile.TarError)
_OWNER_CAPABILITIES: Final = ("CHOWN", "DAC_READ_SEARCH")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One `run`: what was asked for, with a scratch folder of its own as mounts.work, and the container it becomes."""

    container: Container
    mounts: Mounts
    what: str
    label: str
    log: Path
    timeout_s: float | None

    @property
    def folders(self) -> dict[str, Path]:
        """What the command may write, without caches, by its path inside."""
        return {"/out": self.mounts.output, "/work": self.mounts.work}

    @property
    def caches(self) -> dict[str, Path]:
        """The caches by their path inside."""
        return {f"/cache/{name}": path for name, path in self.mounts.caches.items()}


class DockerEngine:
    """engine.base.Engine on a Docker-compatible API.

    `store_id` tells this store's containers and caches from another's on the same daemon; `proxies` are the variables
    that commands with a network get. Raises EngineError when no daemon answers at `endpoint`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        store_id: str,
        proxies: Mapping[str, str] | None = None,
        transfer: Transfer = Transfer.AUTO,
    ) -> None:
        self._endpoint = endpoint
        self._store_id = store_id
        self._proxies = dict(proxies or {})
        self._transfer = transfer
        self._containers = Containers(endpoint)
        self._volumes = Volumes(self._containers, store_id)
        self._lock = threading.Lock()
        self._sees_host: bool | None = None
        with self._containers.session():
            self._daemon: Daemon = inspect_daemon(self._client, endpoint)
        # Ids as seen inside. Caches stay with `_keeper` between commands.
        self._caller = (0, 0) if self._daemon.rootless else (os.getuid(), os.getgid())
        self._runner = self._caller if self._caller[0] else (base.NOBODY_UID, base.NOBODY_UID)
        self._keeper = self._caller if self._daemon.rootless else self._runner

    @property
    def name(self) -> str:
        """docker or podman."""
        return "podman" if self._daemon.podman else "docker"

    @property
    def daemon(self) -> Daemon:
        """What the daemon said about itself."""
        return self._daemon

    @property
    def _client(self) -> APIClient:
        return self._containers.client

    # Builders

    def prepare(self, builder: Builder) -> None:
        """Import the builder as an image unless it is there. Raises EngineError."""
        with self._containers.session(), translated(f"importing builder {builder.name}", self._endpoint):
            if images.find(self._client, builder):
                return
            with contextlib.closing(connect(self._endpoint, timeout_s=_IMPORT_TIMEOUT_S)) as client:
                images.import_builder(client, builder)

    def collect(self, kept: Collection[str]) -> int:
        """Remove the images of builders whose tars (sha256) are not among these, and what is kept of caches that are
        gone; returns the bytes that the images took."""
        with self._containers.session(), translated("removing old builders", self._endpoint):
            self._volumes.drop_caches(lambda cache: not cache.is_dir())
            return images.collect(self._client, kept)

    def run_in_image(
        self,
        image: str,
        commands: tuple[tuple[str, ...], ...],
        *,
        output: Path,
        log: Path,
        label: str,
        env: Mapping[str, str],
    ) -> None:
        """Pull an image and run commands in one container of it. See engine.builder.ImageEngine."""
        self._containers.check_stopped()
        container = Container(
            name=_name(label),
            image=image,
            argv=("sleep", "infinity"),
            tmpfs=("/tmp",),  # noqa: S108 - in the container
            capabilities=base.ROOT_CAPABILITIES,
            network=True,
            labels=tuple(self._labels(label).items()),
            host_ids=self._daemon.remapped,
            writable=True,
        )
        try:
            with self._containers.session(), translated(f"working in image {image}", self._endpoint):
                images.pull(self._client, image)
                with self._containers.created(container) as name:
                    self._client.start(name)
                    for argv in commands:
                        command = Command(argv=argv, env=tuple(env.items()), network=True)
                        inner = base.exec_argv(command, proxies=self._proxies)
                        status = self._containers.execute(name, inner, log=log)
                        if status:
                            raise base.command_failed(argv, f"image {image}", status=status, log=log)
                    chunks, _ = self._client.get_archive(name, "/out")
                    transfer.unpack(chunks, output)
        except EngineError:
            self._containers.check_stopped()
            raise

    # Commands

    def run(
        self,
        builder: Builder,
        command: Command,
        mounts: Mounts,
        *,
        log: Path,
        label: str,
        devices: tuple[str, ...] = (),
        timeout_s: float | None = None,
    ) -> None:
        """Run a command in a container, to its end. See engine.base.Engine."""
        self._containers.check_stopped()
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=mounts.work, ignore_cleanup_errors=True) as scratch:
            call = _Call(
                container=self._plan(builder, command, label=label, devices=devices),
                mounts=dataclasses.replace(mounts, work=Path(scratch)),
                what=command.argv[0],
                label=label,
                log=log,
                timeout_s=timeout_s,
            )
            try:
                with self._containers.session(), translated(f"running {command.argv[0]}", self._endpoint):
                    if images.find(self._client, builder) is None:
                        raise EngineError(f"builder {builder.name} is not prepared in {self.name}")
                    status = self._run_bound(call) if self._binds(call) else self._run_sent(call)
            except EngineError:
                self._containers.check_stopped()  # what was stopped fails in many ways
                raise
        self._containers.check_stopped()
        if status:
            raise base.command_failed(command.argv, f"builder {builder.name}", status=status, log=log)

    def repeat_line(self, builder: Builder, command: Command, mounts: Mounts, *, devices: tuple[str, ...] = ()) -> str:
        """Return the `docker run` or `podman run` line that runs the command again with its files bound."""
        call = _Call(
            container=self._plan(builder, command, label="", devices=devices),
            mounts=mounts,
            what=command.argv[0],
            label="",
            log=Path(os.devnull),
            timeout_s=None,
        )
        reach = ("--url" if self._daemon.podman else "--host", self._endpoint.url)
        container = dataclasses.replace(call.container, binds=_binds(call))
        return container.command_line((self.name, *reach))

    def _plan(self, builder: Builder, command: Command, *, label: str, devices: tuple[str, ...]) -> Container:
        uid, gid = (0, 0) if command.root else self._runner
        return Container(
            name=_name(label),
            image=images.name_of(builder),
            argv=base.exec_argv(command, proxies=self._proxies),
            uid=uid,
            gid=gid,
            workdir=command.workdir,
            tmpfs=(*base.SCRATCH, *command.tmpfs),
            capabilities=base.ROOT_CAPABILITIES if command.root else (),
            network=command.network,
            devices=devices,
            labels=tuple(self._labels(label).items()),
            host_ids=self._daemon.remapped,
            unlabelled=self._daemon.selinux,
        )

    def _labels(self, label: str) -> dict[str, str]:
        return {_LABEL: label, STORE_LABEL: self._store_id}

    def _binds(self, call: _Call) -> bool:
        """Whether the daemon sees the call's files, and whoever runs the command may read them."""
        if self._transfer is not Transfer.AUTO:
            return self._transfer is Transfer.BIND
        if call.container.uid not in (0, self._caller[0]):
            paths = call.mounts.inputs.values()
            if not all(transfer.is_readable_by_others(path.resolve()) for path in paths):
                return False
        with self._lock:
            if self._sees_host is None:
                self._sees_host = self._look(call)
            return self._sees_host

    def _look(self, call: _Call) -> bool:
        """Whether a container finds a file in the scratch folder that only this process knows."""
        nonce = secrets.token_bytes(32)
        witness = call.mounts.work / "witness"
        witness.write_bytes(nonce)
        try:
            with self._containers.created(
                self._helper(call, "look", (Bind(source=str(call.mounts.work), target="/work"),))
            ) as name:
                chunks, _ = self._client.get_archive(name, "/work/witness")
                return nonce in b"".join(chunks)
        except docker.errors.APIError:
            return False  # no such path there: what "cannot see" looks like
        finally:
            witness.unlink()

    def _helper(self, call: _Call, role: str, binds: tuple[Bind, ...], **changes: object) -> Container:
        """Return a container beside the command's own: uid 0, nothing of the command's rights."""
        plain = {"argv": ("/usr/bin/true",), "uid": 0, "gid": 0, "workdir": "/", "tmpfs": (), "devices": ()}
        fields = plain | {"capabilities": (), "network": False, "binds": binds} | changes
        return dataclasses.replace(call.container, name=f"{call.container.name}-{role}", **fields)  # type: ignore[arg-type]

    # Files by bind mounts

    def _run_bound(self, call: _Call) -> int:
        uid = call.container.uid
        with self._caches(call):
            if uid and uid != self._caller[0]:
                self._give(call, call.folders, self._runner)
            try:
                return self._supervise(call, dataclasses.replace(call.container, binds=_binds(call)))
            finally:
                if (uid, call.container.gid) != self._caller or not uid:
                    self._give(call, call.folders, self._caller)
                if (uid, call.container.gid) != self._keeper:
                    self._give(call, call.caches, self._keeper)

    @contextlib.contextmanager
    def _caches(self, call: _Call) -> Iterator[None]:
        """Have the caches belong to whom the command runs as, until it has ended."""
        ours = (call.container.uid, call.container.gid)
        # uid 0 writes to what is anybody's; so does the caller, for whom it is kept.
        plain = not ours[0] or ours == self._caller

        def fits(cache: Path) -> bool:
            return plain or (not self._daemon.rootless and cache.stat().st_uid == ours[0])

        def give(cache: Path) -> None:
            self._give(call, {target: path for target, path in call.caches.items() if path == cache}, self._runner)

        folders, check = call.caches.values(), self._containers.check_stopped
        with caches.in_use(folders, fits=fits, give=give, alone=ours != self._keeper, check=check):
            yield

    def _give(self, call: _Call, folders: Mapping[str, Path], owner: tuple[int, int]) -> None:
        """Change the owner of folders with all that is in them; ids as seen inside."""
        if not folders:
            return
        uid, gid = owner
        if os.geteuid() == 0 and not self._daemon.rootless:
            for folder in folders.values():
                transfer.chown_tree(folder, uid=uid, gid=gid)
            return
        binds = tuple(Bind(source=str(path), target=target) for target, path in folders.items())
        argv = base.chown_argv(tuple(folders), uid=uid, gid=gid)
        helper = self._helper(call, "owner", binds, argv=argv, capabilities=_OWNER_CAPABILITIES)
        with self._containers.created(helper, even_stopped=True) as name:
            self._containers.finish(name)

    # Files by archives

    def _run_sent(self, call: _Call) -> int:
        """Run with everything in volumes of the daemon. A second container is the door to them."""
        container = call.container
        with self._volumes.of_command(container.name, ("/in", "/out", "/work"), self._labels(call.label)) as volumes:
            kept = self._volumes.of_caches(call.caches)
            binds = [Bind(source=name, target=path, volume=True) for path, name in (volumes | kept).items()]
            # Root may write to what others left in a cache; others may not write to what root left there.
            owned = ("/out", "/work", *(kept if container.uid else ()))
            argv = base.chown_argv(owned, uid=container.uid, gid=container.gid)
            helper = self._helper(call, "door", tuple(binds), argv=argv, capabilities=_OWNER_CAPABILITIES)
            with self._containers.created(helper) as door:
                self._send(call, door)
                self._containers.finish(door)
                binds[0] = dataclasses.replace(binds[0], read_only=True)
                return self._supervise_sent(call, dataclasses.replace(container, binds=tuple(binds)), door)

    def _send(self, call: _Call, door: str) -> None:
        uid = call.container.uid
        inputs = [(name, path.resolve()) for name, path in call.mounts.inputs.items()]
        self._client.put_archive(door, "/in", transfer.pack(inputs, uid=uid))
        self._client.put_archive(door, "/out", transfer.pack([(".", call.mounts.output)], uid=uid))

    def _supervise_sent(self, call: _Call, container: Container, door: str) -> int:
        """Run the command and fetch what it left; if it failed, as far as that goes: a guest's console is there."""
        try:
            status = self._supervise(call, container)
        except TimeLimit:
            with contextlib.suppress(*_UNFETCHED):
                self._fetch(call, door)
            raise
        with contextlib.suppress(*(_UNFETCHED if status else ())):
            self._fetch(call, door)
        return status

    def _fetch(self, call: _Call, door: str) -> None:
        with translated("fetching the output", self._endpoint):
            chunks, _ = self._client.get_archive(door, "/out")
            transfer.unpack(chunks, call.mounts.output)

    def _supervise(self, call: _Call, container: Container) -> int:
        return self._containers.supervise(container, what=call.what, log=call.log, timeout_s=call.timeout_s)

    # The end

    def stop(self) -> None:
        """Remove every container of this object, for good: later commands raise Interrupted as well."""
        self._containers.stop()

    def sweep(self, label: str, folder: Path) -> None:
        """Remove the containers and volumes that were left under a label, and reclaim what they wrote.

        What is kept of caches below `folder` goes with it. Raises EngineError.
        """
        with self._containers.session(), translated("removing what was left over", self._endpoint):
            self._containers.sweep(self._labels(label))
            self._volumes.drop_caches(lambda cache: cache.is_relative_to(folder.resolve()))
            if transfer.holds_of_others(folder):
                self._reclaim(folder, label)

    def _reclaim(self, folder: Path, label: str) -> None:
        """Give the caller a folder that containers wrote to, from a container: to the host the files are others'."""
        image = images.any_builder(self._client)
        if image is None:
            raise EngineError(
                f"{folder} has files of other users, and {self.name} has no builder left to give them back with",
                hint=f"Remove it: sudo rm -r {shlex.quote(str(folder))}",
            )
        uid, gid = self._caller
        helper = Container(
            name=_name(label),
            image=image,
            argv=base.chown_argv(("/left",), uid=uid, gid=gid),
            binds=(Bind(source=str(folder.resolve()), target="/left"),),
            tmpfs=(),
            capabilities=_OWNER_CAPABILITIES,
            labels=tuple(self._labels(label).items()),
            host_ids=self._daemon.remapped,
            unlabelled=self._daemon.selinux,
        )
        with self._containers.created(helper) as name:
            self._containers.finish(name)


def _binds(call: _Call) -> tuple[Bind, ...]:
    inputs = [
        Bind(source=str(path.resolve()), target=f"/in/{name}", read_only=True)
        for name, path in call.mounts.inputs.items()
    ]
    writable = [
        Bind(source=str(path.resolve()), target=target) for target, path in (call.folders | call.caches).items()
    ]
    return (*inputs, *writable)


def _name(label: str) -> str:
    return f"osbuilder-{label[:12]}-{secrets.token_hex(6)}"
