"""The sandbox: commands in namespaces of this host, with bubblewrap, in an unpacked builder. No daemon, no privileges.

A command without root sees itself as NOBODY_UID, which is the caller outside. A command with root is uid 0 of a user
namespace with a full map of ids (subordinate ids of the caller; root of this host maps ids to themselves) and
base.ROOT_CAPABILITIES in it. Either way it can do to the host what the caller can do to the mounted folders, no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from osbuilder.engine import base, caches
from osbuilder.engine import trees as builder_trees
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.bubblewrap import Process, kill_left
from osbuilder.engine.transfer import chown_tree, holds_of_others
from osbuilder.errors import EngineError, Interrupted, TimeLimit

_POLL_S: Final = 0.5

# The kernel lets the host's uid 0 write these without any capability: core_pattern would lead out of the sandbox.
_READ_ONLY_PROC: Final = ("/proc/sys", "/proc/sysrq-trigger")


class SandboxEngine:
    """engine.base.Engine without a daemon. `trees` is the folder that builders are unpacked in."""

    def __init__(self, *, trees: Path, proxies: Mapping[str, str] | None = None, bwrap: str = "bwrap") -> None:
        self._trees = trees
        self._proxies = dict(proxies or {})
        self._bwrap = bwrap
        self._lock = threading.RLock()
        self._running: set[Process] = set()
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        """sandbox."""
        return "sandbox"

    def prepare(self, builder: Builder) -> None:
        """Unpack the builder unless it is there. Raises EngineError."""
        builder_trees.ensure_tree(self._trees, builder)

    def sweep(self, label: str, folder: Path) -> None:  # noqa: ARG002 - a sandbox has no label
        """End what was left half set up for `folder`, and give the caller what is below it."""
        kill_left(folder)
        if holds_of_others(folder):
            self._reclaim(folder)

    def _reclaim(self, folder: Path) -> None:
        """Give the calling user a folder in which files belong to subordinate ids of theirs.

        Raises EngineError, and ToolMissing without bwrap or newuidmap.
        """
        argv = [self._bwrap, "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--unshare-net"]
        argv += ["--die-with-parent", "--cap-drop", "ALL", "--cap-add", "CAP_CHOWN", "--cap-add", "CAP_DAC_READ_SEARCH"]
        argv += ["--ro-bind", "/", "/", "--bind", str(folder), str(folder)]
        chown = Command(argv=base.chown_argv((str(folder),), uid=0, gid=0), root=True)
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "log"
            with Process.started((*argv, *base.exec_argv(chown, proxies={})), log, full_map=True) as process:
                status = process.poll(None)
            if status:
                raise EngineError(f"{folder} cannot be given back to its owner: {base.log_tail(log, lines=1)}")

    def stop(self) -> None:
        """Kill every command of this object, for good: later commands raise Interrupted as well."""
        self._stopped.set()
        with self._lock:
            running = tuple(self._running)
        for process in running:
            process.kill()

    def run(
        self,
        builder: Builder,
        command: Command,
        mounts: Mounts,
        *,
        log: Path,
        label: str,  # noqa: ARG002 - it is found again by its folders
        devices: tuple[str, ...] = (),
        timeout_s: float | None = None,
    ) -> None:
        """Run a command in a sandbox, to its end. See engine.base.Engine."""
        self._check_stopped()
        if not self._tree(builder).is_dir():
            raise EngineError(f"builder {builder.name} is not prepared in the sandbox")
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=mounts.work, ignore_cleanup_errors=True) as scratch:
            mounts = dataclasses.replace(mounts, work=Path(scratch))
            _make_mount_points(self._tree(builder), command.tmpfs)
            argv = self._argv(builder, command, mounts, devices)
            with self._caches(mounts, alone=command.root):
                try:
                    inner = base.exec_argv(command, proxies=self._proxies)
                    status = self._supervise((*argv, *inner), command, log, timeout_s)
                finally:
                    if command.root:
                        self._give_back(builder, mounts, log)
            self._check_stopped()
        if status:
            raise base.command_failed(command.argv, f"builder {builder.name}", status=status, log=log)

    def repeat_line(self, builder: Builder, command: Command, mounts: Mounts, *, devices: tuple[str, ...] = ()) -> str:
        """Return the bwrap line that runs the command again; as root for an ordinary user under unshare(1)."""
        argv = [*self._argv(builder, command, mounts, devices), *base.exec_argv(command, proxies=self._proxies)]
        if command.root:
            argv = ["unshare", "--user", "--map-root-user", "--map-auto", *argv]
            argv.remove("--unshare-user")
        return shlex.join(argv)

    def _tree(self, builder: Builder) -> Path:
        return self._trees / builder.sha256

    def _argv(self, builder: Builder, command: Command, mounts: Mounts, devices: tuple[str, ...]) -> tuple[str, ...]:
        uid = "0" if command.root else str(base.NOBODY_UID)
        argv = [self._bwrap, "--unshare-user", "--uid", uid, "--gid", uid, "--unshare-ipc", "--unshare-pid"]
        argv += [
            "--unshare-uts",
            "--unshare-cgroup-try",
            "--hostname",
            base.HOSTNAME,
            "--die-with-parent",
            "--new-session",
        ]
        argv += [] if command.network else ["--unshare-net"]
        argv += ["--cap-drop", "ALL"]
        if command.root:
            argv += [word for name in base.ROOT_CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
        argv += ["--ro-bind", str(self._tree(builder)), "/", "--proc", "/proc", "--dev", "/dev"]
        argv += [word for path in _READ_ONLY_PROC for word in ("--ro-bind-try", path, path)]
        for path in (*base.SCRATCH, *command.tmpfs):
            argv += ["--perms", "1777", "--tmpfs", path]
        for path in devices:
            argv += ["--dev-bind", path, path]
        argv += self._mount_argv(mounts)
        if command.network:
            for name in ("/etc/resolv.conf", "/etc/hosts"):
                argv += ["--ro-bind-try", os.path.realpath(name), name]
        return (*argv, "--chdir", command.workdir)

    def _mount_argv(self, mounts: Mounts) -> list[str]:
        argv: list[str] = []
        for root, binding, paths in (("/in", "--ro-bind", mounts.inputs), ("/cache", "--bind", mounts.caches)):
            argv += ["--tmpfs", root]
            for name, path in sorted(paths.items()):
                argv += [binding, str(path.resolve()), f"{root}/{name}"]
            argv += ["--remount-ro", root]
        return [*argv, "--bind", str(mounts.output.resolve()), "/out", "--bind", str(mounts.work.resolve()), "/work"]

    @contextlib.contextmanager
    def _caches(self, mounts: Mounts, *, alone: bool) -> Iterator[None]:
        def fits(cache: Path) -> bool:
            return os.geteuid() != 0 or not cache.stat().st_uid

        def give(cache: Path) -> None:
            chown_tree(cache, uid=0, gid=0)

        with caches.in_use(mounts.caches.values(), fits=fits, give=give, alone=alone, check=self._check_stopped):
            yield

    def _give_back(self, builder: Builder, mounts: Mounts, log: Path) -> None:
        """Make the caller, uid 0 inside, the owner of what a command left, even where it failed or was stopped."""
        folders = ("/out", "/work", *(f"/cache/{name}" for name in sorted(mounts.caches)))
        chown = Command(argv=base.chown_argv(folders, uid=0, gid=0), root=True)
        argv = self._argv(builder, chown, mounts, ())
        with Process.started((*argv, *base.exec_argv(chown, proxies={})), log, full_map=True) as process:
            status = process.poll(None)
        if status:
            raise EngineError(f"the sandbox could not change the owner of the output: chown exited {status}")

    def _supervise(self, argv: tuple[str, ...], command: Command, log: Path, timeout_s: float | None) -> int:
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        with Process.started(argv, log, full_map=command.root) as process, self._registered(process):
            while (status := process.poll(_POLL_S)) is None:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeLimit(f"{command.argv[0]} took longer than {timeout_s:g} s", hint=f"See {log}.")
            return status

    @contextlib.contextmanager
    def _registered(self, process: Process) -> Iterator[None]:
        with self._lock:
            self._running.add(process)
        try:
            self._check_stopped()
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("stopped")


def _make_mount_points(tree: Path, paths: tuple[str, ...]) -> None:
    """Make folders in a tree that something can be mounted on. Raises EngineError for one that a link leads outside."""
    for path in paths:
        folder = tree / path.lstrip("/")
        if not folder.resolve().is_relative_to(tree.resolve()):
            raise EngineError(f"cannot mount on {path}: a link in the builder leads outside of it")
        folder.mkdir(parents=True, exist_ok=True)
