"""QEMU's command line for a guest: pure, from a value to an argv and a kernel line.

Owns how a guest's root, console, report port and devices become QEMU options, the way the guests' consumers attach
them (a read-only NVDIMM for a DAX root, a read-only virtio disk, an initrd). Refuses guests that the machine cannot
hold. Starts nothing. Options are those of qemu(1), QEMU 7.2 and later.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from osbuilder.errors import PlanError
from osbuilder.guest import hotplug, shares
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.report import PORT_NAME
from osbuilder.image.measured import DATA_DEVICE, kernel_parameters

if TYPE_CHECKING:
    from pathlib import PurePath

    from osbuilder.arch import Arch, Machine
    from osbuilder.image.verity import Verity

NVDIMM_ALIGN_MIB = 128
"""Size that an NVDIMM image is a multiple of: Linux adds its memory in sections of this size (x86_64)."""

# As the kernel's next_arg (lib/cmdline.c) has it: a blank between double quotes ends no word.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')

_MIB = 1024 * 1024
_MIN_MEMORY_MIB = 32
_MIN_VSOCK_CID = 3
_MAX_VSOCK_CID = 0xFFFFFFFE


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

_VIRTIO_MMIO: Final = re.compile(r"virtio-\w+-device\b|vhost-[\w-]+-device\b")
_NAMED: Final = " virtio_mmio.device=512@0xfeb00000:23"
"""What names a device on a kernel line: the size, the place and the interrupt of its registers."""

_SHARE: Final = PurePosixPath("share")
_PMEM_MIB: Final = 16
SHARES: Final = (Device.PLAN9, Device.VIRTIOFS)
_PCI_DEVICES: Final = (Device.PMEM, Device.IOMMU)

# The first partition of the root's disk, as the kernel calls it.
_ROOT_DEVICES: Final = {
    RootKind.PMEM: "/dev/pmem0p1",
    RootKind.VIRTIO_PMEM: "/dev/pmem0p1",
    RootKind.VIRTIO_BLK: DATA_DEVICE,
    RootKind.VIRTIO_SCSI: "/dev/sda1",
}


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


def parse_words(text: str) -> tuple[str, ...]:
    """Return the words of a part of a kernel line, with their quotes; whether they can stand there is not looked at."""
    return tuple(_WORD.findall(text))


def render_cmdline(guest: Guest) -> str:
    """Return the kernel line. Raises PlanError for a guest that cannot be, and for a line that the kernel would cut.

    A panic ends the guest (panic=-1 reboots at once, QEMU's -no-reboot turns that into an exit). Root options are the
    ones that Kata's runtime gives.
    """
    _check(guest)
    words = [f"console={guest.console_name}", "quiet", "panic=-1", *guest.machine.cmdline]
    if guest.root is not RootKind.INITRD:
        # Device mapper has no DAX for verity: what is mapped could not be verified.
        flags = ["dax"] if guest.root.mapped else []
        flags += {"ext4": ["data=ordered", "errors=remount-ro"]}.get(guest.fstype, [])
        if guest.verity is not None:
            words.append(kernel_parameters(guest.verity))
        else:
            words.append(f"root={_ROOT_DEVICES[guest.root]}")
        words += [f"rootflags={','.join(flags)}"] if flags else []
        words += ["ro", f"rootfstype={guest.fstype}"]
    if guest.init:
        words.append(f"{'rdinit' if guest.root is RootKind.INITRD else 'init'}={guest.init}")
    words += guest.machine.iommu_words if Device.MACHINE_IOMMU in guest.devices else ()
    words += [*hotplug.kernel_words(guest.plugs, guest.machine), *guest.cmdline]
    line = " ".join(words)
    built_in = len(f"{guest.arch.cmdline_built_in} ".lstrip())
    longest = guest.arch.cmdline_bytes - 1 - built_in - _named_bytes(guest)
    if len(line.encode()) > longest:
        raise PlanError(
            f"the kernel line is too long for {guest.arch.name}: expected {longest} bytes at most, "
            f"got {len(line.encode())}: {line[:60]}..."
        )
    return line


def _named_bytes(guest: Guest) -> int:
    """Return how long what QEMU adds to the kernel line is: a word for each virtio device (hw/i386/microvm.c)."""
    if not guest.machine.names_devices:
        return 0
    options = (*_root(guest), *_ports(guest), *_devices(guest))
    return len(_NAMED) * sum(_VIRTIO_MMIO.match(option) is not None for option in options)


def render_argv(guest: Guest) -> tuple[str, ...]:
    """Return the command that runs the guest and exits when the guest ends. Raises PlanError for one that cannot be."""
    cmdline = render_cmdline(guest)
    return (
        guest.arch.qemu,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *_machine(guest),
        # Before what is behind it: QEMU decides when it makes a device whose interrupts are remapped.
        *(guest.machine.iommu if Device.MACHINE_IOMMU in guest.devices else ()),
        *("-kernel", str(guest.kernel)),
        *_root(guest),
        *("-append", cmdline),
        *_console(guest),
        *_ports(guest),
        *_monitor(guest),
        *_devices(guest),
        *hotplug.devices(guest.plugs, guest.machine),
    )


def _check(guest: Guest) -> None:
    where = f"{guest.root.value} root on {guest.arch.name} {guest.machine.name}"
    _check_root(guest, where)
    if guest.root.mapped:
        _check_pmem(guest, where)
    if guest.memory_mib < _MIN_MEMORY_MIB:
        raise PlanError(f"cannot boot ({where}): expected {_MIN_MEMORY_MIB} MiB or more, got {guest.memory_mib} MiB")
    if guest.vcpus < 1:
        raise PlanError(f"cannot boot ({where}): expected one vCPU or more, got {guest.vcpus}")
    _check_devices(guest, where)
    for word in (guest.init, guest.fstype, *guest.cmdline):
        if any(not character.isprintable() for character in word) or word.count('"') % 2:
            raise PlanError(f"cannot boot ({where}): {word!r} cannot stand on a kernel command line")


def _check_devices(guest: Guest, where: str) -> None:
    if guest.port == PORT_NAME:
        raise PlanError(f"cannot boot ({where}): the port {PORT_NAME} is the one that the probe agent reports through")
    if guest.vsock_cid is not None and not _MIN_VSOCK_CID <= guest.vsock_cid <= _MAX_VSOCK_CID:
        raise PlanError(
            f"cannot boot ({where}): expected a vsock CID from {_MIN_VSOCK_CID} to {_MAX_VSOCK_CID}, "
            f"got {guest.vsock_cid}"
        )
    _check_buses(guest, where)
    if Device.CONSOLE in guest.devices and guest.machine.console.startswith("hvc"):
        raise PlanError(f"cannot boot ({where}): its console {guest.machine.console} is no virtio-console's")
    _check_plugs(guest, where)


def _check_buses(guest: Guest, where: str) -> None:
    wanted = {device.value for device in _PCI_DEVICES if device in guest.devices}
    wanted |= {Device.PMEM.value} if guest.root is RootKind.VIRTIO_PMEM else set()
    if wanted and guest.machine.virtio != "pci":
        raise PlanError(f"cannot boot ({where}): the machine has no PCI bus for a device {min(wanted)}")
    if Device.PMEM.value in wanted and not guest.machine.virtio_pmem:
        raise PlanError(f"cannot boot ({where}): QEMU has no device virtio-pmem for this machine")
    if Device.MACHINE_IOMMU in guest.devices and (not guest.machine.iommu or Device.IOMMU in guest.devices):
        raise PlanError(f"cannot boot ({where}): the machine has no IOMMU of its own, or has another one already")
    if Device.VMGENID in guest.devices and not guest.machine.vmgenid:
        raise PlanError(f"cannot boot ({where}): QEMU has no device vmgenid for this machine")


def _check_plugs(guest: Guest, where: str) -> None:
    for plug in guest.plugs:
        if plug.value not in guest.machine.plugs:
            raise PlanError(f"cannot boot ({where}): nobody knows how to plug {plug.value} into this machine")
    native = [plug.value for plug in guest.plugs if plug in hotplug.NATIVE]
    if native and Plug.PCI in guest.plugs:
        raise PlanError(
            f"cannot boot ({where}): bridges plug {' and '.join(native)} themselves, ACPI plugs pci: not in one guest",
            hint="Start two guests.",
        )


def _check_root(guest: Guest, where: str) -> None:
    if guest.root is RootKind.INITRD:
        if guest.initrd is None or guest.image is not None:
            raise PlanError(f"cannot boot ({where}): expected an initrd and no image")
    elif guest.image is None or guest.initrd is not None:
        raise PlanError(f"cannot boot ({where}): expected an image and no initrd")
    if (guest.verity is not None) != (guest.root is RootKind.VERITY):
        got = "none" if guest.verity is None else "one"
        raise PlanError(f"cannot boot ({where}): expected a root hash for a verity root and for no other, got {got}")


def _check_pmem(guest: Guest, where: str) -> None:
    if guest.root is RootKind.PMEM and not guest.machine.nvdimm:
        able = [machine.name for machine in guest.arch.machines if machine.nvdimm]
        raise PlanError(
            f"cannot boot ({where}): the machine takes no NVDIMM",
            hint=f"Use {' or '.join(able)}, or another root." if able else "Use another root.",
        )
    if guest.image_size_bytes <= 0 or guest.image_size_bytes % (NVDIMM_ALIGN_MIB * _MIB):
        raise PlanError(
            f"cannot boot ({where}): expected an image of a multiple of {NVDIMM_ALIGN_MIB} MiB, "
            f"got {guest.image_size_bytes} bytes",
            hint=f"Build it with --align-mib {NVDIMM_ALIGN_MIB}.",
        )


def _machine(guest: Guest) -> tuple[str, ...]:
    nvdimm = ("nvdimm=on",) if guest.root is RootKind.PMEM else ()
    kind = guest.machine.type or guest.machine.name
    backend = ("memory-backend=memory",) if Device.VIRTIOFS in guest.devices else ()
    machine = ",".join((kind, f"accel={guest.accel.value}", *guest.machine.options, *nvdimm, *backend))
    memory = f"{guest.memory_mib}M"
    mapped_mib = guest.image_size_bytes // _MIB if guest.root.mapped else 0
    mapped_mib += _PMEM_MIB if Device.PMEM in guest.devices else 0
    mapped_mib += hotplug.room_mib(guest.plugs, guest.machine)
    if mapped_mib:
        slots = 2 if Plug.MEMORY in guest.plugs else 1
        memory += f",slots={slots},maxmem={guest.memory_mib + mapped_mib}M"
    # virt's are of the draft before virtio 1.0, unless this is said; no other VMM has such devices, and vsock is none.
    modern = ("-global", "virtio-mmio.force-legacy=false") if guest.machine.virtio == "device" else ()
    cpus = hotplug.smp(guest.vcpus, guest.plugs)
    # vhost-user devices take memory that another process can map.
    shared = ("-object", f"memory-backend-memfd,id=memory,size={guest.memory_mib}M,share=on") if backend else ()
    firmware = ("-bios", guest.machine.firmware) if guest.machine.firmware else ()
    return ("-machine", machine, *firmware, *modern, "-cpu", guest.cpu, "-smp", cpus, "-m", memory, *shared)


def _root(guest: Guest) -> tuple[str, ...]:
    """A DAX root is mapped from the file itself; disks are read-only, so that guests may share an image."""
    if guest.root is RootKind.INITRD:
        return ("-initrd", str(guest.initrd))
    image = _value(str(guest.image))
    if guest.root.mapped:
        size = guest.image_size_bytes
        device = "nvdimm,memdev=root,unarmed=on" if guest.root is RootKind.PMEM else "virtio-pmem-pci,memdev=root"
        return (
            *("-object", f"memory-backend-file,id=root,mem-path={image},size={size},share=on,readonly=on"),
            *("-device", device),
        )
    disk = f"virtio-blk-{guest.machine.virtio},drive=root"
    return (
        *("-blockdev", f"driver=raw,node-name=root,read-only=on,file.driver=file,file.filename={image}"),
        *(_scsi(guest, "root") if guest.root is RootKind.VIRTIO_SCSI else ("-device", disk)),
    )


def _scsi(guest: Guest, drive: str) -> tuple[str, ...]:
    return ("-device", f"virtio-scsi-{guest.machine.virtio}", "-device", f"scsi-hd,drive={drive}")


def _console(guest: Guest) -> tuple[str, ...]:
    if guest.console is None:
        backend = "stdio,id=console,signal=off"
    else:
        backend = f"file,id=console,path={_value(str(guest.console))}"
    return ("-chardev", backend, *(() if Device.CONSOLE in guest.devices else ("-serial", "chardev:console")))


def _ports(guest: Guest) -> tuple[str, ...]:
    ports: list[str] = []
    if Device.CONSOLE in guest.devices:
        ports += ["-device", "virtconsole,chardev=console"]
    elif guest.report is not None:
        ports += ["-chardev", f"file,id=report,path={_value(str(guest.report))}"]
        ports += ["-device", f"virtserialport,chardev=report,name={PORT_NAME}"]
    if guest.port is not None:
        # To the guest a port without a backend has nobody at its other end: writes block, reads end at once.
        ports += ["-chardev", "null,id=port"]
        # QEMU tells of ports that have an identity, and of no other.
        ports += ["-device", f"virtserialport,id=port,chardev=port,name={_value(guest.port)}"]
    return ("-device", f"virtio-serial-{guest.machine.virtio}", *ports) if ports else ()


def _monitor(guest: Guest) -> tuple[str, ...]:
    return ("-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control") if guest.speaks_qmp else ()


def _devices(guest: Guest) -> tuple[str, ...]:
    bus = guest.machine.virtio
    # A network card's boot ROM is a file of another package, for booting from the network: not wanted here.
    rom = ",romfile=" if bus == "pci" else ""
    options: dict[Device, tuple[str, ...]] = {
        Device.RNG: ("-device", f"virtio-rng-{bus}"),
        Device.BALLOON: ("-device", f"virtio-balloon-{bus},free-page-reporting=on"),
        Device.NET: ("-netdev", "user,id=net,restrict=on", "-device", f"virtio-net-{bus},netdev=net{rom}"),
        Device.SCSI: (
            *("-blockdev", f"driver=null-co,node-name=scsi,read-only=on,read-zeroes=on,size={_MIB}"),
            *_scsi(guest, "scsi"),
        ),
        Device.PMEM: (
            *("-object", f"memory-backend-ram,id=pmem,size={_PMEM_MIB}M"),
            *("-device", "virtio-pmem-pci,memdev=pmem"),
        ),
        Device.IOMMU: ("-device", "virtio-iommu-pci"),
        Device.VMGENID: ("-device", "vmgenid,guid=auto"),
        # Owners and modes of the folder's files are those of the files that QEMU makes.
        Device.PLAN9: (
            *("-fsdev", f"local,id=share,path={_value(str(guest.share))},security_model=none"),
            *("-device", f"virtio-9p-{bus},fsdev=share,mount_tag={shares.TAG}"),
        ),
        Device.VIRTIOFS: (
            *("-chardev", f"socket,id=virtiofsd,path={_value(str(shares.socket(guest.share)))}"),
            *("-device", f"vhost-user-fs-{bus},chardev=virtiofsd,tag={shares.TAG}"),
        ),
    }
    if guest.root is RootKind.VIRTIO_SCSI:
        del options[Device.SCSI]  # which of two disks the kernel finds first is not said
    # In the order of Device, each once: the same guest is the same command, however its devices were listed.
    chosen = [option for device in Device if device in guest.devices for option in options.get(device, ())]
    if guest.vsock_cid is not None:
        chosen += ["-device", f"vhost-vsock-{bus},guest-cid={guest.vsock_cid}"]
    return tuple(chosen)


def _value(text: str) -> str:
    """Quote a value for a QEMU option list, where a comma ends a value and two commas are one (qemu(1))."""
    return text.replace(",", ",,")
