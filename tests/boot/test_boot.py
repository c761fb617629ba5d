"""Guests really start: every root and machine of x86_64, and what each one says about itself."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.engine.base import Command, Mounts
from osbuilder.errors import BootError
from osbuilder.guest.boot import dax
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.image.build import IMAGE, INITRD, ROOTFS_TAR, MakeImage
from osbuilder.image.filesystem import at_offset
from osbuilder.launch import Outcome
from osbuilder.pid1 import Init
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, KernelRequest, RootfsRequest
from osbuilder.tree import Tree
from tests.ext4_reader import differences

# Devices that no machine of these tests has: a vsock wants vhost-vsock on the host, a PTP clock wants KVM. No root
# is verified here (test_verity.py), SELinux and AppArmor are off unless they are chosen (test_security_modules.py), and
# nothing is plugged while they run (test_plugging.py), nobody shares a folder (test_shares.py), and their
# processors need no page tables without the kernel.
PLUGGED = frozenset(plug.probe for plug in Plug)
# With one processor these prove nothing.
OF_SEVERAL = {"vcpus", "cpu-hotplug", "cgroup2-cpuset"}
NOT_GIVEN = {
    *("vsock", "ptp", "iommu", "vfio-device", "virtio-pmem", "root-verity", "9p", "virtiofs", "vmgenid", "ip-config"),
}
# systemd has them in groups of version 2.
TAKEN_BY_SYSTEMD = {f"cgroup1-{controller}" for controller in ("memory", "cpu", "cpuset", "pids", "blkio")}
NOT_HERE = PLUGGED | OF_SEVERAL | NOT_GIVEN | {"selinux", "apparmor", "pti"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guests:
    """The files that are booted."""

    bench: Workbench
    vmlinux: Path
    vmlinuz: Path
    image: Path
    initrd: Path

    def boot(self, *, machine: str, root: RootKind, kernel: Path | None = None, vcpus: int = 1) -> Outcome:
        """Start a guest; without `kernel` it is the project's, with the probes that its capabilities promise."""
        initrd = root is RootKind.INITRD
        return self.bench.boot(
            BootRequest(
                image=None if initrd else self.image,
                initrd=self.initrd if initrd else None,
                kernel=str(kernel) if kernel else None,
                machine=machine,
                root=root,
                vcpus=vcpus,
            )
        )


@pytest.fixture(scope="session")
def guests(bench: Workbench) -> Guests:
    vmlinux, vmlinuz, *_ = bench.build(KernelRequest()).files
    image = bench.build(ImageRequest(rootfs=RootfsRequest(distro="debian"))).files[0]
    initrd = bench.build(InitrdRequest(rootfs=RootfsRequest(distro="debian"))).files[0]
    return Guests(bench=bench, vmlinux=vmlinux, vmlinuz=vmlinuz, image=image, initrd=initrd)


@pytest.mark.parametrize(
    ("machine", "root"),
    [
        ("q35", RootKind.PMEM),
        ("q35", RootKind.VIRTIO_BLK),
        ("q35", RootKind.INITRD),
        ("microvm", RootKind.VIRTIO_BLK),
        ("microvm", RootKind.INITRD),
    ],
    ids=str,
)
def test_a_guest_comes_up_and_keeps_every_promise_of_its_kernel(guests: Guests, machine: str, root: RootKind) -> None:
    outcome = guests.boot(machine=machine, root=root)
    report = outcome.boot.report
    outcome.check()
    assert outcome.boot.required
    results = {probe.name: probe for probe in report.probes}
    assert set(outcome.boot.required) == set(results)
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    absent = set() if machine == "q35" else {"memory-hotplug", "power-button"}
    absent |= set() if root is RootKind.PMEM else {"pmem", "root-dax"}
    absent |= {"virtio-blk"} if root is not RootKind.VIRTIO_BLK else set()
    absent |= TAKEN_BY_SYSTEMD if root is not RootKind.INITRD else set()
    skipped = {probe.name for probe in report.probes if probe.result is Result.SKIP}
    assert skipped <= NOT_HERE | absent, {name: results[name].detail for name in skipped}
    assert results["free-page-reporting"].detail.startswith("the balloon has read reports of free pages")
    assert dax(report) is (root is RootKind.PMEM)
    assert report.pid1 is (root is RootKind.INITRD)
    assert report.memory.total_kib > 200_000


