"""One running bwrap(1): started, given its id map, waited for, killed with everything in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from osbuilder.engine import namespaces
from osbuilder.engine.base import log_tail
from osbuilder.errors import EngineError, ToolMissing

INSTALL_HINT: Final = "sudo apt-get install bubblewrap uidmap"
_KILL_WAIT_S: Final = 10
_SETUP_HINT: Final = "`inv doctor` says what the sandbox needs on this machine."


class Process:
    """A sandbox that runs. Make one with `started`, which ends it on leaving."""

    def __init__(self, bwrap: subprocess.Popen[bytes], status: IO[bytes], log: Path) -> None:
        self._bwrap = bwrap
        self._status = status
        self._log = log
        self._child = 0

    @classmethod
    @contextlib.contextmanager
    def started(cls, argv: Sequence[str], log: Path, *, full_map: bool) -> Iterator[Process]:
        """Start `argv` (a bwrap line) with its output appended to `log`.

        With `full_map` the sandbox waits until its user namespace has the map of namespaces.root_map. Raises
        EngineError if the sandbox cannot be set up, ToolMissing without bwrap or newuidmap.
        """
        ranges = namespaces.own_ranges() if full_map else None
        with contextlib.ExitStack() as stack:
            status, status_end = _pipe(stack)
            gate, gate_end = _pipe(stack)
            control = ["--json-status-fd", str(status_end.fileno())]
            output = stack.enter_context(log.open("ab"))
            nowhere = stack.enter_context(Path(os.devnull).open("wb"))
            if full_map:
                # bwrap blocks only for those who ask for --info-fd, though the status tells the same.
                control += ["--userns-block-fd", str(gate.fileno()), "--info-fd", str(nowhere.fileno())]
            try:
                bwrap = subprocess.Popen(
                    [argv[0], *control, *argv[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(status_end.fileno(), gate.fileno(), nowhere.fileno()),
                    start_new_session=True,
                    umask=0o022,
                    env={},
                )
            except FileNotFoundError as error:
                raise ToolMissing(f"{argv[0]} is missing", hint=INSTALL_HINT) from error
            process = cls(bwrap, status, log)
            try:
                status_end.close()
                gate.close()
                process._read_child()
                if full_map:
                    namespaces.write_maps(process._child, ranges)
                    gate_end.write(b"\n")
                gate_end.close()
                yield process
            finally:
                process.kill()

    def _read_child(self) -> None:
        line = self._status.readline()
        if not line:
            self._bwrap.wait()
            raise self._setup_failed()
        self._child = int(json.loads(line)["child-pid"])

    def poll(self, timeout_s: float | None) -> int | None:
        """Return the command's exit status once it has one, None if it still runs after `timeout_s`.

        Raises EngineError if the sandbox failed before the command began.
        """
        try:
            code = self._bwrap.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if code < 0:
            return 128 - code
        told = [json.loads(line) for line in self._status.read().splitlines()]
        if not any("exit-code" in each for each in told):
            raise self._setup_failed()
        return code

    def kill(self) -> None:
        """End the sandbox and everything in it; nothing happens if it has ended."""
        if self._bwrap.poll() is None and self._child:
            # PID 1 of the sandbox: with it the kernel kills all the others.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        try:
            self._bwrap.wait(_KILL_WAIT_S if self._child else 0)
        except subprocess.TimeoutExpired:
            self._bwrap.kill()
            self._bwrap.wait()

    def _setup_failed(self) -> EngineError:
        said = log_tail(self._log, lines=1).removeprefix("bwrap: ")
        return EngineError(f"the sandbox cannot be set up: {said}", hint=_SETUP_HINT)


def kill_left(folder: Path) -> None:
    """Kill each bwrap that was given something of `folder`, in which nobody works any more.

    The kernel ends a sandbox with its parent, but for the moments before its first process has asked for that: one that
    loses its parent there waits for ever.
    """
    given = folder.resolve()
    for process in Path("/proc").glob("[0-9]*"):
        if _is_given(process, given):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


def _is_given(process: Path, folder: Path) -> bool:
    """Return whether a folder of /proc is a bwrap's, with `folder` or something below it among its arguments."""
    try:
        argv = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
    except OSError:
        return False
    return Path(argv[0]).name == "bwrap" and any(Path(word).is_relative_to(folder) for word in argv[1:])


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    source = stack.enter_context(os.fdopen(reading, "rb"))
    return source, stack.enter_context(os.fdopen(writing, "wb", buffering=0))
