"""Guests of every architecture really start, from an initrd and from a disk: the agent alone, on the project's kernel.

Those of other architectures than the host's compile a kernel each, so they run only when asked for (`inv test
--matrix`).
"""

from __future__ import annotations

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import ARCHES, host_arch
from osbuilder.guest.qemu import RootKind
from osbuilder.guest.report import Result
from osbuilder.request import BootRequest, KernelRequest

# No machine of these tests has them: vsock wants vhost-vsock on the host, a PTP clock KVM. QEMU emulates no huge pages
# for s390x; under KVM its guests have them.
NOT_HERE = frozenset({"vsock", "ptp"})
NOT_EMULATED = {"s390x": {"hugepages"}}

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
        mapped = each.trial.root is RootKind.PMEM
        assert any(option.startswith("dax") for option in report.root.options) is mapped
        assert report.root.fstype == ("ext4" if each.trial.root is not RootKind.INITRD else report.root.fstype)
    passed = {
        probe.name
        for each in verdict.tried
        if each.boot
        for probe in each.boot.report.probes
        if probe.result is Result.PASS
    }
    absent = set() if any(machine.nvdimm for machine in ARCHES[arch].machines) else {"pmem", "root-dax"}
    assert promised - passed <= NOT_HERE | absent | NOT_EMULATED.get(arch, set()), verdict.table()


@pytest.mark.parametrize(("arch", "machine"), MACHINES)
def test_every_kernel_file_that_a_machine_is_said_to_load_boots(bench: Workbench, arch: str, machine: str) -> None:
    artifact = bench.build(KernelRequest(arch=arch)).artifact
    for file in ARCHES[arch].machine(machine).kernels:
        request = BootRequest(
            distro="scratch", arch=arch, machine=machine, root=RootKind.INITRD, kernel=str(artifact.path(file))
        )
        assert bench.boot(request).boot.report.pid1
