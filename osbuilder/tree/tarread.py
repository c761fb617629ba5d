"""Reads a rootfs archive: ustar, PAX and GNU headers to members whose content stays where it is.

An own parser, because Python's tarfile accepts what this must refuse, and is slower (bench/bench_tree.py). Formats:
POSIX.1-2024 pax(1) for ustar and PAX, the GNU tar manual ("Basic Tar Format", "Storing Sparse Files") for the rest,
star(5) for SCHILY keywords.

Owns the format. Which members go together as a tree is tree.py's business.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import struct
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NoReturn

from osbuilder.errors import TreeError
from osbuilder.tree.entry import CHUNK_BYTES, EMPTY, Archive, Content, Entry, Kind, Span
from osbuilder.tree.number import parse_decimal, parse_field
from osbuilder.tree.sparse import Pieces, content_of, old_gnu_pieces, pax_0_map, pax_1_0_content

BLOCK_BYTES = 512
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
# A header's successor is often near, because most files are small: read at once, they cost one call.
_WINDOW_BYTES = 16 << 10
# Long names and xattrs fit many times over; more is an attack on memory, not a rootfs.
_EXTENSION_LIMIT_BYTES = 4 << 20
# PATH_MAX (linux/limits.h): nothing in a guest could open a longer one.
_NAME_LIMIT_BYTES = 4096
# A uid_t has 32 bits, and the last number of them means nobody (chown(2), user_namespaces(7)).
_OWNER_MAX = 2**32 - 2
_MAJOR_MAX, _MINOR_MAX = 2**12 - 1, 2**20 - 1  # what Linux has room for (include/linux/kdev_t.h)
# As much of a member's own words as a message has.
_SHOWN = 80

_KINDS = {
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIR,
    b"6": Kind.FIFO,
}
_FILE_TYPES = (b"0", b"\0", b"7", b"S")
_ACL_KEYWORDS = ("SCHILY.acl.access", "SCHILY.acl.default")

Pax = tuple[tuple[str, bytes], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member: a name with an entry, or a name that is a hard link to an earlier one (`link`).

    Names are relative, without `.` or empty components; the root is "". `acls` are ACLs in text form, (keyword, text):
    they may name users whose numbers only the archive's own /etc/passwd knows. `owner` is (user, group) by name, as the
    header has it: "" where it says nothing.
    """

    name: str
    offset: int
    entry: Entry | None
    link: str | None = None
    acls: tuple[tuple[str, str], ...] = ()
    owner: tuple[str, str] = ("", "")


def normalise_name(name: str) -> str:
    """Return a member's name without `.` and empty components; "" is the root. Raises ValueError when it escapes."""
    if name.startswith("/"):
        raise ValueError("is absolute")
    if "\0" in name:
        raise ValueError("contains a NUL byte")
    parts = [part for part in name.split("/") if part and part != "."]
    if ".." in parts:
        raise ValueError("contains `..`")
    if not parts and not name:
        raise ValueError("is empty")
    return "/".join(parts)


def read_members(archive: Archive, *, name_of: Callable[[str], str] = normalise_name) -> Iterator[Member]:
    """Yield the members in the order of the archive. Raises TreeError that names the member and its offset.

    `name_of` says what a name in the archive, a member's or a hard link's, means in a tree: see `normalise_name`.
    """
    return _Reader(archive, name_of).members()


@dataclasses.dataclass(slots=True)
class _Extension:
    """What the extension headers in front of a member say about it."""

    pax: Pax = ()
    long_name: bytes | None = None
    long_link: bytes | None = None
    seen: bool = False


