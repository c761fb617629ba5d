"""Opens archives, plain or compressed, so that content can be read by offset.

Compression is recognised by its magic, never by a file's name.
"""

from __future__ import annotations

import gzip
import lzma
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from osbuilder.errors import TreeError
from osbuilder.tree.entry import CHUNK_BYTES, Archive


def open_archive(path: Path) -> Archive:
    """Open a tar archive; a compressed one (gzip, xz, zstd) is expanded into an unnamed temporary file.

    Raises TreeError when the file cannot be read, or its compression is unknown, truncated or damaged.
    """
    try:
        archive = Archive(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))
        magic = archive.read_at(0, 6)
    except OSError as error:
        raise TreeError(f"cannot read archive ({path}): {error.strerror}") from error
    if magic[:2] == b"\x1f\x8b":
        return _expand(path, "gzip")
    if magic == b"\xfd7zXZ\0":
        return _expand(path, "xz")
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        return _expand(path, "zstd")
    if magic[:3] == b"BZh":
        raise TreeError(
            f"cannot read archive ({path}): expected tar, gzip, xz or zstd, got bzip2", hint="Recompress it."
        )
    return archive


def _expand(path: Path, method: str) -> Archive:
    spool, name = tempfile.mkstemp(prefix="osbuilder-tree-")
    archive = Archive(spool, str(path))
    Path(name).unlink()
    try:
        with path.open("rb") as packed:
            for chunk in _EXPANDERS[method](packed):
                _write_all(spool, chunk)
        archive.size_bytes = os.fstat(spool).st_size
        if not archive.size_bytes:
            raise EOFError("nothing comes out of it")
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError, ValueError) as error:
        raise TreeError(
            f"damaged archive ({path}): {method} data is truncated or corrupt: {error}",
            hint="Fetch or build the archive again.",
        ) from error
    except OSError as error:
        raise TreeError(f"cannot expand archive ({path}): {error.strerror}") from error
    return archive


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _expand_gzip(packed: BinaryIO) -> Iterator[bytes]:
    with gzip.open(packed) as plain:
        while chunk := plain.read(CHUNK_BYTES):
            yield chunk


def _expand_xz(packed: BinaryIO) -> Iterator[bytes]:
    # Not lzma.open: it takes anything after the last stream for granted.
    data = packed.read(CHUNK_BYTES)
    while data:
        stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
        while not stream.eof:
            yield stream.decompress(data, CHUNK_BYTES)
            data = packed.read(CHUNK_BYTES) if stream.needs_input else b""
            if not data and stream.needs_input and not stream.eof:
                raise EOFError("the stream ends early")
        # Streams may follow each other, padded with zeros (xz file format 1.2.1, section 2.2).
        data = (stream.unused_data or packed.read(CHUNK_BYTES)).lstrip(b"\0")


def _expand_zstd(packed: BinaryIO) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True, closefd=False) as plain:
        while chunk := plain.read(CHUNK_BYTES):
            yield chunk


_EXPANDERS = {"gzip": _expand_gzip, "xz": _expand_xz, "zstd": _expand_zstd}
