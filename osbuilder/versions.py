"""versions.yaml as types: every pin of the project. Refuses what it does not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from osbuilder import decode
from osbuilder.errors import UsageError, suggest
from osbuilder.kernel.source import KernelLine

FILE: Final = "versions.yaml"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a request means when it does not say: names of kernels and agents."""

    kernel: str
    agent: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuilderPin:
    """A builder: a Debian suite, and the packages on top of its smallest system."""

    suite: str
    packages: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentPin:
    """An agent that is built from a folder of this repository; `install` is its file's name in /usr/bin."""

    source: str
    install: str


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
    """Return the pins of a checkout. Raises DecodeError naming file:line."""
    return decode.load(root / FILE, Versions)


def _find(pins: Mapping[str, T], name: str, what: str) -> T:
    try:
        return pins[name]
    except KeyError:
        raise UsageError(f"unknown {what} {name!r}", hint=suggest(name, pins)) from None
