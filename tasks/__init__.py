"""The commands: flags in, one call of osbuilder.api, errors to exit codes. Nothing is decided here."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context

from tasks import distro, kernel, locks
from tasks.checks import test
from tasks.common import make, name_or_path, path_of, paths_of, workbench
from tasks.flags import (
    AGENT,
    AGENT_OPTION,
    ARCH,
    BOOT,
    COMMON,
    DEFAULTS,
    IMAGE,
    INITRD,
    OFFLINE,
    ONE_KERNEL,
    OUTPUT,
    ROOTFS,
    SETTING,
    Table,
    command,
)
from tasks.verify import verify

if TYPE_CHECKING:
    from osbuilder.request import (
        AgentRequest,
        BootRequest,
        BuildRequest,
        ImageRequest,
        InitrdRequest,
        RootfsRequest,
    )


def _rootfs(given: Mapping[str, Any]) -> RootfsRequest:
    """Return the request that the flags of the table ROOTFS make."""
    from osbuilder.agents.pin import AgentOptions
    from osbuilder.pid1 import Init
    from osbuilder.request import RootfsRequest, parse_choice
    from osbuilder.rootfs.archive import Overlay
    from osbuilder.rootfs.trim import Keep

    return RootfsRequest(
        distro=given["distro"],
        release=given["release"],
        arch=given["arch"],
        init=parse_choice(given["init"], Init, "init") if given["init"] else None,
        agent=name_or_path(given["agent"]),
        packages=tuple(given["package"]),
        features=tuple(given["feature"]),
        keep=tuple(parse_choice(group, Keep, "group to keep") for group in given["keep"]),
        without_units=tuple(given["without_unit"]),
        extension=given["extension"],
        selinux=given["selinux"],
        provision=path_of(given["provision"]),
        locked=given["locked"],
        agent_options=AgentOptions.parse(given["agent_option"]),
        modules=path_of(given["modules"]),
        agent_policy=path_of(given["agent_policy"]),
        overlays=tuple(Overlay.parse(text) for text in given["overlay"]),
    )


def _image(given: Mapping[str, Any]) -> ImageRequest:
    """Return the request that the flags of the tables ROOTFS and IMAGE make."""
    from osbuilder.request import Filesystem, ImageRequest

    return ImageRequest(
        rootfs=_rootfs(given),
        filesystem=Filesystem.parse(given["fs"]),
        dax=given["dax"],
        free_space_mib=given["free_space_mib"],
        align_mib=given["align_mib"],
        measured=given["measured"],
        build_variant=given["build_variant"],
    )


def _initrd(given: Mapping[str, Any]) -> InitrdRequest:
    """Return the request that the flags of the tables ROOTFS and INITRD make."""
    from osbuilder.image.initrd import Compression
    from osbuilder.request import InitrdRequest, parse_choice

    compression = parse_choice(given["compression"], Compression, "compression")
    return InitrdRequest(rootfs=_rootfs(given), compression=compression)


def _agent(given: Mapping[str, Any]) -> AgentRequest:
    """Return the request that the flags of the tables AGENT, AGENT_OPTION and ARCH make."""
    from osbuilder.agents.pin import AgentOptions
    from osbuilder.request import AgentRequest

    return AgentRequest(
        agent=name_or_path(given["agent"]),
        arch=given["arch"],
        agent_options=AgentOptions.parse(given["agent_option"]),
    )


def _boot(given: Mapping[str, Any]) -> BootRequest:
    """Return the request that the flags of the table BOOT make."""
    from osbuilder.agents.pin import AgentOptions
    from osbuilder.guest.hotplug import Plug
    from osbuilder.guest.qemu import parse_words
    from osbuilder.guest.ready import Ready
    from osbuilder.guest.spec import USUAL_DEVICES, Device, RootKind
    from osbuilder.image.initrd import Compression
    from osbuilder.request import BootRequest, Filesystem, parse_choice

    compression, root = given["compression"], given["root"]
    return BootRequest(
        image=path_of(given["image"]),
        initrd=path_of(given["initrd"]),
        distro=given["distro"],
        filesystem=Filesystem.parse(given["fs"]) if given["fs"] else None,
        compression=parse_choice(compression, Compression, "compression") if compression else None,
        locked=given["locked"],
        agent=name_or_path(given["agent"]),
        agent_options=AgentOptions.parse(given["agent_option"]),
        ready=Ready.of_flags(given["ready"], given["ready_port"]),
        kernel=name_or_path(given["kernel"]),
        variant=given["variant"],
        fragments=paths_of(given["fragment"]),
        modules=path_of(given["modules"]),
        arch=given["arch"],
        machine=given["machine"],
        root=parse_choice(root, RootKind, "root") if root else None,
        root_hash=path_of(given["root_hash"]),
        memory_mib=given["memory_mib"],
        vcpus=given["vcpus"],
        devices=(*USUAL_DEVICES, *(parse_choice(name, Device, "device") for name in given["device"])),
        plugs=tuple(parse_choice(name, Plug, "plug") for name in given["plug"]),
        append=parse_words(given["append"]),
        timeout_s=given["timeout_s"],
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """What can be built: the request that the flags of its command make, and these flags."""

    request: Callable[[Mapping[str, Any]], BuildRequest]
    flags: Table


_TARGETS: Mapping[str, _Target] = {
    "rootfs": _Target(_rootfs, ROOTFS),
    "image": _Target(_image, {**ROOTFS, **IMAGE}),
    "initrd": _Target(_initrd, {**ROOTFS, **INITRD}),
    "kernel": _Target(kernel.request_of, ONE_KERNEL),
    "agent": _Target(_agent, {**AGENT, **AGENT_OPTION, **ARCH}),
}


@command(ROOTFS, OUTPUT, OFFLINE, COMMON)
def rootfs(_: Context, **given: Any) -> None:
    """Build a root filesystem (a tar) with the agent baked in; --distro all builds every distribution's."""
    with workbench(given["setting"], command="rootfs", given=given) as bench:
        request = _rootfs(given)
        from osbuilder.errors import UsageError
        from osbuilder.everything import ALL

        if request.distro != ALL:
            make(bench, request, output=given["output"], dry=given["dry"])
            return
        if given["output"]:
            raise UsageError(f"--output does not go with --distro {ALL}", hint="Name one distro.")
        if given["dry"]:
            plans = bench.plan_all(request)
            print(plans.text(bench.peek))
            plans.check()
            return
        everything = bench.build_all(request)
        print(everything.table())
        everything.check()


