"""Which guests a machine cannot hold: told before one is started, with what to do instead."""

from __future__ import annotations

from typing import Final

from osbuilder.errors import PlanError
from osbuilder.guest import hotplug
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.report import PORT_NAME
from osbuilder.guest.spec import Device, Guest, RootKind

NVDIMM_ALIGN_MIB = 128
"""Size that an NVDIMM image is a multiple of: Linux adds its memory in sections of this size (x86_64)."""

_MIB: Final = 1024 * 1024
_MIN_MEMORY_MIB = 32
_MIN_VSOCK_CID = 3
_MAX_VSOCK_CID = 0xFFFFFFFE
_PCI_DEVICES: Final = (Device.PMEM, Device.IOMMU)


def check(guest: Guest) -> None:
    """Raise PlanError for a guest that cannot be."""
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
