"""Arch Linux guests really start, installed from a mirror on 127.0.0.1, with the project's kernel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from osbuilder.guest.boot import dax
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.pid1 import Init
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, RootfsRequest
from tests.integration.engines import workbench_under
from tests.mirrors.pacman import settings_for


def test_an_image_with_systemd_comes_up_and_keeps_every_promise_of_its_kernel(
    arch_mirror: tuple[str, Mapping[str, bytes]], tmp_path: Path
) -> None:
    bench = workbench_under("sandbox", tmp_path, *settings_for(arch_mirror[0], tmp_path))
    rootfs = RootfsRequest(distro="archlinux", init=Init.SYSTEMD)
    outcome = bench.boot(
        BootRequest(image=bench.build(ImageRequest(rootfs=rootfs)).files[0], machine="q35", root=RootKind.PMEM)
    )
    outcome.check()
    report = outcome.boot.report
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    assert dax(report)
    assert not report.pid1


def test_an_initrd_with_the_agent_as_init_comes_up(
    arch_mirror: tuple[str, Mapping[str, bytes]], tmp_path: Path
) -> None:
    bench = workbench_under("sandbox", tmp_path, *settings_for(arch_mirror[0], tmp_path))
    rootfs = RootfsRequest(distro="archlinux", init=Init.AGENT)
    outcome = bench.boot(BootRequest(initrd=bench.build(InitrdRequest(rootfs=rootfs)).files[0], machine="microvm"))
    outcome.check()
    assert outcome.boot.report.pid1
