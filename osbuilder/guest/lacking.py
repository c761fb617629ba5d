"""What the guests of this project lack, so that the probes of it cannot pass in them: a short list, with reasons.

Every other probe that a kernel promises has to pass in one of its guests at least. What can be plugged into a machine,
and what devices it can have, arch.py knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

from osbuilder.guest.spec import Accel
from osbuilder.kernel.conditions import KernelRange, KernelVersion

ROOM_FOR_CPUS: Final = "x86-acpi-cpus-that-may-come.patch"
"""With this patch of ours a kernel has room for CPUs that come, also under hypervisors that it does not know."""

DRAWN_IN_PVH: Final = "x86-pvh-randomize-memory.patch"
"""With this patch of ours a kernel draws addresses where it is entered through PVH."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A probe that cannot pass, and why.

    Only on `arches` (none: on all), only under `accel` (None: under any), only of the versions `kernel` (None: of
    any), and only of those without the patch `unless_patched` ("": of any).
    """

    probe: str
    why: str
    arches: tuple[str, ...] = ()
    accel: Accel | None = None
    kernel: KernelRange | None = None
    unless_patched: str = ""


LACKING: Final = (
    Lack(probe="vsock", why="the device takes vhost-vsock of the host, and a CID that no other guest there has"),
    Lack(probe="ptp", why="the host's clock is told by KVM: emulated guests have none", accel=Accel.TCG),
    *(
        Lack(
            probe=probe,
            why="QEMU emulates no huge pages for s390x (facility edat); KVM has them",
            arches=("s390x",),
            accel=Accel.TCG,
        )
        for probe in ("hugepages", "cgroup2-hugetlb", "cgroup1-hugetlb")
    ),
    Lack(probe="virtio-pmem", why="QEMU has no virtio-pmem for virt", arches=("aarch64",)),
    Lack(
        probe="virtiofs",
        why="FUSE has the guest's byte order and flags of open(2); virtiofsd of another architecture has its own",
        arches=("ppc64le", "s390x"),
        accel=Accel.TCG,
    ),
    Lack(probe="vmgenid", why="QEMU has no vmgenid for virt", arches=("aarch64",)),
    Lack(probe="kaslr", why="the kernel has no KASLR for 64-bit servers", arches=("ppc64le",)),
    Lack(
        probe="kaslr",
        why="before 6.11 the kernel draws with a seed in the device tree alone, and QEMU's virt hands over none",
        arches=("riscv64",),
        kernel=KernelRange.parse("<6.11"),
    ),
    Lack(
        probe="kaslr",
        why="QEMU emulates no random numbers for s390x (KMC-PRNG), without which nothing is drawn; KVM has them",
        arches=("s390x",),
        accel=Accel.TCG,
    ),
    Lack(
        probe="kaslr",
        why="entered through PVH it draws nothing; vmlinuz does",
        arches=("x86_64",),
        unless_patched=DRAWN_IN_PVH,
    ),
    Lack(
        probe="pti",
        why="the kernel has page-table isolation for x86_64 and aarch64 alone",
        arches=("ppc64le", "s390x", "riscv64"),
    ),
    Lack(probe="mitigations", why="before 6.14 the kernel names no faults of its processors", arches=("riscv64",)),
    Lack(
        probe="cpu-plug",
        why="it has no room for one under hypervisors that it does not know",
        arches=("x86_64",),
        accel=Accel.TCG,
        unless_patched=ROOM_FOR_CPUS,
    ),
    # What arch.py has no `plugs` for.
    Lack(probe="cpu-plug", why="QEMU's virt takes no CPU while it runs", arches=("aarch64", "riscv64")),
    Lack(probe="memory-plug", why="QEMU has no DIMMs for its machine", arches=("s390x", "riscv64")),
    Lack(probe="virtio-mem-plug", why="the kernel's driver is not for it", arches=("ppc64le",)),
    Lack(probe="virtio-mem-plug", why="the kernel's driver is for it since 6.13", arches=("s390x",)),
    Lack(probe="virtio-mem-plug", why="QEMU has no virtio-mem for virt", arches=("riscv64",)),
    Lack(
        probe="pci-plug",
        why="ACPI plugs no disks into virt before QEMU 10.1; PCIe ports and bridges plug by themselves",
        arches=("aarch64",),
    ),
    Lack(
        probe="pci-plug",
        why="without ACPI's tables nobody does; PCIe ports and bridges plug by themselves",
        arches=("riscv64",),
    ),
    Lack(
        probe="pci-plug",
        why="the kernel adds no device nodes by itself: that takes more of drmgr than the agent does",
        arches=("ppc64le",),
        kernel=KernelRange.parse("<6.12"),
    ),
    *(
        Lack(probe=probe, why="the hypervisor plugs there, not a port or a bridge", arches=("ppc64le", "s390x"))
        for probe in ("pcie-plug", "shpc-plug")
    ),
)


def reason(
    probe: str, arch: str, accels: Collection[Accel], patches: Collection[str] = (), release: str | None = None
) -> str:
    """Return why a probe passes in no guest of a kernel of that release with these patches; "" where it has to.

    The guests are of that architecture and ran under any of `accels`. Without a release nothing is excused that depends
    on it. Raises FragmentError where that depends on a release that is none.
    """
    for lack in LACKING:
        if lack.probe != probe or (lack.arches and arch not in lack.arches) or lack.unless_patched in patches:
            continue
        under = lack.accel is None or set(accels) == {lack.accel}
        of_it = lack.kernel is None or (release is not None and KernelVersion.parse(release) in lack.kernel)
        if under and of_it:
            return lack.why
    return ""
