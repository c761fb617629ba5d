"""Guests of the rpm family really start, installed from a mirror on 127.0.0.1, with the project's kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.guest.boot import dax
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.pid1 import Init
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, RootfsRequest
from tests.integration.engines import workbench_under
from tests.mirrors.rpm import family, settings_for

FAMILY = family()


@pytest.mark.parametrize("name", FAMILY)
def test_an_image_with_systemd_comes_up_and_keeps_every_promise_of_its_kernel(
    rpm_mirror: str, tmp_path: Path, name: str
) -> None:
    bench = workbench_under("sandbox", tmp_path, *settings_for(FAMILY[name], rpm_mirror, tmp_path))
    image = bench.build(ImageRequest(rootfs=RootfsRequest(distro=name, init=Init.SYSTEMD))).files[0]
    outcome = bench.boot(BootRequest(image=image, machine="q35", root=RootKind.PMEM))
    outcome.check()
    report = outcome.boot.report
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    assert dax(report)
    assert not report.pid1


@pytest.mark.parametrize("name", FAMILY)
def test_an_initrd_with_the_agent_as_init_comes_up(rpm_mirror: str, tmp_path: Path, name: str) -> None:
    bench = workbench_under("sandbox", tmp_path, *settings_for(FAMILY[name], rpm_mirror, tmp_path))
    initrd = bench.build(InitrdRequest(rootfs=RootfsRequest(distro=name, init=Init.AGENT))).files[0]
    outcome = bench.boot(BootRequest(initrd=initrd, machine="microvm"))
    outcome.check()
    assert outcome.boot.report.pid1
