"""Guests that come as a tarball or as a container image start with the project's kernel: as an initrd, and with DAX."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.guest.boot import dax
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, RootfsRequest
from tests.integration.engines import workbench_under
from tests.mirrors.images import guest, push


@pytest.mark.parametrize("root", [RootKind.INITRD, RootKind.PMEM], ids=str)
def test_a_gentoo_guest_comes_up_with_the_agent_as_its_init(
    gentoo_settings: tuple[str, ...], tmp_path: Path, root: RootKind
) -> None:
    _boot(RootfsRequest(distro="gentoo", arch="x86_64"), root, tmp_path, *gentoo_settings)


@pytest.mark.parametrize("root", [RootKind.INITRD, RootKind.PMEM], ids=str)
def test_a_container_image_comes_up_with_the_agent_as_its_init(
    oci_registry: str, tmp_path: Path, root: RootKind
) -> None:
    push(oci_registry, "boot/toy", "1", guest())
    name = f"{oci_registry.removeprefix('http://')}/boot/toy:1"
    _boot(RootfsRequest(distro="oci", release=name, arch="x86_64"), root, tmp_path)


def _boot(rootfs: RootfsRequest, root: RootKind, folder: Path, *settings: str) -> None:
    bench = workbench_under("sandbox", folder, *settings)
    if root is RootKind.INITRD:
        request = BootRequest(initrd=bench.build(InitrdRequest(rootfs=rootfs)).files[0], machine="q35", root=root)
    else:
        request = BootRequest(image=bench.build(ImageRequest(rootfs=rootfs)).files[0], machine="q35", root=root)
    outcome = bench.boot(request)
    outcome.check()
    report = outcome.boot.report
    assert report.pid1
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    assert dax(report) is (root is RootKind.PMEM)
