"""inv lock, inv fetch: which packages guests are made of, to the byte, and getting them before the network is gone."""

from __future__ import annotations

from typing import Any

from invoke.context import Context

from tasks.common import name_or_path, workbench
from tasks.flags import AGENT, AGENT_OPTION, COMMON, KERNEL, ROOTFS, Flag, command

_WHAT = {name: ROOTFS[name] for name in ("distro", "release", "arch")}
_WHICH = {name: ROOTFS[name] for name in ("package", "feature", "selinux")}


@command(
    _WHAT,
    _WHICH,
    COMMON,
    flags={
        "init": "lock for this one only: systemd or agent (default: for each that the distribution offers)",
        "diff": "write nothing: show what an update of the lock would change",
    },
)
def lock(_: Context, init: str | None = None, diff: bool = False, **given: Any) -> None:
    """Write down which packages a distribution's guests are made of, to the byte, for --locked."""
    with workbench(given["setting"]) as bench:
        from osbuilder.errors import UsageError
        from osbuilder.pid1 import Init
        from osbuilder.request import RootfsRequest, parse_choice

        request = RootfsRequest(
            distro=given["distro"],
            release=given["release"],
            arch=given["arch"],
            init=parse_choice(init, Init, "init") if init else None,
            packages=tuple(given["package"]),
            features=tuple(given["feature"]),
            selinux=given["selinux"],
        )
        if given["dry"] and diff:
            raise UsageError("--dry asks no mirror, and --diff says what they have now", hint="Give one.")
        if given["dry"]:
            print(bench.locks.describe(request))
        elif diff:
            print(bench.locks.difference(request).text())
        else:
            path, written = bench.locks.write(request)
            print(f"{path}: {len(written.packages)} packages")


_FETCHED = {
    **_WHAT,
    "distro": Flag("a distribution with a lock: its packages and builders too (default: a kernel and an agent alone)"),
}


@command(_FETCHED, AGENT, AGENT_OPTION, KERNEL, COMMON, flags={"all": "for every lock of this checkout"})
def fetch(_: Context, all: bool = False, **given: Any) -> None:  # noqa: A002 - the flag is called so
    """Get what builds take from the network into the store: a locked distribution, its agent and a kernel."""
    with workbench(given["setting"]) as bench:
        from osbuilder.agents.pin import AgentOptions
        from osbuilder.errors import UsageError
        from osbuilder.request import AgentRequest, BuildRequest, KernelRequest, RootfsRequest

        which = [f"--{name}" for name in _WHAT if given[name]]
        if all and which:
            raise UsageError(
                f"--all does not go with {' and '.join(which)}",
                hint="It is for every lock of this checkout. Leave it out to name one.",
            )
        if given["release"] and not given["distro"]:
            raise UsageError("--release is a distribution's: name it with --distro")
        agent, options = name_or_path(given["agent"]), AgentOptions.parse(given["agent_option"])
        wanted: list[BuildRequest] = []
        arches = {given["arch"]}
        if all:
            locked = bench.locks.locked_requests(agent, options)
            arches = {each.arch for each in locked}
            wanted += locked
        elif given["distro"] is not None:
            what = {name: given[name] for name in _WHAT}
            wanted.append(RootfsRequest(**what, agent=agent, agent_options=options, locked=True))
        else:
            wanted.append(AgentRequest(agent=agent, arch=given["arch"], agent_options=options))
        wanted += [
            KernelRequest(arch=arch, line=given["kernel"], variant=given["variant"]) for arch in sorted(arches, key=str)
        ]
        if given["dry"]:
            print(bench.locks.describe_fetch(wanted))
        else:
            for ident in bench.locks.fetch(wanted):
                print(f"in the store: {ident}")
