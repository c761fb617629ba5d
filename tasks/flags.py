"""Flags that several commands have, a row each. Invoke sees them as if each command had written them out.

A command names tables; their flags arrive in its `**given`, by name.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from invoke.context import Context
from invoke.tasks import Task, task


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its line of help, its value when it is not given, and whether it may be given several times."""

    help: str
    default: str | bool | int | None = None
    several: bool = False


Table = Mapping[str, Flag]

ARCH: Table = {"arch": Flag("architecture of the guest (default: this machine's)")}
AGENT: Table = {
    "agent": Flag("an agent of versions.yaml, the path of a file, or oci:IMAGE (default: that of versions.yaml)")
}
AGENT_OPTION: Table = {
    "agent_option": Flag(
        "a choice about an agent that cargo compiles: libc, seccomp, policy, its source (docs/agents.md)", several=True
    )
}
ROOTFS: Table = {
    "distro": Flag("distribution, a folder of distros/ (see `inv distros`; default: debian)"),
    "release": Flag("its release (default: the recipe's)"),
    **ARCH,
    "init": Flag("what is PID 1: systemd or agent (default: the recipe's; for an initrd: agent)"),
    **AGENT,
    **AGENT_OPTION,
    "modules": Flag("kernel modules for /lib/modules: the tar that a kernel comes with, or a folder of a release"),
    "overlay": Flag("a tar to lay over the root, as FILE or FILE,sha256=HEX; may be given several times", several=True),
    "agent_policy": Flag("the agent's policy, a file in Rego: becomes /etc/kata-opa/default-policy.rego"),
    "package": Flag("a further package; may be given several times", several=True),
    "feature": Flag("a feature of the recipe (debian: debug); may be given several times", several=True),
    "keep": Flag("do not trim docs, locales or units; may be given several times", several=True),
    "without_unit": Flag("remove this unit of systemd's (NAME.service); may be given several times", several=True),
    "extension": Flag("no agent, no init: a root filesystem that a running guest mounts", False),
    "selinux": Flag("install the distribution's SELinux policy and label every file", False),
    "provision": Flag("instead of a distribution: a tree of yours, a tar (any compression) or a folder"),
    "locked": Flag("take exactly the packages of the distribution's lock (see `inv lock`)", False),
}
IMAGE: Table = {
    "fs": Flag("filesystem of the root partition: ext4, or erofs (read-only, without free space)", "ext4"),
    "dax": Flag("with the header that lets a guest map its root from an nvdimm", True),
    "free_space_mib": Flag("free space in the filesystem", 0),
    "measured": Flag("with the dm-verity hash tree of the root in a second partition, and its root hash beside", False),
    "build_variant": Flag("a part of the files' names, as in root_hash_NAME.txt (of a measured image: measured)"),
    "align_mib": Flag("the file's size is a multiple of this (nvdimm hotplug wants 128)", 128),
}
INITRD: Table = {"compression": Flag("zstd, gzip or none", "zstd")}
VARIANT: Table = {"variant": Flag("a folder of kernel/configs/variant: base, debug, minimal, ...", "base")}
KERNEL: Table = {"kernel": Flag("a kernel of versions.yaml (see `inv versions`)"), **VARIANT}
FRAGMENT: Table = {
    "fragment": Flag("a file that asks for more: lines CONFIG_NAME=value; may be given several times", several=True)
}
KERNEL_SOURCE: Table = {
    "git": Flag("a kernel from elsewhere: the URL of a repository, with --ref"),
    "ref": Flag("a branch, a tag or a full commit id of --git"),
    "tree": Flag("a kernel from elsewhere: a kernel tree on this host"),
    "patches": Flag(
        "folders of kernel/patches, or paths (with a slash), in order and with commas between them, or none "
        "(default: what versions.yaml says of the kernel)"
    ),
}
ONE_KERNEL: Table = {**ARCH, **KERNEL, **FRAGMENT, **KERNEL_SOURCE}
BOOT: Table = {
    "image": Flag("a disk image to boot"),
    "initrd": Flag("an initrd to boot"),
    "distro": Flag("build this distribution's image (or initrd) first, and boot it"),
    "locked": Flag("build it of exactly the packages of the distribution's lock (see `inv lock`)", False),
    "agent": Flag("the guest's agent: versions.yaml says how that one tells that it serves"),
    **AGENT_OPTION,
    "ready": Flag("what the agent prints on the console once it serves (extended regular expression)"),
    "ready_port": Flag("instead: the virtio-serial port that the agent opens once it serves, by its name"),
    "kernel": Flag("a kernel of versions.yaml, or the path of a kernel file"),
    **VARIANT,
    **FRAGMENT,
    "fs": Flag("the filesystem of the image that is built first: ext4 or erofs"),
    "compression": Flag("the compression of the initrd that is built first: zstd, gzip or none"),
    "modules": Flag("kernel modules for what is built first: a tar or a folder (see `inv rootfs --modules`)"),
    **ARCH,
    "machine": Flag("machine type: q35 or microvm (default: one that fits the root)"),
    "root": Flag(
        "where the root is: pmem, virtio-pmem, virtio-blk, virtio-scsi, verity or initrd (default: what fits)"
    ),
    "root_hash": Flag("the root hash of a measured image, a file (default: IMAGE.root_hash.txt)"),
    "memory_mib": Flag("memory of the guest", 256),
    "vcpus": Flag("virtual processors of the guest", 1),
    "device": Flag(
        "a further device: virtio-pmem, iommu, machine-iommu, 9p, virtio-fs, vmgenid, virtio-console; "
        "may be given several times",
        several=True,
    ),
    "plug": Flag(
        "plug it when the agent asks for it: cpu, memory, virtio-mem, pci, pcie or shpc; may be given several times",
        several=True,
    ),
    "append": Flag("further words for the kernel's command line", ""),
    "timeout_s": Flag("give up after this many seconds", 180),
    "json": Flag("print the guest's report as JSON", False),
}
OUTPUT: Table = {"output": Flag("also write a copy of the result to this path")}
OFFLINE: Table = {"offline": Flag("use no network: what is not in the store is named (see `inv fetch`)", False)}
DRY: Table = {"dry": Flag("print the plan and each command, run nothing", False)}
SETTING: Table = {
    "setting": Flag("a setting as NAME=VALUE (see `inv settings`); may be given several times", several=True)
}
COMMON: Table = {**DRY, **SETTING}

