"""Packages are read from .deb files, and what is none is refused by name; an index says what their control files do."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from pathlib import Path

import pytest
import zstandard

from osbuilder.distro.deb import expand_debs, read_control, read_deb, read_debs, render_index, render_release
from osbuilder.errors import TreeError
from tests.mirrors.apt import Toy, ar, tar

TOY = Toy(name="toy", version="1:2.0", fields={"Multi-Arch": "same", "Depends": "libc6 (>= 2)"})


def write(folder: Path, content: bytes, name: str = "toy.deb") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_a_package_has_its_control_file_and_its_files_in_order(tmp_path: Path) -> None:
    deb = read_deb(write(tmp_path, TOY.deb()))
    assert (deb.name, deb.fields["Version"], deb.fields["Multi-Arch"]) == ("toy", "1:2.0", "same")
    assert deb.paragraph == TOY.control
    assert [member.name for member in deb.members()] == ["usr/share/toy"]


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstandard.compress, bytes])
def test_every_compression_that_dpkg_writes_is_read(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    control = pack(tar({"./control": b"Package: toy\nVersion: 1\n", "./postinst": b"#!/bin/sh\n"}))
    data = pack(tar({"./etc/toy": b"x"}))
    deb = read_deb(write(tmp_path, ar({"debian-binary": b"2.0\n", "control.tar": control, "data.tar": data})))
    assert deb.text("postinst") == "#!/bin/sh\n"
    assert deb.text("preinst") is None
    assert [member.name for member in deb.members()] == ["etc/toy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", r"not a Debian package \(.*toy.deb\): expected an ar archive"),
        (ar({"debian-binary": b"2.0\n"}), "expected control.tar and data.tar, got"),
        (ar({"control.tar": tar({"./md5sums": b""}), "data.tar": tar({})}), "there is no control file in it"),
        (TOY.deb()[:-100], r"truncated Debian package \(.*toy.deb\): data.tar.gz ends at byte"),
        (TOY.deb().replace(b"`\n", b"!\n", 1), "bad ar header at byte 8"),
    ],
    ids=["web page", "parts missing", "control missing", "truncated", "bad header"],
)
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        read_deb(write(tmp_path, content))


def test_a_control_paragraph_has_no_blank_lines_and_its_archive_is_all_that_is_expanded(tmp_path: Path) -> None:
    control = tar({"./control": b"Package: toy\nVersion: 1\n\nDescription: a toy\n with two lines\n"})
    path = write(tmp_path, ar({"debian-binary": b"2.0\n", "control.tar": control, "data.tar.xz": b"no xz"}))
    assert read_control(path) == "Package: toy\nVersion: 1\nDescription: a toy\n with two lines\n"
    with pytest.raises(TreeError, match=r"expected control\.tar, got debian-binary, data\.tar\.xz"):
        read_control(write(tmp_path, ar({"debian-binary": b"2.0\n", "data.tar.xz": b"no xz"})))


def test_packages_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    paths = tuple(write(tmp_path, Toy(name=name).deb(), f"{9 - at}.deb") for at, name in enumerate(("b", "a", "c")))
    assert [deb.name for deb in read_debs(paths, jobs=2)] == ["a", "b", "c"]


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstandard.compress, bytes])
def test_an_expanded_package_is_the_package_with_plain_archives_in_it(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    control = tar({"./control": b"Package: toy\nVersion: 1\n"}) + b"odd"
    data = tar({"./etc/toy": b"x" * 3000})
    parts = {"debian-binary": b"2.0\n", "control.tar.x": pack(control), "_new": b"?", "data.tar.x": pack(data)}
    packed = write(tmp_path, ar(parts))
    (tmp_path / "pool").mkdir()
    expand_debs([packed], tmp_path / "pool", jobs=2)
    members = (tmp_path / "pool" / "toy.deb").read_bytes()
    begin = b"!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"
    control_at = begin + f"control.tar     0           0     0     100644  {len(control):<10}`\n".encode()
    data_at = f"\ndata.tar        0           0     0     100644  {len(data):<10}`\n".encode()
    assert members == control_at + control + data_at + data


def test_what_cannot_be_expanded_is_refused_by_name(tmp_path: Path) -> None:
    good, bad = write(tmp_path, TOY.deb(), "good.deb"), write(tmp_path, TOY.deb()[:-100], "bad.deb")
    (tmp_path / "pool").mkdir()
    with pytest.raises(TreeError, match=r"truncated Debian package \(.*bad\.deb\)"):
        expand_debs([good, bad], tmp_path / "pool", jobs=1)


def test_an_index_has_a_paragraph_a_package_and_a_release_names_it(tmp_path: Path) -> None:
    package = Toy(name="toy", fields={"Priority": "required"})
    path = tmp_path / "toy_1.0_amd64.deb"
    path.write_bytes(package.deb())
    digest = hashlib.sha256(package.deb()).hexdigest()
    index = render_index([path], folder="pool")
    assert index == (
        f"{package.control}Filename: pool/toy_1.0_amd64.deb\nSize: {len(package.deb())}\nSHA256: {digest}\n\n"
    )
    release = render_release(index, suite="trixie", component="main", architecture="amd64")
    assert "Codename: trixie\n" in release
    assert f" {hashlib.sha256(index.encode()).hexdigest()} {len(index)} main/binary-amd64/Packages\n" in release
