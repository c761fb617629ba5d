"""What a guest has on purpose, as probes: those that may not be skipped there.

A probe skips where the machine lacks what it is about. Of what was attached, mounted or chosen on the kernel line that
would be a wrong answer: the kernel has not found it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from osbuilder.guest.spec import Device, Guest, RootKind

_ROOTS: Final[Mapping[RootKind, tuple[str, ...]]] = {
    RootKind.PMEM: ("pmem", "root-dax"),
    RootKind.VIRTIO_PMEM: ("virtio-pmem", "root-dax"),
    RootKind.VIRTIO_BLK: ("virtio-blk",),
    RootKind.VIRTIO_SCSI: ("virtio-scsi",),
    RootKind.VERITY: ("virtio-blk", "root-verity"),
    RootKind.INITRD: (),
}
_DEVICES: Final[Mapping[Device, tuple[str, ...]]] = {
    Device.RNG: ("virtio-rng",),
    Device.BALLOON: ("virtio-balloon", "free-page-reporting"),
    Device.NET: ("virtio-net",),
    Device.SCSI: ("virtio-scsi",),
    Device.PMEM: ("virtio-pmem",),
    Device.IOMMU: ("iommu",),
    Device.MACHINE_IOMMU: ("iommu",),
    Device.PLAN9: ("9p",),
    Device.VIRTIOFS: ("virtiofs",),
    Device.VMGENID: ("vmgenid",),
    Device.CONSOLE: ("virtio-console",),
}
_CHOSEN: Final = "security="
"""Of the kernel line: the security module that is on, which is also its probe's name. The last one counts."""
_IP_CONFIG: Final = "ip="
"""Of the kernel line: a network card's address."""
_ISOLATED: Final = ("pti=on", "kpti=1", "kpti=on")
"""Of the kernel line: page tables of programs without the kernel, on a processor that does not need them, too."""


def expected_probes(guest: Guest) -> Mapping[str, str]:
    """Return the probes that have to pass in a guest, each with what it has that they are about."""
    found = dict.fromkeys(_ROOTS[guest.root], f"root {guest.root.value}")
    for device in Device:
        if device in guest.devices:
            for probe in _DEVICES[device]:
                found.setdefault(probe, f"device {device.value}")
    if guest.report is not None or guest.port is not None:
        found.setdefault("virtio-console", "its ports")
    if guest.vsock_cid is not None:
        found["vsock"] = f"vsock CID {guest.vsock_cid}"
    if guest.machine.firmware:
        found["uefi"] = f"firmware {guest.machine.firmware}"
    if guest.vcpus > 1:
        found["vcpus"] = f"{guest.vcpus} vCPUs"
    return found | _of_kernel_line(guest.cmdline)


def _of_kernel_line(words: Sequence[str]) -> dict[str, str]:
    """Return the probes of what was chosen on a kernel line, each with the word that chose it; the last one counts."""
    found = {}
    for word in words:
        if word.startswith(_IP_CONFIG):
            found["ip-config"] = word
        if word in _ISOLATED:
            found["pti"] = word
    chosen = [word for word in words if word.startswith(_CHOSEN)]
    if chosen:
        found[chosen[-1].removeprefix(_CHOSEN)] = chosen[-1]
    return found
