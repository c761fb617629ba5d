"""What is around an image's filesystem, byte for byte: what released runtimes and kernels read."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.image import dax
from osbuilder.image.layout import MIB, plan_layout

FOLDER = Path(__file__).parent


def dump(offset: int, data: bytes) -> list[str]:
    """Return the lines of a dump that leaves out lines of zeros."""
    rows = ((offset + at, data[at : at + 16]) for at in range(0, len(data), 16))
    return [f"{at:08x}  {row.hex(' ')}" for at, row in rows if any(row)]


@pytest.mark.parametrize(("golden", "dax_header"), [("dax-header.hex", True), ("plain-mbr.hex", False)])
def test_the_headers_of_an_image_are_these_bytes(golden: str, dax_header: bool) -> None:
    layout = plan_layout(sizes_bytes=(300 * MIB,), dax_header=dax_header)
    lines = [line for offset, data in layout.headers(disk_id=0xC0FFEE42) for line in dump(offset, data)]
    expected = [line for line in (FOLDER / golden).read_text().splitlines() if not line.startswith("#")]
    assert lines == expected


def test_the_superblock_has_the_documented_checksum() -> None:
    superblock = dax.decode_superblock(dax.encode_superblock())
    assert superblock is not None
    assert superblock.checksum == 0x685B032BE3943830
    assert superblock.checksum_ok


def test_any_changed_bit_of_the_superblock_is_noticed() -> None:
    block = dax.encode_superblock()
    for at in (16, 52, 56, 72, 2000, 4087, 4095):
        changed = bytearray(block)
        changed[at] ^= 1
        superblock = dax.decode_superblock(bytes(changed))
        assert superblock is not None
        assert not superblock.checksum_ok


def test_fletcher64_matches_values_worked_out_by_hand() -> None:
    # One word w: low = high = w. Two words: low = a + b, high = a + (a + b).
    assert dax.fletcher64((5).to_bytes(4, "little")) == 5 << 32 | 5
    assert dax.fletcher64(b"\xff\xff\xff\xff\x02\0\0\0") == (0xFFFFFFFF + 1) % (1 << 32) << 32 | 1
