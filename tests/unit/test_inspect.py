"""What a file is said to be, and how a damaged one is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from osbuilder.errors import ImageError, UsageError
from osbuilder.image import dax
from osbuilder.image.initrd import Compression, write_initrd
from osbuilder.image.inspect import inspect
from osbuilder.image.layout import MIB, plan_layout, write_headers
from osbuilder.tree import Tree


def ext4_block() -> bytes:
    block = bytearray(1024)
    struct.pack_into("<5I", block, 0, 100, 2000, 0, 700, 60)
    struct.pack_into("<I", block, 24, 2)
    block[56:58] = b"\x53\xef"
    struct.pack_into("<III", block, 92, 0x4, 0x40, 0x1)
    block[104:120] = bytes(range(16))
    return bytes(1024) + bytes(block)


def image(path: Path, *, with_dax: bool, content: bytes = b"") -> Path:
    layout = plan_layout(sizes_bytes=(MIB,), dax_header=with_dax, align_mib=8)
    path.write_bytes(bytes(layout.partitions[0].offset_bytes) + (content or ext4_block()))
    write_headers(layout, path, disk_id=0xABCDEF01)
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, offset)


def tree() -> Tree:
    made = Tree()
    made.add_symlink("init", "/sbin/init")
    made.add_file("sbin/init", b"12345", mode=0o755, parents_mode=0o755)
    return made


def test_a_dax_image_is_shown_with_its_headers_partition_and_filesystem(tmp_path: Path) -> None:
    found = inspect(image(tmp_path / "image", with_dax=True))
    facts = dict(found.facts)
    assert (found.kind, found.size_bytes) == ("dax image", 8 * MIB)
    assert facts["superblock checksum"] == "685b032be3943830"
    assert (facts["partition 1 offset"], facts["partition 1 size"]) == (3 * MIB, MIB)
    assert (facts["partition 1 filesystem"], facts["partition 1 free blocks"]) == ("ext4", 700)
    assert facts["partition 1 features"] == "has_journal extent sparse_super"
    assert facts["partition 1 uuid"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert facts["disk id"] == "abcdef01"
    assert json.loads(found.to_json())["facts"]["data offset"] == 2 * MIB
    assert found.lines()[0] == f"{tmp_path}/image: dax image, {8 * MIB} bytes"


def test_a_plain_disk_image_is_told_from_a_dax_image(tmp_path: Path) -> None:
    found = inspect(image(tmp_path / "image", with_dax=False))
    assert (found.kind, dict(found.facts)["partition 1 offset"]) == ("disk image", MIB)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: patch(path, dax.SUPERBLOCK_OFFSET_BYTES + 60, b"\1"), "checksum of the PFN superblock"),
        (lambda path: patch(path, dax.DATA_OFFSET_BYTES + 458, b"\7"), "partition tables at 0 and 2097152 disagree"),
        (lambda path: patch(path, dax.DATA_OFFSET_BYTES + 510, b"\0"), "no partition table at 2097152"),
        (lambda path: os.truncate(path, 3 * MIB + 5), "partition 1 ends at byte 4194304, the file at 3145733"),
    ],
)
def test_a_damaged_image_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = image(tmp_path / "image", with_dax=True)
    damage(path)
    with pytest.raises(ImageError, match=message):
        inspect(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (ext4_block(), "ext4"),
        (bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(100), "erofs"),
        (b"XFSB" + struct.pack(">IQ", 4096, 9) + bytes(100), "xfs"),
        (b"hsqs" + bytes(100), "squashfs"),
    ],
)
def test_filesystems_are_known_by_their_superblocks(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "bare").write_bytes(content.ljust(8192, b"\0"))
    assert inspect(tmp_path / "bare").kind == kind
    disk = inspect(image(tmp_path / "image", with_dax=False, content=content))
    assert dict(disk.facts)["partition 1 filesystem"] == kind


@pytest.mark.parametrize("compression", list(Compression))
def test_an_initrd_is_shown_with_its_init(tmp_path: Path, compression: Compression) -> None:
    write_initrd(tree(), tmp_path / "initrd", epoch=0, compression=compression)
    found = inspect(tmp_path / "initrd")
    facts = dict(found.facts)
    assert (found.kind, facts["compression"], facts["entries"]) == ("initrd", compression.value, 4)
    assert (facts["init"], facts["dev/console"]) == ("-> /sbin/init", False)
    assert any(line.endswith("no") for line in found.lines())


def test_a_truncated_initrd_is_refused_with_the_byte(tmp_path: Path) -> None:
    write_initrd(tree(), tmp_path / "initrd", epoch=0, compression=Compression.NONE)
    os.truncate(tmp_path / "initrd", 300)
    with pytest.raises(ImageError, match=r"expected a header at byte \d+ of 300"):
        inspect(tmp_path / "initrd")


@pytest.mark.parametrize(
    ("compression", "compress"),
    [
        ("none", bytes),
        ("bzip2", bz2.compress),
        ("gzip", gzip.compress),
        ("xz", lzma.compress),
        ("zstd", zstandard.compress),
    ],
)
def test_a_rootfs_is_shown_with_its_folders_however_it_is_compressed(
    tmp_path: Path, compression: str, compress: Callable[[bytes], bytes]
) -> None:
    stream = io.BytesIO()
    tree().write(stream, epoch=0)
    (tmp_path / "rootfs.tar").write_bytes(compress(stream.getvalue()))
    found = inspect(tmp_path / "rootfs.tar")
    facts = dict(found.facts)
    assert (found.kind, facts["compression"], facts["entries"], facts["/sbin"]) == ("rootfs", compression, 4, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing to inspect in .*: the file is empty"),
        (b"#!/bin/sh\n", "cannot say what .* is: it begins with 23 21"),
        (gzip.compress(b"#!/bin/sh\n", mtime=0), "cannot say what .* is: it begins with 1f 8b .* .gzip."),
        (b"\x1f\x8bgarbage", "gzip data is truncated or corrupt"),
        (ext4_block()[:1500], "the file ends inside its superblock, at byte 1500"),
        (b"070701" + b"-0000001" * 13, "cannot inspect .*: Invalid argument"),
        (b"XFSB" + bytes(20), "the file ends inside its superblock, at byte 24"),
        (ext4_block()[:1048] + b"\xff\xff\0\0" + ext4_block()[1052:], r"blocks of at most 64 KiB, got 2\^65545 bytes"),
    ],
)
def test_anything_else_is_refused_with_what_was_found(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        inspect(tmp_path / "file")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        inspect(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        inspect(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="it is a pipe"):
        inspect(tmp_path / "pipe")
