"""Guests really start from a root that is verified block by block, and refuse one that was changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.errors import BootError
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.image.mbr import decode_mbr
from osbuilder.image.verity import BLOCK_BYTES, read_root_hash, root_hash_file
from osbuilder.request import BootRequest, ImageRequest, RootfsRequest

SCRATCH = ImageRequest(rootfs=RootfsRequest(distro="scratch"), measured=True)


@pytest.fixture(scope="module")
def image(bench: Workbench) -> Path:
    """The image of nothing but the agent."""
    return bench.build(SCRATCH).files[0]


def altered(image: Path, folder: Path, *, partition: int, offset_bytes: int) -> Path:
    """Return a copy of an image, and of its root hash, in which a byte of a partition is another one."""
    copy = folder / "copy.image"
    shutil.copyfile(image, copy)
    shutil.copyfile(root_hash_file(image), root_hash_file(copy))
    with copy.open("r+b") as stream:
        partitions = decode_mbr(stream.read(512))
        assert partitions
        at = partitions[partition - 1].offset_bytes + offset_bytes
        byte = os.pread(stream.fileno(), 1, at)[0]
        os.pwrite(stream.fileno(), bytes([byte ^ 1]), at)
    return copy


@pytest.mark.parametrize(("distro", "machine"), [("debian", "q35"), ("scratch", "q35"), ("scratch", "microvm")])
def test_a_guest_comes_up_from_a_verified_root_and_says_by_which_hash(
    bench: Workbench, distro: str, machine: str
) -> None:
    image = bench.build(ImageRequest(rootfs=RootfsRequest(distro=distro), measured=True)).files[0]
    outcome = bench.boot(BootRequest(image=image, machine=machine))
    outcome.check()
    report = outcome.boot.report
    assert outcome.boot.guest.root is RootKind.VERITY
    assert (report.root.device, report.root.fstype) == ("/dev/dm-0", "ext4")
    assert "ro" in report.root.options
    assert [probe.name for probe in report.probes if probe.result is Result.FAIL] == []
    told = next(probe for probe in report.probes if probe.name == "root-verity")
    assert told.result is Result.PASS
    assert read_root_hash(root_hash_file(image)).root_hash in told.detail


def test_an_image_that_is_built_for_a_verity_root_is_a_measured_one(bench: Workbench) -> None:
    outcome = bench.boot(BootRequest(distro="scratch", root=RootKind.VERITY, machine="microvm"))
    outcome.check()
    assert outcome.boot.report.root.device == "/dev/dm-0"


def test_the_same_image_starts_unverified_with_dax_as_well(bench: Workbench, image: Path) -> None:
    outcome = bench.boot(BootRequest(image=image, root=RootKind.PMEM))
    outcome.check()
    assert "dax=always" in outcome.boot.report.root.options


@pytest.mark.parametrize(
    ("partition", "offset_bytes", "what"),
    [
        pytest.param(1, 1024, "data block 0", id="superblock"),
        pytest.param(2, 100, "metadata block 0", id="tree"),
    ],
)
def test_a_changed_image_does_not_start_and_the_console_says_why(
    bench: Workbench, image: Path, tmp_path: Path, partition: int, offset_bytes: int, what: str
) -> None:
    copy = altered(image, tmp_path, partition=partition, offset_bytes=offset_bytes)
    with pytest.raises(BootError, match=rf"the guest refused its root: {what} of .* not what the root hash") as caught:
        bench.boot(BootRequest(image=copy, root=RootKind.VERITY, machine="microvm"))
    assert f"{what} is corrupted" in caught.value.console
    assert "Kernel panic - not syncing: dm-verity device corrupted" in caught.value.console


def test_a_program_with_a_changed_byte_ends_the_guest_when_it_is_started(
    bench: Workbench, image: Path, tmp_path: Path
) -> None:
    content = image.read_bytes()
    partitions = decode_mbr(content)
    assert partitions
    first = partitions[0].offset_bytes
    # Its first block: what the kernel reads when it executes the agent.
    block = (content.index(b"\x7fELF", first) - first) // BLOCK_BYTES
    copy = altered(image, tmp_path, partition=1, offset_bytes=block * BLOCK_BYTES + 24)
    with pytest.raises(BootError, match=rf"the guest refused its root: data block {block} "):
        bench.boot(BootRequest(image=copy, machine="microvm"))


def test_an_image_that_was_replaced_and_measured_again_does_not_start_with_the_first_root_hash(
    bench: Workbench, image: Path, tmp_path: Path
) -> None:
    found = read_root_hash(root_hash_file(image))
    other = tmp_path / "root_hash.txt"
    other.write_text(found.line().replace(found.root_hash, "0" * 64))
    with pytest.raises(BootError, match="the guest refused its root: metadata block 0 of"):
        bench.boot(BootRequest(image=image, root_hash=other, machine="microvm"))
