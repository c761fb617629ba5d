"""What `inv verify` starts, and how what its guests said is summed up."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest

from osbuilder.api import CHECKOUT, Workbench, open_workbench
from osbuilder.arch import host_arch
from osbuilder.errors import BootError, ContractError, UsageError
from osbuilder.guest.boot import Boot
from osbuilder.guest.qemu import Accel, Guest, RootKind
from osbuilder.guest.report import ProbeResult, Report, Result, parse_port
from osbuilder.verify import BuiltKernel, Trial, Tried, Verdict
from tests.unit.test_report import encode, sample

BASE = ("x86_64", "base")
KERNEL = BuiltKernel(
    version="6.12.1",
    options_y=900,
    vmlinux_bytes=20_000_000,
    vmlinuz_bytes=5_960_000,
    cpu_s=1234.5,
    ccache={"hits": 3, "misses": 7},
    probes={"vsock": ["vsock"], "net": ["inet", "unix-socket"], "pci": []},
    sha256="0123456789abcdef" * 4,
)


@pytest.fixture
def checkout(tmp_path: Path) -> Workbench:
    settings = (f"store={tmp_path}/store", f"build={tmp_path}/build")
    return open_workbench(settings, stream=io.StringIO(), root=CHECKOUT)


def said(**found: str) -> Report:
    """Return a report in which each probe (with _ for -) ended as told."""
    probes = tuple(
        ProbeResult(name=name.replace("_", "-"), result=Result(result), detail=f"why {name}", duration_us=1)
        for name, result in found.items()
    )
    return dataclasses.replace(parse_port(encode(sample()) + b"\n"), probes=probes)


def tried(root: RootKind, **found: str) -> Tried:
    trial = Trial(arch="x86_64", variant="base", machine="q35", root=root, distro="scratch")
    guest = Guest(
        arch=host_arch(), machine=host_arch().machines[0], accel=Accel.TCG, kernel=Path("k"), root=root, cmdline=()
    )
    return Tried(trial=trial, boot=Boot(reported=said(**found), guest=guest, wall_s=1))


def row(table: str, name: str) -> list[str]:
    return next(line.split() for line in table.splitlines() if line.split()[:1] == [name])


def test_a_capability_is_as_good_as_the_best_that_each_of_its_probes_came_to() -> None:
    guests = [
        tried(RootKind.INITRD, vsock="skip", inet="pass", unix_socket="pass"),
        tried(RootKind.VIRTIO_BLK, vsock="skip", inet="skip", unix_socket="pass"),
    ]
    table = Verdict(kernels={BASE: KERNEL, ("s390x", "base"): KERNEL}, tried=guests).table()
    assert row(table, "net") == ["net", "pass", "FAIL"]  # no guest of s390x said anything
    assert row(table, "vsock") == ["vsock", "skip", "FAIL"]
    assert row(table, "pci") == ["pci", "config", "config"]
    assert "vsock    why vsock  x86_64/base" in table
    assert "inet " not in table.partition("SKIPPED")[2]  # another guest of that kernel passed it


def test_a_probe_that_fails_anywhere_fails_its_capability() -> None:
    guests = [
        tried(RootKind.INITRD, vsock="pass", inet="pass", unix_socket="fail"),
        tried(RootKind.VIRTIO_BLK, vsock="pass", inet="pass", unix_socket="pass"),
    ]
    assert row(Verdict(kernels={BASE: KERNEL}, tried=guests).table(), "net") == ["net", "FAIL"]


def test_a_capability_whose_probe_no_guest_names_has_failed() -> None:
    table = Verdict(kernels={BASE: KERNEL}, tried=[tried(RootKind.INITRD, inet="pass", unix_socket="pass")]).table()
    assert row(table, "vsock") == ["vsock", "FAIL"]


def test_the_tables_have_a_line_for_each_kernel_and_each_guest() -> None:
    verdict = Verdict(
        kernels={BASE: KERNEL}, tried=[tried(RootKind.PMEM, vsock="pass", inet="pass", unix_socket="skip")]
    )
    lines = verdict.table().splitlines()
    assert lines[1].split() == [
        "x86_64",
        "base",
        "6.12.1",
        "900",
        "20.00",
        "MB",
        "5.96",
        "MB",
        "1234",
        "s",
        "3",
        "of",
        "10",
        "0123456789ab",
        "-",
    ]
    assert lines[4].split()[:5] == ["x86_64", "base", "q35", "pmem", "scratch"]
    assert lines[4].split()[-3:] == ["2", "0", "1"]
    content = json.loads(verdict.json())
    assert content["kernels"][0]["options_y"] == 900
    assert content["guests"][0]["probes"]["unix-socket"] == ["skip", "why unix_socket"]


def test_all_that_is_wrong_is_told_and_a_kernel_that_does_not_build_only_once() -> None:
    error = ContractError("base: X=y dropped", hint="Remove it.")
    broken = [
        Tried(trial=Trial(arch="s390x", variant="base", machine="m", root=root, distro="scratch"), error=error)
        for root in (RootKind.INITRD, RootKind.VIRTIO_BLK)
    ]
    verdict = Verdict(kernels={BASE: KERNEL}, tried=[*broken, tried(RootKind.INITRD, vsock="pass")])
    with pytest.raises(BootError) as caught:
        verdict.check()
    assert caught.value.message == (
        "2 of 3 guests are not right\n\n"
        "s390x base m initrd scratch: error: base: X=y dropped\n  Remove it.\n"
        "also: s390x base m virtio-blk scratch"
    )
    assert "FAILED" in verdict.table()


def test_a_kernel_that_has_other_bytes_when_it_is_built_again_is_not_right() -> None:
    same = dataclasses.replace(KERNEL, differing=())
    other = dataclasses.replace(KERNEL, differing=("vmlinux", "vmlinuz"))
    guest = tried(RootKind.INITRD, vsock="pass")
    Verdict(kernels={BASE: same}, tried=[guest]).check()
    verdict = Verdict(kernels={BASE: same, ("s390x", "base"): other}, tried=[guest])
    with pytest.raises(BootError, match=r"^the kernel s390x base, built again, has other bytes in vmlinux, vmlinuz$"):
        verdict.check()
    table = verdict.table().splitlines()
    assert table[1].endswith("0123456789ab  same")
    assert table[2].endswith("0123456789ab  DIFFERS: vmlinux vmlinuz")


def test_every_variant_is_tried_on_every_machine_and_root_that_it_has_drivers_for(checkout: Workbench) -> None:
    named = [str(trial) for trial in checkout.proof.of_kernels(arches=("x86_64",), variants=("minimal", "base"))]
    assert "x86_64 base q35 pmem scratch" in named
    assert "x86_64 base microvm virtio-blk scratch" in named
    assert "x86_64 base microvm verity scratch" in named
    assert "x86_64 base microvm pmem scratch" not in named
    assert "x86_64 base q35 initrd scratch +virtio-pmem +iommu" in named
    assert "x86_64 base q35 initrd scratch security=apparmor" in named
    assert [name for name in named if " minimal " in name] == [
        "x86_64 minimal microvm initrd scratch",
        "x86_64 minimal microvm virtio-blk scratch",
    ]


def test_a_variant_that_is_for_no_architecture_that_was_named_is_refused(checkout: Workbench) -> None:
    with pytest.raises(UsageError, match="kernel variant minimal is for x86_64, not for s390x"):
        checkout.proof.of_kernels(arches=("s390x",), variants=("minimal",))
    with pytest.raises(UsageError, match="unknown kernel variant 'minimum'"):
        checkout.proof.of_kernels(arches=(), variants=("base", "minimum"))


def test_a_distribution_is_tried_on_each_of_its_architectures(checkout: Workbench) -> None:
    named = [str(trial) for trial in checkout.proof.of_distro("debian", arches=())]
    assert named[0] == "x86_64 base q35 pmem debian"
    assert [name.split()[0] for name in named] == ["x86_64", "aarch64", "ppc64le", "s390x"]
    with pytest.raises(UsageError, match="debian has no guests for riscv64"):
        checkout.proof.of_distro("debian", arches=("riscv64",))
