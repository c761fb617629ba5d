"""Which guests prove a kernel or a distribution: on what machine, from which root, with what else.

Pure but for the names of a workbench's catalogue and recipes. Starts nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder import launch
from osbuilder.arch import ARCHES, Arch, Machine, host_arch, parse_arch
from osbuilder.distro.recipe import find_recipe
from osbuilder.errors import PlanError, UsageError
from osbuilder.guest.hotplug import NATIVE, Plug
from osbuilder.guest.lacking import reason
from osbuilder.guest.spec import SHARES, USUAL_DEVICES, Accel, Device, RootKind
from osbuilder.image.initrd import Compression
from osbuilder.kernel.catalogue import BASE
from osbuilder.request import BootRequest, Filesystem

if TYPE_CHECKING:
    from osbuilder.api import Workbench

AGENT_ALONE: Final = "scratch"
"""The distribution that kernels are tried with: nothing but the agent, so whatever fails is the kernel's."""

_CHOSEN_AT_BOOT: Final = ("selinux", "apparmor")
"""Capabilities that are off unless the kernel line names them: security=NAME."""

_IP: Final = "ip=192.0.2.15::192.0.2.1:255.255.255.0::eth0:off"
"""An address of a network for documentation (RFC 5737), given to a guest's card by its kernel line."""

_ISOLATED: Final = {"x86_64": "pti=on", "aarch64": "kpti=1"}
"""What has a kernel of that architecture isolate page tables, also on a processor that does not need it (QEMU's)."""

_ROOTS: Final = (RootKind.INITRD, RootKind.VIRTIO_BLK, RootKind.VERITY, RootKind.PMEM)
"""Where roots come from on every machine of a kernel; what else there is, its first machine tries."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One guest: a kernel, a machine, where its root comes from, and what is in it.

    `filesystem` and `compression` are those of its image or initrd where they are not the usual ones. With `whole` it
    is one of the guests in which, together, all that its kernel promises has to pass.
    """

    arch: str
    variant: str
    machine: str
    root: RootKind
    distro: str
    filesystem: Filesystem | None = None
    compression: Compression | None = None
    devices: tuple[Device, ...] = ()
    append: tuple[str, ...] = ()
    plugs: tuple[Plug, ...] = ()
    vcpus: int = 1
    whole: bool = False

    def __str__(self) -> str:
        return " ".join([self.arch, self.variant, self.machine, self.root.value, self.distro, *self.further])

    @property
    def further(self) -> tuple[str, ...]:
        """What it has besides, in words: its root's form, devices with a plus, the kernel line's, what is plugged."""
        forms = [f"fs={self.filesystem.value}"] if self.filesystem else []
        forms += [f"compression={self.compression.value}"] if self.compression else []
        plugged = (f"plug:{plug.value}" for plug in self.plugs)
        forms += [f"vcpus={self.vcpus}"] if self.vcpus > 1 else []
        return (*forms, *(f"+{device.value}" for device in self.devices), *self.append, *plugged)

    @property
    def kernel(self) -> tuple[str, str]:
        """What names its kernel: architecture and variant."""
        return self.arch, self.variant

    def request(self, line: str | None, modules: str | None) -> BootRequest:
        """Return what to boot, on the kernel `line` of versions.yaml (None: the usual one), with its modules."""
        return BootRequest(
            distro=self.distro,
            filesystem=self.filesystem,
            compression=self.compression,
            kernel=line,
            variant=self.variant,
            arch=self.arch,
            machine=self.machine,
            root=self.root,
            devices=(*USUAL_DEVICES, *self.devices),
            append=self.append,
            plugs=self.plugs,
            vcpus=self.vcpus,
            modules=Path(modules) if modules else None,
        )