@command(ROOTFS, IMAGE, OUTPUT, OFFLINE, COMMON)
def image(_: Context, **given: Any) -> None:
    """Build a disk image whose root a guest can map with DAX, or verify block by block (--measured)."""
    with workbench(given["setting"], command="image", given=given) as bench:
        make(bench, _image(given), output=given["output"], dry=given["dry"])


@command(ROOTFS, INITRD, OUTPUT, OFFLINE, COMMON)
def initrd(_: Context, **given: Any) -> None:
    """Build an initrd that is the whole guest."""
    with workbench(given["setting"], command="initrd", given=given) as bench:
        make(bench, _initrd(given), output=given["output"], dry=given["dry"])


@command(AGENT, AGENT_OPTION, ARCH, OUTPUT, OFFLINE, COMMON)
def agent(_: Context, **given: Any) -> None:
    """Build the agent alone."""
    with workbench(given["setting"], command="agent", given=given) as bench:
        make(bench, _agent(given), output=given["output"], dry=given["dry"])


@command(BOOT, OFFLINE, COMMON)
def boot(_: Context, **given: Any) -> None:
    """Start a guest and show what it says about itself; fails when it does not say that it is ready."""
    with workbench(given["setting"], given=given) as bench:
        request = _boot(given)
        if given["dry"]:
            print(bench.describe_boot(request))
            return
        outcome = bench.boot(request)
        print(outcome.json() if given["json"] else outcome.table())
        outcome.check()


@command(positional=["file"], flags={"file": "an image, initrd, kernel or rootfs tar", "json": "print JSON"})
def inspect(_: Context, file: str, json: bool = False) -> None:
    """Say what a file is: layout, filesystem, init, kernel notes."""
    with workbench(()) as bench:
        from osbuilder.userpath import parse_path

        print(bench.inspect(parse_path(file, "FILE"), as_json=json))


