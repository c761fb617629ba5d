"""Where guests run that take a folder of the host's."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import parse_arch
from osbuilder.errors import ToolMissing
from osbuilder.guest.spec import Device
from osbuilder.launch import emulator

ROOT = Path(__file__).resolve().parents[2]
X86 = parse_arch("x86_64")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose only programs are those of a folder: QEMU."""
    program = tmp_path / X86.qemu
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("osbuilder.guest.shares.HOST_PATH", str(tmp_path))
    monkeypatch.setattr("osbuilder.guest.shares._FOLDERS", str(tmp_path))
    return tmp_path


def opened(qemu: str) -> Workbench:
    return open_workbench((f"qemu={qemu}",), stream=sys.stderr, root=ROOT)


def test_a_host_without_virtiofsd_runs_no_guests_that_take_it(host: Path) -> None:
    auto = opened("auto")
    assert emulator(auto, X86) is None
    assert emulator(auto, X86, (Device.PLAN9,)) is None
    step = emulator(auto, X86, (Device.VIRTIOFS,))
    assert step is not None
    assert step.name == "builder"
    with pytest.raises(ToolMissing, match="virtiofsd is not on this host"):
        emulator(opened("host"), X86, (Device.VIRTIOFS,))
    (host / "virtiofsd").symlink_to(X86.qemu)
    assert emulator(auto, X86, (Device.VIRTIOFS,)) is None


def test_a_host_without_firmware_starts_no_guests_by_it(host: Path) -> None:
    uefi = X86.machine("q35-uefi")
    there, gone = (dataclasses.replace(uefi, firmware=str(path)) for path in (host / X86.qemu, host / "OVMF.fd"))
    assert emulator(opened("auto"), X86, machine=there) is None
    assert emulator(opened("auto"), X86, machine=gone) is not None
    with pytest.raises(ToolMissing, match=r"OVMF\.fd is not on this host"):
        emulator(opened("host"), X86, machine=gone)
