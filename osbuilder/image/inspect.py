"""Says what a file is, from its bytes: a disk image and what is on it, a filesystem, an initrd, a kernel, a rootfs tar.

Reads only, needs no privileges. A file that looks like one of these but contradicts itself (a wrong checksum, two
partition tables that disagree) is an error, not a finding.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import struct
import uuid
from pathlib import Path

from osbuilder.errors import ImageError, TreeError, UsageError
from osbuilder.image import dax
from osbuilder.image.kernelfile import Facts, kernel_facts
from osbuilder.image.mbr import SECTOR_BYTES, MbrPartition, decode_disk_id, decode_mbr
from osbuilder.image.measured import examine, kernel_parameters, locate_tree
from osbuilder.image.newc import MAGIC, read_newc
from osbuilder.image.verity import Verity
from osbuilder.tree import Tree
from osbuilder.tree.entry import Archive
from osbuilder.tree.expand import open_archive

# Where each filesystem has its magic, and which; where the last of their superblocks ends.
_FILESYSTEMS = {
    "ext4": (1080, b"\x53\xef"),
    "erofs": (1024, b"\xe2\xe1\xf5\xe0"),
    "xfs": (0, b"XFSB"),
    "squashfs": (0, b"hsqs"),
}
_SUPERBLOCKS_END = 2048

_EXT4_BLOCK_MAX = 6  # EXT4_MAX_BLOCK_LOG_SIZE (fs/ext4/ext4.h), in powers of two above 1 KiB
_EXT4_FEATURES = {
    # (offset in the superblock, bit): name, as e2fsprogs prints it (Documentation/filesystems/ext4/super.rst)
    (92, 0x4): "has_journal",
    (92, 0x8): "ext_attr",
    (92, 0x10): "resize_inode",
    (92, 0x20): "dir_index",
    (92, 0x1000): "orphan_file",
    (96, 0x2): "filetype",
    (96, 0x40): "extent",
    (96, 0x80): "64bit",
    (96, 0x200): "flex_bg",
    (96, 0x8000): "inline_data",
    (100, 0x1): "sparse_super",
    (100, 0x2): "large_file",
    (100, 0x8): "huge_file",
    (100, 0x20): "dir_nlink",
    (100, 0x40): "extra_isize",
    (100, 0x400): "metadata_csum",
}

# All that tree.expand takes.
_COMPRESSIONS = {"bzip2": b"BZh", "gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a file is (`kind`: "dax image", "disk image", "ext4", "initrd", "kernel", "rootfs", ...) and what it says.

    `facts` are (name, value) pairs in the order to show them; sizes are bytes.
    """

    path: str
    kind: str
    size_bytes: int
    facts: Facts

    def lines(self) -> tuple[str, ...]:
        """Return the text to show, a line each."""
        width = max((len(name) for name, _ in self.facts), default=0)
        head = f"{self.path}: {self.kind}, {self.size_bytes} bytes"
        return (head, *(f"  {name:<{width}}  {_shown(value)}" for name, value in self.facts))

    def to_json(self) -> str:
        """Return one JSON object: path, kind, size_bytes, facts."""
        facts = dict(self.facts)
        return json.dumps({"path": self.path, "kind": self.kind, "size_bytes": self.size_bytes, "facts": facts})


def _shown(value: str | int | bool) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def inspect(path: Path) -> Inspection:
    """Return what a file is. Raises ImageError for a file that is nothing known, or contradicts itself.

    UsageError for what is no file that can be opened.
    """
    if path.is_dir():
        raise UsageError(f"cannot inspect {path}: it is a folder", hint="Name a file: an image, initrd, kernel or tar.")
    try:
        # A pipe would wait for who writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cannot inspect {path}: {error.strerror}") from error
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"cannot inspect {path}: it is a pipe", hint="Write what comes out of it into a file.")
    try:
        file = Archive(descriptor, str(path))
        kind, facts = _recognise(file, file.read_at(0, 4096), path)
    except OSError as error:
        raise ImageError(f"cannot inspect {path}: {error.strerror}") from error
    return Inspection(path=str(path), kind=kind, size_bytes=file.size_bytes, facts=tuple(facts))


