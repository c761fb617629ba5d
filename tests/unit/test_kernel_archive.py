"""A source archive is walked to its end before anything of it is used, and every doubt names the member."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from osbuilder.errors import SourceError
from osbuilder.kernel import archive
from osbuilder.kernel.archive import KernelSource, inspect, parse_version
from tests.kernel_sources import EPOCH, FILES, MAKEFILE, member, members, pack, write_archive

LONG = "drivers/" + "long-name/" * 30 + "file.c"


def refusal(path: Path, plain: bytes) -> str:
    write_archive(path / "s.tar.zst", plain)
    with pytest.raises(SourceError) as caught:
        inspect(path / "s.tar.zst", origin="linux.tar.xz")
    return str(caught.value)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_version_and_newest_timestamp_come_out_of_every_tar_format(tmp_path: Path, format_: int) -> None:
    contents = members()
    contents[-1][0].mtime = EPOCH + 5
    path = write_archive(tmp_path / "s.tar.zst", pack(contents, format=format_))
    assert inspect(path, origin="x") == KernelSource(version="6.12.57", epoch=EPOCH + 5)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_and_do_not_disturb_what_follows(tmp_path: Path, format_: int) -> None:
    contents = members({LONG: "x" * 1000, **FILES})
    path = write_archive(tmp_path / "s.tar.zst", pack(contents, format=format_))
    assert inspect(path, origin="x").version == "6.12.57"


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_that_leads_upwards_is_refused_like_a_short_one(tmp_path: Path, format_: int) -> None:
    contents = [*members(), member(f"linux-6.12.57/{LONG}/../../x")]
    assert "unsafe member" in refusal(tmp_path, pack(contents, format=format_))


def test_links_within_the_source_and_a_leading_dot_are_fine(tmp_path: Path) -> None:
    contents = [
        *members(top="./linux"),
        member("./linux/scripts/link", kind=tarfile.SYMTYPE, link="../kernel/fork.c"),
        member("./linux/hard", kind=tarfile.LNKTYPE, link="./linux/Kconfig"),
    ]
    assert inspect(write_archive(tmp_path / "s", pack(contents)), origin="x").version == "6.12.57"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("../evil"), "'../evil': its name leads upwards"),
        (member("linux-6.12.57/a/../../../evil"), "its name leads upwards"),
        (member("/etc/passwd"), "'/etc/passwd': its name is absolute"),
        (
            member("linux-6.12.57/l", kind=tarfile.SYMTYPE, link="/etc"),
            "'linux-6.12.57/l': its link to '/etc' leads out",
        ),
        (member("linux-6.12.57/a/l", kind=tarfile.SYMTYPE, link="../../x"), "its link to '../../x' leads out"),
        (member("linux-6.12.57/l", kind=tarfile.LNKTYPE, link="../x"), "its link to '../x' leads out"),
        (
            member("linux-6.12.57/x", kind=tarfile.SYMTYPE, link="deep/link/../y"),
            "'linux-6.12.57/x': its way to 'deep/link/../y' leads through a link",
        ),
        (
            member("linux-6.12.57/deep/link/x"),
            "'linux-6.12.57/deep/link': it is a link, and other members lie below it",
        ),
        (member("linux-6.12.57/null", kind=tarfile.CHRTYPE), "neither file, folder nor link"),
        (member("linux-6.12.57/pipe", kind=tarfile.FIFOTYPE), "neither file, folder nor link"),
        (member("other/file"), "expected one top folder (linux-6.12.57/), got the member 'other/file'"),
        (member("linux-6.12.57/Kconfig"), "'linux-6.12.57/Kconfig' stands in the archive twice"),
    ],
)
def test_an_unsafe_member_is_refused_by_name(tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes], why: str) -> None:
    link = member("linux-6.12.57/deep/link", kind=tarfile.SYMTYPE, link="..")
    said = refusal(tmp_path, pack([*members(), link, bad]))
    assert said.startswith("linux.tar.xz: ")
    assert why in said


def test_more_than_a_kernel_could_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "UNPACKED_MAX_BYTES", 2 << 20)
    bomb = member("linux-6.12.57/zeros", "\0" * (8 << 20))
    assert "linux.tar.xz: unpacks to more than" in refusal(tmp_path, pack([*members(), bomb]))
    monkeypatch.setattr(archive, "_MEMBERS_MAX", 20)
    many = [member(f"linux-6.12.57/{number}") for number in range(20)]
    assert "linux.tar.xz: more than 20 members" in refusal(tmp_path, pack([*members(), *many]))


def test_a_sparse_file_that_claims_any_size_is_refused(tmp_path: Path) -> None:
    info, content = member("linux-6.12.57/sparse", "x")
    info.pax_headers = {"GNU.sparse.realsize": str(1 << 50)}
    plain = pack([*members(), (info, content)], format=tarfile.PAX_FORMAT)
    assert "damaged archive: a sparse file" in refusal(tmp_path, plain)


def test_a_web_page_is_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x: damaged archive: "):
        inspect(write_archive(tmp_path / "s", b"<html>not found</html>"), origin="x")


def test_an_archive_that_ends_early_is_damaged(tmp_path: Path) -> None:
    plain = pack(members({"big": "x" * 5000, **FILES}))
    assert "damaged archive: it ends early" in refusal(tmp_path, plain[:2048])


def test_a_header_whose_bytes_changed_is_damaged(tmp_path: Path) -> None:
    plain = bytearray(pack(members()))
    plain[512 + 3] ^= 1
    assert "damaged archive: a header has a wrong checksum" in refusal(tmp_path, bytes(plain))


def test_what_is_not_zstd_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(pack(members()))
    with pytest.raises(SourceError, match="x: damaged archive"):
        inspect(tmp_path / "s", origin="x")


def test_a_tar_of_something_else_is_no_kernel_source(tmp_path: Path) -> None:
    said = refusal(tmp_path, pack(members({"README": "hello", "Makefile": MAKEFILE})))
    assert "not a kernel source: it has no Kconfig, scripts/kconfig/Makefile" in said


def test_an_empty_tar_is_no_kernel_source(tmp_path: Path) -> None:
    assert "it has no Kconfig, Makefile, scripts/kconfig/Makefile" in refusal(tmp_path, pack([]))


def test_a_makefile_without_a_version_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, pack(members({**FILES, "Makefile": "all:\n\ttrue\n"})))
    assert "no kernel version in its Makefile: expected VERSION, PATCHLEVEL and SUBLEVEL, got ''" in said


@pytest.mark.parametrize(
    ("makefile", "version"),
    [
        (MAKEFILE, "6.12.57"),
        (MAKEFILE.replace("EXTRAVERSION =", "EXTRAVERSION = -rc2"), "6.12.57-rc2"),
        ("VERSION = 6\nPATCHLEVEL = 13\nSUBLEVEL = 0\n", "6.13.0"),
        (MAKEFILE + "VERSION = 9\n", "6.12.57"),
    ],
)
def test_the_version_is_what_the_makefile_declares_first(makefile: str, version: str) -> None:
    assert parse_version(makefile, origin="x") == version


def test_a_version_that_could_leave_a_folder_is_refused() -> None:
    with pytest.raises(SourceError, match="no kernel version"):
        parse_version(MAKEFILE.replace("EXTRAVERSION =", "EXTRAVERSION = /../../x"), origin="x")
