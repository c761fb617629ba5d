"""What `inv verify` starts, and how what its guests said is summed up."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import NoReturn

import pytest

from osbuilder import launch
from osbuilder.api import CHECKOUT, Workbench, open_workbench
from osbuilder.arch import ARCHES, Arch, host_arch
from osbuilder.errors import BootError, ContractError, Interrupted, PlanError, UsageError
from osbuilder.guest.boot import Boot
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.lacking import DRAWN_IN_PVH, LACKING, ROOM_FOR_CPUS, reason
from osbuilder.guest.report import ProbeResult, Report, Result, parse_port
from osbuilder.guest.spec import Accel, Guest, RootKind
from osbuilder.kernel.catalogue import load_catalogue
from osbuilder.kernel.patches import load_series
from osbuilder.kernels import Kernels
from osbuilder.trials import Trial
from osbuilder.verdict import BuiltKernel, Tried, Verdict
from tests.unit.test_report import encode, sample

BASE = ("x86_64", "base")
KERNEL = BuiltKernel(
    version="6.12.1",
    key="ab" * 32,
    build="cd" * 32,
    options_y=900,
    vmlinux_bytes=20_000_000,
    vmlinuz_bytes=5_960_000,
    cpu_s=1234.5,
    ccache={"hits": 3, "misses": 7},
    probes={"vsock": ("vsock",), "net": ("inet", "unix-socket"), "pci": ()},
    files={"vmlinux": "0123456789abcdef" * 4, "vmlinuz": "fedcba9876543210" * 4},
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


def tried(root: RootKind, *, whole: bool = False, **found: str) -> Tried:
    trial = Trial(arch="x86_64", variant="base", machine="q35", root=root, distro="scratch", whole=whole)
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
    assert "vsock    why vsock  the device takes vhost-vsock of the host, and a CID" in table
    assert "inet " not in table.partition("SKIPPED")[2]  # another guest of that kernel passed it


def test_kernels_of_one_architecture_share_a_column_that_names_those_which_differ() -> None:
    guests = [
        dataclasses.replace(guest, trial=dataclasses.replace(guest.trial, variant=variant))
        for variant, result in (("base", "pass"), ("minimal", "skip"), ("measured", "pass"))
        for guest in [tried(RootKind.INITRD, vsock=result, inet="pass", unix_socket="pass")]
    ]
    kernels = {("x86_64", each): KERNEL for each in ("base", "minimal", "measured")}
    without = dataclasses.replace(KERNEL, probes={"net": ("inet",)})
    table = Verdict(kernels={**kernels, ("x86_64", "debug"): without}, tried=guests).table()
    assert row(table, "CAPABILITY") == ["CAPABILITY", "x86_64"]
    assert row(table, "vsock") == ["vsock", "pass", "(minimal:", "skip)"]
    assert row(table, "net") == ["net", "pass", "(debug:", "FAIL)"]  # no guest of debug said anything


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
        "1",
        "0",
        "0123456789ab",
        "-",
    ]
    assert lines[4].split()[:5] == ["x86_64", "base", "q35", "pmem", "scratch"]
    assert lines[4].split()[-3:] == ["2", "0", "1"]
    content = json.loads(verdict.json())
    assert content["kernels"][0]["options_y"] == 900
    assert content["kernels"][0]["sha256"] == "0123456789abcdef" * 4
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


def test_a_kernel_that_has_other_bytes_in_another_build_of_the_same_inputs_is_not_right() -> None:
    guest = tried(RootKind.INITRD, vsock="pass")
    same = Verdict(kernels={BASE: KERNEL}, tried=[guest], others={BASE: [dict(KERNEL.files)]})
    same.check()
    assert same.table().splitlines()[1].endswith("0123456789ab  same")
    other = {"vmlinux": KERNEL.files["vmlinux"], "vmlinuz": "00" * 32}
    verdict = Verdict(kernels={BASE: KERNEL}, tried=[guest], others={BASE: [dict(KERNEL.files), other, other]})
    with pytest.raises(BootError) as caught:
        verdict.check()
    assert caught.value.message == (
        f"the kernel x86_64 base is not reproducible: in two builds of the same inputs (key abababababab) "
        f"vmlinuz has sha256 {'fedcba9876543210' * 4} and {'00' * 32}"
    )
    assert verdict.table().splitlines()[1].endswith("0123456789ab  DIFFERS: vmlinuz")


def test_what_a_record_has_is_counted_and_told() -> None:
    taken = dataclasses.replace(tried(RootKind.INITRD, vsock="pass"), recorded="2026-11-23T01:02:03Z")
    new = tried(RootKind.VIRTIO_BLK, vsock="pass")
    verdict = Verdict(kernels={BASE: KERNEL}, tried=[taken, new], unbuilt={BASE})
    last = "taken from the record: 1 of 2 guests; 1 of 1 kernels, which are not built here"
    assert verdict.table().splitlines()[-1] == last
    assert taken.summary() == "1 probes passed, 0 failed, 0 skipped (recorded 2026-11-23T01:02:03Z)"
    content = json.loads(verdict.json())
    assert [guest["recorded"] for guest in content["guests"]] == ["2026-11-23T01:02:03Z", None]
    assert content["kernels"][0]["built"] is False
    assert "taken from" not in Verdict(kernels={BASE: KERNEL}, tried=[new]).table()


def test_every_variant_is_tried_on_every_machine_and_root_that_it_has_drivers_for(checkout: Workbench) -> None:
    named = [str(trial) for trial in checkout.proof.of_kernels(arches=("x86_64",), variants=("minimal", "base"))]
    assert "x86_64 base q35 pmem scratch" in named
    assert "x86_64 base microvm virtio-blk scratch" in named
    assert "x86_64 base microvm verity scratch" in named
    assert "x86_64 base microvm pmem scratch" not in named
    assert "x86_64 base q35 initrd scratch +virtio-pmem +iommu" in named
    assert "x86_64 base q35 initrd scratch security=apparmor" in named
    assert {f"x86_64 base {machine} initrd scratch vcpus=2" for machine in ("q35", "microvm")} <= set(named)
    for once in (
        "initrd scratch compression=gzip",
        "initrd scratch compression=none",
        "initrd scratch +9p +virtio-fs",
        "initrd scratch +virtio-console",
        "initrd scratch +vmgenid",
        "initrd scratch ip=192.0.2.15::192.0.2.1:255.255.255.0::eth0:off",
        "initrd scratch pti=on",
        "virtio-blk scratch fs=erofs",
        "pmem scratch fs=erofs",
        "virtio-scsi scratch",
        "virtio-pmem scratch",
    ):
        assert [name for name in named if name.endswith(once) and " base " in name] == [f"x86_64 base q35 {once}"]
    assert [name for name in named if " minimal " in name] == [
        "x86_64 minimal microvm initrd scratch",
        "x86_64 minimal microvm virtio-blk scratch",
        "x86_64 minimal microvm initrd scratch vcpus=2",
        "x86_64 minimal microvm initrd scratch compression=gzip",
        "x86_64 minimal microvm initrd scratch compression=none",
        "x86_64 minimal microvm initrd scratch ip=192.0.2.15::192.0.2.1:255.255.255.0::eth0:off",
        "x86_64 minimal microvm initrd scratch pti=on",
    ]
    foreign = [str(trial) for trial in checkout.proof.of_kernels(arches=("ppc64le", "s390x"), variants=("base",))]
    assert [name for name in foreign if "pti" in name] == []  # page tables are isolated on no other architecture
    shared = [name.rpartition(" scratch ")[2] for name in foreign if "+9p" in name]
    assert shared == ["+9p", "+9p"]  # virtiofsd is of this host
    assert [name.rpartition(" scratch ")[2] for name in foreign if "plug:" in name] == [
        "plug:cpu plug:memory plug:pci",
        "plug:cpu plug:pci",
    ]
    other = [str(trial) for trial in checkout.proof.of_kernels(arches=("aarch64",), variants=("minimal", "base"))]
    assert {"aarch64 base virt virtio-blk scratch", "aarch64 base virt-mmio virtio-blk scratch"} <= set(other)
    assert [name for name in other if "virt-uefi" in name] == [
        "aarch64 base virt-uefi initrd scratch",
        "aarch64 base virt-uefi virtio-blk scratch",
        "aarch64 base virt-uefi verity scratch",
        "aarch64 base virt-uefi pmem scratch",
        "aarch64 base virt-uefi initrd scratch vcpus=2",
        "aarch64 base virt-uefi initrd scratch plug:memory",
    ]
    assert [name for name in other if " minimal " in name] == [
        "aarch64 minimal virt-mmio initrd scratch",
        "aarch64 minimal virt-mmio virtio-blk scratch",
        "aarch64 minimal virt-mmio initrd scratch vcpus=2",
        "aarch64 minimal virt-mmio initrd scratch compression=gzip",
        "aarch64 minimal virt-mmio initrd scratch compression=none",
        "aarch64 minimal virt-mmio initrd scratch ip=192.0.2.15::192.0.2.1:255.255.255.0::eth0:off",
        "aarch64 minimal virt-mmio initrd scratch kpti=1",
    ]


def test_a_variant_is_tried_on_the_machines_of_those_who_can_boot_it(checkout: Workbench) -> None:
    consumers = load_catalogue(CHECKOUT / "kernel" / "configs").consumers
    assert {machine.consumer for arch in ARCHES.values() for machine in arch.machines} <= set(consumers)
    machines = {}
    for variant in ("base", "confidential", "measured", "minimal", "nvidia-gpu"):
        trials = checkout.proof.of_kernels(arches=("x86_64",), variants=(variant,), dry=True)
        machines[variant] = list(dict.fromkeys(trial.machine for trial in trials))
    assert machines == {
        "base": ["q35", "microvm"],
        "confidential": ["q35", "q35-uefi"],
        "measured": ["q35"],
        "minimal": ["microvm"],
        "nvidia-gpu": ["q35"],
    }


def test_a_variant_that_is_not_for_a_kernels_version_is_left_out_and_told(
    checkout: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    s390x = ARCHES["s390x"]
    assert checkout.kernels.misfit("base", "debian-6.1", s390x) is None
    # What that line is, nobody has looked at.
    assert checkout.kernels.misfit("measured", "debian-6.1", s390x, dry=True) is None

    def misfit(_: Kernels, variant: str, line: str | None, arch: Arch, *, dry: bool) -> PlanError | None:
        assert (line, dry) == ("debian-6.1", True)
        return PlanError("measured is for kernels >=6.10, not for 6.1") if variant == "measured" else None

    monkeypatch.setattr(Kernels, "misfit", misfit)
    told: list[str] = []
    trials = checkout.proof.of_kernels(arches=("s390x",), variants=(), line="debian-6.1", dry=True, tell=told.append)
    assert {trial.variant for trial in trials} == {"base", "confidential"}
    assert told == ["left out: measured is for kernels >=6.10, not for 6.1"]
    with pytest.raises(PlanError, match=r"measured is for kernels >=6\.10, not for 6\.1"):
        checkout.proof.of_kernels(arches=("s390x",), variants=("measured",), line="debian-6.1", dry=True)


def test_a_variant_without_drivers_for_any_machine_is_left_out_or_refused(
    checkout: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = launch.machines
    monkeypatch.setattr(
        launch, "machines", lambda bench, name, arch: () if name == "measured" else machines(bench, name, arch)
    )
    told: list[str] = []
    trials = checkout.proof.of_kernels(arches=("s390x",), variants=(), dry=True, tell=told.append)
    assert {trial.variant for trial in trials} == {"base", "confidential"}
    assert "".join(told) == (
        "left out: kernel variant measured has drivers for none of the machines that guests of s390x run on: "
        "s390-ccw-virtio"
    )
    with pytest.raises(PlanError, match="kernel variant measured has drivers for none of the machines"):
        checkout.proof.of_kernels(arches=("s390x",), variants=("measured",), dry=True)


def test_a_variant_that_is_for_no_architecture_that_was_named_is_refused(checkout: Workbench) -> None:
    with pytest.raises(UsageError, match="kernel variant minimal is not for s390x: it is a kernel for Firecracker"):
        checkout.proof.of_kernels(arches=("s390x",), variants=("minimal",))
    with pytest.raises(UsageError, match="unknown kernel variant 'minimum'"):
        checkout.proof.of_kernels(arches=(), variants=("base", "minimum"))


def test_a_distribution_is_tried_on_each_of_its_architectures(checkout: Workbench) -> None:
    named = [str(trial) for trial in checkout.proof.of_distro("debian", arches=())]
    assert named[0] == "x86_64 base q35 pmem debian"
    assert [name.split()[0] for name in named] == ["x86_64", "aarch64", "ppc64le", "s390x"]
    with pytest.raises(UsageError, match="debian has no guests for riscv64"):
        checkout.proof.of_distro("debian", arches=("riscv64",))


def test_a_promise_that_no_guest_of_a_kernel_kept_is_told_though_none_failed() -> None:
    first = tried(RootKind.INITRD, whole=True, vsock="skip", inet="pass", unix_socket="skip")
    second = tried(RootKind.VIRTIO_BLK, whole=True, vsock="skip", inet="skip", unix_socket="pass")
    Verdict(kernels={BASE: KERNEL}, tried=[first, second]).check()
    verdict = Verdict(kernels={BASE: KERNEL}, tried=[first, first])
    with pytest.raises(BootError, match=r"^unix-socket of capability net passed in no guest of x86_64/base$"):
        verdict.check()
    assert "unix-socket  why unix_socket  NOTHING: it has to pass" in verdict.table()


def test_a_kernel_that_was_not_tried_in_every_way_owes_nothing() -> None:
    guest = tried(RootKind.INITRD, vsock="skip", inet="pass", unix_socket="skip")
    verdict = Verdict(kernels={BASE: KERNEL}, tried=[guest])
    verdict.check()
    assert "unix-socket  why unix_socket  not tried in every way" in verdict.table()


def test_what_guests_here_lack_is_a_matter_of_probe_architecture_and_accelerator() -> None:
    assert "vhost-vsock" in reason("vsock", "x86_64", {Accel.KVM})
    assert reason("ptp", "x86_64", {Accel.TCG})
    assert reason("ptp", "x86_64", {Accel.KVM, Accel.TCG}) == ""
    assert reason("hugepages", "s390x", {Accel.TCG})
    assert reason("hugepages", "x86_64", {Accel.TCG}) == ""


@pytest.mark.parametrize(("probe", "patch"), [("kaslr", DRAWN_IN_PVH), ("cpu-plug", ROOM_FOR_CPUS)])
def test_what_a_patch_of_ours_brings_is_excused_only_without_the_patch(probe: str, patch: str) -> None:
    assert reason(probe, "x86_64", {Accel.TCG})
    assert reason(probe, "x86_64", {Accel.TCG}, [patch]) == ""
    series = load_series(CHECKOUT / "kernel" / "patches", "linux-6.12")
    assert series is not None
    assert patch in {each.name for each in series.patches}


def test_what_came_with_a_version_is_excused_only_of_older_kernels() -> None:
    assert "drmgr" in reason("pci-plug", "ppc64le", {Accel.TCG}, release="6.1.174-1")
    assert reason("pci-plug", "ppc64le", {Accel.TCG}, release="6.12.117") == ""
    assert reason("pci-plug", "ppc64le", {Accel.TCG}) == ""
    assert "seed" in reason("kaslr", "riscv64", {Accel.TCG}, release="6.1.174-1")
    assert reason("kaslr", "riscv64", {Accel.TCG}, release="6.12.117") == ""


def test_what_a_machine_can_have_plugged_is_not_excused_on_its_architecture() -> None:
    for plug in Plug:
        for arch in ARCHES.values():
            able = any(plug.value in machine.plugs for machine in arch.machines)
            assert bool(reason(plug.probe, arch.name, {Accel.KVM})) is not able


def test_every_probe_that_is_excused_is_promised_by_a_capability() -> None:
    catalogue = load_catalogue(CHECKOUT / "kernel" / "configs")
    assert {lack.probe for lack in LACKING} <= {
        name for each in catalogue.capabilities.values() for name in each.probes
    }


@pytest.mark.parametrize("during", ["build", "boot"])
def test_a_proof_that_is_stopped_goes_on_with_no_other_guest(
    checkout: Workbench, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    def stop(bench: Workbench, request: object) -> NoReturn:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr("osbuilder.verify._built", lambda bench, *_: bench.build(None) and KERNEL)
    monkeypatch.setattr(Workbench, "build", lambda bench, request: bench)
    monkeypatch.setattr(Workbench, during, stop)
    trials = [
        Trial(arch="x86_64", variant=variant, machine="q35", root=RootKind.INITRD, distro="scratch")
        for variant in ("base", "minimal")
    ]
    told: list[str] = []
    with pytest.raises(Interrupted):
        checkout.proof.run(trials, line=None, tell=told.append)
    assert told == []
