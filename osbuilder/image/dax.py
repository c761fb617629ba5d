"""The PFN superblock that lets a guest's nd_pmem driver map the image with DAX.

Format: struct nd_pfn_sb of drivers/nvdimm/pfn.h (little endian, 4096 bytes, at 4096 from the start of the namespace);
checksum: nd_fletcher64 of drivers/nvdimm/core.c over the block with the checksum field zero.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct

SUPERBLOCK_OFFSET_BYTES = 4096
SUPERBLOCK_BYTES = 4096
# The guest sees the device from here on: a multiple of the huge page size, so that mappings can be huge.
DATA_OFFSET_BYTES = 2 << 20

_SIGNATURE = b"NVDIMM_PFN_INFO\0"
_MODE_RAM = 1  # the kernel keeps the struct pages in RAM: nothing is reserved for them in the image
_HEAD = struct.Struct("<16s16s16sIHHQQIIII")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_OFFSET = SUPERBLOCK_BYTES - _CHECKSUM.size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PfnSuperblock:
    """What a PFN superblock says. `checksum_ok` tells whether the stored checksum is that of the block."""

    version: tuple[int, int]
    data_offset_bytes: int
    mode: int
    align_bytes: int
    checksum: int
    checksum_ok: bool


def fletcher64(data: bytes) -> int:
    """Return the kernel's nd_fletcher64 of little-endian 32-bit words: 32 bits of low sum, the high sum above."""
    words = struct.unpack(f"<{len(data) // 4}I", data)
    low = high = 0
    for low in itertools.accumulate(words):
        high += low & 0xFFFFFFFF
    return (high << 32 | low & 0xFFFFFFFF) & 0xFFFFFFFFFFFFFFFF


def encode_superblock() -> bytes:
    """Return the 4096 bytes of the superblock: data at 2 MiB, no UUID, 2 MiB alignment."""
    head = _HEAD.pack(
        _SIGNATURE, bytes(16), bytes(16), 0, 0, 2, DATA_OFFSET_BYTES, 0, _MODE_RAM, 0, 0, DATA_OFFSET_BYTES
    )
    body = head.ljust(_CHECKSUM_OFFSET, b"\0")
    return body + _CHECKSUM.pack(fletcher64(body + bytes(_CHECKSUM.size)))


def decode_superblock(block: bytes) -> PfnSuperblock | None:
    """Return what a superblock says; None when the signature is missing."""
    if len(block) < SUPERBLOCK_BYTES or not block.startswith(_SIGNATURE):
        return None
    _, _, _, _, major, minor, data_offset, _, mode, _, _, align = _HEAD.unpack_from(block)
    (checksum,) = _CHECKSUM.unpack_from(block, _CHECKSUM_OFFSET)
    computed = fletcher64(block[:_CHECKSUM_OFFSET] + bytes(_CHECKSUM.size))
    return PfnSuperblock(
        version=(major, minor),
        data_offset_bytes=data_offset,
        mode=mode,
        align_bytes=align,
        checksum=checksum,
        checksum_ok=checksum == computed,
    )
