"""What QEMU is told so that something can be plugged, and what becomes of a boot where it was of no use."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import PurePath

import pytest

from osbuilder.api import CHECKOUT
from osbuilder.arch import ARCHES
from osbuilder.errors import BootError, PlanError
from osbuilder.guest import hotplug
from osbuilder.guest.boot import Boot
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.qemu import render_argv, render_cmdline
from osbuilder.guest.report import ProbeResult, Result, parse_port
from osbuilder.guest.spec import Accel, Guest, RootKind
from tests.unit.test_report import encode, sample

X86_64 = ARCHES["x86_64"]
GUEST = Guest(
    arch=X86_64,
    machine=X86_64.machine("q35"),
    accel=Accel.TCG,
    kernel=PurePath("/k/vmlinux"),
    root=RootKind.INITRD,
    initrd=PurePath("/k/initrd"),
    console=PurePath("/out/console"),
    plugs=tuple(plug for plug in Plug if plug not in hotplug.NATIVE),
)


def options(guest: Guest, name: str) -> list[str]:
    argv = render_argv(guest)
    return [value for option, value in itertools.pairwise(argv) if option == name]


def test_a_guest_that_things_are_plugged_into_has_room_for_them_and_qemu_listens() -> None:
    assert options(GUEST, "-smp") == ["cpus=1,maxcpus=2,sockets=1,cores=2,threads=1"]
    assert options(GUEST, "-m") == ["256M,slots=2,maxmem=640M"]
    assert options(GUEST, "-mon") == ["chardev=qmp,mode=control"]
    assert "pcie-root-port,id=root-port,chassis=1,slot=1" in options(GUEST, "-device")
    assert "osbuilder.plug=cpu,memory,virtio-mem,pci" in render_cmdline(GUEST).split()


def test_one_that_nothing_is_plugged_into_is_as_it_was() -> None:
    plain = dataclasses.replace(GUEST, plugs=())
    assert options(plain, "-smp") == ["1"]
    assert options(plain, "-m") == ["256M"]
    assert options(plain, "-mon") == []
    assert "osbuilder.plug" not in render_cmdline(plain)


def test_a_machine_that_nothing_can_be_plugged_into_is_refused() -> None:
    with pytest.raises(PlanError, match=r"microvm.*nobody knows how to plug cpu"):
        render_argv(dataclasses.replace(GUEST, machine=X86_64.machine("microvm"), plugs=(Plug.CPU,)))


def test_what_bridges_plug_by_themselves_is_taken_from_acpi_and_not_in_the_same_guest() -> None:
    native = dataclasses.replace(GUEST, plugs=hotplug.NATIVE)
    assert options(native, "-global") == ["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    assert options(native, "-device")[-3:] == [
        "pcie-root-port,id=root-port,chassis=1,slot=1",
        "pcie-root-port,id=bridge-port,chassis=2,slot=2",
        "pcie-pci-bridge,id=bridge,bus=bridge-port",
    ]
    assert options(GUEST, "-global") == []
    with pytest.raises(PlanError, match=r"bridges plug pcie themselves, ACPI plugs pci: not in one guest"):
        render_argv(dataclasses.replace(GUEST, plugs=(Plug.PCI, Plug.PCIE)))


def arguments(plug: Plug, arch: str, model: str) -> dict[str, object]:
    """Return what the last command that answers has besides its device's name."""
    machine = ARCHES[arch].machines[0]
    answered = hotplug.answers((plug,), machine, model=model, vcpus=2)
    said = json.loads(answered[plug.value].splitlines()[-1])["arguments"]
    return {name: value for name, value in said.items() if name != "id"}


@pytest.mark.parametrize(
    ("plug", "expected"),
    [
        (Plug.CPU, {"driver": "max-x86_64-cpu", "socket-id": 0, "core-id": 2, "thread-id": 0}),
        (Plug.PCI, {"driver": "virtio-blk-pci", "drive": "plugged-pci", "bus": "root-port"}),
        (Plug.PCIE, {"driver": "virtio-blk-pci", "drive": "plugged-pcie", "bus": "root-port"}),
        (Plug.SHPC, {"driver": "virtio-blk-pci", "drive": "plugged-shpc", "bus": "bridge", "addr": "1"}),
    ],
)
def test_a_device_comes_where_there_is_room_for_it(plug: Plug, expected: dict[str, object]) -> None:
    assert arguments(plug, "x86_64", "max") == expected


@pytest.mark.parametrize(
    ("arch", "model", "expected"),
    [
        ("ppc64le", "power9_v2.0", {"driver": "power9_v2.0-spapr-cpu-core", "core-id": 2}),
        ("s390x", "host", {"driver": "host-s390x-cpu", "core-id": 2}),
    ],
)
def test_a_cpu_that_comes_has_the_type_and_the_place_that_its_machine_names(
    arch: str, model: str, expected: dict[str, object]
) -> None:
    assert arguments(Plug.CPU, arch, model) == expected


