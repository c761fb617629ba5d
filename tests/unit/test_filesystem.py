"""ext4 for a tree: sizes, identifiers and commands. That mke2fs agrees is test_mke2fs.py's business."""

from __future__ import annotations

import pytest

from osbuilder.errors import ImageError
from osbuilder.image.filesystem import (
    BLOCK_BYTES,
    Ext4Size,
    check_debugfs,
    derive_disk_id,
    derive_uuid,
    mkfs_environment,
    plan_xattrs,
    render_debugfs,
    render_mke2fs,
    size_ext4,
)
from osbuilder.tree import Tree

MIB = 1 << 20


def tree_of(size_bytes: int) -> Tree:
    tree = Tree()
    tree.add_file("f", bytes(size_bytes))
    return tree


def test_a_size_is_whole_blocks_and_holds_content_journal_and_free_space() -> None:
    small, large = size_ext4(tree_of(10 * MIB)), size_ext4(tree_of(10 * MIB), free_space_mib=100)
    assert small.size_bytes % BLOCK_BYTES == 0
    assert 14 * MIB < small.size_bytes < 15 * MIB
    assert 100 * MIB <= large.size_bytes - small.size_bytes < 103 * MIB
    assert large.inodes - small.inodes == 6400


def test_no_last_group_is_so_short_that_mke2fs_would_drop_it() -> None:
    group_mib = 128
    sizes = [size_ext4(tree_of(MIB), free_space_mib=free).size_bytes for free in range(110, 150)]
    rests = [size // BLOCK_BYTES % 32768 for size in sizes]
    assert all(rest == 0 or rest > 100 for rest in rests)
    assert any(size > group_mib * MIB for size in sizes)
    assert sizes == sorted(sizes)


def test_hard_links_count_once() -> None:
    tree = tree_of(5 * MIB)
    before = size_ext4(tree)
    for number in range(20):
        tree.add_link(f"g{number}", "f")
    after = size_ext4(tree)
    assert after == before


def test_the_command_names_every_parameter_that_changes_the_bytes() -> None:
    command = render_mke2fs(
        tar="/in/rootfs.tar",
        output="/out/image",
        offset_bytes=3 * MIB,
        size=Ext4Size(size_bytes=64 * MIB, inodes=1000),
        content_key="key",
    )
    assert " ".join(command) == (
        "mke2fs -q -F -t ext4 -T default -b 4096 -I 256 -N 1000 -m 0 -e remount-ro "
        "-O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
        "dir_nlink,extra_isize,metadata_csum -G 16 -J size=4 "
        f"-U {derive_uuid('key', 'filesystem')} "
        f"-E offset=3145728,hash_seed={derive_uuid('key', 'hash seed')},lazy_itable_init=0,lazy_journal_init=1,"
        "nodiscard,root_owner=0:0 -d /in/rootfs.tar /out/image 16384"
    )
    assert render_debugfs(commands="c", filesystem="f") == ("debugfs", "-w", "-f", "c", "f")
    assert render_debugfs(commands="c", filesystem="f", offset_bytes=9)[-1] == "f?offset=9"
    assert mkfs_environment(epoch=5)["SOURCE_DATE_EPOCH"] == "5"


def test_identifiers_depend_on_the_content_and_the_purpose_alone() -> None:
    assert derive_uuid("a", "filesystem") == derive_uuid("a", "filesystem")
    assert len({derive_uuid(key, purpose) for key in "ab" for purpose in ("filesystem", "hash seed")}) == 4
    assert 0 < derive_disk_id("a") < 1 << 32
    assert derive_disk_id("a") != derive_disk_id("b")


def test_only_attributes_that_mke2fs_drops_are_left_to_debugfs() -> None:
    tree = Tree()
    tree.add_file("ping", b"", xattrs={"security.capability": b"c"})
    assert plan_xattrs(tree, values_folder="/in/xattrs") is None
    tree.set_xattrs("ping", {"security.capability": b"c", "user.a": b"\0v"})
    tree.add_link("ping6", "ping")
    tree.add_file('with "quotes" and blanks', b"", xattrs={"user.b": b"\0v", "user.c": b"w"})
    script = plan_xattrs(tree, values_folder="/in/xattrs")
    assert script is not None
    assert script.commands.splitlines() == [
        'ea_set -f /in/xattrs/000000 "/ping" user.a',
        'ea_set -f /in/xattrs/000000 "/with ""quotes"" and blanks" user.b',
        'ea_set -f /in/xattrs/000001 "/with ""quotes"" and blanks" user.c',
    ]
    assert script.values == (("000000", b"\0v"), ("000001", b"w"))


@pytest.mark.parametrize(("name", "key"), [("a\nb", "user.a"), ("a", "user.a b"), ("a", 'user."')])
def test_names_that_debugfs_cannot_read_are_refused(name: str, key: str) -> None:
    tree = Tree()
    tree.add_file(name, b"", xattrs={key: b"v"})
    with pytest.raises(ImageError, match="debugfs cannot read the name"):
        plan_xattrs(tree, values_folder="/in")


def test_attributes_beyond_a_block_are_refused_by_name() -> None:
    tree = Tree()
    tree.add_file("f", b"", xattrs={"user.big": bytes(5000)})
    with pytest.raises(ImageError, match=r"too many extended attributes for ext4 \(/f\)"):
        size_ext4(tree)


def test_what_debugfs_complains_about_is_an_error_though_it_exits_with_0() -> None:
    check_debugfs("debugfs 1.47.2 (1-Jan-2025)\n\n")
    with pytest.raises(ImageError, match="could not set extended attributes: /nope: File not found"):
        check_debugfs("debugfs 1.47.2 (1-Jan-2025)\n/nope: File not found by ext2_lookup\n")
