"""ONE table: a row an architecture. Nothing else in osbuilder knows an architecture's names.

Sources: Debian's architecture names and multiarch triplets (dpkg-architecture(1)), the names that container images use
(Go's GOARCH), the kernel's arch/ folders, QEMU's machine types, ELF machine numbers (elf.h), Rust's targets.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from types import MappingProxyType

from osbuilder.errors import UsageError, suggest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A QEMU machine that guests of an architecture boot on.

    `type` is QEMU's name of it where `name` is another; `options` go to -machine; `virtio` is the suffix of its virtio
    devices (virtio-blk-pci, virtio-blk-device, virtio-blk-ccw); `cpu` is what TCG emulates (KVM shows the host's);
    `cmdline` are words that its kernels need; `consumer` is what kernel/configs/consumers.yaml calls those who boot
    kernels on it; `nvdimm` and `virtio_pmem` say what it can map a DAX root from; `kernels` are the kernel files that
    it loads, best first; `vmgenid` says that it can have a generation counter; `iommu` are the options that give it an
    IOMMU of its own, `iommu_words` those of the kernel line with which it is used. `firmware` is the file of the UEFI
    firmware that starts its kernels, where Debian's package of it has it ("": the kernel is started directly), and
    `capability` what a kernel must be able to do to be started by it. `names_devices` says that QEMU names virtio
    devices on the kernel line, behind our words.

    `plugs` is what comes while a guest runs (guest.hotplug.Plug; why the rest does not, guest.lacking says).
    `plugged_cpu` is QEMU's type of a CPU that comes ({} is the model), `cpu_place` the properties that say where it
    is, `dimm_mib` the size that DIMMs have a multiple of, `dimm_words` those of the kernel line that a guest for DIMMs
    needs, `pci_bus` the bus on which the hypervisor itself plugs disks (None: they take a port), `native_plugging` are
    options with which PCI bridges plug by themselves.
    """

    name: str
    consumer: str
    options: tuple[str, ...]
    virtio: str
    console: str
    cpu: str
    cmdline: tuple[str, ...]
    nvdimm: bool
    kernels: tuple[str, ...]
    type: str | None = None
    plugs: tuple[str, ...] = ()
    plugged_cpu: str = ""
    cpu_place: tuple[str, ...] = ("core-id",)
    dimm_mib: int = 128
    dimm_words: tuple[str, ...] = ()
    pci_bus: str | None = None
    native_plugging: tuple[str, ...] = ()
    iommu: tuple[str, ...] = ()
    iommu_words: tuple[str, ...] = ()
    virtio_pmem: bool = False
    vmgenid: bool = False
    firmware: str = ""
    capability: str = ""
    names_devices: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """An architecture and every name that somebody else gives it.

    `vmlinux_path` and `vmlinuz_path` are where the kernel's build leaves what is published under these names, which
    are those that Kata's runtime looks for. `qemu_packages` are Debian's packages of QEMU for its guests,
    `cross_packages` those that compile for it on a host of another architecture. `rust` is what Rust calls its
    processors; `libcs` are the C libraries that an agent can be linked with statically, the usual one first.
    `cmdline_bytes` is how long a kernel line may be, its end mark included (COMMAND_LINE_SIZE; the rest is cut off),
    `cmdline_built_in` what our kernels put before it (CONFIG_CMDLINE of kernel/configs).
    """

    name: str
    debian: str
    oci: str
    triplet: str
    kernel: str
    elf_machine: int
    elf_class: int
    elf_little_endian: bool
    qemu: str
    qemu_packages: tuple[str, ...]
    cross_packages: tuple[str, ...]
    rust: str
    libcs: tuple[str, ...]
    kernel_targets: tuple[str, ...]
    vmlinux_path: str
    vmlinuz_path: str
    machines: tuple[Machine, ...]
    cmdline_bytes: int = 2048
    cmdline_built_in: str = ""

    def rust_triple(self, libc: str) -> str:
        """Return Rust's name of the target that has a C library."""
        return f"{self.rust}-unknown-linux-{libc}"

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
    oci="amd64",
    triplet="x86_64-linux-gnu",
    kernel="x86",
    elf_machine=62,
    elf_class=64,
    elf_little_endian=True,
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios", "ovmf"),
    cross_packages=("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"),
    rust="x86_64",
    libcs=("musl", "gnu"),
    kernel_targets=("vmlinux", "bzImage"),
    vmlinux_path="vmlinux",
    vmlinuz_path="arch/x86/boot/bzImage",
    cmdline_built_in="noreplace-smp no_timer_check",
    machines=(
        Machine(
            name="q35",
            consumer="qemu",
            options=(),
            virtio="pci",
            console="ttyS0",
            cpu="max",
            cmdline=_X86_CMDLINE,
            nvdimm=True,
            kernels=("vmlinux", "vmlinuz"),
            virtio_pmem=True,
            vmgenid=True,
            plugs=("cpu", "memory", "virtio-mem", "pci", "pcie", "shpc"),
            plugged_cpu="{}-x86_64-cpu",
            cpu_place=("socket-id", "core-id", "thread-id"),
            # Otherwise ACPI does it for all bridges that were there from the start.
            native_plugging=("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
            iommu=("-device", "intel-iommu,intremap=on"),
            iommu_words=("intel_iommu=on",),
        ),
        # microvm with ACPI on hangs under TCG after failed TSC calibration; without it every device is virtio-mmio,
        # as Firecracker has them.
        Machine(
            name="microvm",
            consumer="qemu-microvm",
            options=("acpi=off",),
            names_devices=True,
            virtio="device",
            console="ttyS0",
            cpu="max",
            cmdline=_X86_CMDLINE,
            nvdimm=False,
            kernels=("vmlinux", "vmlinuz"),
        ),
        # As guests of SEV-SNP and TDX are started: by UEFI firmware, which takes the kernel with its EFI stub.
        Machine(
            name="q35-uefi",
            type="q35",
            consumer="qemu",
            options=(),
            virtio="pci",
            console="ttyS0",
            cpu="max",
            cmdline=_X86_CMDLINE,
            nvdimm=True,
            kernels=("vmlinuz",),
            virtio_pmem=True,
            vmgenid=True,
            firmware="/usr/share/ovmf/OVMF.fd",
            capability="efi-stub",
        ),
    ),
)

