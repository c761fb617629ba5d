"""Guests of every architecture really start, from an initrd and from a disk: the agent alone, on the project's kernel.

Those of other architectures than the host's compile a kernel each, so they run only when asked for (`inv test
--matrix`).
"""

from __future__ import annotations

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import ARCHES, host_arch
from osbuilder.guest.boot import dax
from osbuilder.guest.spec import Device, RootKind
from osbuilder.request import BootRequest, Filesystem, KernelRequest

MACHINES = [
    pytest.param(
        arch.name,
        machine.name,
        id=f"{arch.name}-{machine.name}",
        marks=[] if arch is host_arch() else [pytest.mark.matrix],
    )
    for arch in ARCHES.values()
    for machine in arch.machines
]


@pytest.mark.usefixtures("builders")
@pytest.mark.parametrize(
    "arch", [pytest.param(name, marks=[] if name == host_arch().name else [pytest.mark.matrix]) for name in ARCHES]
)
def test_guests_that_are_only_their_agent_keep_every_promise_of_their_kernel(bench: Workbench, arch: str) -> None:
    trials = bench.proof.of_kernels(arches=(arch,), variants=("base",))
    told: list[str] = []
    verdict = bench.proof.run(trials, line=None, tell=told.append)
    verdict.check()
    assert len(told) == len(trials)
    promised = {probe for probes in verdict.kernels[arch, "base"].probes.values() for probe in probes}
    for each in verdict.tried:
        assert each.boot is not None
        report = each.boot.report
        assert report.kernel.machine == arch
        assert report.pid1
        # All that the agent has where the kernel line is too short for the names.
        assert promised <= {probe.name for probe in report.probes}
        assert dax(report) is each.trial.root.mapped
        if each.trial.root is not RootKind.INITRD:
            assert report.root.fstype == (each.trial.filesystem or Filesystem.EXT4).value
        hvc = Device.CONSOLE in each.trial.devices
        assert ("console=hvc0" in report.kernel.cmdline) is (hvc or arch == "ppc64le")


@pytest.mark.parametrize(("arch", "machine"), MACHINES)
def test_every_kernel_file_that_a_machine_is_said_to_load_boots(bench: Workbench, arch: str, machine: str) -> None:
    artifact = bench.build(KernelRequest(arch=arch)).artifact
    for file in ARCHES[arch].machine(machine).kernels:
        request = BootRequest(
            distro="scratch", arch=arch, machine=machine, root=RootKind.INITRD, kernel=str(artifact.path(file))
        )
        assert bench.boot(request).boot.report.pid1
