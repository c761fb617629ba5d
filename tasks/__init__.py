"""The commands: flags in, one call of osbuilder.api, errors to exit codes. Nothing is decided here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context

from tasks import distro, kernel, locks
from tasks.checks import test
from tasks.common import make, workbench
from tasks.flags import (
    AGENT,
    AGENT_OPTION,
    ARCH,
    COMMON,
    IMAGE,
    INITRD,
    KERNEL,
    KERNEL_SOURCE,
    OFFLINE,
    OUTPUT,
    ROOTFS,
    SETTING,
    VARIANT,
    command,
)
from tasks.verify import verify

if TYPE_CHECKING:
    from osbuilder.request import AgentRequest, BuildRequest, ImageRequest, InitrdRequest, RootfsRequest


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
        agent=given["agent"],
        packages=tuple(given["package"]),
        features=tuple(given["feature"]),
        keep=tuple(parse_choice(group, Keep, "group to keep") for group in given["keep"]),
        without_units=tuple(given["without_unit"]),
        extension=given["extension"],
        selinux=given["selinux"],
        provision=_path(given["provision"]),
        locked=given["locked"],
        agent_options=AgentOptions.parse(given["agent_option"]),
        modules=_path(given["modules"]),
        agent_policy=_path(given["agent_policy"]),
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
        agent=given["agent"], arch=given["arch"], agent_options=AgentOptions.parse(given["agent_option"])
    )


_REQUESTS: Mapping[str, Callable[[Mapping[str, Any]], BuildRequest]] = {
    "rootfs": _rootfs,
    "image": _image,
    "initrd": _initrd,
    "kernel": kernel.request_of,
    "agent": _agent,
}
"""What can be built, by the command that builds it: the request that its flags make."""


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


@command(AGENT, AGENT_OPTION, ARCH, OUTPUT, COMMON)
def agent(_: Context, **given: Any) -> None:
    """Build the agent alone."""
    with workbench(given["setting"], command="agent", given=given) as bench:
        make(bench, _agent(given), output=given["output"], dry=given["dry"])


@command(
    VARIANT,
    ARCH,
    AGENT_OPTION,
    OFFLINE,
    COMMON,
    flags={
        "image": "a disk image to boot",
        "initrd": "an initrd to boot",
        "distro": "build this distribution's image (or initrd) first, and boot it",
        "locked": "build it of exactly the packages of the distribution's lock (see `inv lock`)",
        "agent": "the guest's agent: versions.yaml says how that one tells that it serves",
        "ready": "what the agent prints on the console once it serves (extended regular expression)",
        "ready_port": "instead: the virtio-serial port that the agent opens once it serves, by its name",
        "kernel": "a kernel of versions.yaml, or the path of a kernel file",
        "fs": "the filesystem of the image that is built first: ext4 or erofs",
        "compression": "the compression of the initrd that is built first: zstd, gzip or none",
        "modules": "kernel modules for what is built first: a tar or a folder (see `inv rootfs --modules`)",
        "machine": "machine type: q35 or microvm (default: one that fits the root)",
        "root": "where the root is: pmem, virtio-pmem, virtio-blk, virtio-scsi, verity or initrd (default: what fits)",
        "root_hash": "the root hash of a measured image, a file (default: IMAGE.root_hash.txt)",
        "memory_mib": "memory of the guest",
        "vcpus": "virtual processors of the guest",
        "device": "a further device: virtio-pmem, iommu, 9p, virtio-fs, virtio-console; may be given several times",
        "plug": "plug it when the agent asks for it: cpu, memory, virtio-mem or pci; may be given several times",
        "append": "further words for the kernel's command line",
        "timeout_s": "give up after this many seconds",
        "json": "print the guest's report as JSON",
    },
    several=("device", "plug"),
)
def boot(
    _: Context,
    image: str | None = None,
    initrd: str | None = None,
    distro: str | None = None,
    agent: str | None = None,
    agent_option: Sequence[str] | None = None,
    ready: str | None = None,
    ready_port: str | None = None,
    kernel: str | None = None,
    variant: str = "base",
    fs: str | None = None,
    compression: str | None = None,
    modules: str | None = None,
    arch: str | None = None,
    machine: str | None = None,
    root: str | None = None,
    root_hash: str | None = None,
    memory_mib: int = 256,
    vcpus: int = 1,
    device: Sequence[str] | None = None,
    plug: Sequence[str] | None = None,
    append: str = "",
    timeout_s: int = 180,
    json: bool = False,
    locked: bool = False,
    offline: bool = False,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Start a guest and show what it says about itself; fails when it does not say that it is ready."""
    with workbench(setting, given={"offline": offline}) as bench:
        from osbuilder.agents.pin import AgentOptions
        from osbuilder.guest.hotplug import Plug
        from osbuilder.guest.qemu import USUAL_DEVICES, Device, RootKind
        from osbuilder.guest.ready import Ready
        from osbuilder.image.initrd import Compression
        from osbuilder.request import BootRequest, Filesystem, parse_choice

        request = BootRequest(
            image=_path(image),
            initrd=_path(initrd),
            distro=distro,
            filesystem=Filesystem.parse(fs) if fs else None,
            compression=parse_choice(compression, Compression, "compression") if compression else None,
            locked=locked,
            agent=agent,
            agent_options=AgentOptions.parse(agent_option or ()),
            ready=Ready.of_flags(ready, ready_port),
            kernel=kernel,
            variant=variant,
            modules=_path(modules),
            arch=arch,
            machine=machine,
            root=parse_choice(root, RootKind, "root") if root else None,
            root_hash=_path(root_hash),
            memory_mib=memory_mib,
            vcpus=vcpus,
            devices=(*USUAL_DEVICES, *(parse_choice(name, Device, "device") for name in device or ())),
            plugs=tuple(parse_choice(name, Plug, "plug") for name in plug or ()),
            append=tuple(append.split()),
            timeout_s=timeout_s,
        )
        if dry:
            print(bench.describe_boot(request))
            return
        outcome = bench.boot(request)
        print(outcome.json() if json else outcome.table())
        outcome.check()


@command(positional=["file"], flags={"file": "an image, initrd, kernel or rootfs tar", "json": "print JSON"})
def inspect(_: Context, file: str, json: bool = False) -> None:
    """Say what a file is: layout, filesystem, init, kernel notes."""
    with workbench(()) as bench:
        print(bench.inspect(Path(file), as_json=json))


@command(
    ROOTFS,
    IMAGE,
    INITRD,
    KERNEL,
    KERNEL_SOURCE,
    SETTING,
    flags={"target": "rootfs, image, initrd, kernel or agent; flags are those of the command that builds it"},
    positional=["target"],
)
def why(_: Context, target: str, **given: Any) -> None:
    """Say which step of a target would run now, and what changed since it ran last."""
    with workbench(given["setting"], command=target, given=given) as bench:
        from osbuilder.errors import UsageError, suggest

        if target not in _REQUESTS:
            raise UsageError(f"unknown target {target!r}", hint=suggest(target, _REQUESTS))
        print(bench.why(_REQUESTS[target](given)))


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


def _path(text: str | None) -> Path | None:
    """Return the path that a flag gives, if it is given."""
    return Path(text) if text else None


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        print(f"{question} Not a terminal: nobody to ask. Give --yes to go ahead.")
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


namespace = Collection.from_module(sys.modules[__name__])
namespace.add_collection(distro.commands)
namespace.add_task(locks.lock)
namespace.add_task(locks.fetch)
namespace.add_task(verify)
namespace.add_task(test)
namespace.add_collection(kernel.commands)