def kernel_trials(
    bench: Workbench,
    *,
    arches: Sequence[str],
    variants: Sequence[str],
    line: str | None = None,
    dry: bool = False,
    tell: Callable[[str], None],
) -> tuple[Trial, ...]:
    """Return the guests that try kernels: each variant on each machine and root that it has the drivers for.

    No names mean all. Variants that are not for the version of `line`, or for no machine, are left out, and `tell` gets
    a line for each; with `dry` nothing is run to find that version out. Raises UsageError for unknown names, and for a
    variant that is for none of the architectures; PlanError for a variant that was named and would be left out.
    """
    chosen = _arches(arches)
    if not variants:
        bench.kernels.check_variants()
    pairs = [(arch, name) for arch in chosen for name in bench.kernels.variants(arch)]
    for name in variants:
        if name not in {each for _, each in pairs}:
            bench.kernels.capabilities_of(name, chosen[0])  # says what is wrong with it
    wanted = [(arch, name) for arch, name in pairs if not variants or name in variants]
    misfits = {pair: misfit for pair in wanted if (misfit := bench.kernels.misfit(pair[1], line, pair[0], dry=dry))}
    able = {pair: _machines(bench, pair[1], pair[0]) for pair in wanted if pair not in misfits}
    misfits |= {pair: _undriven(*pair) for pair, machines in able.items() if not machines}
    for name in variants:
        if all(pair in misfits for pair in wanted if pair[1] == name):
            raise next(misfit for pair, misfit in misfits.items() if pair[1] == name)
    for misfit in misfits.values():
        tell(f"left out: {misfit.message}")
    return tuple(
        trial
        for arch, name in wanted
        if (arch, name) not in misfits
        for trial in _trials(arch, name, able[arch, name], bench.kernels.capabilities_of(name, arch))
    )


def distro_trials(bench: Workbench, distro: str, *, arches: Sequence[str]) -> tuple[Trial, ...]:
    """Return a guest of a distribution for each of its architectures: on the base kernel, from the best root.

    No names mean all. Raises UsageError for unknown names, and for an architecture that the distribution has not.
    """
    recipe = find_recipe(distro, bench.planner.distros)
    declared = recipe.arches
    for name in arches:
        if parse_arch(name).name not in declared:
            why = recipe.why_excluded(recipe.default_release, name) or "its recipe does not say why"
            raise UsageError(f"{distro} has no guests for {name}: {why}", hint=f"It has: {', '.join(declared)}.")
    trials = []
    for arch in _arches(arches or declared):
        machine = launch.machines(bench, BASE, arch)[0]
        root = RootKind.PMEM if machine.nvdimm else RootKind.VIRTIO_BLK
        trials.append(Trial(arch=arch.name, variant=BASE, machine=machine.name, root=root, distro=distro))
    return tuple(trials)


def _machines(bench: Workbench, variant: str, arch: Arch) -> tuple[Machine, ...]:
    """Return the machines of a variant's declared consumers; where it declares none of them, all that it can drive."""
    able = launch.machines(bench, variant, arch)
    consumers = bench.kernels.consumers_of(variant)
    return tuple(machine for machine in able if machine.consumer in consumers) or able


def _undriven(arch: Arch, variant: str) -> PlanError:
    names = ", ".join(machine.name for machine in arch.machines)
    return PlanError(
        f"kernel variant {variant} has drivers for none of the machines that guests of {arch.name} run on: {names}",
        hint="`inv kernel.consumers` says what it lacks for each.",
    )


def _trials(arch: Arch, variant: str, machines: Sequence[Machine], capabilities: Collection[str]) -> Iterator[Trial]:
    """Yield the guests of one kernel: on each machine from each root, and with what is off or absent otherwise."""
    first = machines[0]
    for machine in machines:
        plain = Trial(
            arch=arch.name,
            variant=variant,
            machine=machine.name,
            root=RootKind.INITRD,
            distro=AGENT_ALONE,
            whole=True,
        )
        for root in _ROOTS:
            able = {RootKind.PMEM: machine.nvdimm, RootKind.VERITY: "dm-verity" in capabilities}
            if able.get(root, True):
                yield dataclasses.replace(plain, root=root)
        if "smp" in capabilities:
            yield dataclasses.replace(plain, vcpus=2)
        if machine is first:
            yield from _further_roots(plain, machine, capabilities)
            yield from _further_devices(plain, machine, capabilities)
        else:
            only_there = tuple(plug for plug in machine.plugs if plug not in first.plugs)
            yield from _plugged(plain, dataclasses.replace(machine, plugs=only_there), capabilities)