def root_filesystem(image: Path) -> str | None:
    """Return what a kernel calls the filesystem of an image's first partition, or of a file that is one.

    None where there is none that is known. Raises ImageError for a file that cannot be read.
    """
    try:
        file = Archive(os.open(image, os.O_RDONLY | os.O_CLOEXEC), str(image))
        partitions = decode_mbr(file.read_at(0, SECTOR_BYTES)) or ()
        found = _filesystem(file, partitions[0].offset_bytes if partitions else 0)
    except OSError as error:
        raise ImageError(f"cannot read {image}: {error.strerror}") from error
    # Its driver reads what came before it too.
    return None if found is None else "ext4" if found[0].startswith("ext") else found[0]


def _recognise(file: Archive, head: bytes, path: Path) -> tuple[str, Facts]:
    compression = next((name for name, magic in _COMPRESSIONS.items() if head.startswith(magic)), None)
    content = _expanded(path) if compression else file
    archive = _archive(content, path, compression or "none")
    if archive:
        return archive
    kernel = kernel_facts(content)
    if kernel:
        return "kernel", (("compression", compression), *kernel) if compression else kernel
    if decode_mbr(head) is not None:
        return _disk(file, head, path)
    found = _filesystem(file, 0)
    if found:
        return found
    if not head:
        raise ImageError(f"nothing to inspect in {path}: the file is empty")
    shown = f"{head[:16].hex(' ')} ({compression})" if compression else head[:16].hex(" ")
    raise ImageError(
        f"cannot say what {path} is: it begins with {shown}",
        hint="Known: disk images, ext4, erofs, xfs, squashfs; also packed: vmlinux, bzImage, Image, cpio (newc), tar.",
    )


# Disk images


def _disk(file: Archive, head: bytes, path: Path) -> tuple[str, Facts]:
    partitions = decode_mbr(head) or ()
    facts: list[tuple[str, str | int | bool]] = [("disk id", f"{decode_disk_id(head):08x}")]
    superblock = dax.decode_superblock(file.read_at(dax.SUPERBLOCK_OFFSET_BYTES, dax.SUPERBLOCK_BYTES))
    if superblock is not None:
        facts += _dax(file, superblock, partitions)
    for number, part in enumerate(partitions, 1):
        name = f"partition {number}"
        facts += [(f"{name} offset", part.offset_bytes), (f"{name} size", part.size_bytes)]
        if part.offset_bytes + part.size_bytes > file.size_bytes:
            raise ImageError(
                f"damaged image ({file.label}): {name} ends at byte {part.offset_bytes + part.size_bytes}, "
                f"the file at {file.size_bytes}",
                hint="The file is truncated; build or copy it again.",
            )
        found = _filesystem(file, part.offset_bytes)
        if found:
            facts += [(f"{name} filesystem", found[0]), *((f"{name} {key}", value) for key, value in found[1])]
    blocks = locate_tree(file, partitions)
    if blocks is not None:
        identifier = dict(facts).get("partition 1 uuid")
        filesystem = uuid.UUID(str(identifier)) if identifier else None
        facts += _verity(examine(file, partitions, blocks, filesystem=filesystem, path=path))
    facts.append(("allocated on disk", os.fstat(file.fd).st_blocks * 512))
    return ("disk image" if superblock is None else "dax image"), tuple(facts)


def _verity(found: Verity | None) -> Facts:
    if found is None:
        return (
            (
                "partition 2 hash tree",
                "dm-verity, by its form; unverified: no root hash beside the image",
            ),
        )
    return (
        ("partition 2 hash tree", "dm-verity, SHA-256; every block of partition 1 has its hash"),
        ("root hash", found.root_hash),
        ("salt", found.salt),
        ("data blocks", found.data_blocks),
        ("kernel parameters", kernel_parameters(found)),
    )


