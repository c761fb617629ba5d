"""From what a user wants to boot to a guest that runs: builds what is missing, picks machine, root and accelerator."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.agents.pin import is_given
from osbuilder.arch import Arch, Machine, host_arch, parse_arch
from osbuilder.errors import PlanError, ToolMissing, UsageError
from osbuilder.guest import lacking
from osbuilder.guest.boot import AGENT_CMDLINE, Boot, start, usable_accels
from osbuilder.guest.checks import NVDIMM_ALIGN_MIB
from osbuilder.guest.place import BuilderPlace, HostPlace, Place, host_qemu, host_version
from osbuilder.guest.qemu import render_argv, render_cmdline
from osbuilder.guest.ready import Ready
from osbuilder.guest.report import render_report, to_json
from osbuilder.guest.shares import SHARE, VIRTIOFSD, check_socket, host_virtiofsd
from osbuilder.guest.spec import Accel, Device, Guest, RootKind
from osbuilder.guestroot import files_of, fstype_of, root_file, root_kind, root_request, verity_of
from osbuilder.image.verity import Verity
from osbuilder.kernel.install import suffix
from osbuilder.request import (
    BootRequest,
)
from osbuilder.settings import Accel as AccelChoice
from osbuilder.settings import QemuChoice
from osbuilder.store import runs_in, write_atomic

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Step
    from osbuilder.store import Artifact

# What a kernel must be able to do for the bus that a machine's virtio devices are on (arch.Machine.virtio).
_BUSES: Mapping[str, str] = {"pci": "virtio-pci", "device": "virtio-mmio", "ccw": "virtio-ccw"}

_REPORT = Path("report")

# What a kernel must be able to do for a port to be there.
_PORTS = "virtio-console"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A guest that reported, ready to be shown."""

    boot: Boot

    def table(self) -> str:
        """Return what the guest said and how it was started, for a person."""
        guest = self.boot.guest
        how = f"{guest.machine.name}, {guest.root.value} root, {guest.accel.value}, {guest.memory_mib} MiB"
        lines = [*self.boot.notes, f"guest: {how}; QEMU ran {self.boot.wall_s:.1f} s", ""]
        if self.boot.reported is None:
            return "\n".join([*lines, f"ready: {self.boot.ready}"])
        return "\n".join(lines) + "\n" + render_report(self.boot.report).rstrip("\n")

    def json(self) -> str:
        """Return the report with how the guest was started, as JSON."""
        guest = self.boot.guest
        content = {
            "machine": guest.machine.name,
            "root": guest.root.value,
            "accel": guest.accel.value,
            "wall_s": round(self.boot.wall_s, 3),
            "ready": self.boot.ready or None,
            "report": json.loads(to_json(self.boot.reported)) if self.boot.reported else None,
        }
        return json.dumps(content, indent=2)

    def check(self) -> None:
        """Raise BootError when the guest is up but not right; see Boot.check."""
        self.boot.check()


def boot(bench: Workbench, request: BootRequest) -> Outcome:
    """Build what the request needs, start the guest, and return what it reported.

    Raises UsageError and PlanError for what cannot be, BootError with the console's end when the guest did not report.
    """
    with bench.executor.in_use():
        return _boot(bench, request)