# A kernel that is started directly gets a device tree.
_VIRT = Machine(
    name="virt",
    consumer="qemu",
    options=(),
    virtio="pci",
    console="ttyAMA0",
    cpu="max",
    cmdline=(),
    nvdimm=False,
    kernels=("vmlinux", "vmlinuz"),
    plugs=("virtio-mem", "pcie", "shpc"),
    # The usual GIC does not tell devices' interrupts apart.
    iommu=("-machine", "iommu=smmuv3,gic-version=3"),
)

_AARCH64 = Arch(
    name="aarch64",
    debian="arm64",
    oci="arm64",
    triplet="aarch64-linux-gnu",
    kernel="arm64",
    elf_machine=183,
    elf_class=64,
    elf_little_endian=True,
    qemu="qemu-system-aarch64",
    qemu_packages=("qemu-system-arm", "qemu-efi-aarch64"),
    cross_packages=("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    rust="aarch64",
    libcs=("musl", "gnu"),
    # What is booted is never the ELF file, but the image that it is made into.
    kernel_targets=("Image", "Image.gz"),
    vmlinux_path="arch/arm64/boot/Image",
    vmlinuz_path="arch/arm64/boot/Image.gz",
    machines=(
        _VIRT,
        # Its nvdimms and DIMMs are named in ACPI tables only, and those come from UEFI firmware.
        dataclasses.replace(
            _VIRT,
            name="virt-uefi",
            type="virt",
            nvdimm=True,
            plugs=("memory", *_VIRT.plugs),
            firmware="/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            capability="uefi",
        ),
        # The same as virt, with every device on virtio-mmio and named in the device tree, as Firecracker has them.
        Machine(
            name="virt-mmio",
            type="virt",
            consumer="firecracker",
            options=(),
            virtio="device",
            console="ttyAMA0",
            cpu="max",
            cmdline=(),
            nvdimm=False,
            kernels=("vmlinux", "vmlinuz"),
        ),
    ),
)

_PPC64LE = Arch(
    name="ppc64le",
    debian="ppc64el",
    oci="ppc64le",
    triplet="powerpc64le-linux-gnu",
    kernel="powerpc",
    elf_machine=21,
    elf_class=64,
    elf_little_endian=True,
    qemu="qemu-system-ppc64",
    qemu_packages=("qemu-system-ppc",),
    cross_packages=("gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross"),
    rust="powerpc64le",
    libcs=("gnu",),
    kernel_targets=("vmlinux",),
    vmlinux_path="vmlinux",
    vmlinuz_path="vmlinux",
    machines=(
        # The small firmware (VOF) hands over in half a second, SLOF under TCG in eight. An nvdimm needs a label area
        # behind the image, which an image for the other architectures does not have.
        Machine(
            name="pseries",
            consumer="qemu",
            options=("x-vof=on",),
            virtio="pci",
            console="hvc0",
            # By the name that a CPU which comes has: POWER9 is v2.0 or v2.2, as QEMU is old.
            cpu="power9_v2.0",
            cmdline=(),
            nvdimm=False,
            kernels=("vmlinux", "vmlinuz"),
            plugs=("cpu", "memory", "pci"),
            plugged_cpu="{}-spapr-cpu-core",
            # A logical memory block (LMB) of PAPR's, of which each DIMM has whole ones.
            dimm_mib=256,
            # Without CONFIG_NUMA the kernel makes the PCI bus a direct DMA window of the size that memory has at boot,
            # and refuses memory beyond it (ddw_memory_hotplug_max, iommu_mem_notifier of platforms/pseries/iommu.c).
            dimm_words=("disable_ddw",),
            pci_bus="pci.0",
        ),
    ),
)

_S390X = Arch(
    name="s390x",
    debian="s390x",
    oci="s390x",
    triplet="s390x-linux-gnu",
    kernel="s390",
    elf_machine=22,
    elf_class=64,
    elf_little_endian=False,
    qemu="qemu-system-s390x",
    qemu_packages=("qemu-system-s390x",),
    cross_packages=("gcc-s390x-linux-gnu", "libc6-dev-s390x-cross"),
    rust="s390x",
    libcs=("gnu",),
    kernel_targets=("bzImage",),
    vmlinux_path="arch/s390/boot/vmlinux",
    vmlinuz_path="arch/s390/boot/bzImage",
    machines=(
        Machine(
            name="s390-ccw-virtio",
            consumer="qemu",
            options=(),
            virtio="ccw",
            console="ttysclp0",
            cpu="max",
            cmdline=(),
            nvdimm=False,
            kernels=("vmlinuz", "vmlinux"),
            plugs=("cpu", "pci"),
            plugged_cpu="{}-s390x-cpu",
            pci_bus="pci.0",
        ),
    ),
)

_RISCV64 = Arch(
    name="riscv64",
    debian="riscv64",
    oci="riscv64",
    triplet="riscv64-linux-gnu",
    kernel="riscv",
    elf_machine=243,
    elf_class=64,
    elf_little_endian=True,
    qemu="qemu-system-riscv64",
    qemu_packages=("qemu-system-riscv",),
    cross_packages=("gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"),
    rust="riscv64gc",
    libcs=("gnu",),
    kernel_targets=("Image", "Image.gz"),
    vmlinux_path="arch/riscv/boot/Image",
    vmlinuz_path="arch/riscv/boot/Image.gz",
    cmdline_bytes=1024,
    machines=(
        # Its firmware (OpenSBI, which comes with QEMU) takes no compressed kernel.
        Machine(
            name="virt",
            consumer="qemu",
            options=(),
            virtio="pci",
            console="ttyS0",
            cpu="max",
            cmdline=(),
            nvdimm=False,
            kernels=("vmlinux",),
            plugs=("pcie", "shpc"),
            # Message-signalled interrupts. With those by wire, the default, the guest sees the button pressed, but the
            # port never powers off, and the bridge never on. Why was not found out.
            native_plugging=("-machine", "aia=aplic-imsic"),
        ),
    ),
)

ARCHES: Mapping[str, Arch] = MappingProxyType(
    {arch.name: arch for arch in (_X86_64, _AARCH64, _PPC64LE, _S390X, _RISCV64)}
)


def parse_arch(name: str) -> Arch:
    """Return the row of that name. Raises UsageError with a suggestion."""
    try:
        return ARCHES[name]
    except KeyError:
        raise UsageError(f"unknown architecture {name!r}", hint=suggest(name, ARCHES)) from None


def host_arch() -> Arch:
    """Return the row of the machine that this runs on (uname -m)."""
    return parse_arch(platform.machine())
