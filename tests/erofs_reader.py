"""Reads an erofs without mounting it, and compares what it holds with a tree, attribute by attribute.

Written from the kernel's fs/erofs/erofs_fs.h for what mkfs.erofs makes without compression: plain and inline data,
attributes beside inodes and shared ones.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind
from tests.ext4_reader import KINDS, PREFIXES

BLOCK_BYTES = 4096
_SUPERBLOCK = 1024
_PLAIN, _INLINE = 0, 2

Pair = tuple[str, object, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """What an inode says; `data` is its content, a folder's entries or a link's target."""

    number: int
    kind: Kind
    mode: int
    owner: tuple[int, int]
    links: int
    mtime: int
    device: tuple[int, int]
    data: bytes
    inline: bool
    xattrs: tuple[tuple[str, bytes], ...]


class Erofs:
    """An erofs as a file of its own."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        head = self._bytes[_SUPERBLOCK : _SUPERBLOCK + 128]
        assert head[:4] == b"\xe2\xe1\xf5\xe0"
        assert 1 << head[12] == BLOCK_BYTES
        self.root, self.build_s = struct.unpack_from("<H8xQ", head, 14)
        self._meta, self._shared = (number * BLOCK_BYTES for number in struct.unpack_from("<II", head, 40))

    def inode(self, number: int) -> Inode:
        """Return an inode by its number: 32 bytes each from the metadata's block on."""
        at = self._meta + number * 32
        form, xattrs, mode = struct.unpack_from("<HHH", self._bytes, at)
        if form & 1:  # extended: 64 bytes
            size, place, _, uid, gid, mtime, _, links = struct.unpack_from("<QIIIIQII", self._bytes, at + 8)
            head = 64
        else:
            links, size, _, place, _, uid, gid = struct.unpack_from("<HIIIIHH", self._bytes, at + 6)
            mtime, head = self.build_s, 32
        xattrs_bytes = 12 + 4 * (xattrs - 1) if xattrs else 0
        kind, layout = KINDS[mode & 0xF000], form >> 1 & 7
        device = (0, 0)
        data = b""
        if kind in (Kind.CHAR, Kind.BLOCK):
            device = (place >> 8 & 0xFFF, place & 0xFF | place >> 12 & 0xFFF00)
        elif size:
            data = self._data(layout, size, place, at + head + xattrs_bytes)
        return Inode(
            number=number,
            kind=kind,
            mode=mode & 0o7777,
            owner=(uid, gid),
            links=links,
            mtime=mtime,
            device=device,
            data=data,
            inline=layout == _INLINE,
            xattrs=tuple(sorted(self._xattrs(at + head, xattrs_bytes))),
        )

    def _data(self, layout: int, size: int, place: int, tail_at: int) -> bytes:
        if layout == _PLAIN:
            return self._bytes[place * BLOCK_BYTES : place * BLOCK_BYTES + size]
        assert layout == _INLINE, layout
        whole = size // BLOCK_BYTES * BLOCK_BYTES
        begin = place * BLOCK_BYTES if whole else 0
        return self._bytes[begin : begin + whole] + self._bytes[tail_at : tail_at + size - whole]

    def _xattrs(self, at: int, length: int) -> Iterator[tuple[str, bytes]]:
        if not length:
            return
        shared = self._bytes[at + 4]
        for number in struct.unpack_from(f"<{shared}I", self._bytes, at + 12):
            yield self._xattr(self._shared + number * 4)[0]
        entry, end = at + 12 + 4 * shared, at + length
        while entry + 4 <= end:
            found, entry = self._xattr(entry)
            yield found

    def _xattr(self, at: int) -> tuple[tuple[str, bytes], int]:
        name_bytes, prefix, value_bytes = struct.unpack_from("<BBH", self._bytes, at)
        name = self._bytes[at + 4 : at + 4 + name_bytes].decode()
        value = self._bytes[at + 4 + name_bytes : at + 4 + name_bytes + value_bytes]
        end = at + 4 + name_bytes + value_bytes
        return (PREFIXES[prefix] + name, value), end + -end % 4

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Yield every name with its inode; the root's is ""."""
        queue = [("", self.root)]
        while queue:
            name, number = queue.pop()
            found = self.inode(number)
            yield name, found
            if found.kind is Kind.DIR:
                queue += [(f"{name}/{each}".lstrip("/"), nid) for each, nid in _entries(found.data)]


def _entries(data: bytes) -> Iterator[tuple[str, int]]:
    """Yield the names in a folder but for . and .., each with its inode's number."""
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        first = struct.unpack_from("<H", block, 8)[0]
        heads = [struct.unpack_from("<QH", block, at) for at in range(0, first, 12)]
        ends = [offset for _, offset in heads[1:]] + [len(block)]
        for (number, offset), end in zip(heads, ends, strict=True):
            name = block[offset:end].rstrip(b"\0").decode("utf-8", "surrogateescape")
            if name not in (".", ".."):
                yield name, number


def differences(tree: Tree, path: Path, *, epoch: int) -> list[Pair]:
    """Return (what of which name, expected, found) for all in which an erofs differs from a tree."""
    found = dict(Erofs(path).walk())
    wanted = dict(tree.items())
    wrong: list[Pair] = [("names", set(wanted) - set(found), set(found) - set(wanted))]
    for name in set(wanted) & set(found):
        wrong += [(f"{what} of {name!r}", a, b) for what, a, b in _pairs(wanted[name], found[name], epoch=epoch)]
    groups: dict[int, set[str]] = {}
    for name, inode in found.items():
        if inode.kind is not Kind.DIR:
            groups.setdefault(inode.number, set()).add(name)
    links = {frozenset(names) for names in groups.values() if len(names) > 1}
    wrong.append(("hard links", {frozenset(names) for names in tree.hard_links().values() if len(names) > 1}, links))
    wrong += [(f"links of {name!r}", len(groups[i.number]), i.links) for name, i in found.items() if i.number in groups]
    return [(what, expected, got) for what, expected, got in wrong if expected != got]


def _pairs(entry: Entry, inode: Inode, *, epoch: int) -> Iterator[Pair]:
    yield "kind", entry.kind, inode.kind
    yield "mode", entry.mode, inode.mode if entry.kind is not Kind.SYMLINK else entry.mode
    yield "owner", (entry.uid, entry.gid), inode.owner
    yield "mtime", entry.clamped_mtime_s(epoch), inode.mtime
    yield "xattrs", tuple(sorted(entry.xattrs)), inode.xattrs
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        yield "device", entry.device, inode.device
    if entry.kind is Kind.SYMLINK:
        yield "target", entry.target.encode("utf-8", "surrogateescape"), inode.data
    if entry.kind is Kind.FILE:
        yield "content", entry.content.read(), inode.data
