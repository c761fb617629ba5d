"""/var/lib/osbuilder/osbuilder.yaml: what a guest's root says of itself, format 0.0.2. kata-collect-data reads it.

Written out rather than dumped: others parse it line by line, so its order, quotes and indentation are kept.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Final

from osbuilder import __version__
from osbuilder.arch import Arch
from osbuilder.pid1 import Init
from osbuilder.tree import Tree

PATH: Final = "var/lib/osbuilder/osbuilder.yaml"
FORMAT_VERSION: Final = "0.0.2"
URL: Final = ""  # this project has no public address yet; the key stays, for readers that expect it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentName:
    """The agent by the name of its file in /usr/bin, its version, and where it is published ("" if nowhere).

    Name and version are "" as long as only what makes the agent knows them.
    """

    name: str
    version: str
    url: str = ""

    @property
    def path(self) -> str:
        """Where it is installed in the guest."""
        return f"/usr/bin/{self.name}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The distribution below: its name, its release as Kata's "version", and what was installed of it."""

    name: str
    release: str
    default_packages: tuple[str, ...]
    extra_packages: tuple[str, ...]


NO_AGENT: Final = AgentName(name="", version="")
"""What stands for the agent in a tree that has none."""


def base_of(tree: Tree) -> Base:
    """Return what a tree says of itself (os-release(5)); nothing of its packages."""
    found: dict[str, str] = {}
    for path in ("etc/os-release", "usr/lib/os-release"):
        if tree.exists(path) and not found:
            lines = tree.read_bytes(path).decode("utf-8", "replace").splitlines()
            words = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
            found = {name.strip(): value.strip().strip("\"'") for name, _, value in words}
    release = found.get("VERSION_ID") or found.get("VERSION_CODENAME") or ""
    return Base(name=found.get("ID", "linux"), release=release, default_packages=(), extra_packages=())


def render_summary(*, base: Base, arch: Arch, agent: AgentName, init: Init | None, epoch: int) -> str:
    """Return the text of the file. `epoch` (seconds since 1970) stands for the time of creation."""
    created = time.strftime("%Y-%m-%dT%H:%M:%S.000000000+0000Z", time.gmtime(epoch))
    return "\n".join(
        (
            "---",
            "osbuilder:",
            f"  url: {_text(URL)}",
            f"  version: {_text(__version__)}",
            f"rootfs-creation-time: {_text(created)}",
            'description: "osbuilder rootfs"',
            f"file-format-version: {_text(FORMAT_VERSION)}",
            f"architecture: {_text(arch.name)}",
            "base-distro:",
            f"  name: {_text(base.name)}",
            f"  version: {_text(base.release)}",
            "  packages:",
            *_listed("default", base.default_packages),
            *_listed("extra", base.extra_packages),
            "agent:",
            f"  url: {_text(agent.url)}",
            f"  name: {_text(agent.name)}",
            f"  version: {_text(agent.version)}",
            f"  agent-is-init-daemon: {_text('yes' if init is Init.AGENT else 'no')}",
            "",
        )
    )


def _listed(name: str, packages: tuple[str, ...]) -> tuple[str, ...]:
    if not packages:
        return (f"    {name}: []",)
    return (f"    {name}:", *(f"      - {_text(package)}" for package in packages))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a YAML double-quoted scalar has JSON's escapes
