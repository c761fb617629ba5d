"""Initrds: a newc cpio archive of a tree, compressed, the same bytes for the same tree.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. It carries no extended attributes:
what is lost is returned, never dropped in silence. Adds nothing to the tree: /init and /dev/console are its maker's
business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from osbuilder.errors import ImageError
from osbuilder.outfile import replacing
from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind, Sink, Writable

_ALIGN_BYTES = 4
_ARCHIVE_ALIGN_BYTES = 512
_TRAILER = b"TRAILER!!!"
_TYPE_BITS = {
    Kind.FIFO: 0o010000,
    Kind.CHAR: 0o020000,
    Kind.DIR: 0o040000,
    Kind.BLOCK: 0o060000,
    Kind.FILE: 0o100000,
    Kind.SYMLINK: 0o120000,
}


class Compression(enum.Enum):
    """How an initrd is compressed. The guest's kernel must know it (CONFIG_RD_ZSTD, CONFIG_RD_GZIP)."""

    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"


# zstd -3 is 4% larger than -9 here and takes 40% of its time; gzip's own default.
DEFAULT_LEVELS = {Compression.ZSTD: 3, Compression.GZIP: 6, Compression.NONE: 0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Initrd:
    """What was written. `lost_xattrs` are the names whose extended attributes the format cannot carry."""

    cpio_bytes: int
    size_bytes: int
    entries: int
    lost_xattrs: tuple[str, ...]


def write_initrd(
    tree: Tree,
    output: Path,
    *,
    epoch: int,
    compression: Compression = Compression.ZSTD,
    level: int | None = None,
) -> Initrd:
    """Write a tree as an initrd. No mtime is later than `epoch` (seconds since 1970); `level` None is the default's.

    The bytes depend on the tree, epoch, compression and level, not on the number of processors. Raises ImageError for
    what newc cannot hold (a file of 4 GiB, an owner or time beyond 32 bits) or when the output cannot be written.
    """
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    with replacing(output, ImageError) as fd, open(fd, "wb", closefd=False) as stream:
        with _compressor(stream, compression, chosen) as packer:
            cpio_bytes = write_cpio(tree, packer, epoch=epoch)
        stream.flush()
        size = stream.tell()
    lost = tuple(name or "." for name, entry in tree.items() if entry.xattrs)
    return Initrd(cpio_bytes=cpio_bytes, size_bytes=size, entries=len(tree), lost_xattrs=lost)


def write_cpio(tree: Tree, stream: Writable, *, epoch: int) -> int:
    """Write a tree as an uncompressed newc archive; return its size in bytes. Raises ImageError as `write_initrd`."""
    sink = Sink(stream)
    groups = tree.hard_links()
    inodes = {name: names for names in groups.values() for name in names}
    numbers: dict[str, int] = {}
    for name, entry in tree.items():
        names = inodes.get(name, (name,))
        number = numbers.setdefault(names[0], len(numbers) + 1)
        # The content comes with the last name, as GNU cpio expects; the kernel takes it with any.
        _write_member(sink, name, entry, number, len(names), with_content=name == names[-1], epoch=epoch)
    _write_header(sink, _TRAILER, links=1)
    sink.pad(_ARCHIVE_ALIGN_BYTES)
    sink.flush()
    return sink.position


def _write_member(
    sink: Sink, name: str, entry: Entry, number: int, links: int, *, with_content: bool, epoch: int
) -> None:
    target = entry.target.encode("utf-8", "surrogateescape")
    size = entry.content.size_bytes if with_content else 0
    mtime = max(entry.clamped_mtime_s(epoch), 0)  # the field has no sign
    if max(size, entry.uid, entry.gid, mtime) >= 1 << 32 or min(entry.uid, entry.gid) < 0:
        raise ImageError(
            f"an initrd cannot hold /{name}: expected size, owner and time below 2^32, "
            f"got {size} bytes, {entry.uid}:{entry.gid}, {mtime}"
        )
    _write_header(
        sink,
        name.encode("utf-8", "surrogateescape") or b".",
        number=number,
        mode=_TYPE_BITS[entry.kind] | entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        links=2 if entry.kind is Kind.DIR else links,
        mtime=mtime,
        size=len(target) or size,
        device=entry.device,
    )
    if target:
        sink.write(target)
    elif size:
        for chunk in entry.content.chunks():
            sink.write(chunk)
    sink.pad(_ALIGN_BYTES)


def _write_header(
    sink: Sink,
    name: bytes,
    *,
    number: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    links: int,
    mtime: int = 0,
    size: int = 0,
    device: tuple[int, int] = (0, 0),
) -> None:
    fields = (number, mode, uid, gid, links, mtime, size, 0, 0, *device, len(name) + 1, 0)
    sink.write(b"070701" + b"%08X" * len(fields) % fields + name + b"\0")
    sink.pad(_ALIGN_BYTES)


@contextlib.contextmanager
def _compressor(stream: BinaryIO, compression: Compression, level: int) -> Iterator[Writable]:
    if compression is Compression.ZSTD:
        # threads=-1 cuts jobs as with many processors even where there is one: the bytes are the same.
        zstd = zstandard.ZstdCompressor(level=level, threads=-1, write_checksum=True)
        with zstd.stream_writer(stream, closefd=False) as packer:
            yield cast("Writable", packer)
    elif compression is Compression.GZIP:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=stream, mtime=0) as packed:
            yield packed
    else:
        yield stream