def _dax(
    file: Archive, superblock: dax.PfnSuperblock, partitions: tuple[MbrPartition, ...]
) -> list[tuple[str, str | int | bool]]:
    if not superblock.checksum_ok:
        raise ImageError(
            f"damaged image ({file.label}): the checksum of the PFN superblock does not match its bytes: "
            f"it says {superblock.checksum:016x}"
        )
    offset = superblock.data_offset_bytes
    inner = decode_mbr(file.read_at(offset, SECTOR_BYTES)) if offset < file.size_bytes else None
    if inner is None:
        raise ImageError(f"damaged image ({file.label}): no partition table at {offset}, where the guest looks for it")
    moved = tuple(dataclasses.replace(part, offset_bytes=part.offset_bytes + offset) for part in inner)
    if moved != partitions:
        raise ImageError(f"damaged image ({file.label}): the partition tables at 0 and {offset} disagree")
    return [
        ("superblock version", ".".join(str(number) for number in superblock.version)),
        ("superblock checksum", f"{superblock.checksum:016x}"),
        ("data offset", offset),
        ("alignment", superblock.align_bytes),
    ]


# Filesystems, by their superblocks


def _filesystem(file: Archive, offset: int) -> tuple[str, Facts] | None:
    block = file.read_at(offset, 4096)
    kind = next((kind for kind, (at, magic) in _FILESYSTEMS.items() if block[at : at + len(magic)] == magic), None)
    if kind is not None and len(block) < _SUPERBLOCKS_END:
        raise ImageError(
            f"damaged filesystem ({file.label}): the file ends inside its superblock, at byte {file.size_bytes}",
            hint="The file is truncated; build or copy it again.",
        )
    match kind:
        case "ext4":
            return _ext4(block[1024:2048], file.label)
        case "erofs":
            return kind, (("uuid", str(uuid.UUID(bytes=block[1072:1088]))),)
        case "xfs":
            size, blocks = struct.unpack_from(">IQ", block, 4)
            return kind, (("uuid", str(uuid.UUID(bytes=block[32:48]))), ("block size", size), ("blocks", blocks))
        case "squashfs":
            return kind, (("inodes", struct.unpack_from("<I", block, 4)[0]),)
    return None


def _ext4(block: bytes, label: str) -> tuple[str, Facts]:
    (size,) = struct.unpack_from("<I", block, 24)
    if size > _EXT4_BLOCK_MAX:
        raise ImageError(f"damaged filesystem ({label}): expected blocks of at most 64 KiB, got 2^{10 + size} bytes")
    features = [
        name for (offset, bit), name in _EXT4_FEATURES.items() if struct.unpack_from("<I", block, offset)[0] & bit
    ]
    inodes, blocks, _, free, free_inodes = struct.unpack_from("<5I", block)
    return ("ext4" if "extent" in features else "ext2/ext3"), (
        ("uuid", str(uuid.UUID(bytes=block[104:120]))),
        ("features", " ".join(features)),
        ("block size", 1024 << size),
        ("blocks", blocks),
        ("free blocks", free),
        ("inodes", inodes),
        ("free inodes", free_inodes),
    )


# Archives


def _expanded(path: Path) -> Archive:
    try:
        return open_archive(path)
    except TreeError as error:
        raise ImageError(error.message, hint=error.hint) from error


def _archive(file: Archive, path: Path, compression: str) -> tuple[str, Facts] | None:
    head = file.read_at(0, 512)
    if head.startswith(MAGIC):
        return "initrd", (("compression", compression), *_initrd(file))
    if head[257:262] == b"ustar":
        return "rootfs", (("compression", compression), *_rootfs(path))
    return None


def _initrd(file: Archive) -> Facts:
    members = {member.name.removeprefix("./"): member for member in read_newc(file)}
    init = members.get("init")
    if init is None:
        shown = "none"
    elif init.mode & 0o170000 == 0o120000:
        target = file.read_at(init.offset_bytes, min(init.size_bytes, 4096))
        shown = f"-> {target.decode('utf-8', 'surrogateescape')}"
    else:
        shown = f"a file, mode {init.mode & 0o7777:04o}"
    return (
        ("cpio size", file.size_bytes),
        ("entries", len(members)),
        ("content", sum(member.size_bytes for member in members.values())),
        ("init", shown),
        ("dev/console", "dev/console" in members),
    )


def _rootfs(path: Path) -> Facts:
    try:
        summary = Tree.read(path).summary()
    except TreeError as error:
        raise ImageError(error.message, hint=error.hint) from error
    kinds = tuple((kind.value, count) for kind, count in summary.kinds)
    folders = tuple((f"/{usage.path}", usage.content_bytes) for usage in summary.folders if usage.content_bytes)
    return (("entries", summary.entries), ("content", summary.content_bytes), *kinds, *folders)
