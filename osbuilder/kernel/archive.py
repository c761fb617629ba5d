"""Reads a kernel source archive (tar, zstd) to its end and refuses what is unsafe or no kernel.

The archive is never unpacked on the host. It is walked header by header, which costs little more than its
decompression. Format: POSIX.1-2017 pax (ustar blocks and extended headers) and GNU tar's L and K members.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import zstandard

from osbuilder.errors import SourceError

if TYPE_CHECKING:
    from osbuilder.step import Job

ARCHIVE: Final = "source.tar.zst"
"""What every step that makes a kernel source calls its file."""

UNPACKED_MAX_BYTES: Final = 8 << 30
"""A source's tar may be this large. Linux 6.12 takes 1.6 GB."""

_MEMBERS_MAX: Final = 1_000_000  # Linux 6.12 has 93,000
_BLOCK: Final = 512
_CHUNK_BYTES: Final = 1 << 20
_HEADER_MAX_BYTES: Final = 1 << 20  # of an extended header or a long name
_MAKEFILE_MAX_BYTES: Final = 1 << 20
_KERNEL_FILES: Final = ("Kconfig", "Makefile", "scripts/kconfig/Makefile")
_VERSION: Final = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)[ \t]*$", re.MULTILINE)
_RELEASE: Final = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?[-+.~_A-Za-z0-9]*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelSource:
    """What a source archive says about itself: the kernel's version and the newest timestamp of its members."""

    version: str
    epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: bytes
    link: str
    size: int
    mtime: int


def deliver(job: Job, output: Path, *, origin: str) -> dict[str, Any]:
    """Check the archive that a script left in `output`, make it the artifact, return the facts of every kind."""
    found = inspect(output / ARCHIVE, origin=origin)
    (output / ARCHIVE).rename(job.out / ARCHIVE)
    return {"version": found.version, "epoch": found.epoch, "origin": origin}


def too_large(origin: str) -> SourceError:
    """Return the refusal of an archive that unpacks to more than UNPACKED_MAX_BYTES."""
    return SourceError(
        f"{origin}: unpacks to more than {UNPACKED_MAX_BYTES >> 30} GiB: expected the source of a kernel (1.6 GB)",
        hint="Nothing of it was used. Check where the kernel line in versions.yaml gets it from.",
    )


def inspect(path: Path, *, origin: str) -> KernelSource:
    """Walk a zstd-compressed tar of a kernel source that has one top folder; `origin` is its name in messages.

    Raises SourceError: damaged archive; a member that is absolute, leaves the top folder, stands twice, lies below a
    link, or is neither file, folder nor link; a link that leads out, also through other links; more members or bytes
    than a kernel has; not a kernel source.
    """
    try:
        with path.open("rb") as packed:
            plain = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            return _inspect(_Stream(plain, origin), origin)
    except zstandard.ZstdError as error:
        raise SourceError(f"{origin}: damaged archive: {error}") from error


def parse_version(makefile: str, *, origin: str) -> str:
    """Return the version that the top Makefile of a kernel declares ("6.12.57", "6.13.0-rc2"). Raises SourceError."""
    found: dict[str, str] = dict(reversed(_VERSION.findall(makefile)))
    parts = [found.get(name, "") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    version = ".".join(part for part in parts if part) + found.get("EXTRAVERSION", "")
    if not (parts[0] and parts[1] and _RELEASE.fullmatch(version)):
        raise SourceError(
            f"{origin}: no kernel version in its Makefile: expected VERSION, PATCHLEVEL and SUBLEVEL, got {version!r}",
            hint="Name a complete source of the Linux kernel.",
        )
    return version


def _inspect(stream: _Stream, origin: str) -> KernelSource:
    top = ""
    makefile = ""
    epoch = 0
    names: set[str] = set()
    links: dict[str, str] = {}
    for member in _members(stream):
        name = _safe_name(member, origin)
        top = top or name.split("/", 1)[0]
        inside = _below(name, top)
        if inside is None:
            raise SourceError(f"{origin}: expected one top folder ({top}/), got the member {member.name!r}")
        if inside in names and member.kind != b"5":
            raise SourceError(f"{origin}: the member {member.name!r} stands in the archive twice")
        names.add(inside)
        if len(names) > _MEMBERS_MAX:
            raise SourceError(f"{origin}: more than {_MEMBERS_MAX:,} members: expected the source of a kernel")
        _check_kind(member, name, top, origin)
        if member.kind == b"2":
            links[name] = member.link
        epoch = max(epoch, member.mtime)
        if inside == "Makefile" and member.size <= _MAKEFILE_MAX_BYTES:
            makefile = stream.peek(member.size).decode("utf-8", "replace")
        stream.skip(member.size)
    _check_links(links, {posixpath.dirname(f"{top}/{name}") for name in names}, origin)
    missing = [name for name in _KERNEL_FILES if name not in names]
    if missing:
        raise SourceError(
            f"{origin}: not a kernel source: it has no {', '.join(missing)}",
            hint="Name a complete source of the Linux kernel, with its files in one top folder.",
        )
    return KernelSource(version=parse_version(makefile, origin=origin), epoch=epoch)


def _safe_name(member: _Member, origin: str) -> str:
    """Return a member's name without `.` parts. Raises SourceError for one that could leave the folder."""
    if member.name.startswith("/"):
        raise SourceError(f"{origin}: unsafe member {member.name!r}: its name is absolute")
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SourceError(f"{origin}: unsafe member {member.name!r}: its name leads upwards")
    return "/".join(parts)


def _below(name: str, top: str) -> str | None:
    """Return a name relative to the top folder: "" for the folder itself, None for what is not in it."""
    if name == top:
        return ""
    return name[len(top) + 1 :] if name.startswith(f"{top}/") else None


def _check_kind(member: _Member, name: str, top: str, origin: str) -> None:
    """Refuse devices and the like, and links that lead out of the top folder."""
    if member.kind in (b"0", b"\0", b"7", b"5"):
        return
    if member.kind == b"2":
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.link))
    elif member.kind == b"1":
        target = posixpath.normpath(member.link)
    else:
        raise SourceError(f"{origin}: unsafe member {member.name!r}: neither file, folder nor link")
    if _below(target, top) is None:
        raise SourceError(f"{origin}: unsafe member {member.name!r}: its link to {member.link!r} leads out")


