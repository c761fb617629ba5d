"""Master boot records: four primary partitions, addressed by LBA.

Format: the classic PC partition table (512 bytes: disk id at 440, four 16-byte entries at 446, 55 AA at 510).
"""

from __future__ import annotations

import dataclasses
import struct

from osbuilder.errors import ImageError

SECTOR_BYTES = 512
TYPE_LINUX = 0x83

_ENTRY = struct.Struct("<B3sB3sII")
_TABLE_OFFSET = 446
_DISK_ID_OFFSET = 440
_SIGNATURE = b"\x55\xaa"
# What a cylinder/head/sector triple says when LBA is to be used (the largest one that it can express).
_CHS_NONE = b"\xfe\xff\xff"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MbrPartition:
    """A primary partition as a partition table names it, in bytes from where the table itself lies."""

    offset_bytes: int
    size_bytes: int
    type_code: int = TYPE_LINUX


def encode_mbr(partitions: tuple[MbrPartition, ...], *, disk_id: int = 0) -> bytes:
    """Return the 512 bytes of an MBR. `disk_id` is the 32-bit number that PARTUUIDs are made from.

    Raises ImageError for more than four partitions, or one that is not whole sectors within 2 TiB.
    """
    if len(partitions) > 4:
        raise ImageError(f"too many partitions for an MBR: expected at most 4, got {len(partitions)}")
    sector = bytearray(SECTOR_BYTES)
    struct.pack_into("<I", sector, _DISK_ID_OFFSET, disk_id)
    for number, partition in enumerate(partitions):
        first, first_rest = divmod(partition.offset_bytes, SECTOR_BYTES)
        count, count_rest = divmod(partition.size_bytes, SECTOR_BYTES)
        if first_rest or count_rest or not first or not count or first + count > 1 << 32:
            raise ImageError(
                f"partition {number + 1} does not fit an MBR: expected whole sectors after the table and below 2 TiB, "
                f"got {partition.size_bytes} bytes at {partition.offset_bytes}"
            )
        entry = _ENTRY.pack(0, _CHS_NONE, partition.type_code, _CHS_NONE, first, count)
        at = _TABLE_OFFSET + number * _ENTRY.size
        sector[at : at + _ENTRY.size] = entry
    sector[-2:] = _SIGNATURE
    return bytes(sector)


def decode_mbr(sector: bytes) -> tuple[MbrPartition, ...] | None:
    """Return the partitions of an MBR in table order, without empty entries; None when this is no MBR."""
    if len(sector) < SECTOR_BYTES or sector[510:512] != _SIGNATURE:
        return None
    found = []
    for number in range(4):
        _, _, type_code, _, first, count = _ENTRY.unpack_from(sector, _TABLE_OFFSET + number * _ENTRY.size)
        if type_code and count:
            found.append(
                MbrPartition(offset_bytes=first * SECTOR_BYTES, size_bytes=count * SECTOR_BYTES, type_code=type_code)
            )
    return tuple(found)


def decode_disk_id(sector: bytes) -> int:
    """Return the 32-bit disk id of an MBR."""
    return int.from_bytes(sector[_DISK_ID_OFFSET : _DISK_ID_OFFSET + 4], "little")
