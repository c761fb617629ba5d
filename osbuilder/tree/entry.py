"""What a name in a root filesystem stands for: its kind, its attributes, and where its content lies.

Content is never held in memory unless it was given as bytes: a span names a range of an archive or of a file on disk.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from osbuilder.errors import TreeError

CHUNK_BYTES = 1 << 20
# From this size on, a write of its own costs less than joining does.
_DIRECT_BYTES = 1 << 16


class Kind(enum.Enum):
    """The kinds of inode that a root filesystem holds (a hard link is a second name, not a kind)."""

    FILE = "file"
    DIR = "directory"
    SYMLINK = "symlink"
    CHAR = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


class Archive:
    """An open archive that spans point into.

    The descriptor is closed when the last span that needs it goes, so trees can share content and need no closing.
    It stays valid when the file is replaced or unlinked.
    """

    __slots__ = ("__weakref__", "fd", "label", "size_bytes")

    def __init__(self, fd: int, label: str) -> None:
        self.fd = fd
        self.label = label
        self.size_bytes = os.fstat(fd).st_size
        weakref.finalize(self, os.close, fd)

    def read_at(self, offset: int, length_bytes: int) -> bytes:
        """Return up to `length_bytes` bytes from `offset`; fewer only where the file ends."""
        data = os.pread(self.fd, length_bytes, offset)
        while 0 < len(data) < length_bytes:
            more = os.pread(self.fd, length_bytes - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class MemoryArchive(Archive):
    """An archive that is held in memory: nothing to close."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes, label: str) -> None:
        self._data = data
        self.label = label
        self.size_bytes = len(data)

    def read_at(self, offset: int, length_bytes: int) -> bytes:
        return self._data[offset : offset + length_bytes]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of content: a range of an archive, of a file on disk, or of bytes; no source means a hole (zeros)."""

    source: Archive | Path | bytes | None
    offset: int = 0
    length_bytes: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in order, at most CHUNK_BYTES at a time. Raises TreeError where the source ends early."""
        if isinstance(self.source, bytes):
            yield self.source[self.offset : self.offset + self.length_bytes]
        elif isinstance(self.source, Archive):
            yield from self._chunks_of(self.source)
        elif isinstance(self.source, Path):
            yield from self._chunks_of(_open(self.source))
        else:
            yield from self._zeros()

    def _chunks_of(self, archive: Archive) -> Iterator[bytes]:
        offset, end = self.offset, self.offset + self.length_bytes
        while offset < end:
            data = archive.read_at(offset, min(CHUNK_BYTES, end - offset))
            if not data:
                raise TreeError(
                    f"content ended early ({archive.label}): expected bytes up to {end}, got {offset}",
                    hint="The file changed after it was added; build again from a file that nothing else writes.",
                )
            offset += len(data)
            yield data

    def _zeros(self) -> Iterator[bytes]:
        left = self.length_bytes
        while left > 0:
            yield bytes(min(CHUNK_BYTES, left))
            left -= CHUNK_BYTES


def _open(path: Path) -> Archive:
    try:
        return Archive(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))
    except OSError as error:
        raise TreeError(f"cannot read content ({path}): {error.strerror}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file's bytes, as the spans that make them up, in order and without gaps."""

    size_bytes: int
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, data: bytes | Path) -> Content:
        """Return content for bytes, or for a file on disk whose size is taken now and checked when it is read.

        Raises TreeError when the path is not a regular file.
        """
        if isinstance(data, bytes):
            return cls(size_bytes=len(data), spans=(Span(source=data, length_bytes=len(data)),) if data else ())
        if not data.is_file():
            raise TreeError(
                f"cannot take content ({data}): expected a regular file, got {'a folder' if data.is_dir() else 'none'}"
            )
        size = data.stat().st_size
        return cls(size_bytes=size, spans=(Span(source=data, length_bytes=size),) if size else ())

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in order, in pieces of bounded size."""
        for span in self.spans:
            yield from span.chunks()

    def read(self) -> bytes:
        """Return all bytes."""
        return b"".join(self.chunks())


EMPTY = Content(size_bytes=0, spans=())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An inode. Names that are hard links of each other share one.

    `mode` holds the permission bits only (07777). `mtime_s` is whole seconds since 1970, None for the epoch that the
    tree is written with. `device` is (major, minor). `xattrs` are (name, value) pairs sorted by name; POSIX ACLs are
    among them in the kernel's form (system.posix_acl_access, system.posix_acl_default).
    """

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_s: int | None = None
    content: Content = EMPTY
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()

    def clamped_mtime_s(self, epoch: int) -> int:
        """Return the modification time to write: never later than `epoch` (seconds since 1970)."""
        return epoch if self.mtime_s is None else min(self.mtime_s, epoch)


class Writable(Protocol):
    """Anything that takes bytes: a file, a compressor, a hash."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""


class Sink:
    """Joins small writes into large ones, counts them, and pads to a block size."""

    __slots__ = ("_buffer", "_stream", "position")

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self.position = 0

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self.position += len(data)
        if len(data) >= _DIRECT_BYTES:
            self.flush()
            self._stream.write(data)
            return
        self._buffer += data
        if len(self._buffer) >= CHUNK_BYTES:
            self.flush()

    def pad(self, block_bytes: int) -> None:
        """Append zeros up to the next multiple of `block_bytes`."""
        self.write(bytes(-self.position % block_bytes))

    def flush(self) -> None:
        """Hand everything on to the stream."""
        self._stream.write(bytes(self._buffer))
        self._buffer.clear()
