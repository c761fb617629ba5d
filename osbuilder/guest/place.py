"""Where QEMU runs: a program of this host, or in a builder on any engine. Each place has names of its own for files."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path, PurePath
from typing import Final, Protocol

from osbuilder.engine.base import Builder, Command, Engine, Mounts, log_tail
from osbuilder.errors import CommandFailed, TimeLimit
from osbuilder.guest import shares

KVM: Final = Path("/dev/kvm")


class Names(Protocol):
    """What files are called where QEMU runs."""

    def input(self, path: Path) -> PurePath:
        """Return what a file of this host is called there."""

    def output(self, name: str) -> PurePath:
        """Return what a file that QEMU writes is called there."""


class Place(Names, Protocol):
    """Where QEMU runs: it sees this host's files under names of its own. Its outputs are in `folder` here."""

    @property
    def folder(self) -> Path:
        """Where outputs appear on this host."""

    def run(self, argv: tuple[str, ...], *, kvm: bool, timeout_s: float) -> None:
        """Run QEMU to its end. Raises CommandFailed, TimeLimit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostPlace:
    """QEMU as a program of this host."""

    folder: Path

    def input(self, path: Path) -> PurePath:
        return path.absolute()

    def output(self, name: str) -> PurePath:
        return self.folder / name

    def run(self, argv: tuple[str, ...], *, kvm: bool, timeout_s: float) -> None:  # noqa: ARG002 - a host has its devices
        log = self.folder / "qemu.log"
        with log.open("ab") as stream:
            # A session of its own, so that Ctrl-C is told to us and not to QEMU.
            process = subprocess.Popen(
                # setpriv: QEMU ends with us, however we end.
                ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--", *argv),
                env={"PATH": shares.HOST_PATH},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise TimeLimit(f"{argv[0]} took longer than {timeout_s:g} s") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if status:
            raise CommandFailed(f"{argv[0]} exited with status {status}", status=status, tail=log_tail(log))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuilderPlace:
    """QEMU in a builder."""

    engine: Engine
    builder: Builder
    folder: Path
    label: str
    inputs: dict[str, Path] = dataclasses.field(default_factory=dict)

    def input(self, path: Path) -> PurePath:
        name = f"{len(self.inputs)}-{path.name.replace(',', '_')}"
        self.inputs[name] = path.resolve()
        return PurePath("/in") / name

    def output(self, name: str) -> PurePath:
        return PurePath("/out") / name

    def run(self, argv: tuple[str, ...], *, kvm: bool, timeout_s: float) -> None:
        with tempfile.TemporaryDirectory(prefix="work-", dir=self.folder) as work:
            self.engine.run(
                self.builder,
                Command(argv=argv),
                Mounts(inputs=self.inputs, output=self.folder, work=Path(work)),
                log=self.folder / "qemu.log",
                label=self.label,
                devices=(str(KVM),) if kvm else (),
                timeout_s=timeout_s,
            )


class Nowhere:
    """A place that is no host's."""

    def input(self, path: Path) -> PurePath:
        return PurePath("/in") / path.name

    def output(self, name: str) -> PurePath:
        return PurePath("/out") / name


@functools.cache
def host_version(program: str) -> str:
    """Return the version of this host's QEMU of that name, as it says it itself. Raises OSError, CalledProcessError."""
    said = subprocess.run((program, "--version"), env={"PATH": shares.HOST_PATH}, capture_output=True, check=True)
    return said.stdout.decode("utf-8", "replace").partition("\n")[0].removeprefix("QEMU emulator version ")


def host_qemu(program: str) -> bool:
    """Whether this host has a QEMU of that name."""
    return shutil.which(program, path=shares.HOST_PATH) is not None
