"""Reads the members of a newc cpio archive (the kernel's driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from osbuilder.errors import ImageError
from osbuilder.tree.entry import Archive

MAGIC = b"070701"
_HEADER_BYTES = 110
_TRAILER = "TRAILER!!!"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewcMember:
    """A member's name as stored, its mode with the type bits, its size, and where its content begins."""

    name: str
    mode: int
    size_bytes: int
    offset_bytes: int


def read_newc(file: Archive) -> Iterator[NewcMember]:
    """Yield the members before the trailer. Raises ImageError, with the offset, where the archive is damaged."""
    at = 0
    while True:
        header = file.read_at(at, _HEADER_BYTES)
        try:
            if len(header) < _HEADER_BYTES or not header.startswith(MAGIC):
                raise ValueError
            fields = [int(header[start : start + 8], 16) for start in range(6, _HEADER_BYTES, 8)]
        except ValueError:
            raise ImageError(
                f"damaged cpio archive ({file.label}): expected a header at byte {at} of {file.size_bytes}",
                hint="The file is truncated or not an initrd; build or copy it again.",
            ) from None
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = file.read_at(at + _HEADER_BYTES, name_size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        if name == _TRAILER:
            return
        begin = at + (_HEADER_BYTES + name_size + 3) // 4 * 4
        yield NewcMember(name=name, mode=mode, size_bytes=size, offset_bytes=begin)
        at = begin + (size + 3) // 4 * 4
