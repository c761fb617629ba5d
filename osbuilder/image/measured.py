"""Measured images as files: finding the hash tree in one, writing it, and holding an image against it.

A hash tree has no header, so it is known by its form. Which hash it hangs from is for the image's user to know: what an
image says of itself is not to be trusted, only to be compared.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

from osbuilder.errors import ImageError
from osbuilder.image import verity
from osbuilder.image.layout import Layout
from osbuilder.image.mbr import SECTOR_BYTES, MbrPartition, decode_mbr
from osbuilder.image.verity import BLOCK_BYTES, DIGEST_BYTES, Verity
from osbuilder.tree.entry import Archive

DATA_DEVICE: Final = "/dev/vda1"
HASH_DEVICE: Final = "/dev/vda2"
"""The partitions of an image as the kernel calls them where it is the first virtio disk."""


def kernel_parameters(found: Verity) -> str:
    """Return the kernel parameters for a guest that has a measured image as its first virtio disk."""
    return found.kernel_parameters(data=DATA_DEVICE, hashes=HASH_DEVICE)


def write_tree(layout: Layout, image: Path, *, salt: bytes) -> Verity:
    """Write the hash tree of an image's first partition into its second one; return what it hangs from."""
    data, hashes = layout.partitions
    blocks = data.size_bytes // BLOCK_BYTES
    with image.open("r+b") as stream:
        fd = stream.fileno()
        leaves = verity.hash_data(
            lambda offset, length: os.pread(fd, length, data.offset_bytes + offset), data_blocks=blocks, salt=salt
        )
        tree, root_hash = verity.build_tree(leaves, salt=salt)
        stream.seek(hashes.offset_bytes)
        stream.write(tree)
    return Verity(root_hash=root_hash, salt=salt.hex(), data_blocks=blocks)


def find_tree(image: Path) -> int | None:
    """Return how many blocks the hash tree of an image is for; None for an image without one.

    Raises ImageError for a file that cannot be read.
    """
    try:
        file = Archive(os.open(image, os.O_RDONLY | os.O_CLOEXEC), str(image))
        return locate_tree(file, decode_mbr(file.read_at(0, SECTOR_BYTES)) or ())
    except OSError as error:
        raise ImageError(f"cannot read {image}: {error.strerror}") from error


def locate_tree(file: Archive, partitions: tuple[MbrPartition, ...]) -> int | None:
    """Return how many blocks of the first partition the second one has hashes of; None where it is no hash tree.

    Its first block is known by its form: as many hashes as the level below has blocks, and zeros.
    """
    if len(partitions) < 2:
        return None
    data, hashes = partitions[:2]
    blocks = data.size_bytes // BLOCK_BYTES
    if blocks < 2 or hashes.size_bytes < verity.tree_bytes(blocks):
        return None
    below = blocks
    while below > BLOCK_BYTES // DIGEST_BYTES:
        below = -(-below * DIGEST_BYTES // BLOCK_BYTES)
    top = file.read_at(hashes.offset_bytes, BLOCK_BYTES)
    entries = [top[at : at + DIGEST_BYTES] for at in range(0, len(top), DIGEST_BYTES)]
    return blocks if all(any(entry) is (number < below) for number, entry in enumerate(entries)) and entries else None


def examine(
    file: Archive, partitions: tuple[MbrPartition, ...], blocks: int, *, filesystem: uuid.UUID | None, path: Path
) -> Verity | None:
    """Hold an image against its hash tree, and that against the root hash beside the image (`path`) if it is there.

    Without such a file the salt comes from the filesystem's identifier, as in images of ours. Returns what the image is
    verified by; None where the salt is unknown. Raises ImageError for an image that is not what was measured.
    """
    beside = verity.root_hash_file(path)
    trusted = verity.read_root_hash(beside) if beside.is_file() else None
    if trusted is None and filesystem is None:
        return None
    salt = bytes.fromhex(trusted.salt) if trusted else verity.derive_salt(filesystem or uuid.UUID(int=0))
    data, hashes = partitions[:2]
    leaves = verity.hash_data(
        lambda offset, length: file.read_at(data.offset_bytes + offset, length), data_blocks=blocks, salt=salt
    )
    stored = file.read_at(hashes.offset_bytes, verity.tree_bytes(blocks))
    tree, root_hash = verity.build_tree(leaves, salt=salt)
    differing = verity.differences(leaves, stored)
    if trusted is None and len(differing) == blocks:
        return None
    if differing:
        raise ImageError(
            f"damaged image ({file.label}): block {differing[0]} of partition 1 does not have the hash that the hash "
            f"tree has for it (nor have {len(differing) - 1} others)",
            hint="A guest refuses it; build or copy it again.",
        )
    if tree != stored:
        raise ImageError(f"damaged image ({file.label}): the hash tree in partition 2 contradicts itself")
    if trusted is not None and (trusted.root_hash, trusted.data_blocks) != (root_hash, blocks):
        raise ImageError(
            f"{file.label} is not the image of its root hash ({beside}): expected {trusted.root_hash} for "
            f"{trusted.data_blocks} blocks, got {root_hash} for {blocks}",
            hint="It was replaced after it was measured, or the file is another image's.",
        )
    return Verity(root_hash=root_hash, salt=salt.hex(), data_blocks=blocks)
