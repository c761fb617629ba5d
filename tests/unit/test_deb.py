"""The index of a folder of Debian packages says of each what its control file does, and its digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from osbuilder.distro.deb import read_control, render_index, render_release
from osbuilder.errors import FetchError
from tests.mirrors.apt import Toy

CONTROL = b"Package: toy\nVersion: 1\n\nDescription: a toy\n with two lines\n"


def write(path: Path, name: str, data: bytes) -> Path:
    """Write an ar archive with one member before the control archive, of odd size."""
    members = ((b"debian-binary", b"2.0"), (name.encode(), data))
    path.write_bytes(
        b"!<arch>\n"
        + b"".join(
            f"{member.decode():<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
            for member, content in members
        )
    )
    return path


def control_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("./control")
        member.size = len(CONTROL)
        archive.addfile(member, io.BytesIO(CONTROL))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress)],
)
def test_every_compression_of_a_control_archive_is_read(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "toy.deb", f"control.tar{suffix}", pack(control_tar()))
    assert read_control(path) == "Package: toy\nVersion: 1\nDescription: a toy\n with two lines\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("control.tar.xz", b"not xz", "toy.deb is no Debian package: Input format not supported"),
        ("control.tar.zst", b"not zstd", "toy.deb is no Debian package: "),
        ("data.tar.xz", b"", "toy.deb is no Debian package: it has no control archive"),
    ],
)
def test_what_is_no_package_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        read_control(write(tmp_path / "toy.deb", name, content))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.deb").write_bytes(b"<html>")
    with pytest.raises(FetchError, match=r"toy\.deb is no Debian package: it does not begin as an ar archive"):
        read_control(tmp_path / "toy.deb")


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
