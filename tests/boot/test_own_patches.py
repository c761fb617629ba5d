"""What the patches of kernel/patches are for is seen in a guest: with their effect, and without it."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import struct
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
from osbuilder.guest.spec import Accel, Guest, RootKind
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


def addresses(kernel: Path) -> dict[str, int]:
    """Return where a kernel's symbols are."""
    rows = (line.split() for line in (kernel.parent / "System.map").read_text().splitlines())
    return {name: int(address, 16) for address, _, name in rows}


def test_a_kernel_that_shares_nothing_in_the_clear_keeps_no_room_for_it(files: tuple[Path, Path]) -> None:
    """Unpatched, this is 2 MiB of its own, wherever there is nothing in it."""
    symbols = addresses(files[0])
    assert symbols["__start_bss_decrypted"] == symbols["__end_bss_decrypted"]
    assert symbols["__end_bss_decrypted"] % (2 << 20) != 0


EXECUTED = re.compile(r"^Trace \d+: \S+ \[\w+/(\w+)/", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(BuilderPlace):
    """A builder whose QEMU writes down each block of code that begins at one of these addresses, into `executed`."""

    watched: tuple[int, ...]

    def run(self, argv: tuple[str, ...], *, kvm: bool, timeout_s: float) -> None:
        where = ",".join(f"{address:#x}+1" for address in self.watched)
        log = ("-d", "exec,nochain", "-dfilter", where, "-D", str(self.output("executed")))
        super().run((*argv, *log), kvm=kvm, timeout_s=timeout_s)

    def counts(self) -> tuple[int, ...]:
        """Return how often each was executed; what is about other things, such as an interrupt, counts nothing."""
        lines = (self.folder / "executed").read_text()
        found = collections.Counter(int(address, 16) for address in EXECUTED.findall(lines))
        return tuple(found[address] for address in self.watched)


def code(kernel: Path, begin: int, end: int) -> bytes:
    """Return what an ELF file of 64 bits loads at some addresses."""
    content = kernel.read_bytes()
    (headers,) = struct.unpack_from("<Q", content, 32)
    (count,) = struct.unpack_from("<H", content, 56)
    for kind, _, offset, address, _, size, *_ in (
        struct.unpack_from("<IIQQQQQQ", content, headers + 56 * number) for number in range(count)
    ):
        if kind == 1 and address <= begin < end <= address + size:  # PT_LOAD
            return content[begin - address + offset : end - address + offset]
    raise ValueError(f"{kernel} loads nothing at {begin:#x}")


def behind_calls(kernel: Path, caller: str, callee: str) -> list[int]:
    """Return the addresses behind the calls (E8 and a distance) of one function in another."""
    symbols = addresses(kernel)
    begin = symbols[caller]
    text = code(kernel, begin, min(address for address in symbols.values() if address > begin))
    sites = [number + 5 for number in range(len(text) - 4) if text[number] == 0xE8]
    return [
        begin + site
        for site in sites
        if begin + site + int.from_bytes(text[site - 4 : site], "little", signed=True) == symbols[callee]
    ]


def test_return_sites_are_found_without_the_instruction_decoder(
    bench: Workbench, files: tuple[Path, Path], tmp_path: Path
) -> None:
    kernel, initrd = files
    symbols = addresses(kernel)
    sites = (symbols["__return_sites_end"] - symbols["__return_sites"]) // 4
    (decoded,) = behind_calls(kernel, "apply_returns", "insn_decode")
    guest = Guest(
        arch=X86_64,
        machine=X86_64.machine("q35"),
        accel=Accel.TCG,
        kernel=kernel,
        root=RootKind.INITRD,
        initrd=initrd,
        cmdline=("osbuilder.probes=none",),
        devices=(),
    )
    with bench.builder("qemu") as (engine, builder):
        place = Watched(
            engine=engine,
            builder=builder,
            folder=tmp_path,
            label="test-return-sites",
            watched=(symbols["apply_returns"], decoded),
        )
        start(guest, place, required=(), accels=(Accel.TCG,), timeout_s=180, remember=lambda _: None)
    patched, decoded_count = place.counts()
    assert patched > 0
    # Without the patch it is each of them, tens of thousands.
    assert sites > 10_000
    assert decoded_count < sites / 20
