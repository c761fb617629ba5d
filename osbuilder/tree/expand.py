"""Opens archives, plain or compressed, so that content can be read by offset.

Compression is recognised by its magic, never by a file's name.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from osbuilder.errors import TreeError
from osbuilder.tree.entry import CHUNK_BYTES, Archive, MemoryArchive


def open_archive(path: Path, *, scratch: Path | None = None) -> Archive:
    """Open a tar archive; a compressed one (bzip2, gzip, xz, zstd) is expanded into an unnamed file.

    That lies in the folder `scratch` (None: the one for temporary files). Raises TreeError when the archive cannot be
    read, when its compression is truncated or damaged, and when it cannot be expanded there.
    """
    try:
        archive = Archive(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))
        magic = archive.read_at(0, 6)
    except OSError as error:
        raise TreeError(f"cannot read archive ({path}): {error.strerror}") from error
    method = _method(magic)
    if method is None:
        return archive
    with path.open("rb") as packed:
        return _expand(packed, method, str(path), scratch)


def expand_bytes(data: bytes, label: str, *, scratch: Path | None = None) -> Archive:
    """Return the tar archive that is in memory, expanded as `open_archive` does; `label` names it in errors."""
    method = _method(data[:6])
    return MemoryArchive(data, label) if method is None else _expand(io.BytesIO(data), method, label, scratch)


def _method(magic: bytes) -> str | None:
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    if magic == b"\xfd7zXZ\0":
        return "xz"
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        return "zstd"
    if magic[:3] == b"BZh":
        return "bzip2"
    return None


def _expand(packed: BinaryIO, method: str, label: str, scratch: Path | None) -> Archive:
    with _told_where(label, scratch) as folder:
        spool, name = tempfile.mkstemp(prefix="osbuilder-tree-", dir=folder)
        Path(name).unlink()
    archive = Archive(spool, label)
    try:
        for chunk in _EXPANDERS[method](packed):
            with _told_where(label, scratch):
                _write_all(spool, chunk)
        archive.size_bytes = os.fstat(spool).st_size
        if not archive.size_bytes:
            raise EOFError("nothing comes out of it")
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, ValueError) as error:
        raise TreeError(
            f"damaged archive ({label}): {method} data is truncated or corrupt: {error}",
            hint="Fetch or build the archive again.",
        ) from error
    except OSError as error:
        raise TreeError(f"cannot read archive ({label}): {error.strerror}") from error
    return archive


@contextlib.contextmanager
def _told_where(label: str, scratch: Path | None) -> Iterator[Path]:
    """Yield the folder to expand into, and say in the error of one that is full which it is."""
    folder = scratch or Path(tempfile.gettempdir())
    try:
        yield folder
    except OSError as error:
        raise TreeError(
            f"cannot expand archive ({label}) into {folder}: {error.strerror}",
            hint="Make room there." if scratch else "Make room there, or name another folder: TMPDIR=FOLDER.",
        ) from error


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _expand_gzip(packed: BinaryIO) -> Iterator[bytes]:
    with gzip.open(packed) as plain:
        while chunk := plain.read(CHUNK_BYTES):
            yield chunk


def _expand_xz(packed: BinaryIO) -> Iterator[bytes]:
    # Streams may follow each other, padded with zeros (xz file format 1.2.1, section 2.2).
    return _expand_streams(packed, lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ), padding=b"\0")


def _expand_bzip2(packed: BinaryIO) -> Iterator[bytes]:
    try:
        yield from _expand_streams(packed, bz2.BZ2Decompressor, padding=b"")
    except OSError as error:  # how bz2 says that data is corrupt
        raise error if error.errno else ValueError(str(error)) from error


def _expand_streams(
    packed: BinaryIO, decompressor: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor], *, padding: bytes
) -> Iterator[bytes]:
    # Not lzma.open or bz2.open: they take anything after the last stream for granted.
    data = packed.read(CHUNK_BYTES)
    while data:
        stream = decompressor()
        while not stream.eof:
            yield stream.decompress(data, CHUNK_BYTES)
            data = packed.read(CHUNK_BYTES) if stream.needs_input else b""
            if not data and stream.needs_input and not stream.eof:
                raise EOFError("the stream ends early")
        data = stream.unused_data.lstrip(padding)
        while not data and (more := packed.read(CHUNK_BYTES)):
            data = more.lstrip(padding)


def _expand_zstd(packed: BinaryIO) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True, closefd=False) as plain:
        while chunk := plain.read(CHUNK_BYTES):
            yield chunk


_EXPANDERS = {"bzip2": _expand_bzip2, "gzip": _expand_gzip, "xz": _expand_xz, "zstd": _expand_zstd}
