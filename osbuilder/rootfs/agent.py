"""The program that a guest is run for: the probe, compiled in a builder, or any file that a user brings.

Either leaves one file called `agent`. Whether it can start in a certain root filesystem is checked by rootfs.check.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.arch import ARCHES, Arch
from osbuilder.engine.base import Command
from osbuilder.errors import UsageError, VerificationError
from osbuilder.rootfs.elf import Elf, parse_elf
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

AGENT: Final = "agent"

VERSION: Final = "version"
"""The file that says which version an agent is, where only its source knew."""

# It becomes a program's name, a unit's, and a word of the unit's ExecStart (systemd.unit(5), systemd.service(5)).
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_COMPILE: Final = (
    *("-std=gnu11", "-D_GNU_SOURCE", "-Os", "-Wall", "-Wextra", "-Werror", "-static"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    # Nothing of the build reaches the file: no path, no identifier, no symbol.
    *("-ffile-prefix-map=/in/source=.", "-Wl,--build-id=none", "-s"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuildProbe:
    """Compile the probe agent, static, for one architecture, without a network.

    `sources` are (name, sha256 in hex) of the files in `folder` on this host; the .c files among them are compiled.
    """

    arch: str
    sources: tuple[tuple[str, str], ...]
    folder: Path = dataclasses.field(metadata=NOT_IN_KEY)

    @classmethod
    def of_folder(cls, folder: Path, arch: Arch) -> BuildProbe:
        """Return the action for the sources in a folder (agents/probe). Raises UsageError when there are none."""
        paths = sorted(path for path in folder.glob("*.[ch]") if path.is_file())
        if not paths:
            raise UsageError(f"no sources of an agent ({folder}): expected *.c and *.h, found none")
        sources = tuple((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths)
        return cls(arch=arch.name, sources=sources, folder=folder)

    def describe(self) -> tuple[str, ...]:
        return (shlex.join(self._command().argv),)

    def run(self, job: Job) -> Mapping[str, Json]:
        copies = job.work / "source"
        copies.mkdir()
        for name, sha256 in self.sources:
            copy_verified(self.folder / name, copies / name, sha256)
        job.run(self._command(), inputs={"source": copies})
        checked(job.out / AGENT, ARCHES[self.arch])
        return {"size_bytes": (job.out / AGENT).stat().st_size}

    def _command(self) -> Command:
        compiled = tuple(f"/in/source/{name}" for name, _ in self.sources if name.endswith(".c"))
        return Command(argv=(f"{ARCHES[self.arch].triplet}-gcc", *_COMPILE, "-o", f"/out/{AGENT}", *compiled))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentFile:
    """Take the agent from a file of this host; `sha256` (hex) is what it holds."""

    sha256: str
    arch: str
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)

    @classmethod
    def of_path(cls, path: Path, arch: Arch) -> AgentFile:
        """Return the action for a file. Raises UsageError for one that is missing or cannot run on `arch`."""
        checked(path, arch)
        return cls(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), arch=arch.name, path=path)

    def describe(self) -> tuple[str, ...]:
        return (f"copy {self.path} (sha256 {self.sha256})",)

    def run(self, job: Job) -> Mapping[str, Json]:
        copy_verified(self.path, job.out / AGENT, self.sha256)
        elf = checked(job.out / AGENT, ARCHES[self.arch])
        return {"size_bytes": (job.out / AGENT).stat().st_size, "interpreter": elf.interpreter}


def is_name(text: str) -> bool:
    """Whether an agent can be called so."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str, origin: str) -> None:
    """Refuse what no agent can be called; `origin` is what --agent gives. Raises UsageError."""
    if not is_name(name):
        raise UsageError(
            f"--agent {origin}: the agent's file names a program and a unit in the guest: expected letters, digits, "
            f"dots, underscores and hyphens, a letter or digit first, got {name!r}",
            hint="Rename the file.",
        )


def describe_machine(elf: Elf) -> str:
    """Return an architecture's name for what an ELF header says, or its bare numbers."""
    for arch in ARCHES.values():
        if fits(elf, arch):
            return arch.name
    order = "little" if elf.little_endian else "big"
    return f"ELF machine {elf.machine}, {elf.bits} bits, {order} endian"


def fits(elf: Elf, arch: Arch) -> bool:
    """Whether an executable is one for that architecture."""
    return (elf.machine, elf.bits, elf.little_endian) == (arch.elf_machine, arch.elf_class, arch.elf_little_endian)


def checked(path: Path, arch: Arch) -> Elf:
    """Return the header of an agent's file. Raises UsageError naming what it is instead."""
    hint = "Name an executable built for the guest (--agent)."
    if not path.exists():
        raise UsageError(f"no such agent ({path})", hint=hint)
    if path.is_dir():
        raise UsageError(
            f"the agent is a folder ({path}): expected a file", hint=f"{hint} A container image: --agent oci:{path}"
        )
    if not path.is_file():
        raise UsageError(f"the agent is not a regular file ({path})", hint=hint)
    try:
        elf = parse_elf(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the agent ({path}): {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the agent cannot be used ({path}): expected an executable, got {error}", hint=hint) from None
    if not fits(elf, arch):
        raise UsageError(
            f"the agent is for another architecture ({path}): expected {arch.name}, got {describe_machine(elf)}",
            hint=f"Build it for {arch.name}, or name its own architecture (--arch).",
        )
    return elf


def copy_verified(source: Path, destination: Path, sha256: str) -> None:
    """Copy a file of the user's that was looked at before. Raises VerificationError when it is another one now."""
    try:
        shutil.copyfile(source, destination)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error
    with destination.open("rb") as copy:
        got = hashlib.file_digest(copy, "sha256").hexdigest()
    if got != sha256:
        raise VerificationError(
            f"{source} changed during the build: expected sha256 {sha256}, got {got}", hint="Build again."
        )
