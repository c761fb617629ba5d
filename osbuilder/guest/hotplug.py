"""What is plugged into a guest while it runs, when its agent asks for it.

Owns what can be plugged, what a guest needs to have from the start for that, the QMP commands that do it, and how QEMU
runs meanwhile. The agent asks with a line on the console; agents/probe/README.md has the protocol.

Sources: QEMU's QMP reference (device_add, device_del, object-add, blockdev-add, qom-set, query-hotpluggable-cpus), its
docs/memory-hotplug.txt, docs/pcie.txt, docs/pcie_pci_bridge.txt and docs/specs/ppc-spapr-hotplug.rst.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from osbuilder.guest.qmp import OPEN

if TYPE_CHECKING:
    from osbuilder.arch import Machine

_RESIZED_MIB: Final = 128
# A virtio-mem device takes whole memory blocks of its region, which need not begin at a multiple of theirs.
_REGION_MIB: Final = 2 * _RESIZED_MIB
_MIB: Final = 1024 * 1024
_RESIZED: Final = "resized"
_PORT: Final = "root-port"
_BRIDGE: Final = "bridge"


class Plug(enum.Enum):
    """What a host plugs when the guest's agent asks for it: a word of the kernel line's osbuilder.plug."""

    CPU = "cpu"
    MEMORY = "memory"
    VIRTIO_MEM = "virtio-mem"
    PCI = "pci"  # through ACPI, or the hypervisor's own way
    PCIE = "pcie"  # through the port itself
    SHPC = "shpc"  # through the controller of a bridge (Standard Hot-Plug Controller)

    @property
    def probe(self) -> str:
        """The agent's probe that asks for it."""
        return f"{self.value}-plug"

    @property
    def capability(self) -> str:
        """What a kernel must be able to do to take it."""
        if self is Plug.VIRTIO_MEM:
            return "virtio-mem"
        return "pci-hotplug" if self in DISKS else f"{self.value}-hotplug"


NATIVE: Final = (Plug.PCIE, Plug.SHPC)
"""What bridges plug by themselves; where a machine can have it otherwise, not in the same guest as Plug.PCI."""

DISKS: Final = (Plug.PCI, *NATIVE)


def kernel_words(plugs: Collection[Plug], machine: Machine) -> tuple[str, ...]:
    """Return what tells the agent which probes may ask, and what the kernel needs to be told for what comes."""
    asked = (f"osbuilder.plug={','.join(plug.value for plug in Plug if plug in plugs)}",) if plugs else ()
    return (*asked, *(machine.dimm_words if Plug.MEMORY in plugs else ()))


def smp(vcpus: int, plugs: Collection[Plug]) -> str:
    """Return the value of -smp: a CPU to come is a core of the same package.

    Linux makes room for CPUs of further packages only under hypervisors that it knows, and emulation is none
    (topology_register_apic of arch/x86/kernel/cpu/topology.c).
    """
    if Plug.CPU not in plugs:
        return str(vcpus)
    return f"cpus={vcpus},maxcpus={vcpus + 1},sockets=1,cores={vcpus + 1},threads=1"


def room_mib(plugs: Collection[Plug], machine: Machine) -> int:
    """Return how much memory may come, in MiB."""
    return (machine.dimm_mib if Plug.MEMORY in plugs else 0) + (_REGION_MIB if Plug.VIRTIO_MEM in plugs else 0)


def devices(plugs: Collection[Plug], machine: Machine) -> tuple[str, ...]:
    """Return QEMU's options for what has to be there from the start: where things are plugged, or what grows."""
    options: tuple[str, ...] = ()
    if Plug.VIRTIO_MEM in plugs:
        options += ("-object", f"memory-backend-ram,id=region,size={_REGION_MIB}M")
        options += ("-device", f"virtio-mem-pci,id={_RESIZED},memdev=region,requested-size=0")
    if Plug.PCIE in plugs or (Plug.PCI in plugs and machine.pci_bus is None):
        options += ("-device", f"pcie-root-port,id={_PORT},chassis=1,slot=1")
    if Plug.SHPC in plugs:
        options += ("-device", f"pcie-root-port,id={_BRIDGE}-port,chassis=2,slot=2")
        options += ("-device", f"pcie-pci-bridge,id={_BRIDGE},bus={_BRIDGE}-port")
    return (*options, *(machine.native_plugging if any(plug in plugs for plug in NATIVE) else ()))