def _further_roots(plain: Trial, machine: Machine, capabilities: Collection[str]) -> Iterator[Trial]:
    """Yield the guests with roots of another form, or on another bus, than the usual ones."""
    for compression in (Compression.GZIP, Compression.NONE) if "initrd" in capabilities else ():
        yield dataclasses.replace(plain, compression=compression)
    if "erofs" in capabilities:
        yield dataclasses.replace(plain, root=RootKind.VIRTIO_BLK, filesystem=Filesystem.EROFS)
        if machine.nvdimm:
            yield dataclasses.replace(plain, root=RootKind.PMEM, filesystem=Filesystem.EROFS)
    if "virtio-scsi" in capabilities:
        yield dataclasses.replace(plain, root=RootKind.VIRTIO_SCSI)
    if "virtio-pmem" in capabilities and machine.virtio_pmem:
        yield dataclasses.replace(plain, root=RootKind.VIRTIO_PMEM)


def _further_devices(plain: Trial, machine: Machine, capabilities: Collection[str]) -> Iterator[Trial]:
    """Yield the guests with what is attached, or chosen on the kernel line, only where it is asked for."""
    there = (Device.PMEM, Device.IOMMU) if machine.virtio_pmem else (Device.IOMMU,)
    devices = tuple(device for device in there if device.value in capabilities)
    if devices and machine.virtio == "pci":
        yield dataclasses.replace(plain, devices=devices)
    if Device.IOMMU.value in capabilities and machine.iommu:
        yield dataclasses.replace(plain, devices=(Device.MACHINE_IOMMU,))
    foreign = plain.arch != host_arch().name
    shared = (Device.PLAN9,) if foreign and reason("virtiofs", plain.arch, (Accel.TCG,)) else SHARES
    shares = tuple(device for device in shared if device.value in capabilities)
    if shares:
        yield dataclasses.replace(plain, devices=shares)
    if Device.CONSOLE.value in capabilities and not machine.console.startswith("hvc"):
        yield dataclasses.replace(plain, devices=(Device.CONSOLE,))
    if Device.VMGENID.value in capabilities and machine.vmgenid:
        yield dataclasses.replace(plain, devices=(Device.VMGENID,))
    if "ip-config" in capabilities:
        yield dataclasses.replace(plain, append=(_IP,))
    if "hardening" in capabilities and plain.arch in _ISOLATED:
        yield dataclasses.replace(plain, append=(_ISOLATED[plain.arch],))
    for module in _CHOSEN_AT_BOOT:
        if module in capabilities:
            yield dataclasses.replace(plain, append=(f"security={module}",))
    yield from _plugged(plain, machine, capabilities)


def _plugged(plain: Trial, machine: Machine, capabilities: Collection[str]) -> Iterator[Trial]:
    """Yield the guests into which things are plugged; what bridges do by themselves apart from what ACPI does."""
    plugs = [plug for plug in Plug if plug.value in machine.plugs and plug.capability in capabilities]
    native = [plug for plug in plugs if plug in NATIVE] if Plug.PCI in plugs else []
    for together in (tuple(plug for plug in plugs if plug not in native), tuple(native)):
        if together:
            yield dataclasses.replace(plain, plugs=together)


def _arches(names: Sequence[str]) -> tuple[Arch, ...]:
    return tuple(parse_arch(name) for name in names) or tuple(ARCHES.values())
