"""Alpine guests start with the project's kernel: as an initrd, and from a DAX image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.guest.boot import dax
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.request import BootRequest, ImageRequest, InitrdRequest, RootfsRequest

ALPINE = RootfsRequest(distro="alpine", arch="x86_64")


@pytest.fixture(scope="module")
def alpine(alpine_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    root = Path(__file__).resolve().parents[2]
    settings = (*alpine_settings, f"build={tmp_path_factory.mktemp('build')}")
    return open_workbench(settings, stream=sys.stderr, root=root)


@pytest.mark.parametrize("root", [RootKind.INITRD, RootKind.PMEM], ids=str)
def test_an_alpine_guest_comes_up_with_the_agent_as_its_init(alpine: Workbench, root: RootKind) -> None:
    if root is RootKind.INITRD:
        request = BootRequest(initrd=alpine.build(InitrdRequest(rootfs=ALPINE)).files[0], machine="q35", root=root)
    else:
        request = BootRequest(image=alpine.build(ImageRequest(rootfs=ALPINE)).files[0], machine="q35", root=root)
    outcome = alpine.boot(request)
    outcome.check()
    report = outcome.boot.report
    assert report.pid1
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    assert dax(report) is (root is RootKind.PMEM)
