from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from osbuilder.engine import transfer
from osbuilder.errors import EngineError


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def test_what_is_packed_is_unpacked_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder/\u00fc").write_bytes(b"x" * 3000)
    (source / "folder/tool").write_bytes(b"#!")
    (source / "folder/tool").chmod(0o755)
    (source / "link").symlink_to("folder/tool")
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").mkdir()
    transfer.unpack(transfer.pack([("out", source)], uid=7), target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        "folder",
        "folder/tool",
        "folder/\u00fc",
        "link",
    ]
    assert (target / "folder/\u00fc").read_bytes() == b"x" * 3000
    assert (target / "folder/tool").stat().st_mode & 0o777 == 0o755
    assert (target / "link").readlink() == Path("folder/tool")


def test_a_packed_tree_belongs_to_whoever_runs_the_command(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    data = b"".join(transfer.pack([("name", tmp_path / "a")], uid=1234))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
    assert (member.name, member.uid, member.gid, member.size) == ("name", 1234, 1234, 1)


def test_a_pipe_cannot_be_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EngineError, match="expected a file, a folder or a link"):
        list(transfer.pack([("pipe", tmp_path / "pipe")], uid=0))


def test_zeros_become_holes_and_the_size_stays(tmp_path: Path) -> None:
    content = b"a" + bytes(5_000_000) + b"end"
    transfer.unpack([_tar((_member("out", tarfile.DIRTYPE), b""), (_member("out/f"), content))], tmp_path)
    assert (tmp_path / "f").read_bytes() == content
    assert (tmp_path / "f").stat().st_blocks * 512 < 100_000


def test_chunks_of_any_size_make_a_file(tmp_path: Path) -> None:
    data = _tar((_member("out/f"), b"word"))
    transfer.unpack([b"", *(data[i : i + 7] for i in range(0, len(data), 7)), b""], tmp_path)
    assert (tmp_path / "f").read_bytes() == b"word"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "out/../../x"])
def test_a_member_outside_of_the_output_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EngineError, match="outside of /out"):
        transfer.unpack([_tar((_member(name), b"x"))], tmp_path)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "elsewhere").mkdir()
    members = [(_member("out/l", tarfile.SYMTYPE, str(tmp_path / "elsewhere")), b""), (_member("out/l/f"), b"x")]
    with pytest.raises(OSError, match="No such file or directory"):
        transfer.unpack([_tar(*members)], target)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_device_in_the_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="files, folders and links only"):
        transfer.unpack([_tar((_member("out/null", tarfile.CHRTYPE), b""))], tmp_path)


def test_hard_links_stay_hard_links(tmp_path: Path) -> None:
    members = [(_member("out/a"), b"x"), (_member("out/b", tarfile.LNKTYPE, "out/a"), b"")]
    transfer.unpack([_tar(*members)], tmp_path)
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_readable_by_others_looks_at_everything_inside(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    secret = folder / "secret"
    secret.write_bytes(b"")
    secret.chmod(0o644)
    (folder / "dangling").symlink_to("nowhere")
    assert transfer.is_readable_by_others(folder)
    secret.chmod(0o640)
    assert not transfer.is_readable_by_others(folder)
    assert not transfer.is_readable_by_others(secret)