@command(
    ROOTFS,
    IMAGE,
    INITRD,
    ONE_KERNEL,
    SETTING,
    flags={"target": "rootfs, image, initrd, kernel or agent; flags are those of the command that builds it"},
    positional=["target"],
)
def why(_: Context, target: str, **given: Any) -> None:
    """Say which step of a target would run now, and what changed since it ran last."""
    with workbench(given["setting"], command=target, given=given) as bench:
        from osbuilder.errors import UsageError, suggest

        if target not in _TARGETS:
            raise UsageError(f"unknown target {target!r}", hint=suggest(target, _TARGETS))
        known = {*_TARGETS[target].flags, *SETTING}
        for name, value in given.items():
            if name not in known and value not in (DEFAULTS[name], []):
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is no flag of inv {target}", hint=f"`inv {target} --help` lists them.")
        print(bench.why(_TARGETS[target].request(given)))


@command(SETTING)
def settings(_: Context, setting: Sequence[str] | None = None) -> None:
    """Print each setting, its value and where the value comes from."""
    with workbench(setting) as bench:
        print(bench.list_settings())


@command(flags={"json": "print JSON, with features and with what does not exist and why"})
def distros(_: Context, json: bool = False) -> None:
    """List the distributions: releases, architectures, inits."""
    with workbench(()) as bench:
        print(bench.list_distros(as_json=json))


@command()
def versions(_: Context) -> None:
    """List what versions.yaml pins: kernels, agents, builders."""
    with workbench(()) as bench:
        print(bench.list_versions())


@command(COMMON, flags={"fix": "install what is missing", "yes": "do not ask before"})
def doctor(
    _: Context, fix: bool = False, yes: bool = False, dry: bool = False, setting: Sequence[str] | None = None
) -> None:
    """Check what this machine has, and print (or with --fix run) the commands that mend it."""
    with workbench(setting) as bench:
        checkup = bench.examine()
        print(checkup.table())
        if fix or dry:
            checkup.mend(confirm=None if yes else _ask, dry=dry, say=print)
            if not dry:
                bench.examine().check()
        else:
            checkup.check()


@command(COMMON, flags={"yes": "do not ask before installing what the host lacks"})
def quickstart(_: Context, yes: bool = False, dry: bool = False, setting: Sequence[str] | None = None) -> None:
    """Set up, build a kernel and a Debian image, and boot it with its root mapped: the main job in one command."""
    with workbench(setting) as bench:
        from osbuilder.request import BootRequest

        checkup = bench.examine()
        print(checkup.table())
        checkup.mend(confirm=None if yes else _ask, dry=dry, say=print)
        request = BootRequest(distro="debian")
        if dry:
            print(bench.describe_boot(request))
            return
        bench.examine().check()
        outcome = bench.boot(request)
        print(outcome.table())
        outcome.check()


@command(SETTING, flags={"dry": "only say what would be removed"})
def clean(_: Context, dry: bool = False, setting: Sequence[str] | None = None) -> None:
    """Remove the build folder; the store keeps what was built."""
    with workbench(setting) as bench:
        print(bench.clean(dry=dry))


@command(
    SETTING,
    flags={
        "gc": "remove artifacts that no target's last build needs",
        "verify": "read every artifact and drop the damaged ones",
        "dry": "only say what --gc would remove",
    },
)
def cache(
    _: Context, gc: bool = False, verify: bool = False, dry: bool = False, setting: Sequence[str] | None = None
) -> None:
    """Show what the store holds, or tidy it."""
    with workbench(setting) as bench:
        from osbuilder.errors import UsageError

        if verify and dry:
            raise UsageError("--dry says what --gc would remove, and --verify drops what is damaged", hint="Give one.")
        print(bench.cache(collect=gc, verify=verify, dry=dry))


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        print(f"{question} Not a terminal: nobody to ask. Give --yes to go ahead.")
        return False
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:  # Ctrl-D
        print()
        return False
    return answer.strip().lower() in ("y", "yes")


namespace = Collection.from_module(sys.modules[__name__])
namespace.add_collection(distro.commands)
namespace.add_task(locks.lock)
namespace.add_task(locks.fetch)
namespace.add_task(verify)
namespace.add_task(test)
namespace.add_collection(kernel.commands)
