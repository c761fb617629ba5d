"""Kernels as files, and what their headers tell a loader: ELF, bzImage of x86 and s390x, Image of aarch64 and riscv64.

Sources: elf(5), Xen's public/elfnote.h, and in the kernel Documentation/arch/x86/boot.rst, arch/arm64/booting.rst and
arch/riscv/boot-image-header.rst; for s390x, which has no such text, arch/s390/include/asm/setup.h and boot/head.S.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from osbuilder.arch import ARCHES
from osbuilder.errors import ImageError
from osbuilder.tree.entry import Archive

Facts = tuple[tuple[str, str | int | bool], ...]
"""(name, value) pairs in the order to show them; sizes are bytes."""

_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_PVH_NOTE: Final = 18  # XEN_ELFNOTE_PHYS32_ENTRY
_NOTES_BYTES: Final = 1 << 20  # as many as are searched
_MACHINES: Final = {(arch.elf_machine, arch.elf_class, arch.elf_little_endian): arch.name for arch in ARCHES.values()}

_BZIMAGE: Final = (0x202, b"HdrS")
# In a field of both headers that comes to the same place, so that they can become one.
_ARM64_IMAGE: Final = (0x38, b"ARM\x64")
_RISCV_IMAGE: Final = (0x38, b"RSC\x05")
# A bzImage is loaded at address 0: where something is in it is its address too.
_S390_ENTRY: Final = (0x10008, b"S390EP")
_S390_VERSION: Final = 0x10428

_PAGE_BYTES: Final = ("unspecified", 4096, 16384, 65536)


def kernel_facts(file: Archive) -> Facts | None:
    """Return what a kernel says of itself; None for a file that is no kernel.

    Raises ImageError for an ELF file that is no kernel, and for a file that ends inside its headers.
    """
    if file.read_at(0, 4) == b"\x7fELF":
        return _elf(file)
    for (offset, magic), decode in (
        (_BZIMAGE, _x86_bzimage),
        (_ARM64_IMAGE, _arm64_image),
        (_RISCV_IMAGE, _riscv_image),
        (_S390_ENTRY, _s390_bzimage),
    ):
        if file.read_at(offset, len(magic)) == magic:
            return decode(file)
    return None


def _elf(file: Archive) -> Facts:
    width, encoding = _fields(file, "BB", 4)
    order = "<" if encoding == 1 else ">"
    kind, number = _fields(file, f"{order}HH", 16)
    machine = _MACHINES.get((number, 32 * width, encoding == 1), f"ELF machine {number}")
    pvh, known = None, False
    for what, offset, address, size in _segments(file, order) if width == 2 else ():
        if what == _PT_LOAD:
            known |= address >= 1 << 63 or _has_s390_entry(file, offset, address, size)
        elif what == _PT_NOTE and pvh is None:
            pvh = _pvh_entry(_read(file, offset, min(size, _NOTES_BYTES)), order)
    if pvh is None and not known:
        raise ImageError(
            f"{file.label} is an ELF file (type {kind}, {machine}) but no kernel: expected a PVH note, segments in the "
            "upper half of the address space, or the entry points of s390x"
        )
    (entry,) = _fields(file, f"{order}Q", 24)
    return (
        ("format", "vmlinux (ELF)"),
        ("machine", machine),
        ("entry", f"{entry:#x}"),
        ("PVH entry", "none" if pvh is None else f"{pvh:#x}"),
    )


def _segments(file: Archive, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield the type, the offset, the address and the size in the file of what each program header names."""
    (table,) = _fields(file, f"{order}Q", 32)
    size, count = _fields(file, f"{order}HH", 54)
    for number in range(count):
        what, offset, address, length = _fields(file, f"{order}I4xQQ8xQ", table + number * size)
        yield what, offset, address, length


def _has_s390_entry(file: Archive, offset: int, address: int, size_bytes: int) -> bool:
    """Whether a segment has, where s390x's kernels have it, their list of entry points."""
    entry, magic = _S390_ENTRY
    return address <= entry < address + size_bytes and _read(file, offset + entry - address, len(magic)) == magic


def _pvh_entry(notes: bytes, order: str) -> int | None:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(f"{order}III", notes, at)
        begin = at + 12 + (name_size + 3) // 4 * 4
        if kind == _PVH_NOTE and notes[at + 12 : at + 16] == b"Xen\0":
            return int.from_bytes(notes[begin : begin + min(size, 8)], "little")
        at = begin + (size + 3) // 4 * 4
    return None


def _x86_bzimage(file: Archive) -> Facts:
    (version,) = _fields(file, "<H", 0x206)
    (string,) = _fields(file, "<H", 0x20E)
    (xload,) = _fields(file, "<H", 0x236) if version >= 0x20C else (0,)
    return (
        ("format", "bzImage"),
        ("machine", "x86_64" if xload & 1 else "x86"),
        ("version", _text(file, string + 0x200 if string else None)),
        ("boot protocol", f"{version >> 8}.{version & 0xFF:02d}"),
    )


def _arm64_image(file: Archive) -> Facts:
    _, _, flags = _fields(file, "<3Q", 8)
    return (
        *_image(file, "aarch64"),
        ("page size", _PAGE_BYTES[flags >> 1 & 3]),
        ("placement", "anywhere" if flags & 8 else "at the start of the memory"),
    )


def _riscv_image(file: Archive) -> Facts:
    (version,) = _fields(file, "<I", 32)
    return (*_image(file, "riscv64"), ("header version", f"{version >> 16}.{version & 0xFFFF}"))


def _image(file: Archive, machine: str) -> Facts:
    """Return what the headers of aarch64 and riscv64 have in common."""
    text_offset, size, flags = _fields(file, "<3Q", 8)
    return (
        ("format", "Image"),
        ("machine", machine),
        ("byte order", "big-endian" if flags & 1 else "little-endian"),
        ("text offset", f"{text_offset:#x}"),
        ("size in memory", size or "unknown"),
        ("flags", f"{flags:#x}"),
    )


def _s390_bzimage(file: Archive) -> Facts:
    (version,) = _fields(file, ">Q", _S390_VERSION)
    return (("format", "bzImage"), ("machine", "s390x"), ("version", _text(file, version or None)))


def _fields(file: Archive, layout: str, offset: int) -> tuple[Any, ...]:
    """Return the numbers of a header. Raises ImageError where the file ends before they do."""
    data = _read(file, offset, struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise ImageError(
            f"damaged kernel ({file.label}): its headers go on at byte {offset}, the file ends at {file.size_bytes}",
            hint="The file is truncated; build or copy it again.",
        )
    return struct.unpack(layout, data)


def _text(file: Archive, offset: int | None) -> str:
    """Return the text that ends with a zero byte at an offset; "unknown" where there is none."""
    text = b"" if offset is None else _read(file, offset, 256).partition(b"\0")[0]
    return text.decode("ascii", "replace") or "unknown"


def _read(file: Archive, offset: int, length_bytes: int) -> bytes:
    """Return what a file has at an offset of its own telling, however far behind its end that is."""
    return file.read_at(offset, length_bytes) if offset < file.size_bytes else b""
