"""A folder of the host is mounted by a guest: over 9p, and over virtio-fs from a virtiofsd."""

from __future__ import annotations

import pytest

from osbuilder.api import Workbench
from osbuilder.guest.report import ProbeResult, Result
from osbuilder.guest.spec import Device, RootKind
from osbuilder.request import BootRequest

SHARES = (Device.PLAN9, Device.VIRTIOFS)
PROBES = ("9p", "virtiofs")


def found(bench: Workbench, machine: str, devices: tuple[Device, ...]) -> dict[str, ProbeResult]:
    request = BootRequest(distro="scratch", arch="x86_64", machine=machine, root=RootKind.INITRD, devices=devices)
    outcome = bench.boot(request)
    outcome.check()
    return {probe.name: probe for probe in outcome.boot.report.probes if probe.name in PROBES}


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_a_folder_of_the_host_is_read_and_written(bench: Workbench, machine: str) -> None:
    said = found(bench, machine, SHARES)
    assert {(probe.result, probe.detail) for probe in said.values()} == {
        (Result.PASS, "the host's folder mounted; its file read, one written and removed")
    }
    assert set(said) == set(PROBES)


def test_a_guest_that_was_given_no_folder_says_so(bench: Workbench) -> None:
    said = found(bench, "microvm", ())
    assert {name: said[name].result for name in PROBES} == dict.fromkeys(PROBES, Result.SKIP)
