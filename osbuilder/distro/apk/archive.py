"""apk's file format, version 2: gzip streams one after the other, each holding a piece of a tar archive.

An index is signatures and one stream; a package is signatures, the control segment and the data. The pieces in front
lack a tar archive's end mark. What is verified: an index by its signature; a package by its signature and by the SHA-1
of its control segment, which the signed index names; its data by the SHA-256 that the control segment names.

Source: apk-package(5), and the format as abuild 3 writes and apk-tools 2.14 reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping
from typing import Final

from isal import isal_zlib
from isal.igzip_lib import IsalError

from osbuilder.distro.apk.index import Package, checksum_text
from osbuilder.distro.apk.keys import Signature, TrustedKey, TrustedKeys, parse_signature
from osbuilder.errors import FetchError, TreeError, VerificationError
from osbuilder.tree.entry import Kind, MemoryArchive
from osbuilder.tree.tarread import BLOCK_BYTES, read_members

_STEP_BYTES: Final = 1 << 16
_END: Final = bytes(2 * BLOCK_BYTES)
_MAGIC: Final = b"\x1f\x8b"
_GZIP: Final = 16 + zlib.MAX_WBITS
# Signatures and control segments are a few KiB, an index a few MiB; more is no package but an attack on memory.
_HEAD_MAX_BYTES: Final = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignedIndex:
    """An index whose signature was verified: `key` made it, and the signature calls that `key_name`.

    `description` is what the index says of itself ("" without one), signed as well.
    """

    text: str
    description: str
    key_name: str
    key: TrustedKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A package's control segment: .PKGINFO's entries, which may come several times, and the scripts by their kind."""

    info: Mapping[str, tuple[str, ...]]
    scripts: Mapping[str, bytes]

    def all(self, name: str) -> tuple[str, ...]:
        """Return all values of an entry."""
        return self.info.get(name, ())

    def one(self, name: str) -> str:
        """Return the value of an entry, "" when it is not there."""
        return self.all(name)[0] if self.all(name) else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPackage:
    """A package file that was verified down to the last byte; `data` is its data segment, compressed."""

    control: Control
    data: memoryview

    def unpack(self) -> bytes:
        """Return the data segment as a tar archive."""
        return _inflate_all(self.data)


def open_index(data: bytes, keys: TrustedKeys, *, where: str) -> SignedIndex:
    """Verify an index file and return it. Raises VerificationError for its signature, FetchError for its format."""
    try:
        signatures, at = _signatures(data)
    except ValueError as error:
        raise FetchError(
            f"{where} is no package index: {error}",
            hint="Give the URL that has v<release>/<repository>/ below it (setting mirrors); a proxy or a login page "
            "of the network may stand in between.",
        ) from None
    rest = memoryview(data)[at:]
    key_name, key = keys.verify(signatures, rest, what=where)
    files = _members(_inflate_all(rest) + _END, where)
    if "APKINDEX" not in files:
        raise FetchError(f"bad package index ({where}): expected a file APKINDEX in it, got {', '.join(files)}")
    return SignedIndex(
        text=files["APKINDEX"].decode("utf-8", "replace"),
        description=files.get("DESCRIPTION", b"").decode("utf-8", "replace").strip(),
        key_name=key_name,
        key=key,
    )


def open_package(data: bytes, package: Package, keys: TrustedKeys) -> VerifiedPackage:
    """Verify a package file against its record in a signed index. Raises VerificationError."""
    where = package.file_name
    try:
        signatures, at = _signatures(data)
        control, end = _inflate_one(data, at)
    except ValueError as error:
        raise VerificationError(f"{where} is no package: {error}") from None
    identity = hashlib.sha1(memoryview(data)[at:end], usedforsecurity=False).digest()
    if identity != package.identity:
        raise VerificationError(
            f"{where} is not the package of the index: expected control segment {checksum_text(package.identity)}, "
            f"got {checksum_text(identity)}"
        )
    keys.verify(signatures, memoryview(data)[at:end], what=where)
    parsed = _parse_control(_members(control + _END, where))
    rest = memoryview(data)[end:]
    came = hashlib.sha256(rest).hexdigest()
    if came != parsed.one("datahash"):
        raise VerificationError(f"{where} has other data: expected sha256 {parsed.one('datahash')}, got {came}")
    if (parsed.one("pkgname"), parsed.one("pkgver")) != (package.name, package.version):
        raise VerificationError(
            f"{where} says that it is {parsed.one('pkgname')}-{parsed.one('pkgver')}: expected {package}"
        )
    return VerifiedPackage(control=parsed, data=rest)


def _signatures(data: bytes) -> tuple[list[Signature], int]:
    """Return the signatures in front and where what they sign begins. Raises ValueError for what is not gzip."""
    found: list[Signature] = []
    at = 0
    if not data.startswith(_MAGIC):
        raise ValueError("it is not gzip" if data else "it is empty")
    # Only a few bytes of what follows are looked at before it is verified.
    while _begins_with(data, at, b".SIGN."):
        head, at = _inflate_one(data, at)
        for name, value in _members(head + _END, "a signature segment").items():
            signature = parse_signature(name, value)
            found += [signature] if signature else []
    return found, at


def _begins_with(data: bytes, at: int, prefix: bytes) -> bool:
    """Whether the stream at `at` expands to something that begins so."""
    try:
        return zlib.decompressobj(_GZIP).decompress(data[at : at + _STEP_BYTES], len(prefix)) == prefix
    except zlib.error:
        return False


def _inflate_one(data: bytes, at: int) -> tuple[bytes, int]:
    """Return one gzip stream's content and where it ends. Raises ValueError when it is none, or breaks off."""
    inflater = zlib.decompressobj(_GZIP)
    out = bytearray()
    try:
        while not inflater.eof and at < len(data):
            step = data[at : at + _STEP_BYTES]
            out += inflater.decompress(step)
            at += len(step) - len(inflater.unused_data)
            if len(out) > _HEAD_MAX_BYTES:
                raise ValueError(f"a segment of more than {_HEAD_MAX_BYTES} bytes")
    except zlib.error:
        raise ValueError("it is not gzip, or damaged") from None
    if not inflater.eof:
        raise ValueError("it breaks off" if out else "it is empty")
    return bytes(out), at


def _inflate_all(data: memoryview) -> bytes:
    """Return the content of all streams to the end; they were verified, so that damage is the packager's."""
    parts = []
    rest: bytes | memoryview = data
    while rest:
        inflater = isal_zlib.decompressobj(_GZIP)
        try:
            parts.append(inflater.decompress(rest))
        except IsalError as error:  # type: ignore[misc]  # the stub takes the class for an instance
            raise FetchError(f"signed data is not gzip: {error}") from None
        if not inflater.eof:
            raise FetchError("signed data breaks off")
        rest = inflater.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _members(tar: bytes, where: str) -> dict[str, bytes]:
    """Return the regular files of a small archive by name."""
    try:
        members = list(read_members(MemoryArchive(tar, where)))
    except TreeError as error:
        raise FetchError(error.message, hint=error.hint) from error
    return {
        member.name: member.entry.content.read()
        for member in members
        if member.entry is not None and member.entry.kind is Kind.FILE
    }


def _parse_control(files: Mapping[str, bytes]) -> Control:
    info: dict[str, tuple[str, ...]] = {}
    for line in files.get(".PKGINFO", b"").decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition(" = ")
        if equals and not line.startswith("#"):
            info[name] = (*info.get(name, ()), value.strip())
    scripts = {name[1:]: content for name, content in files.items() if name.startswith(".") and name != ".PKGINFO"}
    return Control(info=info, scripts=scripts)
