"""Whom a repository may be signed by: RSA keys that the recipe pins, or that the user names; and what they signed.

Signatures are PKCS#1 v1.5 over the raw bytes that follow the segment which holds them, by SHA-1 (.SIGN.RSA.*), SHA-256
(.SIGN.RSA256.*) or SHA-512 (.SIGN.RSA512.*). SHA-1 is what Alpine's builders sign with to this day (apk-tools 2.14).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from osbuilder.errors import VerificationError

# The name becomes that of a file in the guest.
_NAME: Final = re.compile(r"\.SIGN\.(RSA512|RSA256|RSA)\.([^/]+)")
_PEM: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)
_LEAST_BITS: Final = 2048

# Best first.
_HASHES: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {
    "RSA512": hashes.SHA512,
    "RSA256": hashes.SHA256,
    "RSA": hashes.SHA1,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """One signature: the hash that it says it was made with, and the name of the key."""

    method: str
    key_name: str
    value: bytes


def parse_signature(member_name: str, value: bytes) -> Signature | None:
    """Return the signature of a segment's member, or None for a kind that is not known."""
    found = _NAME.fullmatch(member_name)
    return Signature(found[1], found[2], value) if found else None


@dataclasses.dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key in PEM form, by the name that Alpine gives its file ("" when a user brought it without one)."""

    name: str
    pem: bytes

    def has_made(self, signature: Signature, data: bytes | memoryview) -> bool:
        """Whether this key signed `data`."""
        key = _load(self)
        try:
            key.verify(signature.value, bytes(data), padding.PKCS1v15(), _HASHES[signature.method]())
        except InvalidSignature:
            return False
        return True


def _load(key: TrustedKey) -> rsa.RSAPublicKey:
    try:
        loaded = serialization.load_pem_public_key(key.pem)
    except (ValueError, UnsupportedAlgorithm):
        raise VerificationError(
            f"not a public key in PEM form: {key.name or 'a key of the keyring'}",
            hint="Give a file with -----BEGIN PUBLIC KEY----- blocks (setting keyrings).",
        ) from None
    if not isinstance(loaded, rsa.RSAPublicKey) or loaded.key_size < _LEAST_BITS:
        raise VerificationError(
            f"a key that cannot be trusted ({key.name or 'of the keyring'}): expected RSA of {_LEAST_BITS} bits or more"
        )
    return loaded


@dataclasses.dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The keys of which one has to have signed whatever is taken from a repository."""

    keys: tuple[TrustedKey, ...]

    @classmethod
    def of_file(cls, content: bytes, *, name: str) -> TrustedKeys:
        """Return every key of a user's keyring file, which is trusted as a whole. Raises VerificationError for none.

        A file with one key gives it the file's name, as apk does; further keys go by the name their signatures use.
        """
        found = _PEM.findall(content)
        keys = cls(tuple(TrustedKey(name if len(found) == 1 else "", pem) for pem in found))
        if not keys.keys:
            raise VerificationError(
                f"no key in the keyring ({name}): expected -----BEGIN PUBLIC KEY----- blocks, got none",
                hint="Name the file that abuild-keygen wrote, *.rsa.pub (setting keyrings).",
            )
        for key in keys.keys:
            _load(key)
        return keys

    @property
    def digests(self) -> tuple[str, ...]:
        """The sha256 (hex) of each key, sorted: what they are, however anybody calls them."""
        return tuple(sorted(hashlib.sha256(key.pem).hexdigest() for key in self.keys))

    def verify(self, signatures: Iterable[Signature], data: bytes | memoryview, *, what: str) -> tuple[str, TrustedKey]:
        """Return the key that signed `data` and the name that its signature gives it.

        Raises VerificationError when none of these keys did; `what` names the data.
        """
        given = tuple(signatures)
        for signature in sorted(given, key=lambda each: list(_HASHES).index(each.method)):
            for key in sorted(self.keys, key=lambda each: each.name != signature.key_name):
                if key.has_made(signature, data):
                    return signature.key_name, key
        if not given:
            raise VerificationError(f"{what} is not signed", hint=_HINT)
        ours = {key.name for key in self.keys}
        signers = ", ".join(sorted({signature.key_name for signature in given}))
        if any(signature.key_name in ours for signature in given):
            raise VerificationError(f"the signature of {what} is wrong ({signers}): it was altered", hint=_HINT)
        raise VerificationError(
            f"none of the trusted keys has signed {what}: it says that {signers} did",
            hint="Name the distribution's own mirror (setting mirrors), or the mirror's own key (setting keyrings).",
        )


_HINT: Final = "Do not use this mirror. Name another one (setting mirrors)."


def sha512_of(data: bytes) -> str:
    """Return the sha512 (hex) that a key file is pinned by."""
    return hashlib.sha512(data).hexdigest()