def test_the_root_of_the_dax_image_is_mapped_from_the_nvdimm(guests: Guests) -> None:
    report = guests.boot(machine="q35", root=RootKind.PMEM).boot.report
    assert report.root.device == "/dev/pmem0p1"
    assert report.root.fstype == "ext4"
    assert "dax=always" in report.root.options
    assert "ro" in report.root.options


def test_the_filesystem_of_the_dax_image_is_clean_and_equals_the_tree_it_was_made_of(
    guests: Guests, tmp_path: Path
) -> None:
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    step = guests.bench.planner.plan(ImageRequest(rootfs=RootfsRequest(distro="debian")))
    assert isinstance(step.action, MakeImage)
    image = guests.bench.executor.run(step)
    rootfs = guests.bench.executor.run(dict(step.inputs)["rootfs"])
    offset = image.facts["partitions"][0][0]
    assert offset == 3 << 20
    fsck = Command(argv=("e2fsck", "-f", "-n", at_offset("/in/image", offset)))
    mounts = Mounts(inputs={"image": image.path(IMAGE)}, output=tmp_path / "out", work=tmp_path / "work")
    with guests.bench.builder("rootfs") as (engine, builder):
        engine.run(builder, fsck, mounts, log=tmp_path / "log", label="test-fsck")
    tree = Tree.read(rootfs.path(ROOTFS_TAR))
    assert differences(tree, image.path(IMAGE), epoch=step.action.epoch, offset=offset) == []


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_the_compressed_kernel_boots_as_well(guests: Guests, machine: str) -> None:
    report = guests.boot(machine=machine, root=RootKind.INITRD, kernel=guests.vmlinuz).boot.report
    assert report.pid1
    assert report.kernel.machine == "x86_64"


def test_a_second_processor_is_seen(guests: Guests) -> None:
    outcome = guests.boot(machine="q35", root=RootKind.INITRD, vcpus=2)
    outcome.check()
    assert outcome.boot.report.vcpus == 2
    passed = {probe.name for probe in outcome.boot.report.probes if probe.result is Result.PASS}
    assert passed >= OF_SEVERAL


def test_a_guest_boots_with_qemu_in_a_builder(guests: Guests) -> None:
    bench = open_workbench(("qemu=builder", f"build={guests.bench.settings.build}"), stream=sys.stderr)
    outcome = bench.boot(BootRequest(initrd=guests.initrd, machine="microvm"))
    outcome.check()
    assert outcome.boot.report.pid1


def test_an_image_with_the_agent_as_init_boots_without_systemd(guests: Guests) -> None:
    rootfs = RootfsRequest(distro="debian", init=Init.AGENT)
    image = guests.bench.build(ImageRequest(rootfs=rootfs)).files[0]
    report = guests.bench.boot(BootRequest(image=image, machine="q35", root=RootKind.PMEM)).boot.report
    assert report.pid1
    assert dax(report)


def test_an_initrd_with_systemd_as_init_comes_up(guests: Guests) -> None:
    request = InitrdRequest(rootfs=RootfsRequest(distro="debian", init=Init.SYSTEMD))
    # Not published: it would have the name of the one whose init is the agent.
    initrd = guests.bench.executor.run(guests.bench.planner.plan(request)).path(INITRD)
    # The kernel gives a root in memory half of it at most.
    outcome = guests.bench.boot(BootRequest(initrd=initrd, machine="q35", memory_mib=1024))
    outcome.check()
    report = outcome.boot.report
    assert (report.init, report.pid1) == ("systemd", False)
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []


def test_the_older_release_comes_up_and_keeps_every_promise_of_its_kernel(bench: Workbench) -> None:
    image = bench.build(ImageRequest(rootfs=RootfsRequest(distro="debian", release="bookworm"))).files[0]
    outcome = bench.boot(BootRequest(image=image, machine="q35", root=RootKind.PMEM))
    outcome.check()
    assert [probe.name for probe in outcome.boot.report.probes if probe.result is Result.FAIL] == []
    assert dax(outcome.boot.report)


def test_a_guest_that_says_nothing_is_an_error_with_the_end_of_its_console(guests: Guests, tmp_path: Path) -> None:
    broken = tmp_path / "broken.initrd"
    broken.write_bytes(b"not a cpio archive")
    with pytest.raises(BootError, match="the guest did not say that it is ready") as caught:
        guests.bench.boot(BootRequest(initrd=broken, machine="q35", timeout_s=60))
    assert "panic" in caught.value.console
