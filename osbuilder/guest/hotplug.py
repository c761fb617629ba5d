"""What is plugged into a guest while it runs, when its agent asks for it.

Owns what can be plugged, what a guest needs to have from the start for that, the QMP commands that do it, and how QEMU
runs meanwhile. The agent asks with a line on the console; agents/probe/README.md has the protocol.

Sources: QEMU's QMP reference (device_add, device_del, object-add, blockdev-add, qom-set), its docs/memory-hotplug.txt
and docs/pcie.txt.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from osbuilder.guest.qmp import OPEN

MEMORY_MIB: Final = 128
"""What comes of memory: x86_64 and aarch64 take it in multiples of this size."""

# A virtio-mem device takes whole memory blocks of its region, which need not begin at a multiple of theirs.
_REGION_MIB: Final = 2 * MEMORY_MIB
_MIB: Final = 1024 * 1024
_DISK: Final = "plugged-disk"
_RESIZED: Final = "resized"
_PORT: Final = "root-port"


class Plug(enum.Enum):
    """What a host plugs when the guest's agent asks for it: a word of the kernel line's osbuilder.plug."""

    CPU = "cpu"
    MEMORY = "memory"
    VIRTIO_MEM = "virtio-mem"
    PCI = "pci"

    @property
    def probe(self) -> str:
        """The agent's probe that asks for it."""
        return f"{self.value}-plug"

    @property
    def capability(self) -> str:
        """What a kernel must be able to do to take it."""
        return "virtio-mem" if self is Plug.VIRTIO_MEM else f"{self.value}-hotplug"


def kernel_words(plugs: Collection[Plug]) -> tuple[str, ...]:
    """Return what tells the agent which probes may ask."""
    return (f"osbuilder.plug={','.join(plug.value for plug in Plug if plug in plugs)}",) if plugs else ()


def smp(vcpus: int, plugs: Collection[Plug]) -> str:
    """Return the value of -smp: a CPU to come is a core of the same package.

    Linux makes room for CPUs of further packages only under hypervisors that it knows, and emulation is none
    (topology_register_apic of arch/x86/kernel/cpu/topology.c).
    """
    if Plug.CPU not in plugs:
        return str(vcpus)
    return f"cpus={vcpus},maxcpus={vcpus + 1},sockets=1,cores={vcpus + 1},threads=1"


def room_mib(plugs: Collection[Plug]) -> int:
    """Return how much memory may come, in MiB."""
    return (MEMORY_MIB if Plug.MEMORY in plugs else 0) + (_REGION_MIB if Plug.VIRTIO_MEM in plugs else 0)


def devices(plugs: Collection[Plug]) -> tuple[str, ...]:
    """Return QEMU's options for what has to be there from the start: where things are plugged, or what grows."""
    options: tuple[str, ...] = ()
    if Plug.VIRTIO_MEM in plugs:
        options += ("-object", f"memory-backend-ram,id=region,size={_REGION_MIB}M")
        options += ("-device", f"virtio-mem-pci,id={_RESIZED},memdev=region,requested-size=0")
    if Plug.PCI in plugs:
        options += ("-device", f"pcie-root-port,id={_PORT},chassis=1,slot=1")
    return options


def answers(plugs: Collection[Plug], *, cpu: str, vcpus: int) -> Mapping[str, str]:
    """Return, for each word that the agent may ask with, the QMP commands that answer it, a line each.

    `cpu` is QEMU's type of the CPU that comes after `vcpus` others.
    """
    size = MEMORY_MIB * _MIB
    place = {"socket-id": 0, "core-id": vcpus, "thread-id": 0}
    resized = {"path": f"/machine/peripheral/{_RESIZED}", "property": "requested-size", "value": size}
    blocks = {"driver": "null-co", "node-name": "plugged", "read-only": True, "read-zeroes": True, "size": _MIB}
    commands: dict[Plug, dict[str, tuple[str, ...]]] = {
        Plug.CPU: {"cpu": (_command("device_add", driver=cpu, id="plugged-cpu", **place),)},
        Plug.MEMORY: {
            "memory": (
                _command("object-add", **{"qom-type": "memory-backend-ram"}, id="plugged", size=size),
                _command("device_add", driver="pc-dimm", id="plugged-dimm", memdev="plugged"),
            )
        },
        Plug.VIRTIO_MEM: {"virtio-mem": (_command("qom-set", **resized),)},
        Plug.PCI: {
            "pci": (
                _command("blockdev-add", **blocks),
                _command("device_add", driver="virtio-blk-pci", id=_DISK, drive="plugged", bus=_PORT),
            ),
            "pci-gone": (_command("device_del", id=_DISK),),
        },
    }
    return {word: "\n".join(lines) for plug in Plug if plug in plugs for word, lines in commands[plug].items()}


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
