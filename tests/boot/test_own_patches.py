"""What the patches of kernel/patches are for is seen in a guest: with their effect, and without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.boot_time import make_initrd
from osbuilder.api import Workbench
from osbuilder.arch import parse_arch
from osbuilder.guest.boot import start
from osbuilder.guest.place import BuilderPlace
from osbuilder.guest.qemu import Accel, Guest, RootKind
from osbuilder.request import AgentRequest, KernelRequest

X86_64 = parse_arch("x86_64")
QUICK = re.compile(
    r"^\[ *([\d.]+)\] (?:APIC: )?APIC timer runs at (\d+) kHz, measured against the TSC in 10 ms", re.MULTILINE
)


@pytest.fixture(scope="module")
def files(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The project's kernel, and an initrd with nothing but the probe agent."""
    kernel = bench.build(KernelRequest(arch="x86_64")).artifact.path("vmlinux")
    initrd = tmp_path_factory.mktemp("initrd") / "initrd"
    make_initrd(bench.build(AgentRequest(arch="x86_64")).artifact.path("agent"), initrd)
    return kernel, initrd


def console(bench: Workbench, files: tuple[Path, Path], folder: Path, *, machine: str, words: tuple[str, ...]) -> str:
    """Return the kernel log of an emulated guest: QEMU's APIC timer counts nanoseconds, and has no TSC deadline."""
    kernel, initrd = files
    guest = Guest(
        arch=X86_64,
        machine=X86_64.machine(machine),
        accel=Accel.TCG,
        kernel=kernel,
        root=RootKind.INITRD,
        initrd=initrd,
        cmdline=("osbuilder.probes=none", "loglevel=8", "apic=verbose", *words),
        devices=(),
    )
    folder.mkdir()
    with bench.builder("qemu") as (engine, builder):
        place = BuilderPlace(engine=engine, builder=builder, folder=folder, label="test-own-patches")
        start(guest, place, required=(), accels=(Accel.TCG,), timeout_s=180, remember=lambda _: None)
    return (folder / "console").read_text(encoding="utf-8", errors="replace").replace("\r", "")


# The long way waits for a tenth of a second's ticks; where there is no ACPI timer to compare with (microvm with its
# legacy timer, q35 without ACPI) it waits as long again to verify what it found.
LONG = {"q35": ("Calibrating APIC timer ...",), "microvm": ("Calibrating APIC timer ...", "... verify APIC timer")}


@pytest.mark.parametrize("machine", list(LONG))
def test_a_guests_apic_timer_is_calibrated_in_a_tenth_of_the_time(
    bench: Workbench, files: tuple[Path, Path], tmp_path: Path, machine: str
) -> None:
    quick = console(bench, files, tmp_path / "quick", machine=machine, words=())
    for attempt in range(4):
        # On a very busy host the kernel may find no frequency of an emulated TSC, and then measures nothing against it.
        if QUICK.search(quick):
            break
        quick = console(bench, files, tmp_path / f"again{attempt}", machine=machine, words=())
    found = QUICK.search(quick)
    assert found, quick[-4000:]
    assert abs(int(found[2]) - 1_000_000) < 50_000
    long = console(bench, files, tmp_path / "long", machine=machine, words=("lapic=calibrate",))
    assert not QUICK.search(long)
    for line in LONG[machine]:
        assert line in long
        assert line not in quick


@pytest.fixture
def busy_host() -> Iterator[None]:
    """More work than a processor can do, so that a virtual CPU on it does not always run.

    One processor: others may have work that cannot wait.
    """
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    work = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in work:
        process.kill()
        process.wait()
    os.sched_setaffinity(0, usual)


@pytest.mark.usefixtures("busy_host")
def test_a_guest_whose_cpu_did_not_run_for_a_moment_finds_the_frequency_of_its_tsc_after_all(
    bench: Workbench, files: tuple[Path, Path], tmp_path: Path
) -> None:
    for attempt in range(20):
        said = console(bench, files, tmp_path / str(attempt), machine="microvm", words=())
        # Without the patch there is no second try: the first line is then the last word.
        if re.search(r"Fast TSC calibration failed(?s:.*)Fast TSC calibration using PIT", said):
            break
    else:
        pytest.fail(f"no try failed, or none after it succeeded:\n{said[-4000:]}")
    # (Such a host may make the kernel distrust its TSC later on, for other reasons.)
    assert re.search(r"tsc: Detected \d+\.\d+ MHz processor", said)
    assert "could not calculate TSC khz" not in said


def kaslr(bench: Workbench, files: tuple[Path, Path], folder: Path, *, kernel: str, words: tuple[str, ...]) -> str:
    """Return what the probe of that name says of a guest."""
    vmlinux, initrd = files
    guest = Guest(
        arch=X86_64,
        machine=X86_64.machine("q35"),
        accel=Accel.TCG,
        kernel=vmlinux.with_name(kernel),
        root=RootKind.INITRD,
        initrd=initrd,
        cmdline=("osbuilder.probes=kaslr", *words),
    )
    folder.mkdir()
    with bench.builder("qemu") as (engine, builder):
        place = BuilderPlace(engine=engine, builder=builder, folder=folder, label="test-kaslr")
        boot = start(guest, place, required=(), accels=(Accel.TCG,), timeout_s=180, remember=lambda _: None)
    (probe,) = boot.report.probes
    return f"{probe.result.value}: {probe.detail}"


def test_a_guest_that_is_entered_through_pvh_has_its_memory_elsewhere_each_time(
    bench: Workbench, files: tuple[Path, Path], tmp_path: Path
) -> None:
    said = [kaslr(bench, files, tmp_path / str(n), kernel="vmlinux", words=()) for n in range(2)]
    found = [
        re.fullmatch(r"pass: entered through PVH: memory is at (\w+), vmalloc at (\w+); .*", each) for each in said
    ]
    assert found[0], said
    assert found[1], said
    assert found[0].groups() != found[1].groups()
    assert said[0].endswith("the text is where it was loaded")
    assert kaslr(bench, files, tmp_path / "off", kernel="vmlinux", words=("nokaslr",)).startswith("skip: nokaslr")


def test_the_compressed_kernel_moves_its_text_as_well(
    bench: Workbench, files: tuple[Path, Path], tmp_path: Path
) -> None:
    said = kaslr(bench, files, tmp_path / "vmlinuz", kernel="vmlinuz", words=())
    assert said.startswith("pass: entered by the boot protocol"), said
    assert said.endswith("the text was moved")


def test_a_kernel_that_shares_nothing_in_the_clear_keeps_no_room_for_it(files: tuple[Path, Path]) -> None:
    """Unpatched, this is 2 MiB of its own, wherever there is nothing in it."""
    symbols = {
        name: int(address, 16)
        for address, _, name in (line.split() for line in (files[0].parent / "System.map").read_text().splitlines())
    }
    assert symbols["__start_bss_decrypted"] == symbols["__end_bss_decrypted"]
    assert symbols["__end_bss_decrypted"] % (2 << 20) != 0
