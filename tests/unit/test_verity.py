"""dm-verity hash trees: their bytes, the line that goes with them, and how an image is held against both."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuilder.errors import ImageError
from osbuilder.image import verity
from osbuilder.image.build import check_read_only
from osbuilder.image.inspect import inspect
from osbuilder.image.layout import MIB, Layout, plan_layout, write_headers
from osbuilder.image.measured import find_tree, write_tree
from osbuilder.image.verity import BLOCK_BYTES, Verity, parse_line, read_root_hash, root_hash_file
from osbuilder.tree import Tree

SALT = hashlib.sha256(b"salt").digest()
UUID = uuid.UUID("00010203-0405-0607-0809-0a0b0c0d0e0f")
COUNT = 300
LINE = f"root_hash={'ab' * 32},salt={'cd' * 32},data_blocks=300,data_block_size=4096,hash_block_size=4096"


def blocks(count: int) -> bytes:
    """Return blocks that differ from each other, some of them zeros."""
    return b"".join(
        bytes(BLOCK_BYTES) if number % 5 == 3 else hashlib.sha256(f"{number}".encode()).digest() * (BLOCK_BYTES // 32)
        for number in range(count)
    )


def hash_blocks(data: bytes, salt: bytes) -> bytes:
    return verity.hash_data(lambda at, size: data[at : at + size], data_blocks=len(data) // BLOCK_BYTES, salt=salt)


# What veritysetup 2.7 says; tests/integration/test_veritysetup.py asks it again.
@pytest.mark.parametrize(
    ("count", "root_hash"),
    [
        (2, "99cdca73f561848b32e3440d64cbf81a346b46fe0080fc5f48ecefeb20c238c7"),
        (128, "72ae5afbc0d021d70b4388e3567b37d3bd8230a3c7077fbd843655b7a5288631"),
        (129, "1141b1e3d0e01ae7a9243de051d86391d77f5b7c6110e0094fc78f27b96591ed"),
        (16385, "e550ace64df7c56ad0bea1550fe94a8cf78bc1f925f5b8f732cdd3038919f991"),
    ],
)
def test_the_root_hash_is_veritysetups(count: int, root_hash: str) -> None:
    tree, found = verity.build_tree(hash_blocks(blocks(count), SALT), salt=SALT)
    assert found == root_hash
    assert len(tree) == verity.tree_bytes(count)


def test_the_root_is_the_hash_of_the_trees_first_block() -> None:
    tree, root_hash = verity.build_tree(hash_blocks(blocks(COUNT), SALT), salt=SALT)
    assert hashlib.sha256(SALT + tree[:BLOCK_BYTES]).hexdigest() == root_hash
    assert hashlib.sha256(SALT + tree[BLOCK_BYTES : 2 * BLOCK_BYTES]).digest() == tree[:32]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_blocks_than_have_a_tree_are_refused(count: int) -> None:
    with pytest.raises(ImageError, match=f"no hash tree for {count} blocks: expected a filesystem of two blocks"):
        verity.tree_bytes(count)


def test_a_filesystem_that_ends_early_is_refused() -> None:
    data = blocks(300)
    with pytest.raises(ImageError, match="ends early: expected 301 blocks, got no more than 256"):
        verity.hash_data(lambda at, size: data[at : at + size], data_blocks=301, salt=SALT)


def test_the_salt_goes_by_the_filesystem() -> None:
    assert verity.derive_salt(UUID) == verity.derive_salt(uuid.UUID(bytes=UUID.bytes))
    assert verity.derive_salt(UUID) != verity.derive_salt(uuid.UUID(int=1))
    assert len(verity.derive_salt(UUID)) == 32


# The line that goes with an image


def test_a_line_is_read_as_it_is_written() -> None:
    assert parse_line(f"{LINE}\n", "here") == Verity(root_hash="ab" * 32, salt="cd" * 32, data_blocks=300)
    assert parse_line(LINE, "here").line() == LINE


def test_a_kernel_is_told_all_that_it_needs_and_stops_at_a_corrupted_block() -> None:
    assert parse_line(LINE, "here").kernel_parameters(data="/dev/vda1", hashes="/dev/vda2") == (
        'dm-mod.create="root,,,ro,0 2400 verity 1 /dev/vda1 /dev/vda2 4096 4096 300 0 sha256 '
        f'{"ab" * 32} {"cd" * 32} 1 panic_on_corruption" root=/dev/dm-0'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got ''"),
        ("ab" * 32, f"got '{'ab' * 32}'"),
        (LINE.replace("salt", "pepper"), "got 'root_hash="),
        (LINE + ",data_blocks=300", "got 'root_hash="),
        (LINE + "\n" + LINE, "got 'root_hash="),
        (LINE.replace("ab" * 32, "ab" * 31), f"root_hash must be 64 hexadecimal digits, not '{'ab' * 31}'"),
        (LINE.replace("cd" * 32, "-"), "salt must be 2 to 512 hexadecimal digits, not '-'"),
        (LINE.replace("=300", "=0"), "data_blocks must be a number of blocks, not '0'"),
        (LINE.replace("data_block_size=4096", "data_block_size=512"), "data_block_size must be 4096, not '512'"),
        (LINE.replace("hash_block_size=4096", "hash_block_size=1024"), "hash_block_size must be 4096, not '1024'"),
    ],
)
def test_a_line_that_is_none_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)) as caught:
        parse_line(text, "root_hash_x.txt")
    assert "malformed root hash (root_hash_x.txt): expected one line root_hash=…,salt=…" in caught.value.message


def test_a_root_hash_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read the root hash \(.*/none\): No such file") as caught:
        read_root_hash(tmp_path / "none")
    assert "--root-hash" in caught.value.hint
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ImageError, match="it is not ASCII"):
        read_root_hash(tmp_path / "binary")


def test_a_root_hash_lies_beside_the_image_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kata.image").touch()
    (tmp_path / "link.img").symlink_to("kata.image")
    assert root_hash_file(tmp_path / "link.img") == tmp_path.resolve() / "kata.image.root_hash.txt"


# Images


def filesystem(identifier: uuid.UUID | None) -> bytes:
    """Return blocks of which the first is an ext4 superblock; without an identifier that of a squashfs."""
    if identifier is None:
        return b"hsqs" + blocks(COUNT)[4:]
    block = bytearray(1024)
    struct.pack_into("<I", block, 24, 2)
    block[56:58] = b"\x53\xef"
    struct.pack_into("<I", block, 96, 0x40)
    block[104:120] = identifier.bytes
    return bytes(1024) + bytes(block) + blocks(COUNT)[2048:]


def layout_of(*, dax: bool = True) -> Layout:
    sizes = (COUNT * BLOCK_BYTES, verity.tree_bytes(COUNT))
    return plan_layout(sizes_bytes=sizes, dax_header=dax, align_mib=1)


def measured(path: Path, *, identifier: uuid.UUID | None = UUID, salt: bytes | None = None, dax: bool = True) -> Verity:
    """Make an image with a hash tree; `salt` None is the one that goes with the filesystem."""
    layout = layout_of(dax=dax)
    path.write_bytes(bytes(layout.partitions[0].offset_bytes) + filesystem(identifier))
    write_headers(layout, path)
    return write_tree(layout, path, salt=salt or verity.derive_salt(UUID))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes([os.pread(stream.fileno(), 1, offset)[0] ^ 1]), offset)


@pytest.mark.parametrize("dax", [True, False])
def test_a_measured_image_is_inspected_without_any_other_file(tmp_path: Path, dax: bool) -> None:
    found = measured(tmp_path / "image", dax=dax)
    facts = dict(inspect(tmp_path / "image").facts)
    assert facts["partition 2 hash tree"] == "dm-verity, SHA-256; every block of partition 1 has its hash"
    assert (facts["root hash"], facts["salt"], facts["data blocks"]) == (found.root_hash, found.salt, COUNT)
    assert facts["kernel parameters"] == found.kernel_parameters(data="/dev/vda1", hashes="/dev/vda2")
    assert find_tree(tmp_path / "image") == COUNT


def test_an_image_with_a_salt_of_its_own_is_verified_by_the_root_hash_beside_it(tmp_path: Path) -> None:
    image = tmp_path / "image"
    found = measured(image, salt=SALT)
    unverified = dict(inspect(image).facts)
    assert unverified["partition 2 hash tree"] == "dm-verity, by its form; unverified: no root hash beside the image"
    assert "root hash" not in unverified
    root_hash_file(image).write_text(f"{found.line()}\n")
    assert dict(inspect(image).facts)["root hash"] == found.root_hash


def test_a_filesystem_without_an_identifier_needs_the_root_hash_beside_the_image(tmp_path: Path) -> None:
    image = tmp_path / "image"
    found = measured(image, identifier=None, salt=SALT)
    assert "unverified" in str(dict(inspect(image).facts)["partition 2 hash tree"])
    root_hash_file(image).write_text(found.line())
    assert dict(inspect(image).facts)["root hash"] == found.root_hash


DATA, HASHES = (part.offset_bytes for part in layout_of().partitions)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: flip(path, DATA + 7 * BLOCK_BYTES), "block 7 of partition 1 does not have the hash .*nor have 0"),
        (lambda path: flip(path, HASHES + BLOCK_BYTES + 9 * 32), "block 9 of partition 1 does not have the hash"),
        (lambda path: flip(path, HASHES + 5), "the hash tree in partition 2 contradicts itself"),
        (
            lambda path: root_hash_file(path).write_text(LINE.replace("cd" * 32, verity.derive_salt(UUID).hex())),
            f"is not the image of its root hash .*: expected {'ab' * 32} for 300 blocks, got ",
        ),
        (lambda path: root_hash_file(path).write_text("nothing"), "malformed root hash"),
    ],
    ids=["data", "leaf", "inner", "other", "malformed"],
)
def test_an_image_that_is_not_what_was_measured_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    measured(tmp_path / "image")
    damage(tmp_path / "image")
    with pytest.raises(ImageError, match=message):
        inspect(tmp_path / "image")


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\1" * BLOCK_BYTES, id="full"),
        pytest.param(b"\1" * 64 + bytes(32) + b"\1" * 32, id="hole"),
        pytest.param(b"\1" * 128, id="many"),
    ],
)
def test_a_second_partition_that_is_no_hash_tree_is_not_taken_for_one(tmp_path: Path, second: bytes) -> None:
    layout = layout_of()
    image = tmp_path / "image"
    measured(image)
    with image.open("r+b") as stream:
        os.pwrite(stream.fileno(), second.ljust(BLOCK_BYTES, b"\0"), layout.partitions[1].offset_bytes)
    assert find_tree(image) is None
    assert "partition 2 hash tree" not in dict(inspect(image).facts)


def test_a_partition_that_is_too_small_for_the_tree_is_not_taken_for_one(tmp_path: Path) -> None:
    image = tmp_path / "image"
    layout = plan_layout(sizes_bytes=(COUNT * BLOCK_BYTES, BLOCK_BYTES), dax_header=False, align_mib=1)
    image.write_bytes(bytes(MIB) + filesystem(UUID))
    write_headers(layout, image)
    assert find_tree(image) is None
    plain = tmp_path / "plain"
    plain.write_bytes(b"no image")
    assert find_tree(plain) is None
    with pytest.raises(ImageError, match=r"cannot read .*: Is a directory"):
        find_tree(tmp_path)


# What a read-only root must not ask for


def tree(fstab: str | None) -> Tree:
    made = Tree()
    if fstab is not None:
        made.add_file("etc/fstab", fstab.encode(), parents_mode=0o755)
    return made


@pytest.mark.parametrize(
    "fstab",
    [None, "", "# /dev/vda1 / ext4 defaults 0 1\n", "/dev/dm-0 / ext4 ro,noatime 0 0\n", "tmpfs /tmp tmpfs rw 0 0\n"],
)
def test_a_tree_that_leaves_its_root_read_only_can_be_measured(fstab: str | None) -> None:
    check_read_only(tree(fstab), "a measured root")


@pytest.mark.parametrize(
    "line", ["/dev/vda1 / ext4 defaults 0 1", "  LABEL=root\t/\text4\trw,errors=remount-ro", "x /"]
)
def test_a_tree_that_wants_its_root_writable_is_refused_with_the_line(line: str) -> None:
    with pytest.raises(
        ImageError, match=r"an erofs is read-only, .*: expected the option ro in line 2, got "
    ) as caught:
        check_read_only(tree(f"# first\n{line}\n"), "an erofs")
    assert line.strip().split()[0] in caught.value.message
