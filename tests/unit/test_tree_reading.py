"""Tars as others wrote them: what is read, and what is refused and with which words."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from osbuilder.errors import TreeError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.sample_tree import ACL, CAPABILITY, EPOCH, sample, written

Stored = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def archive(
    path: Path, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            if data:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def header(name: bytes, kind: bytes = b"0", size: int = 0, **changes: bytes) -> bytes:
    """Return a ustar header whose fields can be wrong."""
    fields = {
        "mode": b"0000644\0",
        "uid": b"0000000\0",
        "gid": b"0000000\0",
        "size": b"%011o\0" % size,
        "mtime": b"00000000000\0",
        "link": b"",
        "magic": b"ustar\x0000",
        "major": b"",
    } | changes
    raw = bytearray(512)
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "link": 157, "major": 329}
    for field, offset in places.items():
        raw[offset : offset + len(fields[field])] = fields[field]
    raw[: len(name)] = name
    raw[156:157] = kind
    raw[257:265] = fields["magic"]
    raw[148:156] = b" " * 8
    raw[148:156] = fields.get("checksum", b"%06o\0 " % sum(raw))
    return bytes(raw)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[str, bytes], kind: bytes = b"x") -> bytes:
    """Return a PAX extension header (`kind` g: a global one) with these records."""
    data = b""
    for key, value in records:
        body = f" {key}=".encode() + value + b"\n"
        length = len(body) + len(str(len(body)))
        data += str(len(body) + len(str(length))).encode() + body
    return header(b"pax", kind, len(data)) + padded(data)


END = bytes(1024)


def raw_tree(tmp_path: Path, data: bytes) -> Tree:
    path = tmp_path / "raw.tar"
    path.write_bytes(data)
    return Tree.read(path)


def test_every_kind_and_attribute_survives_a_round_trip(tmp_path: Path) -> None:
    tree = sample()
    tree.write(tmp_path / "a.tar", epoch=EPOCH)
    again = Tree.read(tmp_path / "a.tar")
    assert again.names() == tree.names()
    for name, entry in tree.items():
        other = again.get(name)
        assert (other.kind, other.mode, other.uid, other.gid) == (entry.kind, entry.mode, entry.uid, entry.gid)
        assert (other.target, other.device, other.xattrs) == (entry.target, entry.device, entry.xattrs)
        assert other.content.read() == entry.content.read()
        assert other.mtime_s == EPOCH
    assert again.links("usr/bin/ping6") == ("usr/bin/ping", "usr/bin/ping6")


def test_a_tree_that_is_read_and_written_again_is_the_same_file(tmp_path: Path) -> None:
    sample().write(tmp_path / "a.tar", epoch=EPOCH)
    assert written(Tree.read(tmp_path / "a.tar")) == (tmp_path / "a.tar").read_bytes()


def packings(data: bytes) -> list[bytes]:
    """Return a file plain and in every compression, in two concatenated streams each."""
    packers: list[Callable[[bytes], bytes]] = [bz2.compress, gzip.compress, lzma.compress, zstandard.compress]
    return [data, *(pack(data[:700]) + pack(data[700:]) for pack in packers)]


def test_format_order_user_names_and_compression_of_the_source_do_not_change_what_is_written(tmp_path: Path) -> None:
    members: list[Stored] = [
        member("./", tarfile.DIRTYPE),
        member("./etc", tarfile.DIRTYPE, mtime=5),
        (member("./etc/a", mtime=5), b"content"),
        (member("./" + "d" * 90 + "/" + "f" * 150), b"long"),
        member("./" + "d" * 90, tarfile.DIRTYPE, uname="somebody"),
    ]
    path, outputs = tmp_path / "a.tar", set()
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for ordered in (members, members[::-1]):
            for packed in packings(archive(path, *ordered, form=form).read_bytes()):
                path.write_bytes(packed)
                outputs.add(hashlib.sha256(written(Tree.read(path))).hexdigest())
    assert len(outputs) == 1


def test_tarfile_reads_what_is_written_as_it_was_meant() -> None:
    tree = sample()
    with tarfile.open(fileobj=io.BytesIO(written(tree)), errors="surrogateescape") as tar:
        infos = {info.name.removeprefix("./").removeprefix("."): info for info in tar}
        assert list(infos) == tree.names()
        ping = infos["usr/bin/ping"]
        assert (ping.mode, ping.uid, ping.uname, ping.mtime) == (0o4755, 0, "", EPOCH)
        assert ping.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == CAPABILITY
        assert (infos["usr/bin/ping6"].type, infos["usr/bin/ping6"].linkname) == (tarfile.LNKTYPE, "./usr/bin/ping")
        assert (infos["dev/console"].devmajor, infos["dev/console"].devminor) == (5, 1)
        assert infos["usr/far"].linkname == "t" * 300
        assert (infos["usr/owned"].uid, infos["usr/owned"].gid) == (3_000_000, 4_000_000)
        content = tar.extractfile(infos["etc/passwd"])
        assert content is not None
        assert content.read() == b"root:x:0:0\n"


@pytest.mark.parametrize("length", [*range(95, 105), *range(150, 160), *range(250, 262)])
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIR])
def test_names_of_every_critical_length_come_back_from_tarfile(length: int, kind: Kind) -> None:
    name = ("p" * 40 + "/") * (length // 41) + "q" * (length - length // 41 * 41)
    name = name.rstrip("/")
    tree = Tree()
    if kind is Kind.FILE:
        tree.add_file(name, b"1", parents_mode=0o755)
    else:
        tree.add_dir(name, parents_mode=0o755)
    with tarfile.open(fileobj=io.BytesIO(written(tree))) as tar:
        assert tar.getnames()[-1] == f"./{name}"


def test_mtimes_are_clamped_to_the_epoch_and_fractions_rounded_down(tmp_path: Path) -> None:
    data = (
        pax(("mtime", b"100.9")) + header(b"old")
        + pax(("mtime", b"-1.5")) + header(b"older")
        + pax(("mtime", b"9999999999.25")) + header(b"future") + END
    )  # fmt: skip
    tree = raw_tree(tmp_path, data)
    assert [tree.get(name).mtime_s for name in ("old", "older", "future")] == [100, -2, 9_999_999_999]
    (tmp_path / "b.tar").write_bytes(written(tree))
    again = Tree.read(tmp_path / "b.tar")
    assert [again.get(name).mtime_s for name in ("old", "older", "future")] == [100, -2, EPOCH]


def test_folders_that_an_archive_leaves_out_are_0755_root(tmp_path: Path) -> None:
    tree = Tree.read(archive(tmp_path / "a.tar", (member("a/b/c", uid=7), b"x")))
    assert tree.names() == ["", "a", "a/b", "a/b/c"]
    assert (tree.get("a/b").mode, tree.get("a/b").uid) == (0o755, 0)


def test_as_many_folders_lie_in_each_other_as_a_path_has_room_for(tmp_path: Path) -> None:
    path = "/".join(["d"] * 2048)
    tree = raw_tree(tmp_path, pax(("path", path.encode())) + header(b"f") + END)
    assert len(tree) == 2049
    copy = Tree()
    copy.add_file(path, b"", parents_mode=0o755)
    assert copy.names() == tree.names()


def test_a_folder_may_come_after_what_is_in_it_with_its_own_attributes(tmp_path: Path) -> None:
    tree = Tree.read(archive(tmp_path / "a.tar", (member("a/b"), b"x"), member("a", tarfile.DIRTYPE, mode=0o700)))
    assert tree.get("a").mode == 0o700


def test_base_256_numbers_are_read(tmp_path: Path) -> None:
    tree = raw_tree(tmp_path, header(b"big", uid=b"\x80" + (5_000_000).to_bytes(7, "big"), mtime=b"\xff" * 12) + END)
    assert (tree.get("big").uid, tree.get("big").mtime_s) == (5_000_000, -1)


def test_a_global_header_counts_until_a_member_says_otherwise(tmp_path: Path) -> None:
    data = pax(("gid", b"77"), kind=b"g") + header(b"one") + pax(("gid", b"5")) + header(b"two") + END
    tree = raw_tree(tmp_path, data)
    assert (tree.get("one").gid, tree.get("two").gid) == (77, 5)


def sparse_old_gnu() -> bytes:
    raw = bytearray(header(b"s", b"S", 6, magic=b"ustar  \0"))
    pieces = [(1, 1), (3, 1), (5, 1), (7, 1)]
    for number, (offset, length) in enumerate(pieces):
        raw[386 + number * 24 : 386 + (number + 1) * 24] = b"%011o\0%011o\0" % (offset, length)
    raw[482] = 1
    raw[483:495] = b"%011o\0" % 20
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    more = b"%011o\0%011o\0%011o\0%011o\0" % (9, 2, 20, 0)
    return bytes(raw) + padded(more) + padded(b"abcdef")


def sparse_pax(version: str) -> bytes:
    pieces = [(1, 1), (3, 1), (5, 1), (7, 1), (9, 2), (20, 0)]
    if version == "0.0":
        records = [("GNU.sparse.size", b"20")]
        for offset, length in pieces:
            records += [("GNU.sparse.offset", b"%d" % offset), ("GNU.sparse.numbytes", b"%d" % length)]
        return pax(*records) + header(b"s", size=6) + padded(b"abcdef")
    flat = [b"%d" % number for pair in pieces for number in pair]
    if version == "0.1":
        records = [("GNU.sparse.size", b"20"), ("GNU.sparse.name", b"s"), ("GNU.sparse.map", b",".join(flat))]
        return pax(*records) + header(b"GNUSparseFile.1/s", size=6) + padded(b"abcdef")
    records = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"s")]
    table = padded(b"\n".join([b"%d" % len(pieces), *flat]) + b"\n")
    return (
        pax(*records, ("GNU.sparse.realsize", b"20"))
        + header(b"GNUSparseFile.1/s", size=len(table) + 6)
        + padded(table + b"abcdef")
    )


@pytest.mark.parametrize("data", [sparse_old_gnu(), *(sparse_pax(version) for version in ("0.0", "0.1", "1.0"))])
def test_sparse_files_of_every_format_are_read_with_their_holes_as_zeros(tmp_path: Path, data: bytes) -> None:
    tree = raw_tree(tmp_path, data + END)
    expected = b"\0a\0b\0c\0d\0ef" + bytes(9)
    assert tree.read_bytes("s") == expected
    plain = Tree()
    plain.add_file("s", expected)
    assert [entry.content.read() for _, entry in plain.items()] == [entry.content.read() for _, entry in tree.items()]


@pytest.mark.parametrize(
    "text",
    [
        "user::rw-,user:1000:r--,group::r--,mask::r--,other::---",
        "user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---\n",
        "u::rw-,g::r--,o::---,user:someone:r--:1000,m::r--",
        "user::rw-,user:daemon:r--\t#effective:r--,group::r--,mask::r--,other::---",
    ],
)
def test_acls_as_text_become_the_kernels_xattr(tmp_path: Path, text: str) -> None:
    data = (
        pax(("SCHILY.acl.access", text.encode())) + header(b"f")
        + header(b"etc/passwd", size=27) + padded(b"daemon:x:1000:1000::/:/bin\n") + END
    )  # fmt: skip
    assert raw_tree(tmp_path, data).get("f").xattrs == (("system.posix_acl_access", ACL),)


def test_an_acl_of_a_user_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    data = pax(("SCHILY.acl.default", b"user::rwx,user:ghost:r--,group::r--,other::---")) + header(b"d/", b"5") + END
    with pytest.raises(TreeError, match=r"member 'd' at byte 0 .*'user:ghost:r--' names an unknown user"):
        raw_tree(tmp_path, data)


def test_an_acl_that_contradicts_its_own_xattr_is_refused(tmp_path: Path) -> None:
    text = b"user::rwx,group::r--,other::---"
    data = pax(("SCHILY.acl.access", text), ("SCHILY.xattr.system.posix_acl_access", ACL)) + header(b"f") + END
    with pytest.raises(TreeError, match="differs from its xattr"):
        raw_tree(tmp_path, data)


def test_xattrs_of_libarchive_and_selinux_labels_of_gnu_tar_are_read(tmp_path: Path) -> None:
    data = (
        pax(("LIBARCHIVE.xattr.user.a%20b", b"aGk"), ("RHT.security.selinux", b"system_u:object_r:bin_t:s0"))
        + header(b"f")
        + END
    )
    assert raw_tree(tmp_path, data).get("f").xattrs == (
        ("security.selinux", b"system_u:object_r:bin_t:s0\0"),
        ("user.a b", b"hi"),
    )


def test_the_last_owner_that_there_is_stays_who_it_is(tmp_path: Path) -> None:
    last = 2**32 - 2
    entry = raw_tree(tmp_path, pax(("uid", str(last).encode())) + header(b"f", gid=b"\x80\0\0\0\xff\xff\xff\xfe") + END)
    assert (entry.get("f").uid, entry.get("f").gid) == (last, last)


# Refusals: each names the member and where it is


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a tar archive, got an empty file"),
        (header(b"../evil") + END, r"member '../evil' at byte 0 is refused: its name contains `\.\.`"),
        (header(b"a/../../evil") + END, r"its name contains `\.\.`"),
        (header(b"/etc/passwd") + END, "member '/etc/passwd' at byte 0 is refused: its name is absolute"),
        (header(b"f") + header(b"./f") + END, "member 'f' at byte 512 is a duplicate: the name was there at byte 0"),
        (header(b"d/", b"5") + header(b"d", b"5") + END, "member 'd' at byte 512 is a duplicate"),
        (
            header(b"l", b"2", link=b"/etc") + header(b"l/x") + END,
            "member 'l/x' at byte 512 lies below 'l', .* a symlink",
        ),
        (
            header(b"l/x") + header(b"l", b"2", link=b"/etc") + END,
            "member 'l' at byte 512 is a symlink, but .* a folder",
        ),
        (header(b"f") + header(b"f/x/y") + END, "member 'f/x/y' at byte 512 lies below 'f', which is a file"),
        (header(b".", b"0") + END, "member '.' at byte 0 is a file, but the archive uses that name as a folder"),
        (
            header(b"h", b"1", link=b"f") + header(b"f") + END,
            "member 'h' at byte 0 is a hard link to 'f', .* before it",
        ),
        (
            header(b"d", b"5") + header(b"h", b"1", link=b"d") + END,
            "member 'h' at byte 512 is a hard link to the folder",
        ),
        (header(b"h", b"1", link=b"/f") + END, "the name '/f' that it links to is absolute"),
        (header(b"h", b"1", link=b"../f") + END, r"the name '../f' that it links to contains `\.\.`"),
        (header(b"f") + header(b"h", b"1", 5, link=b"f") + END, "hard link with 5 bytes of data"),
        (header(b"f", size=1000) + bytes(512), "member 'f' at byte 0 is truncated: its data ends at byte 1512"),
        (header(b"f"), "header at byte 512 is missing: the archive is truncated at byte 512, without its end mark"),
        (header(b"f") + bytes(512), "header at byte 512 is missing: the archive is truncated"),
        (header(b"f") + bytes(512) + header(b"g"), "header at byte 512 follows a lone block of zeros"),
        (header(b"f") + END + b"garbage", "is the end mark, but bytes other than zero follow it"),
        (header(b"f", checksum=b"0000001\0") + END, "header at byte 0 has a wrong checksum: expected 1, got"),
        (b"<html>not found</html>".ljust(1024), "header at byte 0 has a malformed checksum|wrong checksum"),
        (header(b"f", mode=b"00008xx\0") + END, "member 'f' at byte 0 has a malformed mode field"),
        (header(b"f", mode=b"7_7\0\0\0\0\0") + END, "malformed mode field"),
        (header(b"v", b"V") + END, "member 'v' at byte 0 has type b'V'"),
        (header(b"d", b"5", 9) + END, "is a directory with 9 bytes of data"),
        (header(b"s", b"2") + END, "is a symlink without a target"),
        (pax(("mode", b"x")) + END, "is an extension header with no member after it"),
        (header(b"p", b"x", 4) + padded(b"9 a=") + header(b"f") + END, "has a malformed PAX record"),
        (pax(("uid", b"-4")) + header(b"f") + END, "has a malformed PAX uid"),
        (
            pax(("uid", b"4294967295")) + header(b"f") + END,
            "member 'f' at byte 0 has the uid 4294967295: expected a number from 0 to 4294967294",
        ),
        (pax(("gid", b"4294967296")) + header(b"f") + END, "has the gid 4294967296"),
        (header(b"f", uid=b"\x80\0\0\1\0\0\0\0") + END, "member 'f' at byte 0 has the uid 4294967296"),
        (
            header(b"n", b"3", major=b"\x80\0\0\0\x40\0\0\0") + END,
            "member 'n' at byte 0 is the device 1073741824:0: expected numbers from 0:0 to 4095:1048575",
        ),
        (header(b"f", gid=b"\xff" * 8) + END, "member 'f' at byte 0 has the gid -1: expected a number from 0"),
        (
            header(b"e") + pax(("uid", b"7" * 5000)) + header(b"f") + END,
            r"member 'f' at byte 512 has a malformed PAX uid b'7{80}'",
        ),
        (
            pax(("mtime", b"-" + b"7" * 5000)) + header(b"f") + END,
            "member 'f' at byte 0 has a malformed PAX mtime b'-7",
        ),
        (pax(("GNU.sparse.size", b"7" * 5000)) + header(b"f") + END, r"'f' at byte 0 has a malformed number b'7{12}'"),
        (
            header(b"e") + pax(("path", b"d/" * 3000)) + header(b"f", b"5") + END,
            r"member '(d/){40}' at byte 512 is refused: its name goes on for 6000 bytes, expected at most 4096",
        ),
        (pax(("path", b"a\0b")) + header(b"f") + END, "its name contains a NUL byte"),
        (header(b"p", b"x", 1 << 30) + END, "has an extension header of 1073741824 bytes"),
        (
            pax(("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"5,2,4,1"))
            + header(b"s", size=3)
            + padded(b"abc")
            + END,
            "sparse map that overlaps itself",
        ),
        (
            pax(("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"5,2")) + header(b"s", size=3) + padded(b"abc") + END,
            "sparse map of 2 bytes: expected 3",
        ),
    ],
)
def test_a_bad_archive_is_refused_with_the_member_and_its_offset(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        raw_tree(tmp_path, data)


@pytest.mark.parametrize(
    "pack",
    [bz2.compress, gzip.compress, lzma.compress, zstandard.compress],
    ids=["bzip2", "gzip", "xz", "zstd"],
)
@pytest.mark.parametrize("damage", ["truncated", "garbage", "overwritten"])
def test_a_damaged_compressed_archive_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes], damage: str) -> None:
    packed = pack(header(b"f", size=3000) + hashlib.shake_128(b"").digest(3072) + END)
    damaged = {
        "truncated": packed[: len(packed) // 2],
        "garbage": packed + b"garbage",
        "overwritten": packed[:6] + bytes(range(200, 0, -1)) + packed[206:],
    }[damage]
    with pytest.raises(TreeError, match=r"truncated or corrupt|is truncated"):
        raw_tree(tmp_path, damaged)


@pytest.mark.parametrize("padding_ends_at", [1 << 20, 2 << 20, (2 << 20) + 4])
def test_padding_between_streams_of_xz_may_end_where_a_read_does(tmp_path: Path, padding_ends_at: int) -> None:
    data = header(b"f", size=3) + padded(b"abc") + END
    first = lzma.compress(data[:700])
    packed = first + bytes(padding_ends_at - len(first)) + lzma.compress(data[700:]) + bytes(4)
    assert raw_tree(tmp_path, packed).read_bytes("f") == b"abc"


def test_a_damaged_bzip2_and_missing_archives_are_refused(tmp_path: Path) -> None:
    for damaged in (b"BZh91AY", b"BZh9 is not bzip2 at all", bz2.compress(bytes(10240))[:-1]):
        with pytest.raises(TreeError, match="bzip2 data is truncated or corrupt"):
            raw_tree(tmp_path, damaged)
    with pytest.raises(TreeError, match=r"cannot read archive .*: No such file"):
        Tree.read(tmp_path / "none.tar")
    with pytest.raises(TreeError, match=r"cannot read archive .*: Is a directory"):
        Tree.read(tmp_path)


def test_a_compressed_archive_is_expanded_in_the_folder_that_is_named_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(header(b"f") + END))
    missing = tmp_path / "missing"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    with pytest.raises(TreeError) as caught:
        Tree.read(packed)
    assert caught.value.message == f"cannot expand archive ({packed}) into {missing}: No such file or directory"
    assert "TMPDIR=FOLDER" in caught.value.hint
    assert Tree.read(packed, scratch=tmp_path).exists("f")
    assert list(tmp_path.iterdir()) == [packed]


def test_a_folder_that_gets_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    packed = tmp_path / "a.tar.zst"
    packed.write_bytes(zstandard.compress(header(b"f") + END))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TreeError) as caught:
        Tree.read(packed, scratch=tmp_path)
    assert caught.value.message == f"cannot expand archive ({packed}) into {tmp_path}: No space left on device"
    assert caught.value.hint == "Make room there."
