"""OpenPGP as far as osbuilder knows it: how data files name a key, what gpgv's verdict means, and what was signed.

Sources: GnuPG, doc/DETAILS, "Format of the --status-fd output"; RFC 9580 section 7 (cleartext signature framework).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Final


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What gpgv found: the fingerprint of the primary key of a good signature, or ("" there) the problem."""

    signer: str = ""
    problem: str = ""


# What gpgv may say instead of a good signature, the clearest first, and what it means to a person.
_REFUSALS: Final[Mapping[str, str]] = {
    "BADSIG": "bad signature: this is not what was signed",
    "REVKEYSIG": "signed by a key that was revoked",
    "EXPKEYSIG": "signed by a key that has expired",
    "EXPSIG": "its signature has expired",
    "NO_PUBKEY": "signed by a key that is not among the pinned ones, or is missing from {keys}",
    "ERRSIG": "its signature cannot be checked",
    "NODATA": "what came as its signature is no OpenPGP signature",
}


_BEGIN: Final = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = "-----BEGIN PGP SIGNATURE-----"


def signed_text(text: str) -> str:
    """Return what the signature of a clear-signed text covers; a text without one as it is. Verifies nothing.

    What stands before it, the lines of its header too, anybody may have added: no signature is over them.
    """
    # Lines end with a line feed and nothing else: whoever may write a header may write any character that splits one.
    lines = [line.rstrip(" \t\r") for line in text.split("\n")]
    if _BEGIN not in lines:
        return text
    header = lines.index(_BEGIN)
    begin = lines.index("", header) + 1 if "" in lines[header:] else len(lines)
    end = lines.index(_SIGNATURE, begin) if _SIGNATURE in lines[begin:] else len(lines)
    return "".join(f"{line.removeprefix('- ')}\n" for line in lines[begin:end])


def read_verdict(status: str, *, trusted: Collection[str] | None, keys: str) -> Verdict:
    """Return what gpgv's status lines say. `keys` names in messages where the keys came from.

    Only a signature by one of the keys `trusted` (fingerprints of primary keys) is good; None trusts every key that
    gpgv was given.
    """
    lines = [line.removeprefix("[GNUPG:] ").split() for line in status.splitlines()]
    said = {words[0]: words[1:] for words in lines if words}
    # VALIDSIG comes behind the word that judges the key; its last field is the primary key (doc/DETAILS).
    if "GOODSIG" in said and "VALIDSIG" in said and not said.keys() & _REFUSALS.keys():
        signer = said["VALIDSIG"][-1]
        if trusted is None or signer in trusted:
            return Verdict(signer=signer)
    for word, meaning in _REFUSALS.items():
        if word in said:
            text = meaning.format(keys=keys)
            return Verdict(problem=f"{text} ({' '.join(said[word])})" if said[word] else text)
    return Verdict(problem="its signature was not verified")
