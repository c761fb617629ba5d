"""What is plugged into a running guest arrives there, and a host that does not plug makes nothing of it."""

from __future__ import annotations

import dataclasses

import pytest

from osbuilder.api import Workbench
from osbuilder.errors import PlanError
from osbuilder.guest.hotplug import NATIVE, Plug
from osbuilder.guest.report import ProbeResult, Result
from osbuilder.guest.spec import RootKind
from osbuilder.request import BootRequest

Q35 = BootRequest(distro="scratch", arch="x86_64", machine="q35", root=RootKind.INITRD)


def found(bench: Workbench, request: BootRequest) -> dict[str, ProbeResult]:
    outcome = bench.boot(request)
    outcome.check()
    return {probe.name: probe for probe in outcome.boot.report.probes}


def test_a_vcpu_memory_and_a_disk_come_while_the_guest_runs(bench: Workbench) -> None:
    plugs = tuple(plug for plug in Plug if plug not in NATIVE)
    said = found(bench, dataclasses.replace(Q35, plugs=plugs, vcpus=2))
    assert {plug: said[plug.probe].result for plug in plugs} == dict.fromkeys(plugs, Result.PASS)
    assert said["vcpus"].result is Result.PASS


def test_bridges_plug_disks_by_themselves_where_acpi_does_not(bench: Workbench) -> None:
    said = found(bench, dataclasses.replace(Q35, plugs=NATIVE))
    assert {plug: said[plug.probe].result for plug in NATIVE} == dict.fromkeys(NATIVE, Result.PASS)


def test_a_guest_that_nothing_is_plugged_into_does_not_ask(bench: Workbench) -> None:
    said = found(bench, Q35)
    assert {plug: said[plug.probe].result for plug in Plug} == dict.fromkeys(Plug, Result.SKIP)


def test_a_machine_without_a_bus_for_it_is_refused_before_anything_is_built(bench: Workbench) -> None:
    with pytest.raises(PlanError, match="nobody knows how to plug pci"):
        bench.boot(dataclasses.replace(Q35, machine="microvm", plugs=(Plug.PCI,)))
