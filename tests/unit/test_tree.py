"""Trees: edits, and that equal trees give equal bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from osbuilder.errors import TreeError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from osbuilder.tree.posix_acl import encode_acl
from tests.sample_tree import CAPABILITY, EPOCH, sample, written

# Edits


def test_a_name_that_is_taken_is_replaced_only_when_asked_and_never_across_folder_and_file() -> None:
    tree = sample()
    with pytest.raises(TreeError, match=r"name is taken in the tree \(/etc/passwd\): there is a file"):
        tree.add_file("etc/passwd", b"")
    tree.add_file("/etc/passwd", b"new", replace=True)
    assert tree.read_bytes("etc/passwd") == b"new"
    with pytest.raises(TreeError, match=r"cannot replace a directory by something else \(/etc\)"):
        tree.add_symlink("etc", "usr/etc", replace=True)
    with pytest.raises(TreeError, match="cannot replace a file by a folder"):
        tree.add_dir("etc/passwd", replace=True)


def test_replacing_a_folder_keeps_what_is_in_it() -> None:
    tree = sample()
    tree.add_dir("etc", mode=0o700, replace=True)
    assert tree.get("etc").mode == 0o700
    assert tree.exists("etc/passwd")


def test_missing_folders_are_made_only_with_an_explicit_mode() -> None:
    tree = Tree()
    with pytest.raises(TreeError, match="no folder in the tree for /a/b/c: /a/b does not exist"):
        tree.add_file("a/b/c", b"")
    tree.add_file("a/b/c", b"", parents_mode=0o750)
    assert [tree.get(name).mode for name in ("a", "a/b")] == [0o750, 0o750]


def test_edits_follow_symlinked_folders_inside_the_tree() -> None:
    tree = sample()
    tree.add_file("/bin/tool", b"x")
    assert tree.get("usr/bin/tool").kind is Kind.FILE
    assert tree.exists("bin/tool")


def test_symlinks_resolve_inside_the_tree_and_never_outside() -> None:
    tree = sample()
    tree.add_symlink("escape", "../../../../etc/passwd")
    tree.add_symlink("absolute", "/bin/../bin/ping")
    tree.add_symlink("dangling", "nowhere/x")
    tree.add_symlink("loop-a", "loop-b")
    tree.add_symlink("loop-b", "loop-a")
    assert tree.resolve("escape") == "etc/passwd"
    assert tree.resolve("/absolute") == "usr/bin/ping"
    with pytest.raises(TreeError, match=r"dangling path in the tree \(dangling\): it leads to /nowhere/x"):
        tree.resolve("dangling")
    with pytest.raises(TreeError, match="symlinks run in a loop"):
        tree.resolve("loop-a")
    with pytest.raises(TreeError, match=r"refusing a path with `\.\.`"):
        tree.get("../etc/passwd")
    with pytest.raises(TreeError, match=r"not a folder in the tree \(/etc/passwd\): it is a file"):
        tree.find("etc/passwd/x")


def test_removing_the_first_name_of_a_hard_link_keeps_the_content_with_the_other(tmp_path: Path) -> None:
    sample().write(tmp_path / "a.tar", epoch=EPOCH)
    tree = Tree.read(tmp_path / "a.tar")
    tree.remove("usr/bin/ping")
    assert tree.read_bytes("usr/bin/ping6") == b"\x7fELF"
    (tmp_path / "b.tar").write_bytes(written(tree))
    assert Tree.read(tmp_path / "b.tar").get("usr/bin/ping6").xattrs == (("security.capability", CAPABILITY),)


def test_attributes_of_hard_links_change_together() -> None:
    tree = sample()
    tree.chmod("usr/bin/ping6", 0o700)
    tree.chown("usr/bin/ping6", uid=1, gid=2)
    tree.set_xattrs("usr/bin/ping6", {})
    ping = tree.get("usr/bin/ping")
    assert (ping.mode, ping.uid, ping.gid, ping.xattrs) == (0o700, 1, 2, ())


def test_removing_a_folder_removes_what_is_below_and_nothing_that_only_begins_like_it() -> None:
    tree = Tree()
    for name in ("a/b", "a/c/d", "a-b", "ab"):
        tree.add_file(name, b"", parents_mode=0o755)
    tree.remove("a")
    assert tree.names() == ["", "a-b", "ab"]
    with pytest.raises(TreeError, match="no such name"):
        tree.remove("a")
    with pytest.raises(TreeError, match="refusing to remove the root"):
        tree.remove("/")


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("usr/share/doc/*", ["usr/share/doc/a", "usr/share/doc/a/copyright"]),
        ("usr/share/doc", ["usr/share/doc", "usr/share/doc/a", "usr/share/doc/a/copyright"]),
        ("**/*.pyc", ["usr/lib/x.pyc", "y.pyc"]),
        ("/usr/**/copyright", ["usr/share/doc/a/copyright"]),
        ("usr/lib/?.pyc", ["usr/lib/x.pyc"]),
        ("usr/lib/[x].pyc", ["usr/lib/[x].pyc"]),
        ("none*", []),
    ],
)
def test_globs_keep_stars_in_one_part_unless_doubled(pattern: str, gone: list[str]) -> None:
    tree = Tree()
    for name in ("usr/share/doc/a/copyright", "usr/lib/x.pyc", "y.pyc"):
        tree.add_file(name, b"", parents_mode=0o755)
    if "[" in pattern:
        tree.add_file("usr/lib/[x].pyc", b"")
    assert list(tree.remove_glob(pattern)) == gone
    assert not any(tree.exists(name) for name in gone)


def test_moving_a_folder_takes_everything_along() -> None:
    tree = sample()
    tree.move("usr/bin", "opt")
    assert tree.links("opt/ping") == ("opt/ping", "opt/ping6")
    with pytest.raises(TreeError, match="a folder cannot go below itself"):
        tree.move("opt", "opt/x")
    with pytest.raises(TreeError, match="name is taken"):
        tree.move("opt", "etc")


def test_merging_follows_symlinked_folders_and_keeps_hard_links() -> None:
    tree, other = sample(), Tree()
    other.add_dir("bin", mode=0o700)
    other.add_file("bin/new", b"n")
    other.add_link("bin/other", "bin/new")
    tree.merge(other)
    assert tree.links("usr/bin/new") == ("usr/bin/new", "usr/bin/other")
    assert tree.get("bin").kind is Kind.SYMLINK
    with pytest.raises(TreeError, match="name is taken"):
        tree.merge(other)
    tree.merge(other, replace=True)


def test_impossible_attributes_are_refused(tmp_path: Path) -> None:
    tree = sample()
    with pytest.raises(TreeError, match="expected permission bits up to 07777, got 0o100644"):
        tree.add_file("f", b"", mode=0o100644)
    with pytest.raises(TreeError, match="cannot change the mode of a symlink"):
        tree.chmod("bin", 0o777)
    with pytest.raises(TreeError, match="cannot link to a folder"):
        tree.add_link("usr2", "usr")
    with pytest.raises(TreeError, match="expected a device or fifo, got a directory"):
        tree.add_device("d", Kind.DIR)
    with pytest.raises(TreeError, match="expected a regular file, got a folder"):
        tree.add_file("f", tmp_path)
    with pytest.raises(TreeError, match="expected a regular file, got a character device"):
        tree.read_bytes("dev/console")


def test_children_and_summary_count_names_once_and_content_once() -> None:
    tree = sample()
    assert tree.children("usr/bin") == ("ping", "ping6")
    assert tree.children("") == ("bin", "dev", "etc", "usr")
    summary = tree.summary()
    assert summary.content_bytes == 11 + 4 + 1 + 1 + 1 + 1
    assert {usage.path: usage.content_bytes for usage in summary.folders}["etc"] == 12
    assert dict(summary.kinds)[Kind.SYMLINK] == 2


# Writing


def test_content_from_disk_is_read_when_written_and_a_change_of_size_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "agent"
    source.write_bytes(b"12345678")
    tree = Tree()
    tree.add_file("agent", source, mode=0o755)
    assert tree.read_bytes("agent") == b"12345678"
    source.write_bytes(b"1234")
    with pytest.raises(TreeError, match="content ended early"):
        written(tree)


def test_a_tree_can_be_written_over_the_file_that_it_was_read_from(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    sample().write(path, epoch=EPOCH)
    before = path.read_bytes()
    tree = Tree.read(path)
    tree.write(path, epoch=EPOCH)
    tree.write(path, epoch=EPOCH)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path, source = tmp_path / "a.tar", tmp_path / "source"
    path.write_bytes(b"old")
    source.write_bytes(b"12345678")
    tree = Tree()
    tree.add_file("f", source)
    source.unlink()
    with pytest.raises(TreeError, match="cannot read content"):
        tree.write(path, epoch=EPOCH)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tar"}
    assert path.read_bytes() == b"old"


def test_devices_with_large_numbers_survive(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_device("sda", Kind.BLOCK, (259, 300_000))
    (tmp_path / "a.tar").write_bytes(written(tree))
    assert Tree.read(tmp_path / "a.tar").get("sda").device == (259, 300_000)


def test_the_acl_xattr_is_little_endian_version_2_sorted_by_tag() -> None:
    value = encode_acl("other::r-x,user::rwx,group::---", lambda kind, name: None)
    assert value == struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *fields) for fields in ((1, 7, 0xFFFFFFFF), (4, 0, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF))
    )
