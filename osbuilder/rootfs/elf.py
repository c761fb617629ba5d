"""The header of an ELF file: for which machine it is, and which interpreter it needs.

Source: elf.h of glibc and the System V ABI, "ELF Header" and "Program Header". Reads only; knows no architecture.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Final

_PT_INTERP: Final = 3
_CLASSES: Final = {1: 32, 2: 64}
_ENDIANS: Final = {1: "<", 2: ">"}
# e_machine .. e_phnum after e_type: entry point, table offsets, flags, then the sizes and counts of the tables.
_HEADERS: Final = {32: "HHIIIIIHHH", 64: "HHIQQQIHHH"}
_TYPES: Final = {1: "object file", 2: "executable", 3: "executable", 4: "core dump"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What an ELF file says of itself. `interpreter` is the dynamic loader that it asks for, "" for a static file."""

    machine: int
    bits: int
    little_endian: bool
    interpreter: str


def parse_elf(data: bytes) -> Elf:
    """Return the header of an executable. Raises ValueError that says what `data` is instead."""
    if data[:4] != b"\x7fELF":
        raise ValueError(f"not an ELF file (it starts with {data[:4]!r})" if data else "not an ELF file (it is empty)")
    try:
        bits, endian = _CLASSES[data[4]], _ENDIANS[data[5]]
        kind, machine, _, _, table, _, _, _, size, count = struct.unpack_from(endian + _HEADERS[bits], data, 16)
        interpreter = _interpreter(data, bits, endian, [table + index * size for index in range(count)])
    except (IndexError, KeyError, struct.error):
        raise ValueError("a damaged or truncated ELF file") from None
    if _TYPES.get(kind) != "executable":
        raise ValueError(f"an ELF {_TYPES.get(kind, 'file')}, not an executable")
    return Elf(machine=machine, bits=bits, little_endian=endian == "<", interpreter=interpreter)


def _interpreter(data: bytes, bits: int, endian: str, headers: list[int]) -> str:
    for at in headers:
        (kind,) = struct.unpack_from(endian + "I", data, at)
        if kind == _PT_INTERP:
            if bits == 64:
                _, offset, _, _, length = struct.unpack_from(endian + "IQQQQ", data, at + 4)
            else:
                offset, _, _, length = struct.unpack_from(endian + "IIII", data, at + 4)
            return data[offset : offset + length].rstrip(b"\0").decode("utf-8", "replace")
    return ""
