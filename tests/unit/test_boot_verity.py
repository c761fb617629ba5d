"""What a boot from a verified root is judged by: the guest's own word, and what its console says of its blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePath

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.arch import parse_arch
from osbuilder.errors import BootError, OsbuilderError, PlanError, UsageError
from osbuilder.guest.boot import Boot, start
from osbuilder.guest.ready import Ready
from osbuilder.guest.report import parse_report
from osbuilder.guest.spec import Accel, Guest, RootKind
from osbuilder.image.initrd import Compression
from osbuilder.image.layout import plan_layout, write_headers
from osbuilder.image.verity import Verity, root_hash_file
from osbuilder.launch import asked
from osbuilder.request import BootRequest, Filesystem, ImageRequest, RootfsRequest
from tests.unit.test_report import encode, sample
from tests.unit.test_verity import measured

X86 = parse_arch("x86_64")
VERITY = Verity(root_hash="ab" * 32, salt="cd" * 32, data_blocks=300)
CORRUPTED = "[    1.2] device-mapper: verity: {}: {} is corrupted\n"


def guest(root: RootKind = RootKind.VERITY) -> Guest:
    return Guest(
        arch=X86,
        machine=X86.machine("microvm"),
        accel=Accel.TCG,
        kernel=PurePath("/w/vmlinux"),
        root=root,
        image=PurePath("/w/kata.image"),
        verity=VERITY if root is RootKind.VERITY else None,
    )


@dataclasses.dataclass(frozen=True)
class Said:
    """A place where the guest says something on its console, and ends."""

    folder: Path
    console: str

    def input(self, path: Path) -> PurePath:
        return path

    def output(self, name: str) -> PurePath:
        return self.folder / name

    def run(self, argv: tuple[str, ...], *, kvm: bool, timeout_s: float) -> None:
        assert argv
        assert not kvm
        assert timeout_s
        (self.folder / "console").write_text(self.console)


def boot(folder: Path, console: str, *, root: RootKind = RootKind.VERITY, ready: Ready | None = None) -> Boot:
    return start(
        guest(root),
        Said(folder, console),
        required=(),
        accels=(Accel.TCG,),
        timeout_s=1,
        remember=lambda _: None,
        ready=ready,
    )


@pytest.mark.parametrize("ready", [None, Ready(console="serves")])
@pytest.mark.parametrize("block", ["data block 5", "metadata block 0"])
def test_a_guest_that_met_a_corrupted_block_is_told_apart(tmp_path: Path, block: str, ready: Ready | None) -> None:
    console = CORRUPTED.format("254:1", block) + "Kernel panic - not syncing: dm-verity device corrupted\n"
    message = f"the guest refused its root: {block} of /w/kata.image is not what the root hash stands for"
    with pytest.raises(BootError, match=message) as caught:
        boot(tmp_path, console, ready=ready)
    assert "dm-verity device corrupted" in caught.value.console
    assert "inv inspect" in caught.value.hint


@pytest.mark.parametrize("ready", [None, Ready(console="serves")])
@pytest.mark.parametrize(
    ("console", "root"),
    [
        (CORRUPTED.format("7:0", "data block 0"), RootKind.VERITY),  # a loop device: the agent's own probe
        (CORRUPTED.format("254:1", "data block 0"), RootKind.VIRTIO_BLK),
        ("nothing\n", RootKind.VERITY),
    ],
    ids=["loop", "plain", "silent"],
)
def test_other_ends_are_what_they_were(tmp_path: Path, console: str, root: RootKind, ready: Ready | None) -> None:
    with pytest.raises(BootError, match="the guest did not say that it is ready"):
        boot(tmp_path, console, root=root, ready=ready)


def reported(probes: Sequence[tuple[str, str, str]]) -> Boot:
    listed = [{"name": name, "result": how, "detail": what, "duration_us": 1} for name, how, what in probes]
    return Boot(reported=parse_report(encode(sample(probes=listed))), guest=guest(), wall_s=1.0)


def test_a_guest_that_names_the_root_hash_is_right() -> None:
    reported([("root-verity", "pass", f"/dev/dm-0 is verified, root hash {'ab' * 32}")]).check()


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        ([], "no word of it"),
        (
            [("root-verity", "skip", "the root is not a mapped device (ext4 /dev/vda1)")],
            "the root is not a mapped device",
        ),
        (
            [("root-verity", "pass", f"/dev/dm-0 is verified, root hash {'ef' * 32}")],
            "/dev/dm-0 is verified, root hash ef",
        ),
    ],
    ids=["silent", "plain", "other"],
)
def test_a_guest_that_does_not_name_the_root_hash_is_wrong(probes: list[tuple[str, str, str]], said: str) -> None:
    with pytest.raises(BootError, match=f"the root is not verified: expected root hash {'ab' * 32}, got") as caught:
        reported(probes).check()
    assert said in caught.value.message


# Requests


def test_where_a_kernel_line_cannot_name_the_probes_it_names_the_others() -> None:
    riscv = parse_arch("riscv64")
    long = dataclasses.replace(guest(), arch=riscv, machine=riscv.machines[0])
    probes = tuple(f"probe-{number:03}" for number in range(80))
    known = ("before", *probes, "after")
    assert asked(guest(), probes, known).cmdline == (f"osbuilder.probes={','.join(probes)}",)
    assert asked(long, probes, known).cmdline == ("osbuilder.probes=all,-before,-after",)
    assert asked(long, probes[:2], known).cmdline == ("osbuilder.probes=probe-000,probe-001",)
    assert asked(long, probes, [*known, *(f"{name}-too" for name in probes)]).cmdline == ("osbuilder.probes=all",)
    assert asked(guest(), (), known).cmdline == asked(guest()).cmdline == ("osbuilder.probes=all",)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A workbench with a store that is not there."""
    import sys

    return open_workbench((f"store={tmp_path / 'store'}", "source_date_epoch=1700000000"), stream=sys.stderr)