def answers(plugs: Collection[Plug], machine: Machine, *, model: str, vcpus: int) -> Mapping[str, str]:
    """Return, for each word that the agent may ask with, the QMP commands that answer it, a line each.

    `model` is that of the CPU that comes after `vcpus` others.
    """
    found: dict[str, tuple[str, ...]] = {}
    if Plug.CPU in plugs:
        place = {name: vcpus if name == "core-id" else 0 for name in machine.cpu_place}
        found["cpu"] = (_command("device_add", driver=machine.plugged_cpu.format(model), id="plugged-cpu", **place),)
    if Plug.MEMORY in plugs:
        size = machine.dimm_mib * _MIB
        found["memory"] = (
            _command("object-add", **{"qom-type": "memory-backend-ram"}, id="plugged-memory", size=size),
            _command("device_add", driver="pc-dimm", id="plugged-dimm", memdev="plugged-memory"),
        )
    if Plug.VIRTIO_MEM in plugs:
        size = _RESIZED_MIB * _MIB
        resized = {"path": f"/machine/peripheral/{_RESIZED}", "property": "requested-size", "value": size}
        found["virtio-mem"] = (_command("qom-set", **resized),)
    for plug in DISKS:
        if plug in plugs:
            found |= _disk(plug, machine)
    return {word: "\n".join(lines) for word, lines in found.items()}


def _disk(plug: Plug, machine: Machine) -> dict[str, tuple[str, ...]]:
    """Return what answers where a disk is to come, and where it is to go."""
    name = f"plugged-{plug.value}"
    where = {"bus": _PORT}
    if plug is Plug.SHPC:
        where = {"bus": _BRIDGE, "addr": "1"}
    elif plug is Plug.PCI and machine.pci_bus is not None:
        where = {"bus": machine.pci_bus}
    blocks = {"driver": "null-co", "node-name": name, "read-only": True, "read-zeroes": True, "size": _MIB}
    return {
        plug.value: (
            _command("blockdev-add", **blocks),
            _command("device_add", driver="virtio-blk-pci", id=f"{name}-disk", drive=name, **where),
        ),
        f"{plug.value}-gone": (_command("device_del", id=f"{name}-disk"),),
    }


def _command(name: str, **arguments: object) -> str:
    return json.dumps({"execute": name, "arguments": arguments})


# Runs QEMU, which speaks QMP on its standard input and output, and sends it the commands for each word that a line of
# the console asks with, once. Here rather than in Python, so that it is the same wherever QEMU runs. Arguments: QMP's
# output, console, pairs of a word and its commands, --, QEMU's command.
_ANSWERING: Final = f"""\
qmp=$1 console=$2
shift 2
{OPEN}while [ "$1" != -- ]; do
  printf '%s\\n' "$2" > "$qmp.$1"
  shift 2
done
shift
setpriv --pdeathsig KILL -- "$@" <&3 > "$qmp" &
qemu=$!
while kill -0 "$qemu" 2> /dev/null; do
  for word in $(grep -a -o -E '@osbuilder-plug [a-z-]+ @osbuilder-end' "$console" 2> /dev/null | cut -d ' ' -f 2); do
    test -e "$qmp.$word" || continue
    cat "$qmp.$word" >&3
    rm "$qmp.$word"
  done
  sleep 0.1
done
wait "$qemu"
"""


def answering(argv: tuple[str, ...], answers: Mapping[str, str], *, qmp: str, console: str) -> tuple[str, ...]:
    """Return the command that runs QEMU and answers what its guest asks for on its console.

    `qmp` is the file that QEMU's own answers go to, `console` that of the console, both as seen where QEMU runs.
    """
    pairs = [part for pair in answers.items() for part in pair]
    return ("sh", "-c", _ANSWERING, "sh", qmp, console, *pairs, "--", *argv)


def refusals(qmp: bytes) -> tuple[str, ...]:
    """Return what QEMU said against the commands that it got."""
    said = (_decode(line) for line in qmp.splitlines())
    return tuple(str(each["error"].get("desc")) for each in said if isinstance(each.get("error"), dict))


def _decode(line: bytes) -> dict[str, Any]:
    """Return the object that a line holds; an empty one for the last line of a QEMU that was killed."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
