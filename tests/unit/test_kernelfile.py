"""Kernels are known by their headers, those of every architecture that is built for, and damaged ones are refused."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import pytest

from osbuilder.arch import ARCHES, Arch
from osbuilder.errors import ImageError
from osbuilder.image.inspect import inspect

HIGH = 0xFFFFFFFF81000000


def vmlinux(arch: Arch = ARCHES["x86_64"], *, note: bool = False, address: int = HIGH, content: bytes = b"") -> bytes:
    """Return an ELF file of two segments: one to load, and one of notes."""
    order = "<" if arch.elf_little_endian else ">"
    notes = struct.pack(f"{order}III4sQ", 4, 8, 18, b"Xen\0", 0x1000230) if note else b""
    head = b"\x7fELF\x02" + (b"\x01" if arch.elf_little_endian else b"\x02")
    head = head.ljust(16, b"\0") + struct.pack(
        f"{order}HHIQQQIHHHHHH", 2, arch.elf_machine, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    behind = 176 + len(notes)
    load = struct.pack(f"{order}IIQQQQQQ", 1, 5, behind, address, 0, len(content), 0, 0)
    return head + load + struct.pack(f"{order}IIQQQQQQ", 4, 4, 176, 0, 0, len(notes), 0, 0) + notes + content


def x86_bzimage() -> bytes:
    raw = bytearray(4096)
    raw[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    struct.pack_into("<H", raw, 0x206, 0x20F)
    struct.pack_into("<H", raw, 0x20E, 0x300)
    struct.pack_into("<H", raw, 0x236, 1)
    raw[0x500:0x510] = b"6.12.1 (builder)"
    return bytes(raw)


def s390_bzimage() -> bytes:
    """Return what begins as Debian's linux-image-6.1.0-50-s390x does (offsets and values as in its file)."""
    raw = bytearray(0x18400)
    raw[:16] = bytes.fromhex("00080000 80000200 02000018 60000050")
    raw[0x10000:0x10010] = bytes.fromhex("a7f40010 00000000 533339304550 0001")
    struct.pack_into(">Q", raw, 0x10428, 0x182B0)
    raw[0x182B0:0x182BE] = b"6.1.0-50-s390x"
    return bytes(raw)


def arm64_image() -> bytes:
    """Return the header of Debian's linux-image-6.1.0-50-arm64, with a text offset and a page size of another kind."""
    raw = struct.pack("<4sIQQQ24x4sI", b"MZ\x40\xfa", 0x1459A363, 0x80000, 0x2010000, 0xE, b"ARM\x64", 0x40)
    return raw.ljust(8192, b"\0")


def riscv_image() -> bytes:
    raw = struct.pack("<4sIQQQII8x8s4sI", b"MZ\x6f\x10", 0, 0x200000, 0x1800000, 0, 2, 0, b"RISCV", b"RSC\x05", 0x40)
    return raw.ljust(8192, b"\0")


KERNELS = {
    "vmlinux": vmlinux(note=True),
    "x86 bzImage": x86_bzimage(),
    "s390x bzImage": s390_bzimage(),
    "aarch64 Image": arm64_image(),
    "riscv64 Image": riscv_image(),
}


def facts_of(path: Path, content: bytes) -> dict[str, str | int | bool]:
    path.write_bytes(content)
    found = inspect(path)
    assert (found.kind, found.size_bytes) == ("kernel", len(content))
    return dict(found.facts)


def test_an_elf_file_is_shown_with_its_pvh_entry(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "kernel", vmlinux(note=True))
    assert (facts["format"], facts["entry"], facts["PVH entry"]) == ("vmlinux (ELF)", "0x1000000", "0x1000230")
    assert facts_of(tmp_path / "kernel", vmlinux())["PVH entry"] == "none"


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_an_elf_file_has_the_name_of_its_architecture_as_everywhere_else(tmp_path: Path, arch: Arch) -> None:
    assert facts_of(tmp_path / "kernel", vmlinux(arch))["machine"] == arch.name


def test_an_elf_file_of_s390x_is_known_by_its_entry_points(tmp_path: Path) -> None:
    arch = ARCHES["s390x"]
    facts = facts_of(tmp_path / "kernel", vmlinux(arch, address=0, content=s390_bzimage()))
    assert (facts["format"], facts["machine"]) == ("vmlinux (ELF)", "s390x")
    with pytest.raises(ImageError, match=r"is an ELF file \(type 2, s390x\) but no kernel"):
        facts_of(tmp_path / "kernel", vmlinux(arch, address=0, content=bytes(0x18400)))


def test_bzimages_are_shown_with_their_versions(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "kernel", x86_bzimage())
    assert (facts["version"], facts["boot protocol"], facts["machine"]) == ("6.12.1 (builder)", "2.15", "x86_64")
    facts = facts_of(tmp_path / "kernel", s390_bzimage())
    assert facts == {"format": "bzImage", "machine": "s390x", "version": "6.1.0-50-s390x"}


def test_images_are_shown_with_what_their_headers_say(tmp_path: Path) -> None:
    assert facts_of(tmp_path / "kernel", arm64_image()) == {
        "format": "Image",
        "machine": "aarch64",
        "byte order": "little-endian",
        "text offset": "0x80000",
        "size in memory": 0x2010000,
        "flags": "0xe",
        "page size": 65536,
        "placement": "anywhere",
    }
    assert facts_of(tmp_path / "kernel", riscv_image()) == {
        "format": "Image",
        "machine": "riscv64",
        "byte order": "little-endian",
        "text offset": "0x200000",
        "size in memory": 0x1800000,
        "flags": "0x0",
        "header version": "0.2",
    }


def test_a_compressed_image_is_shown_as_what_is_in_it(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "Image.gz", gzip.compress(riscv_image()))
    assert (facts["compression"], facts["format"], facts["machine"]) == ("gzip", "Image", "riscv64")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (vmlinux(address=0x400000), r"is an ELF file \(type 2, x86_64\) but no kernel"),
        (vmlinux(address=0x400000).replace(b"\x3e\0", b"\x28\0", 1), r"\(type 2, ELF machine 40\) but no kernel"),
        (vmlinux(note=True)[:100], "its headers go on at byte 64, the file ends at 100"),
        (vmlinux(note=True)[:30], "its headers go on at byte 32, the file ends at 30"),
        (vmlinux(note=True)[:5], "its headers go on at byte 4, the file ends at 5"),
        (vmlinux(note=True)[:32] + b"\xff" * 8 + vmlinux(note=True)[40:], "its headers go on at byte 1844674407370955"),
        (x86_bzimage()[:0x20F], "its headers go on at byte 526, the file ends at 527"),
        (s390_bzimage()[:0x10400], "its headers go on at byte 66600, the file ends at 66560"),
    ],
)
def test_what_is_no_kernel_or_half_of_one_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        facts_of(tmp_path / "file", content)


@pytest.mark.parametrize("name", KERNELS)
def test_no_damage_to_a_header_ends_in_anything_but_an_error_that_says_so(tmp_path: Path, name: str) -> None:
    content = KERNELS[name]
    begin = 0x10000 if name == "s390x bzImage" else 0x1F0 if name == "x86 bzImage" else 0
    for at in range(begin, min(begin + 0x440, len(content)), 2):
        for damaged in (content[:at], content[:at] + b"\xff" * 8 + content[at + 8 :]):
            (tmp_path / "file").write_bytes(damaged)
            with contextlib.suppress(ImageError):
                assert inspect(tmp_path / "file").lines()
