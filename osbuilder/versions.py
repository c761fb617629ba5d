"""versions.yaml as types: every pin of the project. Refuses what it does not know."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from osbuilder import decode
from osbuilder.agents.pin import AgentPin
from osbuilder.arch import Arch
from osbuilder.errors import DecodeError, UsageError, suggest
from osbuilder.kernel.source import KernelLine

FILE: Final = "versions.yaml"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a request means when it does not say: names of kernels and agents."""

    kernel: str
    agent: str


class ForGuest(enum.Enum):
    """What a builder needs besides, by the architecture of the guests that it works for; arch.py names the packages."""

    CROSS_COMPILER = "cross-compiler"  # where that is not the host's
    QEMU = "qemu"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuilderPin:
    """A builder: a Debian suite, the packages on top of its smallest system, and those that depend on the guest.

    There is a builder for each architecture of guests that makes a difference, so that nobody downloads four compilers
    to use one.
    """

    suite: str
    packages: tuple[str, ...] = ()
    for_guest: ForGuest | None = dataclasses.field(default=None, metadata={"key": "for-guest"})

    def packages_for(self, guest: Arch, *, host: Arch) -> tuple[str, ...]:
        """Return the packages that come on top for guests of an architecture, in a builder that runs on `host`."""
        if self.for_guest is ForGuest.QEMU:
            return guest.qemu_packages
        if self.for_guest is ForGuest.CROSS_COMPILER and guest is not host:
            return guest.cross_packages
        return ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """All of versions.yaml."""

    defaults: Defaults
    builders: Mapping[str, BuilderPin]
    kernels: Mapping[str, KernelLine]
    agents: Mapping[str, AgentPin]

    def __post_init__(self) -> None:
        self.kernel(self.defaults.kernel)
        self.agent(self.defaults.agent)

    def builder(self, name: str) -> BuilderPin:
        """Return a builder. Raises UsageError with a suggestion."""
        return _find(self.builders, name, "builder")

    def kernel(self, name: str) -> KernelLine:
        """Return a kernel line. Raises UsageError with a suggestion."""
        return _find(self.kernels, name, "kernel")

    def agent(self, name: str) -> AgentPin:
        """Return an agent. Raises UsageError with a suggestion."""
        return _find(self.agents, name, "agent")


def load_versions(root: Path) -> Versions:
    """Return the pins of a checkout. Raises DecodeError naming file:line.

    A kernel line is refused that could be taken for a variant, or for LINE/VARIANT: commands take all three.
    """
    path = root / FILE
    versions = decode.load(path, Versions)
    variants = {folder.name for folder in (root / "kernel" / "configs" / "variant").glob("*")}
    for name in versions.kernels:
        if "/" in name or name in variants:
            what = "a name without a slash" if "/" in name else "another name than that of a kernel variant"
            raise DecodeError(
                f"{path}:{_line_of(path, 'kernels', name)}: kernels.{name}: expected {what}",
                hint=f"Who names the kernel {name} may mean either: give the line another name.",
            )
    return versions


def _line_of(path: Path, section: str, name: str) -> int:
    """Return the number of the line where a key of a section stands, in a file that was read before."""
    root: Any = yaml.compose(path.read_text("utf-8-sig"))
    lines = next(node for key, node in root.value if key.value == section)
    line: int = next(key.start_mark.line for key, _ in lines.value if key.value == name)
    return line + 1


def _find(pins: Mapping[str, T], name: str, what: str) -> T:
    try:
        return pins[name]
    except KeyError:
        raise UsageError(f"unknown {what} {name!r}", hint=suggest(name, pins)) from None
