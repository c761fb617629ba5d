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

# No machine of these tests has them: vsock wants vhost-vsock on the host, a PTP clock KVM, and the root is no nvdimm.
# SELinux and AppArmor are off unless they are chosen. QEMU emulates no huge pages for s390x; under KVM its guests have
# them.
NOT_HERE = frozenset({"vsock", "ptp", "pmem", "root-dax", "iommu", "virtio-pmem", "selinux", "apparmor"})
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


@pytest.mark.parametrize("root", [RootKind.INITRD, RootKind.VIRTIO_BLK], ids=lambda root: root.value)
@pytest.mark.parametrize(("arch", "machine"), MACHINES)
def test_a_guest_that_is_only_its_agent_keeps_every_promise_of_its_kernel(
    bench: Workbench, arch: str, machine: str, root: RootKind
) -> None:
    outcome = bench.boot(BootRequest(distro="scratch", arch=arch, machine=machine, root=root))
    outcome.check()
    report = outcome.boot.report
    assert report.kernel.machine == arch
    assert report.pid1
    assert set(outcome.boot.required) == {probe.name for probe in report.probes}
    skipped = {probe.name: probe.detail for probe in report.probes if probe.result is Result.SKIP}
    absent = {"virtio-blk"} if root is RootKind.INITRD else set()
    assert set(skipped) <= NOT_HERE | absent | NOT_EMULATED.get(arch, set()), skipped
    assert report.root.fstype == ("ext4" if root is RootKind.VIRTIO_BLK else report.root.fstype)


@pytest.mark.parametrize(("arch", "machine"), MACHINES)
def test_every_kernel_file_that_a_machine_is_said_to_load_boots(bench: Workbench, arch: str, machine: str) -> None:
    artifact = bench.build(KernelRequest(arch=arch)).artifact
    for file in ARCHES[arch].machine(machine).kernels:
        request = BootRequest(
            distro="scratch", arch=arch, machine=machine, root=RootKind.INITRD, kernel=str(artifact.path(file))
        )
        assert bench.boot(request).boot.report.pid1
