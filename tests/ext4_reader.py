"""Reads an ext4 image without mounting it, and compares what it holds with a tree, attribute by attribute.

Written from the kernel's Documentation/filesystems/ext4 for what mke2fs makes: extents, linear folders, attributes in
inodes and in one block. Checksums are e2fsck's business.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind

# erofs has the same kinds, and those prefixes alone.
KINDS = {
    0x1000: Kind.FIFO,
    0x2000: Kind.CHAR,
    0x4000: Kind.DIR,
    0x6000: Kind.BLOCK,
    0x8000: Kind.FILE,
    0xA000: Kind.SYMLINK,
}
PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
}
_EXT4_PREFIXES = {**PREFIXES, 7: "system."}
_ROOT = 2
_EXTENTS_FLAG = 0x80000

Pair = tuple[str, object, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """An inode as it lies in the image."""

    number: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_s: int
    links: int
    size_bytes: int
    flags: int
    block: bytes
    xattrs: dict[str, bytes]


class Ext4:
    """An ext4 filesystem at an offset in a file."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.file = path.open("rb")
        self.offset = offset
        sb = self.at(1024, 1024)
        assert sb[56:58] == b"\x53\xef", "not ext4"
        self.block_bytes = 1024 << struct.unpack_from("<I", sb, 24)[0]
        self.inodes_per_group = struct.unpack_from("<I", sb, 40)[0]
        self.inode_bytes = struct.unpack_from("<H", sb, 88)[0]
        self.descriptor_bytes = struct.unpack_from("<H", sb, 254)[0]
        self.free_blocks = struct.unpack_from("<I", sb, 12)[0]
        self.blocks = struct.unpack_from("<I", sb, 4)[0]
        self.uuid = sb[104:120].hex()

    def close(self) -> None:
        self.file.close()

    def at(self, offset: int, length: int) -> bytes:
        self.file.seek(self.offset + offset)
        return self.file.read(length)

    def inode(self, number: int) -> Inode:
        group, index = divmod(number - 1, self.inodes_per_group)
        descriptor = self.at(self.block_bytes + group * self.descriptor_bytes, self.descriptor_bytes)
        table = struct.unpack_from("<I", descriptor, 8)[0] | struct.unpack_from("<I", descriptor, 40)[0] << 32
        raw = self.at(table * self.block_bytes + index * self.inode_bytes, self.inode_bytes)
        mode, uid, size, _, _, mtime, _, gid, links = struct.unpack_from("<HHIIIIIHH", raw)
        uid |= struct.unpack_from("<H", raw, 120)[0] << 16
        gid |= struct.unpack_from("<H", raw, 122)[0] << 16
        kind = KINDS[mode & 0xF000]
        high = struct.unpack_from("<I", raw, 108)[0]
        extra = struct.unpack_from("<I", raw, 136)[0]
        seconds = (mtime - (1 << 32) if mtime >= 1 << 31 else mtime) + ((extra & 3) << 32)
        return Inode(
            number=number,
            kind=kind,
            mode=mode & 0o7777,
            uid=uid,
            gid=gid,
            mtime_s=seconds,
            links=links,
            size_bytes=size | high << 32,
            flags=struct.unpack_from("<I", raw, 32)[0],
            block=raw[40:100],
            xattrs=self.xattrs(raw),
        )

    def xattrs(self, raw: bytes) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        body = 128 + struct.unpack_from("<H", raw, 128)[0]
        if raw[body : body + 4] == b"\x00\x00\x02\xea":
            found |= _xattr_entries(raw[body + 4 :], raw[body + 4 :])
        block = struct.unpack_from("<I", raw, 104)[0] | struct.unpack_from("<H", raw, 118)[0] << 32
        if block:
            data = self.at(block * self.block_bytes, self.block_bytes)
            found |= _xattr_entries(data[32:], data)
        return found

    def extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """Yield (logical block, physical block, length) in order."""
        assert inode.flags & _EXTENTS_FLAG, "no extents"
        yield from self._extents(inode.block)

    def _extents(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        magic, count, _, depth, _ = struct.unpack_from("<HHHHI", node)
        assert magic == 0xF30A, "bad extent node"
        for number in range(count):
            if depth:
                _, low, high, _ = struct.unpack_from("<IIHH", node, 12 + number * 12)
                yield from self._extents(self.at((low | high << 32) * self.block_bytes, self.block_bytes))
            else:
                logical, length, high, low = struct.unpack_from("<IHHI", node, 12 + number * 12)
                yield logical, low | high << 32, length

    def content(self, inode: Inode) -> bytes:
        data = bytearray(-(-inode.size_bytes // self.block_bytes) * self.block_bytes)
        for logical, physical, length in self.extents(inode):
            start = logical * self.block_bytes
            data[start : start + length * self.block_bytes] = self.at(
                physical * self.block_bytes, length * self.block_bytes
            )
        return bytes(data[: inode.size_bytes])

    def target(self, inode: Inode) -> str:
        fast = inode.size_bytes < 60
        data = inode.block[: inode.size_bytes] if fast else self.content(inode)
        return data.decode("utf-8", "surrogateescape")

    def device(self, inode: Inode) -> tuple[int, int]:
        old, new = struct.unpack_from("<II", inode.block)
        if old:
            return old >> 8, old & 0xFF
        return (new & 0xFFF00) >> 8, new & 0xFF | (new >> 12) & 0xFFF00

    def folder(self, inode: Inode) -> Iterator[tuple[str, int]]:
        data = self.content(inode)
        at = 0
        while at < len(data):
            number, length, name_length = struct.unpack_from("<IHB", data, at)
            name = data[at + 8 : at + 8 + name_length].decode("utf-8", "surrogateescape")
            if number and name not in (".", ".."):
                yield name, number
            at += length

    def walk(self, number: int = _ROOT, prefix: str = "") -> Iterator[tuple[str, Inode]]:
        """Yield (name, inode) of everything, the root as ""."""
        inode = self.inode(number)
        yield prefix, inode
        if inode.kind is Kind.DIR:
            for name, child in self.folder(inode):
                yield from self.walk(child, f"{prefix}/{name}" if prefix else name)


def _xattr_entries(entries: bytes, values: bytes) -> dict[str, bytes]:
    found = {}
    at = 0
    while entries[at : at + 4] != b"\0\0\0\0":
        name_length, index, offset, inode, size, _ = struct.unpack_from("<BBHIII", entries, at)
        assert not inode, "value in an inode of its own"
        name = _EXT4_PREFIXES[index] + entries[at + 16 : at + 16 + name_length].decode()
        value = values[offset : offset + size]
        found[name] = _posix_acl(value) if index in (2, 3) else value
        at += 16 + (name_length + 3) // 4 * 4
    return found


def _posix_acl(disk: bytes) -> bytes:
    """Return the kernel's form of an ACL as ext4 stores it (version 1: ids only where they mean something)."""
    assert struct.unpack_from("<I", disk)[0] == 1, "unknown ACL version"
    result, at = struct.pack("<I", 2), 4
    while at < len(disk):
        tag, perms = struct.unpack_from("<HH", disk, at)
        at += 4
        number = 0xFFFFFFFF
        if tag in (0x02, 0x08):
            (number,) = struct.unpack_from("<I", disk, at)
            at += 4
        result += struct.pack("<HHI", tag, perms, number)
    return result


def differences(tree: Tree, image: Path, *, epoch: int, offset: int = 0) -> list[str]:
    """Return what differs between a tree and the ext4 image that was made from it, a line each.

    lost+found, which mke2fs adds, is no difference unless the tree has its own.
    """
    ext4 = Ext4(image, offset)
    try:
        return list(_differences(tree, ext4, epoch))
    finally:
        ext4.close()


def _differences(tree: Tree, ext4: Ext4, epoch: int) -> Iterator[str]:
    found = dict(ext4.walk())
    if not tree.exists("lost+found"):
        found.pop("lost+found", None)
    expected = dict(tree.items())
    for name in sorted(expected.keys() ^ found.keys()):
        yield f"{name}: only in the {'tree' if name in expected else 'image'}"
    links: dict[int, set[str]] = {}
    for name, inode in found.items():
        links.setdefault(inode.number, set()).add(name)
    for name in sorted(expected.keys() & found.keys()):
        entry, inode = expected[name], found[name]
        pairs = [*_attributes(entry, inode, epoch), *_payload(entry, inode, ext4)]
        if entry.kind is not Kind.DIR:
            names = links[inode.number]
            pairs.append(("names", set(tree.links(name)) if len(names) > 1 else {name}, names))
            pairs.append(("link count", len(names), inode.links))
        for what, want, got in pairs:
            if want != got:
                yield f"{name}: {what}: expected {str(want)[:200]}, got {str(got)[:200]}"


def _attributes(entry: Entry, inode: Inode, epoch: int) -> list[Pair]:
    return [
        ("kind", entry.kind, inode.kind),
        ("mode", entry.mode, inode.mode),
        ("owner", (entry.uid, entry.gid), (inode.uid, inode.gid)),
        ("mtime", entry.clamped_mtime_s(epoch), inode.mtime_s),
        ("xattrs", dict(entry.xattrs), inode.xattrs),
    ]


def _payload(entry: Entry, inode: Inode, ext4: Ext4) -> list[Pair]:
    if entry.kind is not inode.kind:
        return []
    if entry.kind is Kind.FILE:
        return [("content", entry.content.read(), ext4.content(inode))]
    if entry.kind is Kind.SYMLINK:
        return [("target", entry.target, ext4.target(inode))]
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        return [("device", entry.device, ext4.device(inode))]
    return []