def test_memory_comes_in_as_large_pieces_as_its_machine_takes_and_its_kernel_is_told_what_it_needs() -> None:
    ppc64le = ARCHES["ppc64le"]
    guest = dataclasses.replace(GUEST, arch=ppc64le, machine=ppc64le.machines[0], plugs=(Plug.MEMORY,))
    assert options(guest, "-m") == ["256M,slots=2,maxmem=512M"]
    assert render_cmdline(guest).endswith(" osbuilder.plug=memory disable_ddw")
    assert "disable_ddw" not in render_cmdline(dataclasses.replace(guest, plugs=(Plug.CPU,)))
    answered = hotplug.answers(guest.plugs, guest.machine, model=guest.cpu, vcpus=1)
    assert json.loads(answered["memory"].splitlines()[0])["arguments"]["size"] == 256 << 20


def test_where_the_hypervisor_plugs_disks_they_take_no_port() -> None:
    s390x = ARCHES["s390x"]
    guest = dataclasses.replace(GUEST, arch=s390x, machine=s390x.machines[0], plugs=(Plug.PCI,))
    assert not [option for option in options(guest, "-device") if option.startswith("pcie-root-port")]
    assert arguments(Plug.PCI, "s390x", "max") == {"driver": "virtio-blk-pci", "drive": "plugged-pci", "bus": "pci.0"}


def test_ports_of_riscv64_have_message_signalled_interrupts_where_disks_come() -> None:
    riscv64 = ARCHES["riscv64"]
    guest = dataclasses.replace(GUEST, arch=riscv64, machine=riscv64.machines[0], plugs=hotplug.NATIVE)
    assert options(guest, "-machine") == ["virt,accel=tcg", "aia=aplic-imsic"]
    assert options(dataclasses.replace(guest, plugs=()), "-machine") == ["virt,accel=tcg"]


def test_a_machine_that_cpus_come_to_says_of_which_type() -> None:
    for arch in ARCHES.values():
        for machine in arch.machines:
            assert ("{}" in machine.plugged_cpu) is (Plug.CPU.value in machine.plugs)


def test_machines_name_only_what_can_be_plugged() -> None:
    known = {plug.value for plug in Plug}
    assert all(set(machine.plugs) <= known for arch in ARCHES.values() for machine in arch.machines)


def test_the_agent_has_a_probe_for_each_and_asks_with_words_that_are_answered() -> None:
    table = (CHECKOUT / "agents/probe/table.c").read_text()
    asking = (CHECKOUT / "agents/probe/probes_plug.c").read_text()
    for plug in Plug:
        assert f'"{plug.probe}"' in table
    answered = hotplug.answers(tuple(Plug), GUEST.machine, model="max", vcpus=1)
    disks = [word for plug in hotplug.DISKS for word in (plug.value, f"{plug.value}-gone")]
    assert set(answered) == {"cpu", "memory", "virtio-mem", *disks}
    for word, commands in answered.items():
        assert f'"{word.removesuffix("-gone")}"' in asking
        assert all({"execute", "arguments"} == set(json.loads(line)) for line in commands.splitlines())


def test_what_qemu_refuses_is_read_from_its_answers_whatever_else_it_says() -> None:
    said = b'{"return": {}}\n{"error": {"class": "GenericError", "desc": "no slot"}}\n[1]\n{"ret'
    assert hotplug.refusals(said) == ("no slot",)


def booted(plug: Plug, result: Result | None, *, accel: Accel) -> Boot:
    probes = (ProbeResult(name=plug.probe, result=result, detail="so it is", duration_us=1),) if result else ()
    report = dataclasses.replace(parse_port(encode(sample()) + b"\n"), probes=probes)
    guest = dataclasses.replace(GUEST, plugs=(plug,), accel=accel)
    return Boot(reported=report, guest=guest, wall_s=1, refused=("no slot",))


@pytest.mark.parametrize(
    ("result", "wrong"), [(Result.SKIP, "of no use"), (Result.FAIL, "of no use"), (None, "not asked")]
)
@pytest.mark.parametrize(("plug", "accel"), [(Plug.CPU, Accel.KVM), (Plug.PCI, Accel.TCG)])
def test_a_boot_into_which_something_was_plugged_needs_the_probe_to_pass(
    plug: Plug, accel: Accel, result: Result | None, wrong: str
) -> None:
    booted(plug, Result.PASS, accel=accel).check()
    with pytest.raises(BootError, match=wrong) as caught:
        booted(plug, result, accel=accel).check()
    assert "no slot" in (caught.value.hint or "")


def test_under_emulation_a_kernel_may_have_no_room_for_a_cpu_but_not_lose_one() -> None:
    booted(Plug.CPU, Result.SKIP, accel=Accel.TCG).check()
    with pytest.raises(BootError, match="of no use"):
        booted(Plug.CPU, Result.FAIL, accel=Accel.TCG).check()