def test_a_measured_image_starts_verified_unless_another_root_is_asked_for(bench: Workbench, tmp_path: Path) -> None:
    image = tmp_path / "kata.image"
    root_hash_file(image).write_text(measured(image).line())
    verified = bench.describe_boot(BootRequest(image=image, arch="x86_64"))
    assert "panic_on_corruption" in verified
    plain = bench.describe_boot(BootRequest(image=image, arch="x86_64", root=RootKind.VIRTIO_BLK))
    assert "root=/dev/vda1" in plain
    assert "panic_on_corruption" not in bench.describe_boot(BootRequest(image=image, arch="x86_64", variant="minimal"))


def test_the_measured_kernel_starts_from_a_measured_image(bench: Workbench) -> None:
    plan = bench.describe_boot(BootRequest(distro="scratch", arch="x86_64", variant="measured"))
    assert "write the dm-verity hash tree of partition 1" in plan
    assert "panic_on_corruption" in plan
    plan = bench.describe_boot(BootRequest(distro="scratch", arch="x86_64", variant="measured", root=RootKind.INITRD))
    assert "dm-verity" not in plan


def test_a_root_hash_elsewhere_is_named(bench: Workbench, tmp_path: Path) -> None:
    image, line = tmp_path / "kata.image", tmp_path / "root_hash_confidential.txt"
    found = measured(image)
    line.write_text(found.line())
    assert found.root_hash in bench.describe_boot(BootRequest(image=image, arch="x86_64", root_hash=line))


def test_a_root_hash_of_another_image_is_refused(bench: Workbench, tmp_path: Path) -> None:
    image = tmp_path / "kata.image"
    root_hash_file(image).write_text(measured(image).line().replace("data_blocks=300", "data_blocks=301"))
    with pytest.raises(
        OsbuilderError, match=r"of another image \(.*\): expected 300 blocks of data, got 301"
    ) as caught:
        bench.describe_boot(BootRequest(image=image, arch="x86_64"))
    assert "--root-hash" in caught.value.hint


def test_a_verified_root_that_cannot_be_is_refused(bench: Workbench, tmp_path: Path) -> None:
    image = tmp_path / "kata.image"
    measured(image)
    with pytest.raises(OsbuilderError, match=r"cannot read the root hash .*kata.image.root_hash.txt"):
        bench.describe_boot(BootRequest(image=image, arch="x86_64"))
    (tmp_path / "plain").write_bytes(bytes(4096))
    with pytest.raises(
        UsageError, match=r"--root verity: .*/plain has no hash tree: expected it in a second partition"
    ):
        bench.describe_boot(BootRequest(image=tmp_path / "plain", arch="x86_64", root=RootKind.VERITY))
    with pytest.raises(UsageError, match="has no hash tree"):
        bench.describe_boot(BootRequest(image=tmp_path / "plain", arch="x86_64", root_hash=tmp_path / "plain"))
    with pytest.raises(
        PlanError, match="kernel variant minimal cannot verify a root: it lacks the capability dm-verity"
    ):
        bench.describe_boot(BootRequest(distro="scratch", arch="x86_64", variant="minimal", root=RootKind.VERITY))
    for wish, problem in (
        ({"root": RootKind.VIRTIO_SCSI}, "cannot have its root on virtio-scsi: it lacks the capability virtio-scsi"),
        ({"root": RootKind.VIRTIO_PMEM}, "cannot have its root on virtio-pmem: it lacks the capability virtio-pmem"),
        ({"root": RootKind.PMEM}, "cannot map its root from an nvdimm: it lacks the capability nvdimm-root"),
        ({"filesystem": Filesystem.EROFS}, "cannot read erofs: it lacks that capability"),
    ):
        with pytest.raises(PlanError, match=f"kernel variant minimal {problem}"):
            bench.describe_boot(BootRequest(distro="scratch", arch="x86_64", variant="minimal", **wish))
    with pytest.raises(UsageError, match=r"--root-hash .*/none: expected a file, it is missing"):
        bench.describe_boot(BootRequest(image=image, arch="x86_64", root_hash=tmp_path / "none"))


