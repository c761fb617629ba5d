"""Where everything lies in an image file: computed once, in bytes, and written as computed.

With DAX there are two partition tables: one for readers that see the whole file (virtio-blk), one for the guest that
sees it through nd_pmem, from dax.DATA_OFFSET_BYTES on. Both are made from the same partitions, so they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from osbuilder.errors import ImageError
from osbuilder.image import dax
from osbuilder.image.mbr import MbrPartition, encode_mbr

MIB = 1 << 20
# A partition table's customary room, and the offset of the first partition from it.
_TABLE_ROOM_BYTES = MIB
_PARTITION_ALIGN_BYTES = MIB
_BLOCK_BYTES = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition's place in the file."""

    offset_bytes: int
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An image: header, partitions in order, and the size of the whole, a multiple of the alignment."""

    dax: bool
    partitions: tuple[Partition, ...]
    size_bytes: int

    @property
    def header_bytes(self) -> int:
        """What comes before the first partition."""
        return self.partitions[0].offset_bytes

    def headers(self, *, disk_id: int) -> tuple[tuple[int, bytes], ...]:
        """Return what to write besides the partitions' content: (offset in bytes, bytes)."""
        tables = [(0, self._table(0, disk_id))]
        if self.dax:
            tables.append((dax.SUPERBLOCK_OFFSET_BYTES, dax.encode_superblock()))
            tables.append((dax.DATA_OFFSET_BYTES, self._table(dax.DATA_OFFSET_BYTES, disk_id)))
        return tuple(tables)

    def _table(self, base_bytes: int, disk_id: int) -> bytes:
        return encode_mbr(
            tuple(
                MbrPartition(offset_bytes=part.offset_bytes - base_bytes, size_bytes=part.size_bytes)
                for part in self.partitions
            ),
            disk_id=disk_id,
        )


def plan_layout(*, sizes_bytes: tuple[int, ...], dax_header: bool, align_mib: int = 128) -> Layout:
    """Lay out partitions of these sizes, each from a whole MiB on, in a file whose size is a multiple of `align_mib`.

    128 MiB is what hotplugging an nvdimm asks for on x86_64 and arm64 (a memory section). Raises ImageError for sizes
    that are not whole 4 KiB blocks, more than four of them, or more than 2 TiB in all.
    """
    if not 1 <= len(sizes_bytes) <= 4:
        raise ImageError(f"cannot lay out an image: expected one to four partitions, got {len(sizes_bytes)}")
    if align_mib < 1:
        raise ImageError(f"cannot lay out an image: expected an alignment of at least 1 MiB, got {align_mib}")
    at = _TABLE_ROOM_BYTES + (dax.DATA_OFFSET_BYTES if dax_header else 0)
    partitions = []
    for size in sizes_bytes:
        if size <= 0 or size % _BLOCK_BYTES:
            raise ImageError(
                f"cannot lay out an image: expected a size of whole {_BLOCK_BYTES}-byte blocks, got {size}"
            )
        at = _round_up(at, _PARTITION_ALIGN_BYTES)
        partitions.append(Partition(offset_bytes=at, size_bytes=size))
        at += size
    layout = Layout(dax=dax_header, partitions=tuple(partitions), size_bytes=_round_up(at, align_mib * MIB))
    layout.headers(disk_id=0)  # raises what an MBR cannot say now, not after an hour of building
    return layout


def write_headers(layout: Layout, image: Path, *, disk_id: int = 0) -> None:
    """Make a file that holds the partitions' content an image: the headers, and its size; what was a hole stays one.

    Raises ImageError when the file ends beyond the last partition, or cannot be written.
    """
    end = max(part.offset_bytes + part.size_bytes for part in layout.partitions)
    try:
        with image.open("r+b") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > end:
                raise ImageError(
                    f"content does not fit its partition ({image}): expected an end at {end} bytes at most, got {size}"
                )
            os.ftruncate(stream.fileno(), layout.size_bytes)
            for offset, data in layout.headers(disk_id=disk_id):
                os.pwrite(stream.fileno(), data, offset)
    except OSError as error:
        raise ImageError(f"cannot write ({image}): {error.strerror or error}") from error


def _round_up(value: int, multiple: int) -> int:
    return value + -value % multiple
