"""A signing key, cleartext and detached signatures in the OpenPGP format, without any OpenPGP program.

For tests that serve a signed repository: the same seed gives the same key, the same text the same signature.

Source: RFC 4880 (packets: 4.2, 5.2, 5.5, 5.11; cleartext signatures: 7; armour and its CRC-24: 6; fingerprint: 12.2),
RFC 8017 section 9.2 (EMSA-PKCS1-v1_5).
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
import struct

_RSA = 1
_SHA256 = 8
# DER of AlgorithmIdentifier for SHA-256 and the OCTET STRING header of its digest (RFC 8017 section 9.2, note 1).
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_PUBLIC_EXPONENT = 65537
_CREATED = 1577836800  # 2020-01-01, before any repository that the tests sign


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """An RSA key of 2048 bits and its owner. Make one with `Key.of_seed`. Of its `primes` the smaller comes first."""

    modulus: int
    private_exponent: int
    owner: str
    primes: tuple[int, int]

    @classmethod
    def of_seed(cls, seed: int, owner: str = "Test Archive <archive@example.org>") -> Key:
        """Return the key of a seed. It is no secret: never trust it outside of a test."""
        source = random.Random(seed)
        first, second = sorted((_prime(source), _prime(source)))
        exponent = pow(_PUBLIC_EXPONENT, -1, (first - 1) * (second - 1))
        return cls(modulus=first * second, private_exponent=exponent, owner=owner, primes=(first, second))

    @property
    def fingerprint(self) -> str:
        """40 hex digits."""
        return self._fingerprint().hex().upper()

    def public(self, *, valid_s: int | None = None) -> bytes:
        """Return the public key as a binary keyring: key, owner, and the self-signature that binds them.

        `valid_s` is how long the key is valid from its creation, in seconds (RFC 4880, 5.2.3.6).
        """
        return _packet(6, self._body()) + self._identity(valid_s)

    def secret(self) -> str:
        """Return the secret key, armoured and without a passphrase, for programs that sign."""
        numbers = (self.private_exponent, *self.primes, pow(self.primes[0], -1, self.primes[1]))
        material = b"".join(_number(number) for number in numbers)
        body = self._body() + b"\x00" + material + struct.pack(">H", sum(material) & 0xFFFF)
        return _armour(_packet(5, body) + self._identity(None), kind="PRIVATE KEY BLOCK")

    def _identity(self, valid_s: int | None) -> bytes:
        owner = self.owner.encode()
        bound = self._key_material() + b"\xb4" + struct.pack(">I", len(owner)) + owner
        may_sign = b"\x02\x1b\x03"  # key flags: certify and sign
        expires = b"\x05\x09" + struct.pack(">I", valid_s) if valid_s else b""
        signature = self._signature(0x13, bound, created=_CREATED, further=may_sign + expires)
        return _packet(13, owner) + _packet(2, signature)

    def clearsign(self, text: str, *, created: int = _CREATED) -> str:
        """Return the text with its signature, as an InRelease file has it. Lines must not begin with a dash."""
        lines = text.rstrip("\n").split("\n")
        signed = "\r\n".join(line.rstrip() for line in lines).encode()
        armour = _armour(_packet(2, self._signature(0x01, signed, created=created)))
        return f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text.rstrip()}\n{armour}"

    def sign(self, data: bytes, *, created: int = _CREATED) -> str:
        """Return a detached signature of binary data, armoured, as a kernel's .sign file has it."""
        return _armour(_packet(2, self._signature(0x00, data, created=created)))

    def _body(self) -> bytes:
        return struct.pack(">BIB", 4, _CREATED, _RSA) + _number(self.modulus) + _number(_PUBLIC_EXPONENT)

    def _key_material(self) -> bytes:
        return b"\x99" + struct.pack(">H", len(self._body())) + self._body()

    def _fingerprint(self) -> bytes:
        return hashlib.sha1(self._key_material(), usedforsecurity=False).digest()

    def _signature(self, kind: int, data: bytes, *, created: int, further: bytes = b"") -> bytes:
        fingerprint = self._fingerprint()
        hashed = b"\x05\x02" + struct.pack(">I", created) + b"\x16\x21\x04" + fingerprint + further
        head = struct.pack(">BBBBH", 4, kind, _RSA, _SHA256, len(hashed)) + hashed
        digest = hashlib.sha256(data + head + b"\x04\xff" + struct.pack(">I", len(head))).digest()
        unhashed = b"\x09\x10" + fingerprint[-8:]
        return head + struct.pack(">H", len(unhashed)) + unhashed + digest[:2] + _number(self._sign(digest))

    def _sign(self, digest: bytes) -> int:
        size = (self.modulus.bit_length() + 7) // 8
        info = _DIGEST_INFO + digest
        padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        return pow(int.from_bytes(padded), self.private_exponent, self.modulus)


def _prime(source: random.Random) -> int:
    while True:
        candidate = source.getrandbits(1024) | (3 << 1022) | 1
        if candidate % _PUBLIC_EXPONENT != 1 and _is_prime(candidate, source):
            return candidate


def _is_prime(number: int, source: random.Random) -> bool:
    """Miller-Rabin with ten bases."""
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)):
        return False
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    for _ in range(10):
        value = pow(source.randrange(2, number - 1), (number - 1) >> twos, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def _number(value: int) -> bytes:
    return struct.pack(">H", value.bit_length()) + value.to_bytes((value.bit_length() + 7) // 8)


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + struct.pack(">I", len(body)) + body


def _armour(data: bytes, kind: str = "SIGNATURE") -> str:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    text = base64.b64encode(data).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    checksum = base64.b64encode((crc & 0xFFFFFF).to_bytes(3)).decode()
    return "\n".join((f"-----BEGIN PGP {kind}-----", "", *lines, f"={checksum}", f"-----END PGP {kind}-----", ""))
