"""A guest as a value: its machine, its root, its console and its devices. Knows nothing of QEMU's options."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from osbuilder.guest.hotplug import Plug

if TYPE_CHECKING:
    from pathlib import PurePath

    from osbuilder.arch import Arch, Machine
    from osbuilder.image.verity import Verity

_SHARE: Final = PurePosixPath("share")


class Accel(enum.Enum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


class RootKind(enum.Enum):
    """How the guest's root reaches it."""

    PMEM = "pmem"  # an nvdimm
    VIRTIO_PMEM = "virtio-pmem"
    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    VERITY = "verity"  # a virtio-blk disk, every block of it verified
    INITRD = "initrd"

    @property
    def mapped(self) -> bool:
        """Whether the guest maps its root from the host's page cache (DAX)."""
        return self in (RootKind.PMEM, RootKind.VIRTIO_PMEM)


class Device(enum.Enum):
    """A paravirtual device that a guest may have besides its root and its report port."""

    RNG = "rng"
    BALLOON = "balloon"
    NET = "net"  # user-mode network without any way out
    SCSI = "scsi"  # a small disk of zeros, read only
    PMEM = "virtio-pmem"  # a small persistent memory of zeros
    IOMMU = "iommu"  # virtio-iommu; the other PCI devices are behind it
    MACHINE_IOMMU = "machine-iommu"  # the machine's own (VT-d, SMMUv3), in its place
    PLAN9 = "9p"  # a folder of the host's
    VIRTIOFS = "virtio-fs"  # the same one, through virtiofsd
    VMGENID = "vmgenid"  # a generation counter, which changes when a snapshot is restored
    CONSOLE = "virtio-console"  # hvc0 is the console, there is no serial port, and the agent reports on it


USUAL_DEVICES: Final = (Device.RNG, Device.BALLOON, Device.NET, Device.SCSI)
SHARES: Final = (Device.PLAN9, Device.VIRTIOFS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest to start. Paths are as QEMU sees them (in a builder: the builder's).

    `initrd` belongs to INITRD, `image` and `image_size_bytes` to all other roots, whose first partition holds `fstype`;
    `verity` to VERITY, whose second one holds the hash tree. `init` is the program that the kernel starts
    ("": the kernel's own choice). `cmdline` comes last on the kernel line. `console` and `report` are files that QEMU
    writes; without a console file the console is QEMU's standard output, without a report file there is no port and the
    agent reports on the console. `port` is the name of a further port, whose opening QEMU tells (see `speaks_qmp`).
    `vsock_cid` needs vhost-vsock on the host. `plugs` may come while it runs. `share` is the folder that the devices
    PLAN9 and VIRTIOFS share; it is made when the guest starts. `patches` are those of ours that its kernel has.
    """

    arch: Arch
    machine: Machine
    accel: Accel
    kernel: PurePath
    root: RootKind
    image: PurePath | None = None
    image_size_bytes: int = 0
    initrd: PurePath | None = None
    verity: Verity | None = None
    fstype: str = "ext4"
    memory_mib: int = 256
    vcpus: int = 1
    init: str = ""
    cmdline: tuple[str, ...] = ()
    console: PurePath | None = None
    report: PurePath | None = None
    port: str | None = None
    devices: tuple[Device, ...] = (Device.RNG, Device.BALLOON)
    vsock_cid: int | None = None
    plugs: tuple[Plug, ...] = ()
    share: PurePath = _SHARE
    patches: tuple[str, ...] = ()

    @property
    def shares(self) -> bool:
        """Whether it has a folder of the host."""
        return any(device in self.devices for device in SHARES)

    @property
    def cpu(self) -> str:
        """The model of its CPUs."""
        return "host" if self.accel is Accel.KVM else self.machine.cpu

    @property
    def console_name(self) -> str:
        """What the kernel calls its console."""
        return "hvc0" if Device.CONSOLE in self.devices else self.machine.console

    @property
    def speaks_qmp(self) -> bool:
        """Whether QEMU speaks QMP on its standard input and output, which is where a console without a file is."""
        return (self.port is not None or bool(self.plugs)) and self.console is not None
