"""dm-verity: the hash tree of a root filesystem, the root hash that stands for it, and what a kernel is told of both.

The tree is the one of `veritysetup format --no-superblock` with its defaults: SHA-256, blocks of 4096 bytes, the salt
before each block. Formats: the kernel's Documentation/admin-guide/device-mapper/verity.rst and dm-init.rst. Refuses
other algorithms and block sizes: no image of Kata's has them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from osbuilder.errors import ImageError

BLOCK_BYTES: Final = 4096
DIGEST_BYTES: Final = 32
ROOT_HASH_SUFFIX: Final = ".root_hash.txt"
"""What is added to an image's name to name the file of its root hash."""

_SECTOR_BYTES: Final = 512
_FANOUT: Final = BLOCK_BYTES // DIGEST_BYTES
_ZEROS: Final = bytes(BLOCK_BYTES)
_AT_ONCE: Final = 256  # blocks that are read at once

# What a line of Kata's names, in its order. The kernel takes salts of up to 256 bytes; Kata's are of 32, as ours.
_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "root_hash": ("64 hexadecimal digits", "[0-9a-f]{64}"),
    "salt": ("2 to 512 hexadecimal digits", "([0-9a-f]{2}){1,256}"),
    "data_blocks": ("a number of blocks", "[1-9][0-9]{0,15}"),
    "data_block_size": (f"{BLOCK_BYTES}", f"{BLOCK_BYTES}"),
    "hash_block_size": (f"{BLOCK_BYTES}", f"{BLOCK_BYTES}"),
}

ReadAt = Callable[[int, int], bytes]
"""Returns so many bytes from an offset of the filesystem on; fewer only where it ends."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """What a kernel needs to know to read a root filesystem and nothing else: hash and salt are hexadecimal."""

    root_hash: str
    salt: str
    data_blocks: int

    def line(self) -> str:
        """Return it as the runtime of Kata reads it (kernel_verity_params), without a line end."""
        return (
            f"root_hash={self.root_hash},salt={self.salt},data_blocks={self.data_blocks},"
            f"data_block_size={BLOCK_BYTES},hash_block_size={BLOCK_BYTES}"
        )

    def kernel_parameters(self, *, data: str, hashes: str) -> str:
        """Return what makes the kernel set the root up by itself, of two of its devices: /dev/vda1 and /dev/vda2.

        A block that does not have its hash ends the guest: one that goes on with what it can read is no longer what
        was measured.
        """
        table = (
            f"0 {self.data_blocks * BLOCK_BYTES // _SECTOR_BYTES} verity 1 {data} {hashes} {BLOCK_BYTES} {BLOCK_BYTES} "
            f"{self.data_blocks} 0 sha256 {self.root_hash} {self.salt} 1 panic_on_corruption"
        )
        return f'dm-mod.create="root,,,ro,{table}" root=/dev/dm-0'


def root_hash_file(image: Path) -> Path:
    """Return where the root hash of an image is looked for: beside the file itself, wherever links lead to it."""
    path = image.resolve()
    return path.with_name(f"{path.name}{ROOT_HASH_SUFFIX}")


def read_root_hash(path: Path) -> Verity:
    """Return what a root hash file says. Raises ImageError for one that is missing, or not such a line."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ImageError(
            f"cannot read the root hash ({path}): {error.strerror}",
            hint="Name the file that came with the image (--root-hash), or start it unverified (--root virtio-blk).",
        ) from error
    except UnicodeDecodeError:
        raise _malformed(str(path), "it is not ASCII") from None
    return parse_line(text, str(path))


def parse_line(text: str, where: str) -> Verity:
    """Return what a line of Kata's says. Raises ImageError, naming `where` it stands and what is wrong with it."""
    found = {name: value for name, _, value in (word.partition("=") for word in text.strip().split(","))}
    if list(found) != list(_FIELDS) or text.count("=") != len(_FIELDS):
        raise _malformed(where, f"got {text.strip()[:200]!r}")
    for name, (expected, pattern) in _FIELDS.items():
        if not re.fullmatch(pattern, found[name]):
            raise _malformed(where, f"{name} must be {expected}, not {found[name]!r}")
    return Verity(root_hash=found["root_hash"], salt=found["salt"], data_blocks=int(found["data_blocks"]))


def _malformed(where: str, why: str) -> ImageError:
    return ImageError(
        f"malformed root hash ({where}): expected one line {'=…,'.join(_FIELDS)}=…: {why}",
        hint="`inv image --measured` writes it beside the image; Kata's is root_hash_VARIANT.txt.",
    )


def derive_salt(filesystem: uuid.UUID) -> bytes:
    """Return the salt for a filesystem of ours, whose identifier comes from its content: 32 bytes.

    Because it can be derived again, an image can be inspected without any other file.
    """
    return hashlib.sha256(b"osbuilder/dm-verity/" + filesystem.bytes).digest()


def tree_bytes(data_blocks: int) -> int:
    """Return the size of the hash tree of so many blocks. Raises ImageError for fewer than two, which have no tree."""
    if data_blocks < 2:
        raise ImageError(
            f"no hash tree for {data_blocks} blocks: expected a filesystem of two blocks of {BLOCK_BYTES} bytes or more"
        )
    return sum(_levels(data_blocks)) * BLOCK_BYTES


def _levels(data_blocks: int) -> list[int]:
    """Return how many blocks each level of the tree has, that above the data first."""
    levels = [-(-data_blocks // _FANOUT)]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // _FANOUT))
    return levels


def hash_data(read: ReadAt, *, data_blocks: int, salt: bytes) -> bytes:
    """Return the hashes of all blocks of a filesystem, one after the other. Raises ImageError when it ends early."""
    salted = hashlib.sha256(salt)
    zeros = _digest(salted, _ZEROS)
    hashes = []
    for first in range(0, data_blocks, _AT_ONCE):
        length = min(_AT_ONCE, data_blocks - first) * BLOCK_BYTES
        data = read(first * BLOCK_BYTES, length)
        if len(data) != length:
            raise ImageError(f"the filesystem ends early: expected {data_blocks} blocks, got no more than {first}")
        for at in range(0, length, BLOCK_BYTES):
            block = data[at : at + BLOCK_BYTES]
            hashes.append(zeros if block == _ZEROS else _digest(salted, block))
    return b"".join(hashes)


def build_tree(hashes: bytes, *, salt: bytes) -> tuple[bytes, str]:
    """Return the tree above the hashes of a filesystem's blocks, as it lies on disk (the root first), and its hash."""
    salted = hashlib.sha256(salt)
    levels = [_padded(hashes)]
    while len(levels[-1]) > BLOCK_BYTES:
        below = levels[-1]
        above = (_digest(salted, below[at : at + BLOCK_BYTES]) for at in range(0, len(below), BLOCK_BYTES))
        levels.append(_padded(b"".join(above)))
    return b"".join(reversed(levels)), _digest(salted, levels[-1]).hex()


def differences(hashes: bytes, stored: bytes) -> list[int]:
    """Return the blocks of a filesystem, of which these are the hashes, for which the stored tree has another one."""
    leaves = stored[-len(_padded(hashes)) :]
    return [
        at // DIGEST_BYTES
        for at in range(0, len(hashes), DIGEST_BYTES)
        if hashes[at : at + DIGEST_BYTES] != leaves[at : at + DIGEST_BYTES]
    ]


def _digest(salted: hashlib._Hash, block: bytes) -> bytes:
    digest = salted.copy()
    digest.update(block)
    return digest.digest()


def _padded(hashes: bytes) -> bytes:
    return hashes + bytes(-len(hashes) % BLOCK_BYTES)
