"""Ubuntu guests, installed from a mirror on 127.0.0.1, start with the project's kernel."""

from __future__ import annotations

from pathlib import Path

from osbuilder.guest.boot import dax
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.pid1 import Init
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, RootfsRequest
from tests.integration.engines import workbench_under


def test_an_image_with_systemd_comes_up_and_keeps_every_promise_of_its_kernel(
    ubuntu_settings: tuple[str, ...], tmp_path: Path
) -> None:
    bench = workbench_under("sandbox", tmp_path, *ubuntu_settings)
    image = bench.build(ImageRequest(rootfs=RootfsRequest(distro="ubuntu", init=Init.SYSTEMD))).files[0]
    outcome = bench.boot(BootRequest(image=image, machine="q35", root=RootKind.PMEM))
    outcome.check()
    report = outcome.boot.report
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    assert dax(report)
    assert not report.pid1


def test_an_initrd_with_the_agent_as_init_comes_up(ubuntu_settings: tuple[str, ...], tmp_path: Path) -> None:
    bench = workbench_under("sandbox", tmp_path, *ubuntu_settings)
    initrd = bench.build(InitrdRequest(rootfs=RootfsRequest(distro="ubuntu", release="noble"))).files[0]
    outcome = bench.boot(BootRequest(initrd=initrd, machine="microvm"))
    outcome.check()
    assert outcome.boot.report.pid1
