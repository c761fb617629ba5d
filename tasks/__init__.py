"""The commands: flags in, one call of osbuilder.api, errors to exit codes. Nothing is decided here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from tasks import kernel
from tasks.common import COMMON, KERNEL, OUTPUT, ROOTFS, make, workbench

if TYPE_CHECKING:
    from osbuilder.request import RootfsRequest

_IMAGE = {
    "fs": "filesystem of the root partition",
    "dax": "with the header that lets a guest map its root from an nvdimm",
    "free-space-mib": "free space in the filesystem",
    "align-mib": "the file's size is a multiple of this (nvdimm hotplug wants 128)",
}
_SEVERAL = ["package", "feature", "keep", "setting"]


def _rootfs(
    distro: str,
    release: str | None,
    arch: str | None,
    init: str | None,
    agent: str | None,
    package: Sequence[str] | None,
    feature: Sequence[str] | None,
    keep: Sequence[str] | None,
) -> RootfsRequest:
    from osbuilder.pid1 import Init
    from osbuilder.request import RootfsRequest, parse_choice
    from osbuilder.rootfs.trim import Keep

    return RootfsRequest(
        distro=distro,
        release=release,
        arch=arch,
        init=parse_choice(init, Init, "init") if init else None,
        agent=agent,
        packages=tuple(package or ()),
        features=tuple(feature or ()),
        keep=tuple(parse_choice(group, Keep, "group to keep") for group in keep or ()),
    )


@task(help={**ROOTFS, **OUTPUT, **COMMON}, iterable=_SEVERAL)
def rootfs(
    _: Context,
    distro: str = "debian",
    release: str | None = None,
    arch: str | None = None,
    init: str | None = None,
    agent: str | None = None,
    package: Sequence[str] | None = None,
    feature: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    output: str | None = None,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Build a root filesystem (a tar) with the agent baked in."""
    with workbench(setting) as bench:
        make(bench, _rootfs(distro, release, arch, init, agent, package, feature, keep), output=output, dry=dry)