# Who gives --dry to be sure that nothing is built or written gets what they ask for from commands that never do either.
_ONLY_LOOK: Table = {"dry": Flag("changes nothing here: this command only looks", False)}
_LOOKING = ("capabilities", "consumers", "distros", "inspect", "settings", "variants", "versions", "why")

DEFAULTS: Mapping[str, Any] = {
    name: flag.default for table in (ROOTFS, IMAGE, INITRD, ONE_KERNEL, OUTPUT) for name, flag in table.items()
}
"""What a flag is when it is not given (one that may be given several times: an empty list)."""


def command(
    *tables: Table,
    flags: Mapping[str, str] | None = None,
    positional: Sequence[str] = (),
    several: Sequence[str] = (),
) -> Callable[[Callable[..., None]], Task[Any]]:
    """Return a decorator that makes an Invoke task with the flags of some tables.

    A parameter that the function writes out keeps its place and default, and has its help from the tables or from
    `flags`; `several` are those of `flags` that may be given several times. The other flags of the tables stand where
    the function has `**given`.
    """

    def decorate(body: Callable[..., None]) -> Task[Any]:
        looks = body.__name__ in _LOOKING
        shared = {name: flag for table in (*tables, *((_ONLY_LOOK,) if looks else ())) for name, flag in table.items()}
        signature = inspect.signature(body)
        own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        further = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=flag.default)
            for name, flag in shared.items()
            if name not in signature.parameters
        ]
        run = _without_dry(body) if looks else body
        cast(Any, run).__signature__ = signature.replace(parameters=[*own, *further])
        made = task(
            run,
            help={**(flags or {}), **{name: flag.help for name, flag in shared.items()}},
            iterable=[*several, *(name for name, flag in shared.items() if flag.several)],
            positional=list(positional) or None,
            # One letter would mean something else in each command, and something else again with each new flag.
            auto_shortflags=False,
        )
        return cast("Task[Any]", made)

    return decorate


def _without_dry(body: Callable[..., None]) -> Callable[..., None]:
    """Return what does the same whether --dry is given or not."""

    @functools.wraps(body)
    def run(context: Context, dry: bool, **given: Any) -> None:  # noqa: ARG001 - that is its point
        body(context, **given)

    return run
