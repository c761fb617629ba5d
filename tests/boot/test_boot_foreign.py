"""Debian guests of every other architecture, carried over from a native twin, start with the project's kernel.

They compile a kernel each, so they run only when asked for (`inv test --matrix`).
"""

from __future__ import annotations

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import ARCHES, host_arch
from osbuilder.guest.spec import RootKind
from osbuilder.pid1 import Init
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, RootfsRequest

FOREIGN = [name for name in ("x86_64", "aarch64", "ppc64le", "s390x") if name != host_arch().name]


@pytest.mark.matrix
@pytest.mark.parametrize("init", [Init.AGENT, Init.SYSTEMD], ids=lambda init: init.value)
@pytest.mark.parametrize("arch", FOREIGN)
def test_a_debian_guest_comes_up(bench: Workbench, arch: str, init: Init) -> None:
    rootfs = RootfsRequest(distro="debian", arch=arch, init=init)
    machine = ARCHES[arch].machines[0].name
    if init is Init.AGENT:
        initrd = bench.build(InitrdRequest(rootfs=rootfs)).files[0]
        request = BootRequest(initrd=initrd, arch=arch, machine=machine, root=RootKind.INITRD)
    else:
        image = bench.build(ImageRequest(rootfs=rootfs)).files[0]
        request = BootRequest(image=image, arch=arch, machine=machine, root=RootKind.VIRTIO_BLK)
    outcome = bench.boot(request)
    outcome.check()
    assert outcome.boot.report.kernel.machine == arch
    assert outcome.boot.report.pid1 is (init is Init.AGENT)
