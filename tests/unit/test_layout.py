"""Image layouts: both partition tables name the same bytes at every size, and assembling keeps holes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osbuilder.errors import ImageError
from osbuilder.image import dax
from osbuilder.image.layout import MIB, Layout, plan_layout, write_headers
from osbuilder.image.mbr import SECTOR_BYTES, MbrPartition, decode_disk_id, decode_mbr, encode_mbr


def tables(layout: Layout) -> dict[int, tuple[MbrPartition, ...]]:
    found = {}
    for offset, data in layout.headers(disk_id=7):
        partitions = decode_mbr(data)
        if partitions is not None:
            found[offset] = partitions
    return found


@pytest.mark.parametrize("align_mib", [1, 2, 128])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [4096, MIB - 4096, MIB, 301 * MIB, 301 * MIB - 4096, 381 * MIB, 5000 * MIB + 4096])
def test_both_tables_name_the_same_bytes_at_every_size(first: int, count: int, align_mib: int) -> None:
    sizes = (first, 3 * MIB + 4096, 4096, 7 * MIB)[:count]
    layout = plan_layout(sizes_bytes=sizes, dax_header=True, align_mib=align_mib)
    whole, inner = tables(layout)[0], tables(layout)[dax.DATA_OFFSET_BYTES]
    assert tuple((p.offset_bytes, p.size_bytes) for p in whole) == tuple(
        (p.offset_bytes + dax.DATA_OFFSET_BYTES, p.size_bytes) for p in inner
    )
    assert tuple(p.size_bytes for p in whole) == sizes
    assert layout.size_bytes % (align_mib * MIB) == 0
    assert layout.size_bytes - align_mib * MIB < whole[-1].offset_bytes + whole[-1].size_bytes <= layout.size_bytes


@pytest.mark.parametrize("count", [2, 4])
def test_partitions_follow_each_other_from_whole_mebibytes_on_without_overlap(count: int) -> None:
    layout = plan_layout(sizes_bytes=(5 * MIB + 4096,) * count, dax_header=False)
    ends = [part.offset_bytes + part.size_bytes for part in layout.partitions]
    starts = [part.offset_bytes for part in layout.partitions]
    assert all(start % MIB == 0 for start in starts)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_the_first_partition_begins_at_3_mib_with_dax_and_at_1_mib_without() -> None:
    with_dax = plan_layout(sizes_bytes=(MIB,), dax_header=True)
    plain = plan_layout(sizes_bytes=(MIB,), dax_header=False)
    assert (with_dax.header_bytes, with_dax.size_bytes) == (3 * MIB, 128 * MIB)
    assert (plain.header_bytes, list(tables(plain))) == (MIB, [0])


@pytest.mark.parametrize(
    ("sizes", "align_mib", "message"),
    [
        ((), 128, "expected one to four partitions, got 0"),
        ((4096,) * 5, 128, "expected one to four partitions, got 5"),
        ((1000,), 128, "expected a size of whole 4096-byte blocks, got 1000"),
        ((0,), 128, "expected a size of whole 4096-byte blocks, got 0"),
        ((4096,), 0, "expected an alignment of at least 1 MiB, got 0"),
        ((1 << 41,), 128, "below 2 TiB"),
    ],
)
def test_an_impossible_layout_is_refused(sizes: tuple[int, ...], align_mib: int, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        plan_layout(sizes_bytes=sizes, dax_header=True, align_mib=align_mib)


def test_a_table_that_is_decoded_says_what_was_encoded() -> None:
    partitions = (
        MbrPartition(offset_bytes=MIB, size_bytes=512),
        MbrPartition(offset_bytes=2 * MIB, size_bytes=(1 << 32) * 512 - 2 * MIB, type_code=0x07),
    )
    sector = encode_mbr(partitions, disk_id=0x12345678)
    assert (len(sector), decode_mbr(sector), decode_disk_id(sector)) == (SECTOR_BYTES, partitions, 0x12345678)
    assert decode_mbr(bytes(SECTOR_BYTES)) is None


def contents(path: Path, layout: Layout) -> Path:
    """Make a file of which the ends of each partition are data and the rest is a hole."""
    with path.open("wb") as file:
        for part in layout.partitions:
            os.pwrite(file.fileno(), b"first", part.offset_bytes)
            os.pwrite(file.fileno(), b"last", part.offset_bytes + part.size_bytes - 4)
    return path


def test_an_image_holds_headers_and_content_and_its_holes_stay_holes(tmp_path: Path) -> None:
    size = 64 * MIB
    layout = plan_layout(sizes_bytes=(size, size), dax_header=True)
    image = contents(tmp_path / "image", layout)
    write_headers(layout, image, disk_id=9)
    assert image.stat().st_size == layout.size_bytes
    assert image.stat().st_blocks * 512 < MIB
    with image.open("rb") as file:
        for offset, data in layout.headers(disk_id=9):
            file.seek(offset)
            assert file.read(len(data)) == data
        for part in layout.partitions:
            file.seek(part.offset_bytes)
            assert file.read(5) == b"first"
            file.seek(part.offset_bytes + part.size_bytes - 4)
            assert file.read(4) == b"last"


def test_content_that_does_not_fit_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    image = contents(tmp_path / "image", plan_layout(sizes_bytes=(2 * MIB,), dax_header=True))
    before = image.read_bytes()
    with pytest.raises(ImageError, match=r"content does not fit its partition .*expected an end at 4194304 bytes"):
        write_headers(plan_layout(sizes_bytes=(MIB,), dax_header=True), image)
    assert image.read_bytes() == before


def test_an_image_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot write \(.*\): Is a directory"):
        write_headers(plan_layout(sizes_bytes=(MIB,), dax_header=True), tmp_path)


def test_identical_input_gives_identical_images(tmp_path: Path) -> None:
    layout = plan_layout(sizes_bytes=(MIB,), dax_header=True, align_mib=4)
    for name in ("a", "b"):
        write_headers(layout, contents(tmp_path / name, layout), disk_id=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