def _boot(bench: Workbench, request: BootRequest) -> Outcome:
    arch, machine, root, ready = _chosen(bench, request)
    # Refuses what cannot be before anything is built.
    render_argv(_rehearsed(request, arch, machine, root, ready))
    kernel = request.kernel_file or bench.build(request.kernel_request(arch.name)).artifact.path(machine.kernels[0])
    image, initrd, verity = root_file(bench, request, root)
    guest = _guest(request, arch, machine, root, kernel=kernel, image=image, initrd=initrd, verity=verity)
    guest, probes = _with_probes(bench, request, guest, ready)
    with _place(bench, arch, machine, request.devices) as place:
        return Outcome(
            boot=start(
                guest,
                place,
                required=probes,
                accels=usable_accels(
                    wanted=None if bench.settings.accel is AccelChoice.AUTO else Accel(bench.settings.accel.value),
                    same_arch=arch is host_arch(),
                    kvm_works=_kvm_verdict(bench),
                ),
                timeout_s=request.timeout_s,
                remember=lambda works: _remember_kvm(bench, works),
                ready=ready,
            )
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A guest as it would be started, with the probes that have to pass in it and what its root was made from.

    Its kernel has the name of the file that it would be, and need not be built; its accelerator is not chosen.
    """

    guest: Guest
    required: tuple[str, ...]
    root: Artifact


def planned(bench: Workbench, request: BootRequest) -> Planned:
    """Return the guest of a request that names no files; builds its root, and not its kernel.

    Raises as `boot`, and StoreError when the kernel's configuration is not in the store.
    """
    arch, machine, root, ready = _chosen(bench, request)
    built = bench.build(root_request(request, root)).artifact
    image, initrd, verity = files_of(built, root)
    kernel = Path(machine.kernels[0])
    guest = _guest(request, arch, machine, root, kernel=kernel, image=image, initrd=initrd, verity=verity)
    guest, required = _with_probes(bench, request, guest, ready)
    return Planned(guest=guest, required=required, root=built)


def describe(bench: Workbench, request: BootRequest) -> str:
    """Return what `boot` would do: the plans of what it builds, and QEMU's command; runs nothing."""
    arch, machine, root, ready = _chosen(bench, request)
    guest = _rehearsed(request, arch, machine, root, ready)
    parts = []
    if request.kernel_file is None:
        parts.append(bench.describe(request.kernel_request(request.arch)))
    if request.image is None and request.initrd is None:
        parts.append(bench.describe(root_request(request, root)))
    parts.append(f"boot\n   {shlex.join(render_argv(guest))}")
    return "\n".join(parts)


def _chosen(bench: Workbench, request: BootRequest) -> tuple[Arch, Machine, RootKind, Ready | None]:
    """Return what a guest is started as and how it is known to serve; builds nothing. Raises as `boot`."""
    arch = parse_arch(request.arch) if request.arch else host_arch()
    _check_files(request)
    machines = _fitting(bench, request, arch)
    root = root_kind(bench, request, arch, machines)
    return arch, _machine(request, arch, machines, root), root, _ready(bench, request, arch)


def asked(guest: Guest, probes: Collection[str] = (), known: Collection[str] = ()) -> Guest:
    """Return a guest that is asked for these probes; for all, if there are none.

    Where the kernel line has no room for their names, it names what else there is in `known` instead.
    """
    rest = [f"-{name}" for name in known if name not in probes]
    for words in (probes, ("all", *rest)) if probes else ():
        named = dataclasses.replace(guest, cmdline=(f"osbuilder.probes={','.join(words)}", *guest.cmdline))
        with contextlib.suppress(PlanError):
            # As it will be started: with the agent's words, and the port for its report.
            started = dataclasses.replace(named, report=_REPORT, cmdline=(*named.cmdline, *AGENT_CMDLINE))
            render_cmdline(started)
            return named
    return dataclasses.replace(guest, cmdline=("osbuilder.probes=all", *guest.cmdline))


def _rehearsed(request: BootRequest, arch: Arch, machine: Machine, root: RootKind, ready: Ready | None) -> Guest:
    """Return the guest with stand-ins for the files that are not built yet."""
    kernel = request.kernel_file or Path(f"{machine.kernels[0]}{suffix(request.variant)}.container")
    initrd = (request.initrd or Path("kata-containers-initrd.img")) if root is RootKind.INITRD else None
    image = (request.image or Path("kata-containers.img")) if initrd is None else None
    verity = None
    if root is RootKind.VERITY:
        # As long as they will be.
        unknown = Verity(root_hash="HASH".ljust(64, "."), salt="SALT".ljust(64, "."), data_blocks=10**7)
        verity = verity_of(request, request.image) if request.image else unknown
    guest = _guest(request, arch, machine, root, kernel=kernel, image=image, initrd=initrd, verity=verity)
    guest = dataclasses.replace(guest, port=ready.port if ready else None)
    if ready is None:
        guest = asked(guest)
    guest = dataclasses.replace(guest, cmdline=(*guest.cmdline, *AGENT_CMDLINE))
    if request.image is None and root.mapped:
        # The least that an nvdimm can be.
        guest = dataclasses.replace(guest, image_size_bytes=NVDIMM_ALIGN_MIB << 20)
    return guest


def _ready(bench: Workbench, request: BootRequest, arch: Arch) -> Ready | None:
    """Return how the agent is known to serve; None for one that reports. Raises PlanError where there are no ports."""
    ready = request.ready
    if ready is None and request.agent is not None and not is_given(request.agent):
        ready = bench.planner.versions.agent(request.agent).ready
    if ready is not None and request.plugs:
        raise UsageError("--plug is for guests whose agent is the probe", hint="It is what asks for what is plugged.")
    if ready is None or ready.port is None or request.kernel_file is not None:
        return ready
    if _PORTS not in bench.kernels.capabilities_of(request.variant, arch):
        raise PlanError(
            f"kernel variant {request.variant} has no port {ready.port}: it lacks the capability {_PORTS}",
            hint="Use another --variant (`inv kernel.capabilities`), or --ready PATTERN, a line of the console.",
        )
    return ready


def _check_files(request: BootRequest) -> None:
    files = (
        ("--image", request.image, "image"),
        ("--initrd", request.initrd, "initrd"),
        ("--kernel", request.kernel_file, "kernel"),
        ("--root-hash", request.root_hash, "image --measured"),
    )
    for option, path, maker in files:
        if path is not None and not path.is_file():
            what = "a folder" if path.is_dir() else "missing"
            raise UsageError(f"{option} {path}: expected a file, it is {what}", hint=f"`inv {maker}` makes one.")


def _fitting(bench: Workbench, request: BootRequest, arch: Arch) -> tuple[Machine, ...]:
    return arch.machines if request.kernel_file is not None else machines(bench, request.variant, arch)


def machines(bench: Workbench, variant: str, arch: Arch) -> tuple[Machine, ...]:
    """Return the machines that a kernel knows the devices of, those of its declared consumers first.

    They have an nvdimm where it can map a root from one, and firmware where it can be started by it. Raises UsageError
    for a variant that there is not, or not for the architecture.
    """
    has = bench.kernels.capabilities_of(variant, arch)
    consumers = bench.kernels.consumers_of(variant)
    return tuple(
        dataclasses.replace(machine, nvdimm=machine.nvdimm and "nvdimm-root" in has)
        for machine in sorted(arch.machines, key=lambda machine: machine.consumer not in consumers)
        if {_BUSES[machine.virtio], machine.capability} - {""} <= has
    )


def _machine(request: BootRequest, arch: Arch, machines: tuple[Machine, ...], root: RootKind) -> Machine:
    wanted = arch.machine(request.machine) if request.machine else None
    if wanted and wanted.name not in (machine.name for machine in machines):
        lack = "cannot be started by the firmware" if wanted.firmware else "has no drivers for the devices"
        raise PlanError(
            f"kernel variant {request.variant} {lack} of {wanted.name}",
            hint=f"Use --machine {' or '.join(machine.name for machine in machines)}.",
        )
    taking = [machine for machine in machines if _takes(machine, root)]
    if not taking:
        raise PlanError(
            f"no machine of {arch.name} takes a {root.value} root{_why_mapped_by_none(arch, root)}",
            hint="Use --root virtio-blk.",
        )
    # One that was named and does not take the root is refused with QEMU's command line, which says which do.
    return next((machine for machine in machines if wanted and machine.name == wanted.name), taking[0])


def _takes(machine: Machine, root: RootKind) -> bool:
    """Say whether a machine has what a root is on."""
    return {RootKind.PMEM: machine.nvdimm, RootKind.VIRTIO_PMEM: machine.virtio_pmem}.get(root, True)


def _why_mapped_by_none(arch: Arch, root: RootKind) -> str:
    """Return why guests of an architecture cannot map such a root, behind a colon; "" where nobody wrote it down."""
    probe = {RootKind.PMEM: "pmem", RootKind.VIRTIO_PMEM: "virtio-pmem"}.get(root, "")
    why = lacking.reason(probe, arch.name, ())
    return f": {why}" if why else ""


def _with_probes(
    bench: Workbench, request: BootRequest, guest: Guest, ready: Ready | None
) -> tuple[Guest, tuple[str, ...]]:
    """Return a guest with what is known of its kernel, and asked for the probes that this promises; and those probes.

    Of a kernel that we did not build nothing is promised, and no patch known. Raises StoreError when the kernel's
    configuration is not in the store.
    """
    promised: tuple[str, ...] = ()
    if request.kernel_file is None:
        wanted = request.kernel_request(guest.arch.name)
        guest = dataclasses.replace(guest, patches=bench.kernels.patches(wanted))
        promised = tuple(dict.fromkeys(probe for names in bench.kernels.promises(wanted).values() for probe in names))
    if ready is not None:
        return guest, ()
    return asked(guest, promised, bench.kernels.probes()), promised


def _guest(
    request: BootRequest,
    arch: Arch,
    machine: Machine,
    root: RootKind,
    *,
    kernel: Path,
    image: Path | None,
    initrd: Path | None,
    verity: Verity | None,
) -> Guest:
    return Guest(
        arch=arch,
        machine=machine,
        accel=Accel.TCG,
        kernel=kernel,
        root=root,
        image=image,
        image_size_bytes=image.stat().st_size if image and image.is_file() else 0,
        initrd=initrd,
        verity=verity,
        fstype=fstype_of(request),
        memory_mib=request.memory_mib,
        vcpus=request.vcpus,
        devices=request.devices,
        plugs=request.plugs,
        cmdline=request.append,
    )


def emulator(
    bench: Workbench, arch: Arch, devices: Collection[Device] = (), machine: Machine | None = None
) -> Step | None:
    """Return the step that makes the builder in which guests of an architecture run; None where this host's QEMU does.

    That takes virtiofsd as well for guests with that device, and the firmware of a machine that has one. Raises
    ToolMissing where only the host's may be used and there is none.
    """
    wanted = bench.settings.qemu
    programs = {arch.qemu: host_qemu(arch.qemu)}
    if Device.VIRTIOFS in devices:
        programs[VIRTIOFSD] = host_virtiofsd()
    if machine is not None and machine.firmware:
        programs[machine.firmware] = Path(machine.firmware).is_file()
    there = all(programs.values())
    if wanted is QemuChoice.HOST and not there:
        missing = next(name for name, found in programs.items() if not found)
        raise ToolMissing(f"{missing} is not on this host", hint="Install it, or use --setting qemu=builder.")
    return None if there and wanted is not QemuChoice.BUILDER else bench.planner.builder("qemu", arch)


def emulator_version(bench: Workbench, guest: Guest) -> str | None:
    """Return the version of the QEMU that a guest runs in; None where its builder left the store."""
    step = emulator(bench, guest.arch, guest.devices, guest.machine)
    if step is None:
        return host_version(guest.arch.qemu)
    builder = bench.peek(step)[step.ident]
    packages = builder.facts["packages"] if builder else ()
    return next((version for name, version, _ in packages if name == "qemu-system-common"), None)


@contextlib.contextmanager
def _place(bench: Workbench, arch: Arch, machine: Machine, devices: Collection[Device]) -> Iterator[Place]:
    on_host = emulator(bench, arch, devices, machine) is None
    with bench.store.scratch(f"boot-{secrets.token_hex(8)}") as folder:
        if on_host:
            place = HostPlace(folder=folder)
            if Device.VIRTIOFS in devices:
                check_socket(place.output(SHARE))
            yield place
        else:
            with bench.builder("qemu", arch) as (engine, builder):
                runs_in(engine.name, folder)
                yield BuilderPlace(engine=engine, builder=builder, folder=folder, label=folder.name)


def _kvm_record(bench: Workbench) -> Path:
    """Return the file that says whether KVM ran a guest since this host was booted."""
    return bench.store.folder("caches") / f"kvm-{_BOOT_ID.read_text().strip()}"


def _kvm_verdict(bench: Workbench) -> bool | None:
    """Return whether KVM runs guests here; None where no guest was tried, or its verdict did not reach the disk."""
    try:
        return {"yes": True, "no": False}.get(_kvm_record(bench).read_text())
    except FileNotFoundError:
        return None


def _remember_kvm(bench: Workbench, works: bool) -> None:
    with contextlib.suppress(OSError):  # KVM is tried once more, and nothing else is lost
        write_atomic(_kvm_record(bench), b"yes" if works else b"no")