def _check_links(links: Mapping[str, str], folders: Set[str], origin: str) -> None:
    """Refuse members that lie below a link, and links whose way leads through another one.

    Where such a way ends is not to be seen from the names alone: `a/..` is somewhere else if `a` is a link.
    """
    for folder in sorted(folders):
        for above in _ancestors(f"{folder}/"):
            if above in links:
                raise SourceError(f"{origin}: unsafe member {above!r}: it is a link, and other members lie below it")
    for name, target in links.items():
        way = posixpath.dirname(name)
        for part in target.split("/")[:-1]:
            way = posixpath.normpath(posixpath.join(way, part))
            if way in links:
                raise SourceError(f"{origin}: unsafe member {name!r}: its way to {target!r} leads through a link")


def _ancestors(name: str) -> Iterator[str]:
    """Yield the folders above a name, the top first."""
    at = name.find("/")
    while at >= 0:
        yield name[:at]
        at = name.find("/", at + 1)


class _Stream:
    """The plain bytes of an archive. Raises SourceError where they end too early, or are too many."""

    def __init__(self, plain: BinaryIO | zstandard.ZstdDecompressionReader, origin: str) -> None:
        self._plain = plain
        self._buffer = b""
        self._at = 0
        self._read_bytes = 0
        self.origin = origin

    def damaged(self, what: str) -> SourceError:
        return SourceError(f"{self.origin}: damaged archive: {what}")

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without consuming them."""
        while len(self._buffer) - self._at < size:
            self._buffer = self._buffer[self._at :] + self._more()
            self._at = 0
        return self._buffer[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Consume and return `size` bytes."""
        data = self.peek(size)
        self._at += size
        return data

    def skip(self, size: int) -> None:
        """Consume a member's content and its padding to a whole block."""
        left = -(-size // _BLOCK) * _BLOCK
        while left > len(self._buffer) - self._at:
            left -= len(self._buffer) - self._at
            self._buffer, self._at = self._more(), 0
        self._at += left

    def _more(self) -> bytes:
        chunk = self._plain.read(_CHUNK_BYTES)
        if not chunk:
            raise self.damaged("it ends early")
        self._read_bytes += len(chunk)
        if self._read_bytes > UNPACKED_MAX_BYTES:
            raise too_large(self.origin)
        return chunk

    def extended(self, size: int) -> bytes:
        """Consume and return the content of a header member."""
        if size > _HEADER_MAX_BYTES:
            raise self.damaged(f"a header of {size} bytes")
        data = self.peek(size)
        self.skip(size)
        return data


def _members(stream: _Stream) -> Iterator[_Member]:
    """Yield the members; the caller skips each one's content."""
    pending: dict[str, bytes] = {}
    while True:
        block = stream.take(_BLOCK)
        if not any(block):
            return
        if _number(block[148:156], stream) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise stream.damaged("a header has a wrong checksum")
        kind = block[156:157]
        size = _number(block[124:136], stream)
        if kind in (b"L", b"K"):
            pending["path" if kind == b"L" else "linkpath"] = stream.extended(size).rstrip(b"\0")
        elif kind == b"x":
            pending |= _records(stream.extended(size), stream)
        elif kind == b"g":
            stream.extended(size)
        else:
            yield _member(block, kind, size, pending, stream)
            pending = {}


def _member(block: bytes, kind: bytes, size: int, pending: dict[str, bytes], stream: _Stream) -> _Member:
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    mtime = pending["mtime"].split(b".")[0] if "mtime" in pending else b"%d" % _number(block[136:148], stream)
    try:
        return _Member(
            name=pending.get("path", name).decode("utf-8", "surrogateescape"),
            kind=kind,
            link=pending.get("linkpath", _text(block[157:257])).decode("utf-8", "surrogateescape"),
            size=int(pending.get("size", b"%d" % size)) if kind not in (b"1", b"2", b"5") else 0,
            mtime=int(mtime),
        )
    except ValueError:
        raise stream.damaged("an extended header holds no number where one must be") from None


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes, stream: _Stream) -> int:
    """Read a numeric field: octal, or base 256 where the first bit is set (GNU)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(_text(field).strip() or b"0", 8)
    except ValueError:
        raise stream.damaged("a header field is no number") from None


def _records(data: bytes, stream: _Stream) -> dict[str, bytes]:
    """Read the records of an extended header: "LENGTH KEYWORD=VALUE\\n" each."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        length, blank, _ = data[at : at + 20].partition(b" ")
        if not (blank and length.isdigit() and int(length) > len(length) + 1):
            raise stream.damaged("an extended header is malformed")
        keyword, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[keyword.decode("utf-8", "replace")] = value
        if keyword.startswith(b"GNU.sparse"):
            # A sparse file claims any size without having the bytes.
            raise stream.damaged("a sparse file, which no kernel source has")
        at += int(length)
    return found
