"""What an engine is: the place where commands run, inside a builder, without privileges on the host.

A builder is a root filesystem full of pinned tools; an engine runs one command in it. Every engine shows the command
the same world, so the same builder gives the same bytes under any of them:

    /           the builder's tree, read-only
    /in/NAME    one input file or folder each, read-only
    /out        the only folder that outlives the command
    /cache/NAME folders kept between builds (ccache); never an input of the result
    /work       scratch on disk, gone afterwards
    /tmp /run /var/tmp /dev/shm   tmpfs, and what Command.tmpfs names

with the environment of `fixed_environment`, no network unless the command names it, and always removed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from osbuilder.errors import CommandFailed, EngineError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process in a builder.

    `argv` is exec'd as it is (no shell). `root` runs it as uid 0 of the builder with the capabilities that a container
    has by default (never CAP_SYS_ADMIN); otherwise it runs as an ordinary user with none. `tmpfs` are further mount
    points of writable memory. `stdin` is not offered: it is /dev/null. `env` is added to `fixed_environment`.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/work"
    root: bool = False
    network: bool = False
    tmpfs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A builder to run in: its root filesystem as a tar on this host, and the sha256 of that tar (hex)."""

    name: str
    tar: Path
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """Host paths that a command sees. `inputs` and `caches` are keyed by NAME (see the module's table).

    `work` is a folder on this host in which the engine makes (and removes) a scratch folder for the command; `output`
    takes what the command leaves in /out, owned by the user who runs osbuilder.
    """

    inputs: Mapping[str, Path]
    output: Path
    work: Path
    caches: Mapping[str, Path] = dataclasses.field(default_factory=dict)


class Engine(Protocol):
    """Runs commands in builders. Implementations: engine.docker (Docker, Podman), engine.sandbox (namespaces)."""

    @property
    def name(self) -> str:
        """docker, podman or sandbox: for people, never part of a key."""

    def prepare(self, builder: Builder) -> None:
        """Make the builder ready to run in (import, unpack); idempotent, safe when several processes do it at once.

        Raises EngineError.
        """

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
        """Run a command to its end; stdout and stderr are appended to `log` as they come.

        `label` ties what the engine creates to its step, so that `sweep(label)` can remove what a killed process left.
        `devices` are host device nodes shown at the same path (only /dev/kvm is ever asked for).
        Raises CommandFailed (exit status and the log's tail) or EngineError (the engine itself went away, or the
        time limit passed).
        """

    def sweep(self, label: str, folder: Path) -> None:
        """Remove everything that a dead process left under that label.

        What its commands wrote below `folder` of this host belongs to the caller then. Raises EngineError.
        """

    def stop(self) -> None:
        """Stop every command that this object runs, from any thread; their `run` calls raise Interrupted."""

    def repeat_line(self, builder: Builder, command: Command, mounts: Mounts, *, devices: tuple[str, ...] = ()) -> str:
        """Return a line for a shell that runs the command again by hand, as far as its mounts still exist."""


# What a package manager needs to unpack and configure into a folder as uid 0, and no more: Docker's default set without
# NET_BIND_SERVICE, NET_RAW, AUDIT_WRITE and SETPCAP. MKNOD is refused by the kernel in a user namespace; mmdebstrap
# then writes /dev into its tar by itself, with the same bytes.
ROOT_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "SETFCAP",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
)

HOSTNAME = "builder"

# Whom a command without root runs as, where the caller's own uid would mean uid 0 inside.
NOBODY_UID = 1000

SCRATCH = ("/tmp", "/run", "/var/tmp", "/dev/shm")  # noqa: S108 - mount points in the builder


def exec_argv(command: Command, *, proxies: Mapping[str, str]) -> tuple[str, ...]:
    """Return the argv that every engine starts: the command under `env -i` with its whole environment spelled out.

    Docker adds HOSTNAME, Podman `container` and its service's proxies, bwrap PWD; env(1) takes them away again.
    """
    environment = fixed_environment(command, proxies=proxies)
    return ("/usr/bin/env", "-i", *(f"{key}={environment[key]}" for key in sorted(environment)), *command.argv)


def chown_argv(folders: tuple[str, ...], *, uid: int, gid: int) -> tuple[str, ...]:
    """Return the find(1) argv that gives folders of the builder to an owner; ids as seen inside, links not followed."""
    return ("/usr/bin/find", *folders, "-exec", "chown", "-h", f"{uid}:{gid}", "{}", "+")


def command_failed(argv: tuple[str, ...], where: str, *, status: int, log: Path) -> CommandFailed:
    """Return the exception for a command that exited non-zero; `where` names its builder or image."""
    hint = "137 is SIGKILL: most often the machine ran out of memory." if status == _KILLED_STATUS else ""
    return CommandFailed(
        f"{argv[0]} exited with status {status} ({where}, log {log})", status=status, tail=log_tail(log), hint=hint
    )


def damaged(builder: Builder, sha256: str) -> EngineError:
    """Return the exception for a builder whose tar is not what its checksum says."""
    return EngineError(
        f"builder {builder.name} is damaged ({builder.tar}): expected sha256 {builder.sha256}, got {sha256}",
        hint="Remove it from the store (`inv cache --verify`) and build again.",
    )


_KILLED_STATUS = 128 + 9


def fixed_environment(command: Command, *, proxies: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a command: fixed values, proxies only where there is a network, its own last."""
    environment = {
        "HOME": "/tmp",  # noqa: S108 - the builder's own tmpfs
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TZ": "UTC",
    }
    if command.network:
        environment.update(proxies)
    environment.update(command.env)
    return environment


def log_tail(log: Path, *, lines: int = 40, limit_bytes: int = 16384) -> str:
    """Return the last lines of a log as text; empty if there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - limit_bytes))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
