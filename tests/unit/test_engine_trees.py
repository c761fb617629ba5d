from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from osbuilder.engine import trees
from osbuilder.engine.base import Builder
from osbuilder.errors import EngineError


def _builder(tmp_path: Path, *members: tarfile.TarInfo, sha256: str = "") -> Builder:
    tar = tmp_path / "builder.tar"
    with tarfile.open(tar, mode="w") as archive:
        for info in members:
            content = b"x" * info.size
            archive.addfile(info, io.BytesIO(content))
    return Builder(name="small", tar=tar, sha256=sha256 or hashlib.sha256(tar.read_bytes()).hexdigest())


def _member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, 1 if kind == tarfile.REGTYPE else 0
    return info


def _folder(name: str) -> tarfile.TarInfo:
    return _member(name, tarfile.DIRTYPE, mode=0o755)


def test_a_tree_keeps_nothing_that_could_serve_somebody_on_the_host(tmp_path: Path) -> None:
    builder = _builder(
        tmp_path,
        _folder("./dev"),
        _member("./dev/sda", tarfile.BLKTYPE, mode=0o666),
        _folder("./bin"),
        _member("./bin/su", mode=0o4755),
        _member("./bin/hard", tarfile.LNKTYPE, link="./bin/su"),
        _member("./sbin", tarfile.SYMTYPE, link="bin"),
    )
    tree = trees.ensure_tree(tmp_path / "trees", builder)
    assert (tree / "bin/su").stat().st_mode & 0o7777 == 0o755
    assert (tree / "bin/hard").samefile(tree / "bin/su")
    assert (tree / "sbin").readlink() == Path("bin")
    assert list((tree / "dev").iterdir()) == []


def test_a_tree_has_the_mount_points_and_the_name_of_every_sandbox(tmp_path: Path) -> None:
    tree = trees.ensure_tree(tmp_path / "trees", _builder(tmp_path))
    for name in ("in", "out", "cache", "work", "proc", "dev", "tmp", "run", "var/tmp"):
        assert (tree / name).is_dir()
    assert (tree / "etc/hostname").read_text() == "builder\n"
    assert (tree / "etc/resolv.conf").read_text() == ""


def test_a_tree_is_unpacked_once(tmp_path: Path) -> None:
    builder = _builder(tmp_path, _member("file"))
    tree = trees.ensure_tree(tmp_path / "trees", builder)
    builder.tar.unlink()
    assert trees.ensure_tree(tmp_path / "trees", builder) == tree


def test_what_was_unpacked_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = _builder(tmp_path, _member("file"))
    synced: list[list[str]] = []
    monkeypatch.setattr(
        "os.sync", lambda: synced.append([path.parent.name for path in (tmp_path / "trees").glob("*/file")])
    )
    tree = trees.ensure_tree(tmp_path / "trees", builder)
    assert trees.ensure_tree(tmp_path / "trees", builder) == tree
    assert synced == [[f"{builder.sha256}.part"]]


def test_what_a_killed_process_unpacked_is_thrown_away(tmp_path: Path) -> None:
    builder = _builder(tmp_path, _member("file"))
    partial = tmp_path / "trees" / f"{builder.sha256}.part"
    (partial / "locked").mkdir(parents=True)
    (partial / "locked/file").write_bytes(b"")
    (partial / "locked").chmod(0o555)
    tree = trees.ensure_tree(tmp_path / "trees", builder)
    assert not partial.exists()
    assert not (tree / "locked").exists()


def test_a_damaged_builder_leaves_no_tree(tmp_path: Path) -> None:
    builder = _builder(tmp_path, _member("file"), sha256="0" * 64)
    with pytest.raises(EngineError, match=f"builder small is damaged .*expected sha256 {'0' * 64}, got"):
        trees.ensure_tree(tmp_path / "trees", builder)
    assert [path.name for path in (tmp_path / "trees").iterdir()] == [f"{'0' * 64}.lock"]


def test_a_missing_builder_is_named(tmp_path: Path) -> None:
    builder = Builder(name="small", tar=tmp_path / "none.tar", sha256="0" * 64)
    with pytest.raises(EngineError, match=r"builder small is missing \(.*none\.tar\)"):
        trees.ensure_tree(tmp_path / "trees", builder)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_member_that_leaves_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EngineError, match="leaves its tree"):
        trees.ensure_tree(tmp_path / "trees", _builder(tmp_path, _folder("a"), _member(name)))


def test_a_member_below_a_link_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    builder = _builder(tmp_path, _member("l", tarfile.SYMTYPE, link=str(outside)), _member("l/f"))
    with pytest.raises(EngineError, match="malformed"):
        trees.ensure_tree(tmp_path / "trees", builder)
    assert list(outside.iterdir()) == []
