"""Sparse files in archives: the maps of GNU tar's formats, and the content that a map describes.

A map is pieces, (offset in the file, length), of which the archive has the bytes; the rest is holes. Raises ValueError
with what is wrong: which member it is of, the reader of the archive knows.

Source: the GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from osbuilder.tree.entry import Archive, Content, Span
from osbuilder.tree.number import parse_decimal, parse_field

_FIELD_BYTES = 12
_BLOCK_BYTES = 512

Pieces = list[tuple[int, int]]


def old_gnu_pieces(table: bytes) -> Pieces:
    """Return the pieces in a table of a type S member, or of a block that goes on with it."""
    numbers = [_field(table[at : at + _FIELD_BYTES]) for at in range(0, len(table), _FIELD_BYTES)]
    return [pair for pair in zip(numbers[::2], numbers[1::2], strict=True) if pair != (0, 0)]


def pax_0_map(records: Iterable[tuple[str, bytes]], pax: Mapping[str, bytes]) -> tuple[Pieces, int]:
    """Return the map and the file's size of PAX formats 0.0 (repeated keywords) and 0.1 (one with all numbers)."""
    if "GNU.sparse.map" in pax:
        words = pax["GNU.sparse.map"].split(b",") if pax["GNU.sparse.map"] else []
    else:
        words = [value for keyword, value in records if keyword in ("GNU.sparse.offset", "GNU.sparse.numbytes")]
    if len(words) % 2:
        raise ValueError("has a malformed sparse map")
    numbers = [_decimal(word) for word in words]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), _decimal(pax.get("GNU.sparse.size", b""))


def pax_1_0_content(archive: Archive, begin: int, stored: int, pax: Mapping[str, bytes]) -> Content:
    """Return the content in `stored` bytes of PAX format 1.0: decimal lines padded to a block, then the data."""
    at, lines = begin, b""

    def line() -> int:
        nonlocal at, lines
        while b"\n" not in lines:
            if at >= begin + stored:
                raise ValueError("has a sparse map that runs past its data")
            lines += archive.read_at(at, _BLOCK_BYTES)
            at += _BLOCK_BYTES
        word, _, lines = lines.partition(b"\n")
        return _decimal(word)

    pieces = [(line(), line()) for _ in range(line())]
    real_size = _decimal(pax.get("GNU.sparse.realsize", b""))
    return content_of(archive, at, begin + stored - at, pieces, real_size)


def content_of(archive: Archive, begin: int, stored: int, pieces: Pieces, real_size: int) -> Content:
    """Return the content of a file of `real_size` bytes whose pieces are the `stored` bytes from `begin` on."""
    spans: list[Span] = []
    at, source = 0, begin
    for offset, length in pieces:
        if offset < at or offset + length > real_size:
            raise ValueError("has a sparse map that overlaps itself or runs past the file's end")
        if offset > at:
            spans.append(Span(source=None, length_bytes=offset - at))
        if length:
            spans.append(Span(source=archive, offset=source, length_bytes=length))
        at, source = offset + length, source + length
    if source - begin != stored:
        raise ValueError(f"has a sparse map of {source - begin} bytes: expected {stored}, the data that is stored")
    if real_size > at:
        spans.append(Span(source=None, length_bytes=real_size - at))
    return Content(size_bytes=real_size, spans=tuple(spans))


def _field(field: bytes) -> int:
    return _checked(parse_field(field), field)


def _decimal(word: bytes) -> int:
    return _checked(parse_decimal(word), word)


def _checked(number: int | None, text: bytes) -> int:
    if number is None:
        raise ValueError(f"has a malformed number {text[:_FIELD_BYTES]!r} in its sparse map")
    return number
