"""QEMU's command line for a guest: pure, from a value to an argv and a kernel line.

Owns how a guest's root, console, report port and devices become QEMU options, the way the guests' consumers attach
them (a read-only NVDIMM for a DAX root, a read-only virtio disk, an initrd). Starts nothing. Options are those of
qemu(1), QEMU 7.2 and later.
"""

from __future__ import annotations

import re
from typing import Final

from osbuilder.errors import PlanError
from osbuilder.guest import hotplug, shares
from osbuilder.guest.checks import check
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.report import PORT_NAME
from osbuilder.guest.spec import Device, Guest, RootKind
from osbuilder.image.measured import DATA_DEVICE, kernel_parameters

# As the kernel's next_arg (lib/cmdline.c) has it: a blank between double quotes ends no word.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')

_MIB = 1024 * 1024

_VIRTIO_MMIO: Final = re.compile(r"virtio-\w+-device\b|vhost-[\w-]+-device\b")
_NAMED: Final = " virtio_mmio.device=512@0xfeb00000:23"
"""What names a device on a kernel line: the size, the place and the interrupt of its registers."""

_PMEM_MIB: Final = 16

# The first partition of the root's disk, as the kernel calls it.
_ROOT_DEVICES: Final = {
    RootKind.PMEM: "/dev/pmem0p1",
    RootKind.VIRTIO_PMEM: "/dev/pmem0p1",
    RootKind.VIRTIO_BLK: DATA_DEVICE,
    RootKind.VIRTIO_SCSI: "/dev/sda1",
}


def parse_words(text: str) -> tuple[str, ...]:
    """Return the words of a part of a kernel line, with their quotes; whether they can stand there is not looked at."""
    return tuple(_WORD.findall(text))


def render_cmdline(guest: Guest) -> str:
    """Return the kernel line. Raises PlanError for a guest that cannot be, and for a line that the kernel would cut.

    A panic ends the guest (panic=-1 reboots at once, QEMU's -no-reboot turns that into an exit). Root options are the
    ones that Kata's runtime gives.
    """
    check(guest)
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