class _Reader:
    def __init__(self, archive: Archive, name_of: Callable[[str], str]) -> None:
        self.archive = archive
        self.name_of = name_of
        self.position = 0
        self.start = 0
        self.shown = ""
        self.window = b""
        self.window_at = 0
        self.global_pax: Pax = ()

    def fail(self, what: str, *, hint: str = "") -> NoReturn:
        member = f"member {self.shown!r} at byte {self.start}" if self.shown else f"header at byte {self.start}"
        raise TreeError(f"bad archive ({self.archive.label}): {member} {what}", hint=hint)

    def members(self) -> Iterator[Member]:
        if self.archive.size_bytes == 0:
            raise TreeError(f"bad archive ({self.archive.label}): expected a tar archive, got an empty file")
        while True:
            self.start, self.shown = self.position, ""
            extension = _Extension()
            while True:
                header = self.block()
                if header == _ZERO_BLOCK:
                    if extension.seen:
                        self.fail("is an extension header with no member after it")
                    self.finish()
                    return
                fields = _HEADER.unpack(header)
                self.check(header, fields[6])
                if not self.extend(extension, fields):
                    break
            yield self.member(fields, header, extension)

    def block(self) -> bytes:
        inside = self.position - self.window_at
        if inside + BLOCK_BYTES > len(self.window):
            self.window, self.window_at, inside = self.archive.read_at(self.position, _WINDOW_BYTES), self.position, 0
        header = self.window[inside : inside + BLOCK_BYTES]
        if len(header) < BLOCK_BYTES:
            self.fail(
                f"is missing: the archive is truncated at byte {self.archive.size_bytes}, without its end mark",
                hint="Fetch or build the archive again.",
            )
        self.position += BLOCK_BYTES
        return header

    def check(self, header: bytes, stored: bytes) -> None:
        computed = sum(header) - sum(stored) + 8 * 0x20
        expected = self.number(stored, "checksum")
        if computed != expected:
            self.fail(
                f"has a wrong checksum: expected {expected}, got {computed}",
                hint="This is not a tar archive, or it is damaged.",
            )

    def finish(self) -> None:
        """Take the end mark: two blocks of zeros, then nothing but zeros."""
        if self.block() != _ZERO_BLOCK:
            self.fail("follows a lone block of zeros: expected the end mark")
        while chunk := self.archive.read_at(self.position, CHUNK_BYTES):
            if chunk.count(0) != len(chunk):
                self.fail(f"is the end mark, but bytes other than zero follow it (near byte {self.position})")
            self.position += len(chunk)

    def number(self, field: bytes, what: str) -> int:
        value = parse_field(field)
        if value is None:
            self.fail(f"has a malformed {what} field {field!r}")
        return value

    def data(self, size_bytes: int) -> int:
        """Step over `size_bytes` of data and the padding; return where the data begins."""
        begin = self.position
        if size_bytes < 0:
            self.fail(f"has a negative size {size_bytes}")
        if begin + size_bytes > self.archive.size_bytes:
            self.fail(
                f"is truncated: its data ends at byte {begin + size_bytes}, the archive at {self.archive.size_bytes}",
                hint="Fetch or build the archive again.",
            )
        self.position = begin + size_bytes + -size_bytes % BLOCK_BYTES
        return begin

    def extension_data(self, size_bytes: int) -> bytes:
        if size_bytes > _EXTENSION_LIMIT_BYTES:
            self.fail(f"has an extension header of {size_bytes} bytes: expected at most {_EXTENSION_LIMIT_BYTES}")
        return self.archive.read_at(self.data(size_bytes), size_bytes)

    def extend(self, extension: _Extension, fields: tuple[bytes, ...]) -> bool:
        """Take an extension header's data into `extension`; return False for a member's own header."""
        kind = fields[7]
        if kind not in b"xXgLK":
            return False
        data = self.extension_data(self.number(fields[4], "size"))
        extension.seen = True
        if kind in b"xX":
            extension.pax = self.parse_pax(data)
        elif kind == b"g":
            fresh = self.parse_pax(data)
            replaced = {keyword for keyword, _ in fresh}
            self.global_pax = tuple(pair for pair in self.global_pax if pair[0] not in replaced) + fresh
            extension.seen = False
        elif kind == b"L":
            extension.long_name = data.rstrip(b"\0")
        else:
            extension.long_link = data.rstrip(b"\0")
        return True

    def parse_pax(self, data: bytes) -> Pax:
        records = []
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 20)
            digits = data[position:space]
            end = position + int(digits) if space > 0 and digits.isdigit() else 0
            keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not position < end <= len(data) or data[end - 1] != 0x0A or not equals:
                self.fail("has a malformed PAX record")
            records.append((keyword.decode("utf-8", "surrogateescape"), value))
            position = end
        return tuple(records)

    def member(self, fields: tuple[bytes, ...], header: bytes, extension: _Extension) -> Member:
        records = self.global_pax + extension.pax
        pax = dict(records) if records else {}
        raw_name = _name(fields, header)
        if extension.long_name is not None:
            raw_name = extension.long_name
        raw_name = pax.get("GNU.sparse.name") or pax.get("path") or raw_name
        name = raw_name.decode("utf-8", "surrogateescape")
        self.shown = name[:_SHOWN]
        if len(raw_name) > _NAME_LIMIT_BYTES:
            self.fail(f"is refused: its name goes on for {len(raw_name)} bytes, expected at most {_NAME_LIMIT_BYTES}")
        kind = fields[7]
        if kind in _FILE_TYPES and name.endswith("/"):  # how archives before POSIX marked folders
            kind = b"5"
        try:
            normal = self.name_of(name)
        except ValueError as error:
            self.fail(f"is refused: its name {error}")
        raw_link = pax.get("linkpath") or extension.long_link or fields[8].partition(b"\0")[0]
        size = self.decimal(pax, "size", fields[4])
        if kind == b"1":
            return self.hard_link(normal, raw_link.decode("utf-8", "surrogateescape"), size)
        if kind in _FILE_TYPES:
            content = self.content(kind, header, size, records, pax)
        elif kind in _KINDS:
            content = EMPTY
            if size:
                self.fail(f"is a {_KINDS[kind].value} with {size} bytes of data: expected none")
        else:
            self.fail(f"has type {kind!r}: expected a file, folder, link, device or fifo")
        entry = self.entry(_KINDS.get(kind, Kind.FILE), fields, pax, content, raw_link)
        acls = tuple((word, pax[word].decode("utf-8", "surrogateescape")) for word in _ACL_KEYWORDS if pax.get(word))
        return Member(name=normal, offset=self.start, entry=entry, acls=acls, owner=_owner(fields, pax))

    def entry(
        self, kind: Kind, fields: tuple[bytes, ...], pax: dict[str, bytes], content: Content, link: bytes
    ) -> Entry:
        is_device = kind in (Kind.CHAR, Kind.BLOCK)
        if kind is Kind.SYMLINK and not link:
            self.fail("is a symlink without a target")
        return Entry(
            kind=kind,
            # A symlink has no permissions of its own on Linux.
            mode=0o777 if kind is Kind.SYMLINK else self.number(fields[1], "mode") & 0o7777,
            uid=self.account(pax, "uid", fields[2]),
            gid=self.account(pax, "gid", fields[3]),
            mtime_s=self.mtime(pax, fields[5]),
            content=content,
            target=link.decode("utf-8", "surrogateescape") if kind is Kind.SYMLINK else "",
            device=self.device(fields) if is_device else (0, 0),
            xattrs=self.xattrs(pax) if pax else (),
        )

    def hard_link(self, name: str, target: str, size: int) -> Member:
        if size:
            self.fail(f"is a hard link with {size} bytes of data: readers disagree on what that means")
        try:
            return Member(name=name, offset=self.start, entry=None, link=self.name_of(target))
        except ValueError as error:
            self.fail(f"is refused: the name {target!r} that it links to {error}")

    def decimal(self, pax: dict[str, bytes], keyword: str, field: bytes) -> int:
        text = pax.get(keyword)
        if not text:
            return self.number(field, keyword)
        return self.pax_number(keyword, text, text)

    def account(self, pax: dict[str, bytes], keyword: str, field: bytes) -> int:
        number = self.decimal(pax, keyword, field)
        if not 0 <= number <= _OWNER_MAX:
            self.fail(
                f"has the {keyword} {number}: expected a number from 0 to {_OWNER_MAX}",
                hint="Write the archive with an owner that a guest can have.",
            )
        return number

    def device(self, fields: tuple[bytes, ...]) -> tuple[int, int]:
        major, minor = self.number(fields[12], "major"), self.number(fields[13], "minor")
        if not (0 <= major <= _MAJOR_MAX and 0 <= minor <= _MINOR_MAX):
            self.fail(
                f"is the device {major}:{minor}: expected numbers from 0:0 to {_MAJOR_MAX}:{_MINOR_MAX}",
                hint="Write the archive with a device that Linux can have.",
            )
        return major, minor

    def mtime(self, pax: dict[str, bytes], field: bytes) -> int:
        text = pax.get("mtime")
        if not text:
            return self.number(field, "mtime")
        # Whole seconds, rounded down: a fraction exists in PAX only, and trees must not depend on the format.
        whole, _, fraction = text.partition(b".")
        if fraction and not fraction.isdigit():
            self.fail(f"has a malformed PAX mtime {text[:_SHOWN]!r}")
        seconds = self.pax_number("mtime", text, whole.removeprefix(b"-"))
        if not whole.startswith(b"-"):
            return seconds
        return -seconds - (1 if fraction.strip(b"0") else 0)

    def pax_number(self, keyword: str, text: bytes, digits: bytes) -> int:
        value = parse_decimal(digits)
        if value is None:
            self.fail(f"has a malformed PAX {keyword} {text[:_SHOWN]!r}")
        return value

    def xattrs(self, pax: dict[str, bytes]) -> tuple[tuple[str, bytes], ...]:
        found: dict[str, bytes] = {}
        for keyword, value in pax.items():
            if keyword.startswith("LIBARCHIVE.xattr."):
                name = urllib.parse.unquote(keyword.removeprefix("LIBARCHIVE.xattr."))
                found.setdefault(name, self.base64(value))
            elif keyword.startswith("SCHILY.xattr."):
                found[keyword.removeprefix("SCHILY.xattr.")] = value
            elif keyword == "RHT.security.selinux":  # GNU tar --selinux drops the final NUL that the kernel keeps
                found.setdefault("security.selinux", value.rstrip(b"\0") + b"\0")
        return tuple(sorted(found.items()))

    def base64(self, value: bytes) -> bytes:
        try:  # libarchive leaves the padding out
            return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except ValueError:
            self.fail("has an xattr that is not base64")

    def content(self, kind: bytes, header: bytes, size: int, records: Pax, pax: dict[str, bytes]) -> Content:
        try:
            if kind == b"S":
                pieces, real_size = self.old_gnu_map(header)
            elif pax.get("GNU.sparse.major") == b"1" and pax.get("GNU.sparse.minor") == b"0":
                return pax_1_0_content(self.archive, self.data(size), size, pax)
            elif "GNU.sparse.map" in pax or "GNU.sparse.size" in pax:
                pieces, real_size = pax_0_map(records, pax)
            else:
                begin = self.data(size)
                if not size:
                    return EMPTY
                return Content(size_bytes=size, spans=(Span(source=self.archive, offset=begin, length_bytes=size),))
            return content_of(self.archive, self.data(size), size, pieces, real_size)
        except ValueError as error:
            self.fail(str(error))

    def old_gnu_map(self, header: bytes) -> tuple[Pieces, int]:
        """Take the sparse map of a type S member: four pieces in the header, 21 in each block that follows."""
        pieces = old_gnu_pieces(header[386:482])
        more = header[482]
        while more:
            block = self.block()
            pieces += old_gnu_pieces(block[:504])
            more = block[504]
        return pieces, self.number(header[483:495], "real size")


@functools.lru_cache(maxsize=256)
def _account(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _owner(fields: tuple[bytes, ...], pax: dict[str, bytes]) -> tuple[str, str]:
    return _account(pax.get("uname") or fields[10]), _account(pax.get("gname") or fields[11])


def _name(fields: tuple[bytes, ...], header: bytes) -> bytes:
    name = fields[0].partition(b"\0")[0]
    if fields[9] != b"ustar\x0000":  # GNU and older formats use the prefix for other things
        return name
    prefix = fields[14]
    if header[508:] == b"tar\0":  # star: a shorter prefix, then atime and ctime
        prefix = prefix[:131]
    prefix = prefix.partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name
