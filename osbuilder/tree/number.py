"""Numbers as archives write them: octal or base 256 in the fields of a header, decimal in PAX records."""

from __future__ import annotations

import functools

# 64 bits take no more digits.
_DIGITS_MAX = 20


# Owners, modes and times are the same in thousands of headers: looking one up costs a tenth of parsing it.
@functools.lru_cache(maxsize=4096)
def parse_field(field: bytes) -> int | None:
    """Return the number in a header's field: octal digits, or GNU's base 256; None for anything else."""
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    return None if text.strip(b"01234567") else int(text, 8)


def parse_decimal(text: bytes) -> int | None:
    """Return the number that decimal digits are; None for anything else, and for more of them than 64 bits take."""
    return int(text) if text.isdigit() and len(text) <= _DIGITS_MAX else None
