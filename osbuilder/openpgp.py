"""How the data files name an OpenPGP key: by its fingerprint, nothing shorter."""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """An OpenPGP key's fingerprint: 40 hex digits, blanks allowed (a v4 key, RFC 4880 section 12.2)."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Return the fingerprint in capitals without blanks. Raises ValueError."""
        digits = text.replace(" ", "").upper()
        if not re.fullmatch("[0-9A-F]{40}", digits):
            raise ValueError(f'expected a fingerprint of 40 hex digits, got "{text}"')
        return cls(digits)
