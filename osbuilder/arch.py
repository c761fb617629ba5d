"""ONE table: a row an architecture. Nothing else in osbuilder knows an architecture's names.

Sources: Debian's architecture names and multiarch triplets (dpkg-architecture(1)), the kernel's arch/ folders, QEMU's
machine types, ELF machine numbers (elf.h).
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from types import MappingProxyType

from osbuilder.errors import UsageError, suggest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A QEMU machine type that guests of an architecture boot on.

    `options` go to -machine; `virtio` is the suffix of its virtio devices (virtio-blk-pci, virtio-blk-device);
    `cmdline` are words that its kernels need; `nvdimm` says whether a DAX root can be mapped; `kernels` are the kernel
    files that it loads, best first.
    """

    name: str
    options: tuple[str, ...]
    virtio: str
    console: str
    cpu: str
    cmdline: tuple[str, ...]
    nvdimm: bool
    kernels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """An architecture and every name that somebody else gives it."""

    name: str
    debian: str
    triplet: str
    kernel: str
    elf_machine: int
    elf_class: int
    elf_little_endian: bool
    qemu: str
    kernel_targets: tuple[str, ...]
    vmlinux_path: str
    vmlinuz_path: str
    machines: tuple[Machine, ...]

    def machine(self, name: str) -> Machine:
        """Return the machine of that name. Raises UsageError with the names that this architecture has."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise UsageError(
            f"unknown machine {name!r} for {self.name}", hint=suggest(name, (m.name for m in self.machines))
        )


# A reset by triple fault is the quickest, and the only one that a machine without ACPI and a keyboard controller has.
_X86_CMDLINE = ("reboot=t",)

_X86_64 = Arch(
    name="x86_64",
    debian="amd64",
    triplet="x86_64-linux-gnu",
    kernel="x86",
    elf_machine=62,
    elf_class=64,
    elf_little_endian=True,
    qemu="qemu-system-x86_64",
    kernel_targets=("vmlinux", "bzImage"),
    vmlinux_path="vmlinux",
    vmlinuz_path="arch/x86/boot/bzImage",
    machines=(
        Machine(
            name="q35",
            options=(),
            virtio="pci",
            console="ttyS0",
            cpu="max",
            cmdline=_X86_CMDLINE,
            nvdimm=True,
            kernels=("vmlinux", "vmlinuz"),
        ),
        # microvm with ACPI on hangs under TCG after failed TSC calibration; without it every device is virtio-mmio,
        # as Firecracker has them.
        Machine(
            name="microvm",
            options=("acpi=off",),
            virtio="device",
            console="ttyS0",
            cpu="max",
            cmdline=_X86_CMDLINE,
            nvdimm=False,
            kernels=("vmlinux", "vmlinuz"),
        ),
    ),
)

ARCHES: Mapping[str, Arch] = MappingProxyType({arch.name: arch for arch in (_X86_64,)})


def parse_arch(name: str) -> Arch:
    """Return the row of that name. Raises UsageError with a suggestion."""
    try:
        return ARCHES[name]
    except KeyError:
        raise UsageError(f"unknown architecture {name!r}", hint=suggest(name, ARCHES)) from None


def host_arch() -> Arch:
    """Return the row of the machine that this runs on (uname -m)."""
    return parse_arch(platform.machine())
