"""Debian package files: the control paragraph in them, and a repository's index made of it. Reads only.

Source: deb(5) and deb-control(5); the repository format (wiki/DebianRepository/Format).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import zstandard

from osbuilder.errors import FetchError

_MAGIC: Final = b"!<arch>\n"
_HEADER_BYTES: Final = 60
# A control archive is a few dozen KiB; more is an attack on memory.
_CONTROL_MAX_BYTES: Final = 64 << 20


def _unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_UNPACKERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "control.tar": bytes,
    "control.tar.gz": gzip.decompress,
    "control.tar.xz": lzma.decompress,
    "control.tar.zst": _unzstd,
}


def read_control(path: Path) -> str:
    """Return the control paragraph of a package file, without blank lines. Raises FetchError for a malformed file."""
    try:
        name, data = _control_archive(path)
        with tarfile.open(fileobj=io.BytesIO(_UNPACKERS[name](data)), mode="r:") as archive:
            file = archive.extractfile("./control")
            content = file.read() if file else b""
    except (OSError, ValueError, KeyError, EOFError, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError) as error:
        raise FetchError(f"{path.name} is no Debian package: {error}") from error
    return "\n".join(line for line in content.decode("utf-8", "replace").splitlines() if line.strip()) + "\n"


def _control_archive(path: Path) -> tuple[str, bytes]:
    """Return the name and content of the ar member that has the control files."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin as an ar archive")
        while header := file.read(_HEADER_BYTES):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name in _UNPACKERS and size <= _CONTROL_MAX_BYTES:
                return name, file.read(size)
            file.seek(size + size % 2, 1)
    raise ValueError("it has no control archive")


def render_index(files: Iterable[Path], *, folder: str) -> str:
    """Return the index Packages of package files; `folder` is where the repository has them."""
    return "".join(
        f"{read_control(path)}Filename: {folder}/{path.name}\nSize: {path.stat().st_size}\nSHA256: {_sha256(path)}\n\n"
        for path in files
    )


def render_release(index: str, *, suite: str, component: str, architecture: str) -> str:
    """Return a Release file for an index Packages: apt needs the code name, and the digest of what it reads."""
    content = index.encode()
    return (
        f"Origin: osbuilder\nSuite: {suite}\nCodename: {suite}\nArchitectures: {architecture}\n"
        f"Components: {component}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n"
        f" {hashlib.sha256(content).hexdigest()} {len(content)} {component}/binary-{architecture}/Packages\n"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
