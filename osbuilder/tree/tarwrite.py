"""Writes tar members so that equal entries give equal bytes: ustar where it can say it, PAX records where it cannot.

No names of users, no fractions of seconds, no sparse maps, records sorted. Format: POSIX.1-2024 pax(1).
"""

from __future__ import annotations

from osbuilder.tree.entry import Entry, Kind, Sink

BLOCK_BYTES = 512
# GNU tar's default record: some readers (tape-minded ones) expect whole records.
_RECORD_BYTES = 10240
_PAX_NAME = b"././@PaxHeader"
_TYPES = {
    Kind.FILE: b"0",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIR: b"5",
    Kind.FIFO: b"6",
}
_LINK = b"1"


def write_entry(sink: Sink, name: str, entry: Entry, *, epoch: int) -> None:
    """Write an entry's member: headers, content, padding. The root's name is ""."""
    size = entry.content.size_bytes if entry.kind is Kind.FILE else 0
    records = [(f"SCHILY.xattr.{key}".encode("utf-8", "surrogateescape"), value) for key, value in entry.xattrs]
    target = entry.target.encode("utf-8", "surrogateescape")
    _write_headers(sink, _TYPES[entry.kind], _stored(name, entry), entry, target, size, records, epoch)
    if size:
        for chunk in entry.content.chunks():
            sink.write(chunk)
        sink.pad(BLOCK_BYTES)


def write_link(sink: Sink, name: str, entry: Entry, first: str, *, epoch: int) -> None:
    """Write a further name of an entry whose first name was written as `first`."""
    _write_headers(sink, _LINK, _stored(name, entry), entry, _stored(first, entry), 0, [], epoch)


def write_end(sink: Sink) -> None:
    """Write the end mark and pad to a whole record."""
    sink.write(bytes(2 * BLOCK_BYTES))
    sink.pad(_RECORD_BYTES)


def _stored(name: str, entry: Entry) -> bytes:
    # `./` in front, as dpkg and mmdebstrap write: the root has a name this way, and none looks like an option.
    path = b"./" + name.encode("utf-8", "surrogateescape")
    return path + b"/" if name and entry.kind is Kind.DIR else path


def _write_headers(
    sink: Sink,
    kind: bytes,
    path: bytes,
    entry: Entry,
    target: bytes,
    size: int,
    records: list[tuple[bytes, bytes]],
    epoch: int,
) -> None:
    mtime = entry.clamped_mtime_s(epoch)
    prefix, name = _split(path)
    if not name:
        records.append((b"path", path))
        name = path[:100]
    if len(target) > 100:
        records.append((b"linkpath", target))
    for keyword, value, digits in (
        (b"uid", entry.uid, 7),
        (b"gid", entry.gid, 7),
        (b"size", size, 11),
        (b"mtime", mtime, 11),
    ):
        if not 0 <= value < 8**digits:
            records.append((keyword, b"%d" % value))
    if records:
        _write_pax(sink, records)
    sink.write(
        _header(
            kind=kind,
            name=name,
            prefix=prefix,
            target=target[:100],
            mode=entry.mode,
            uid=entry.uid if 0 <= entry.uid < 8**7 else 0,
            gid=entry.gid if 0 <= entry.gid < 8**7 else 0,
            size=size if size < 8**11 else 0,
            mtime=mtime if 0 <= mtime < 8**11 else 0,
            device=entry.device,
        )
    )


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Return (prefix, name) as ustar stores a path; an empty name when it does not fit."""
    if len(path) <= 100:
        return b"", path
    cut = path.find(b"/", max(len(path) - 101, 0))
    # The slash that ends a folder's name is no place to cut.
    if cut <= 0 or cut > 155 or cut >= len(path) - 1:
        return b"", b""
    return path[:cut], path[cut + 1 :]


def _write_pax(sink: Sink, records: list[tuple[bytes, bytes]]) -> None:
    if not all(_is_utf8(value) for keyword, value in records if keyword in (b"path", b"linkpath")):
        records.append((b"hdrcharset", b"BINARY"))
    data = b"".join(_record(keyword, value) for keyword, value in sorted(records))
    sink.write(_header(kind=b"x", name=_PAX_NAME, size=len(data)))
    sink.write(data)
    sink.pad(BLOCK_BYTES)


def _record(keyword: bytes, value: bytes) -> bytes:
    # The length counts its own digits.
    body = len(keyword) + len(value) + 3
    length = body + len(str(body))
    length = body + len(str(length))
    return b"%d %b=%b\n" % (length, keyword, value)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(
    *,
    kind: bytes,
    name: bytes,
    prefix: bytes = b"",
    target: bytes = b"",
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    front = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    back = b"%b%bustar\x0000%b%07o\0%07o\0%b" % (
        kind,
        target.ljust(100, b"\0"),
        bytes(64),
        *device,
        prefix.ljust(167, b"\0"),
    )
    return b"%b%06o\0 %b" % (front, sum(front) + 8 * 0x20 + sum(back), back)