@task(help={**ROOTFS, **_IMAGE, **OUTPUT, **COMMON}, iterable=_SEVERAL)
def image(
    _: Context,
    distro: str = "debian",
    release: str | None = None,
    arch: str | None = None,
    init: str | None = None,
    agent: str | None = None,
    package: Sequence[str] | None = None,
    feature: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    fs: str = "ext4",
    dax: bool = True,
    free_space_mib: int = 0,
    align_mib: int = 128,
    output: str | None = None,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Build a disk image whose root a guest can map with DAX."""
    with workbench(setting) as bench:
        from osbuilder.request import Filesystem, ImageRequest, parse_choice

        request = ImageRequest(
            rootfs=_rootfs(distro, release, arch, init, agent, package, feature, keep),
            filesystem=parse_choice(fs, Filesystem, "fs"),
            dax=dax,
            free_space_mib=free_space_mib,
            align_mib=align_mib,
        )
        make(bench, request, output=output, dry=dry)


@task(help={**ROOTFS, "compression": "zstd, gzip or none", **OUTPUT, **COMMON}, iterable=_SEVERAL)
def initrd(
    _: Context,
    distro: str = "debian",
    release: str | None = None,
    arch: str | None = None,
    init: str | None = None,
    agent: str | None = None,
    package: Sequence[str] | None = None,
    feature: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    compression: str = "zstd",
    output: str | None = None,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Build an initrd that is the whole guest."""
    with workbench(setting) as bench:
        from osbuilder.image.initrd import Compression
        from osbuilder.request import InitrdRequest, parse_choice

        request = InitrdRequest(
            rootfs=_rootfs(distro, release, arch, init, agent, package, feature, keep),
            compression=parse_choice(compression, Compression, "compression"),
        )
        make(bench, request, output=output, dry=dry)


@task(help={"arch": ROOTFS["arch"], "agent": ROOTFS["agent"], **OUTPUT, **COMMON}, iterable=["setting"])
def agent(
    _: Context,
    agent: str | None = None,
    arch: str | None = None,
    output: str | None = None,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Build the agent alone."""
    with workbench(setting) as bench:
        from osbuilder.request import AgentRequest

        make(bench, AgentRequest(agent=agent, arch=arch), output=output, dry=dry)


@task(
    help={
        "image": "a disk image to boot",
        "initrd": "an initrd to boot",
        "distro": "build this distribution's image (or initrd) first, and boot it",
        "kernel": "a kernel of versions.yaml, or the path of a kernel file",
        "variant": KERNEL["variant"],
        "arch": ROOTFS["arch"],
        "machine": "machine type: q35 or microvm (default: one that fits the root)",
        "root": "where the root comes from: pmem, virtio-blk or initrd (default: the best that fits)",
        "memory-mib": "memory of the guest",
        "vcpus": "virtual processors of the guest",
        "timeout-s": "give up after this many seconds",
        "json": "print the guest's report as JSON",
        **COMMON,
    },
    iterable=["setting"],
)
def boot(
    _: Context,
    image: str | None = None,
    initrd: str | None = None,
    distro: str | None = None,
    kernel: str | None = None,
    variant: str = "base",
    arch: str | None = None,
    machine: str | None = None,
    root: str | None = None,
    memory_mib: int = 256,
    vcpus: int = 1,
    timeout_s: int = 180,
    json: bool = False,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Start a guest and show what it says about itself; fails when it does not say that it is ready."""
    with workbench(setting) as bench:
        from osbuilder.guest.qemu import RootKind
        from osbuilder.request import BootRequest, parse_choice

        request = BootRequest(
            image=Path(image) if image else None,
            initrd=Path(initrd) if initrd else None,
            distro=distro,
            kernel=kernel,
            variant=variant,
            arch=arch,
            machine=machine,
            root=parse_choice(root, RootKind, "root") if root else None,
            memory_mib=memory_mib,
            vcpus=vcpus,
            timeout_s=timeout_s,
        )
        if dry:
            print(bench.describe_boot(request))
            return
        outcome = bench.boot(request)
        print(outcome.json() if json else outcome.table())
        outcome.check()


@task(positional=["file"], help={"file": "an image, initrd, kernel or rootfs tar", "json": "print JSON"})
def inspect(_: Context, file: str, json: bool = False) -> None:
    """Say what a file is: layout, filesystem, init, kernel notes."""
    with workbench(()) as bench:
        print(bench.inspect(Path(file), as_json=json))


@task(
    positional=["target"],
    help={
        "target": "rootfs, image, initrd, kernel or agent",
        **ROOTFS,
        "kernel": KERNEL["kernel"],
        "variant": KERNEL["variant"],
        "setting": COMMON["setting"],
    },
    iterable=_SEVERAL,
)
def why(
    _: Context,
    target: str,
    distro: str = "debian",
    release: str | None = None,
    arch: str | None = None,
    init: str | None = None,
    agent: str | None = None,
    package: Sequence[str] | None = None,
    feature: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    kernel: str | None = None,
    variant: str = "base",
    setting: Sequence[str] | None = None,
) -> None:
    """Say which step of a target would run now, and what changed since it ran last."""
    with workbench(setting) as bench:
        request = bench.request_for(
            target,
            rootfs=_rootfs(distro, release, arch, init, agent, package, feature, keep),
            kernel_line=kernel,
            kernel_variant=variant,
        )
        print(bench.why(request))


@task(help={"setting": COMMON["setting"]}, iterable=["setting"])
def settings(_: Context, setting: Sequence[str] | None = None) -> None:
    """Print each setting, its value and where the value comes from."""
    with workbench(setting) as bench:
        print(bench.list_settings())


@task
def distros(_: Context) -> None:
    """List the distributions: releases, architectures, inits."""
    with workbench(()) as bench:
        print(bench.list_distros())


@task
def versions(_: Context) -> None:
    """List what versions.yaml pins: kernels, agents, builders."""
    with workbench(()) as bench:
        print(bench.list_versions())


@task(help={"fix": "install what is missing", "yes": "do not ask before", **COMMON}, iterable=["setting"])
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


@task(help={"yes": "do not ask before installing what the host lacks", **COMMON}, iterable=["setting"])
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


@task(help={"dry": "only say what would be removed", "setting": COMMON["setting"]}, iterable=["setting"])
def clean(_: Context, dry: bool = False, setting: Sequence[str] | None = None) -> None:
    """Remove the build folder; the store keeps what was built."""
    with workbench(setting) as bench:
        print(bench.clean(dry=dry))


@task(
    help={
        "gc": "remove artifacts that no target's last build needs",
        "verify": "read every artifact and drop the damaged ones",
        "setting": COMMON["setting"],
    },
    iterable=["setting"],
)
def cache(_: Context, gc: bool = False, verify: bool = False, setting: Sequence[str] | None = None) -> None:
    """Show what the store holds, or tidy it."""
    with workbench(setting) as bench:
        print(bench.cache(collect=gc, verify=verify))


@task(
    help={
        "strict": "fail where a prerequisite is missing, skip nothing (CI)",
        "select": "only what pytest's -k takes",
        "matrix": "instead of the usual tests those that build and boot every other architecture (hours)",
    }
)
def test(context: Context, strict: bool = False, select: str = "", matrix: bool = False) -> None:
    """Set up and pass the tests: lint, types, unit, contract, golden, integration and boot."""
    import shlex

    root = Path(__file__).resolve().parents[1]
    python = shlex.quote(sys.executable)
    with context.cd(str(root)):
        for command in ("ruff check .", "ruff format --check .", "mypy"):
            context.run(f"{python} -m {command}", pty=False)
        options = ["--strict-prerequisites"] if strict else []
        options += ["-k", select] if select else []
        options += ["-m", "matrix"] if matrix else []
        context.run(f"{python} -m pytest {shlex.join(options)}", pty=False)


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        print(f"{question} Not a terminal: nobody to ask. Give --yes to go ahead.")
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


namespace = Collection.from_module(sys.modules[__name__])
namespace.add_collection(kernel.commands)