def test_a_mapped_root_that_no_machine_takes_is_refused_with_the_reason_that_is_known(
    bench: Workbench, tmp_path: Path
) -> None:
    words = "no machine of aarch64 takes a virtio-pmem root: QEMU has no virtio-pmem for virt"
    for machine in (None, "virt"):
        with pytest.raises(PlanError, match=words):
            bench.describe_boot(
                BootRequest(distro="scratch", arch="aarch64", root=RootKind.VIRTIO_PMEM, machine=machine)
            )
    # What a kernel of the user's can do, nobody knows.
    (tmp_path / "vmlinux").touch()
    own = BootRequest(distro="scratch", arch="riscv64", root=RootKind.PMEM, kernel=str(tmp_path / "vmlinux"))
    with pytest.raises(PlanError, match=r"no machine of riscv64 takes a pmem root\n"):
        bench.describe_boot(own)


def test_the_root_of_an_image_is_mounted_as_what_its_partition_holds(bench: Workbench, tmp_path: Path) -> None:
    image = tmp_path / "an.image"
    layout = plan_layout(sizes_bytes=(8192,), dax_header=False, align_mib=1)
    for magic, fstype in ((b"\xe2\xe1\xf5\xe0", "erofs"), (bytes(56) + b"\x53\xef", "ext4"), (b"", "ext4")):
        image.write_bytes(bytes(layout.header_bytes + 1024) + magic + bytes(4096))
        write_headers(layout, image)
        plan = bench.describe_boot(BootRequest(image=image, arch="x86_64"))
        assert f"root=/dev/vda1 {'rootflags=data=ordered,errors=remount-ro ' * (fstype == 'ext4')}ro" in plan
        assert f"rootfstype={fstype}" in plan
    built = bench.describe_boot(
        BootRequest(distro="scratch", arch="x86_64", root=RootKind.VIRTIO_SCSI, filesystem=Filesystem.EROFS)
    )
    assert "mkfs.erofs --tar=f" in built
    assert "root=/dev/sda1 ro rootfstype=erofs" in built


def test_requests_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(UsageError, match="--root verity and --initrd exclude each other"):
        BootRequest(initrd=Path("x"), root=RootKind.VERITY)
    for request in ({"distro": "debian"}, {"image": Path("x"), "root": RootKind.PMEM}):
        with pytest.raises(UsageError, match="--root-hash goes with --image and --root verity"):
            BootRequest(root_hash=Path("y"), **request)
    rootfs = RootfsRequest(distro="scratch")
    with pytest.raises(UsageError, match="--measured and --free-space-mib exclude each other"):
        ImageRequest(rootfs=rootfs, measured=True, free_space_mib=1)
    with pytest.raises(UsageError, match="--fs erofs and --free-space-mib exclude each other"):
        ImageRequest(rootfs=rootfs, filesystem=Filesystem.EROFS, free_space_mib=1)
    for given, problem in (
        ({"image": Path("x"), "filesystem": Filesystem.EROFS}, "--fs and --image exclude each other"),
        ({"initrd": Path("x"), "compression": Compression.GZIP}, "--compression and --initrd exclude each other"),
        ({"distro": "debian", "compression": Compression.GZIP}, "--compression is about initrds"),
        ({"root": RootKind.INITRD, "filesystem": Filesystem.EROFS}, "--fs and --root initrd exclude each other"),
    ):
        with pytest.raises(UsageError, match=problem):
            BootRequest(**given)
    for name in ("", "a/b", "-a", "a b"):
        with pytest.raises(UsageError, match="--build-variant: expected letters, digits and dashes, got"):
            ImageRequest(rootfs=rootfs, build_variant=name)
