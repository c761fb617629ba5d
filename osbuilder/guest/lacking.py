"""What the guests of this project lack, so that the probes of it cannot pass in them: a short list, with reasons.

Every other probe that a kernel promises has to pass in one of its guests at least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

from osbuilder.guest.hotplug import Plug
from osbuilder.guest.qemu import Accel

_OTHERS: Final = ("aarch64", "ppc64le", "s390x", "riscv64")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A probe that cannot pass, and why; only on `arches` (none: on all), and only under `accel` (None: under any)."""

    probe: str
    why: str
    arches: tuple[str, ...] = ()
    accel: Accel | None = None


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
    Lack(probe="kaslr", why="only x86_64's placement is looked at", arches=_OTHERS),
    Lack(probe="kaslr", why="entered through PVH, a kernel without our patch for 6.12 draws nothing; vmlinuz does"),
    Lack(probe="mitigations", why="only x86_64's processors are looked at", arches=_OTHERS),
    Lack(probe="cpu-plug", why="a kernel without our patch for 6.12 has no room for one", accel=Accel.TCG),
    *(Lack(probe=plug.probe, why="it is plugged on q35 alone so far", arches=_OTHERS) for plug in Plug),
)


def reason(probe: str, arch: str, accels: Collection[Accel]) -> str:
    """Return why a probe passes in no guest of an architecture under any of `accels`; "" where it has to."""
    for lack in LACKING:
        here = not lack.arches or arch in lack.arches
        if lack.probe == probe and here and (lack.accel is None or set(accels) == {lack.accel}):
            return lack.why
    return ""
