"""What the guests of this project lack, so that the probes of it cannot pass in them: a short list, with reasons.

Every other probe that a kernel promises has to pass in one of its guests at least. What can be plugged into a machine,
and what devices it can have, arch.py knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Final

from osbuilder.arch import ARCHES
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.qemu import Accel

ROOM_FOR_CPUS: Final = "x86-acpi-cpus-that-may-come.patch"
"""With this patch of ours a kernel has room for CPUs that come, also under hypervisors that it does not know."""

DRAWN_IN_PVH: Final = "x86-pvh-randomize-memory.patch"
"""With this patch of ours a kernel draws addresses where it is entered through PVH."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A probe that cannot pass, and why.

    Only on `arches` (none: on all), only under `accel` (None: under any), and only of kernels without the patch
    `unless_patched` ("": of any).
    """

    probe: str
    why: str
    arches: tuple[str, ...] = ()
    accel: Accel | None = None
    unless_patched: str = ""


def _unplugged(plug: Plug) -> Iterator[Lack]:
    """Yield the lack of what is plugged into no machine of an architecture."""
    arches = tuple(
        arch.name for arch in ARCHES.values() if not any(plug.value in machine.plugs for machine in arch.machines)
    )
    if arches:
        yield Lack(probe=plug.probe, why="it is plugged into no machine there so far", arches=arches)


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
        for probe in ("hugepages", "cgroup2-hugetlb")
    ),
    *(
        Lack(
            probe=probe,
            why="QEMU has no virtio-pmem for virt, which names nvdimms to firmware alone",
            arches=("aarch64",),
        )
        for probe in ("virtio-pmem", "pmem", "root-dax")
    ),
    Lack(
        probe="virtiofs",
        why="FUSE has the guest's byte order and flags of open(2); virtiofsd of another architecture has its own",
        arches=("ppc64le", "s390x"),
        accel=Accel.TCG,
    ),
    Lack(probe="vmgenid", why="QEMU has no vmgenid for virt", arches=("aarch64",)),
    Lack(probe="kaslr", why="the kernel has no KASLR for 64-bit servers", arches=("ppc64le",)),
    Lack(probe="kaslr", why="QEMU's virt hands the kernel no seed to draw with", arches=("riscv64",)),
    Lack(probe="kaslr", why="where it has its text when nothing was drawn is not known", arches=("s390x",)),
    Lack(
        probe="kaslr",
        why="entered through PVH it draws nothing; vmlinuz does",
        arches=("x86_64",),
        unless_patched=DRAWN_IN_PVH,
    ),
    Lack(probe="mitigations", why="before 6.14 the kernel names no faults of its processors", arches=("riscv64",)),
    Lack(
        probe="cpu-plug",
        why="it has no room for one under hypervisors that it does not know",
        arches=("x86_64",),
        accel=Accel.TCG,
        unless_patched=ROOM_FOR_CPUS,
    ),
    *(lack for plug in Plug for lack in _unplugged(plug)),
)


def reason(probe: str, arch: str, accels: Collection[Accel], patches: Collection[str] = ()) -> str:
    """Return why a probe passes in no guest of a kernel with these patches; "" where it has to.

    The guests are of that architecture and ran under any of `accels`.
    """
    for lack in LACKING:
        here = not lack.arches or arch in lack.arches
        under = lack.accel is None or set(accels) == {lack.accel}
        if lack.probe == probe and here and under and lack.unless_patched not in patches:
            return lack.why
    return ""
