"""What a guest was given has to be seen by its kernel: a probe of it that skips is a failure."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

import pytest

from osbuilder.errors import BootError
from osbuilder.guest.boot import Boot
from osbuilder.guest.expect import expected_probes
from osbuilder.guest.spec import Device, Guest, RootKind
from tests.unit.test_qemu import guest, initrd_guest
from tests.unit.test_verify import said

GIVEN = [
    (initrd_guest(devices=(Device.IOMMU,)), "iommu", "device iommu"),
    (initrd_guest(devices=(Device.PMEM,)), "virtio-pmem", "device virtio-pmem"),
    (initrd_guest(devices=(Device.CONSOLE,)), "virtio-console", "device virtio-console"),
    (initrd_guest(report=PurePosixPath("r")), "virtio-console", "its ports"),
    (initrd_guest(vsock_cid=3), "vsock", "vsock CID 3"),
    (initrd_guest(cmdline=("security=selinux",)), "selinux", "security=selinux"),
    (initrd_guest(cmdline=("security=selinux", "security=apparmor")), "apparmor", "security=apparmor"),
    (guest(root=RootKind.PMEM), "pmem", "root pmem"),
    (guest(root=RootKind.VIRTIO_BLK), "virtio-blk", "root virtio-blk"),
    (guest(root=RootKind.VIRTIO_SCSI), "virtio-scsi", "root virtio-scsi"),
    (guest(root=RootKind.VIRTIO_PMEM), "virtio-pmem", "root virtio-pmem"),
    (guest(root=RootKind.VIRTIO_PMEM), "root-dax", "root virtio-pmem"),
    (guest(root=RootKind.VERITY), "root-verity", "root verity"),
    (initrd_guest(devices=(Device.RNG,)), "virtio-rng", "device rng"),
    (initrd_guest(devices=(Device.BALLOON,)), "virtio-balloon", "device balloon"),
    (initrd_guest(devices=(Device.BALLOON,)), "free-page-reporting", "device balloon"),
    (initrd_guest(devices=(Device.NET,)), "virtio-net", "device net"),
    (initrd_guest(devices=(Device.SCSI,)), "virtio-scsi", "device scsi"),
    (initrd_guest(devices=(Device.PLAN9,)), "9p", "device 9p"),
    (initrd_guest(devices=(Device.VIRTIOFS,)), "virtiofs", "device virtio-fs"),
    (initrd_guest(devices=(Device.VMGENID,)), "vmgenid", "device vmgenid"),
    (initrd_guest(cmdline=("pti=on",)), "pti", "pti=on"),
    (initrd_guest(cmdline=("kpti=1",)), "pti", "kpti=1"),
    (initrd_guest(cmdline=("ip=192.0.2.1::::::off",)), "ip-config", "ip=192.0.2.1::::::off"),
]


@pytest.mark.parametrize(("given", "probe", "what"), GIVEN)
def test_what_a_guest_was_given_may_not_be_skipped(given: Guest, probe: str, what: str) -> None:
    skipping = said(**{probe.replace("-", "_"): "skip"})
    with pytest.raises(BootError) as caught:
        Boot(reported=skipping, guest=given, wall_s=1, required=(probe,)).check()
    assert f"{probe} ({what}): why {probe.replace('-', '_')}" in caught.value.message
    # A kernel that does not promise it owes nothing.
    if not given.root.mapped and given.root is not RootKind.VERITY:
        Boot(reported=skipping, guest=given, wall_s=1, required=()).check()


def test_all_processors_of_a_guest_have_to_be_there() -> None:
    two = initrd_guest(devices=(), report=None, vcpus=2)
    assert expected_probes(two) == {"vcpus": "2 vCPUs"}
    with pytest.raises(BootError, match=r"not with all of its processors: expected 2 vCPUs, got 1\n"):
        Boot(reported=said(), guest=two, wall_s=1).check()
    Boot(reported=dataclasses.replace(said(), vcpus=2), guest=two, wall_s=1).check()


def test_what_a_guest_was_not_given_may_be_skipped() -> None:
    plain = initrd_guest(devices=(), report=None)
    assert expected_probes(plain) == {}
    Boot(reported=said(iommu="skip"), guest=plain, wall_s=1, required=("iommu",)).check()
