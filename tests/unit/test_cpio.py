"""newc archives: what each member says, in which order, and that the bytes depend on the tree alone."""

from __future__ import annotations

import dataclasses
import gzip
import io
from pathlib import Path

import pytest
import zstandard

from osbuilder.errors import ImageError
from osbuilder.image.initrd import Compression, write_cpio, write_initrd
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

EPOCH = 1_700_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member as the kernel's documentation describes it."""

    name: str
    number: int
    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    device: tuple[int, int]
    data: bytes


def parse(archive: bytes) -> list[Member]:
    """Return the members up to the trailer, checking magic, padding and what follows."""
    at, members = 0, list[Member]()
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        number, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, check = fields
        assert check == 0
        name = archive[at + 110 : at + 110 + name_size - 1]
        assert archive[at + 110 + name_size - 1] == 0
        begin = (at + 110 + name_size + 3) // 4 * 4
        at = (begin + size + 3) // 4 * 4
        if name == b"TRAILER!!!":
            assert archive[at:].count(0) == len(archive) - at
            assert len(archive) % 512 == 0
            return members
        members.append(
            Member(
                name=name.decode("utf-8", "surrogateescape"),
                number=number,
                mode=mode,
                uid=uid,
                gid=gid,
                links=links,
                mtime=mtime,
                device=(major, minor),
                data=archive[begin : begin + size],
            )
        )


def cpio(tree: Tree) -> bytes:
    stream = io.BytesIO()
    assert write_cpio(tree, stream, epoch=EPOCH) == len(stream.getvalue())
    return stream.getvalue()


def sample() -> Tree:
    tree = Tree()
    tree.add_symlink("init", "/usr/bin/probe")
    tree.add_file("usr/bin/probe", b"\x7fELF!", mode=0o755, uid=1, gid=2, parents_mode=0o755)
    tree.add_link("usr/bin/a-probe", "usr/bin/probe")
    tree.add_link("usr/bin/z-probe", "usr/bin/probe")
    tree.add_dir("dev")
    tree.add_device("dev/console", Kind.CHAR, (5, 1), mode=0o600)
    tree.add_device("dev/fifo", Kind.FIFO, mode=0o644)
    tree.add_device("dev/vda", Kind.BLOCK, (254, 0), mode=0o660)
    tree.add_file("empty", b"")
    return tree


def test_members_come_sorted_with_renumbered_inodes_and_full_modes() -> None:
    members = parse(cpio(sample()))
    assert [(member.name, member.number, oct(member.mode)) for member in members] == [
        (".", 1, "0o40755"),
        ("dev", 2, "0o40755"),
        ("dev/console", 3, "0o20600"),
        ("dev/fifo", 4, "0o10644"),
        ("dev/vda", 5, "0o60660"),
        ("empty", 6, "0o100644"),
        ("init", 7, "0o120777"),
        ("usr", 8, "0o40755"),
        ("usr/bin", 9, "0o40755"),
        ("usr/bin/a-probe", 10, "0o100755"),
        ("usr/bin/probe", 10, "0o100755"),
        ("usr/bin/z-probe", 10, "0o100755"),
    ]
    by_name = {member.name: member for member in members}
    assert by_name["dev/console"].device == (5, 1)
    assert by_name["init"].data == b"/usr/bin/probe"
    assert (by_name["usr/bin/probe"].uid, by_name["usr/bin/probe"].gid) == (1, 2)
    assert {member.mtime for member in members} == {EPOCH}


def test_a_hard_linked_files_content_comes_once_with_its_last_name() -> None:
    links = [member for member in parse(cpio(sample())) if member.number == 10]
    assert [(member.links, member.data) for member in links] == [(3, b""), (3, b""), (3, b"\x7fELF!")]


def test_the_same_tree_gives_the_same_archive_whatever_the_order_of_its_making() -> None:
    one, two = Tree(), Tree()
    names = ["b", "a", "c-d", "c"]
    for tree, order in ((one, names), (two, names[::-1])):
        for name in order:
            tree.add_file(name, name.encode())
    assert cpio(one) == cpio(two)


def test_names_that_are_no_utf8_are_kept() -> None:
    tree = Tree()
    tree.add_file("caf\udce9", b"x")
    assert parse(cpio(tree))[1].name == "caf\udce9"


@pytest.mark.parametrize("compression", list(Compression))
def test_an_initrd_expands_to_the_archive_and_names_what_lost_its_xattrs(
    tmp_path: Path, compression: Compression
) -> None:
    tree = sample()
    tree.set_xattrs("usr/bin/probe", {"security.capability": b"x"})
    result = write_initrd(tree, tmp_path / "initrd", epoch=EPOCH, compression=compression)
    packed = (tmp_path / "initrd").read_bytes()
    if compression is Compression.ZSTD:
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    else:
        plain = gzip.decompress(packed) if compression is Compression.GZIP else packed
    assert plain == cpio(tree)
    assert (result.cpio_bytes, result.size_bytes, result.entries) == (len(plain), len(packed), len(tree))
    assert result.lost_xattrs == ("usr/bin/a-probe", "usr/bin/probe", "usr/bin/z-probe")


def test_a_zstd_initrd_does_not_depend_on_the_number_of_processors(tmp_path: Path) -> None:
    tree = Tree()
    for number in range(40):  # several of zstd's jobs
        tree.add_file(f"f{number}", b"".join(b"%x" % (n * n * number) for n in range(60_000)))
    write_initrd(tree, tmp_path / "initrd", epoch=EPOCH, level=3)
    plain = cpio(tree)
    for threads in (1, 2, 7):
        stream = io.BytesIO()
        zstd = zstandard.ZstdCompressor(level=3, threads=threads, write_checksum=True)
        with zstd.stream_writer(stream, closefd=False) as packer:
            for at in range(0, len(plain), 300_000 + threads):
                packer.write(plain[at : at + 300_000 + threads])
        assert stream.getvalue() == (tmp_path / "initrd").read_bytes()


def test_a_higher_level_makes_a_smaller_initrd(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_file("f", b"".join(b"%d " % (n * n) for n in range(100_000)))
    sizes = [write_initrd(tree, tmp_path / "initrd", epoch=EPOCH, level=level).size_bytes for level in (1, 19)]
    assert sizes[1] < sizes[0]


def test_what_newc_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_file("f", b"", uid=1 << 32)
    with pytest.raises(ImageError, match="an initrd cannot hold /f: expected size, owner and time below 2"):
        write_initrd(tree, tmp_path / "initrd", epoch=EPOCH)
    assert list(tmp_path.iterdir()) == []
