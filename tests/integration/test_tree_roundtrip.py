"""Trees against the archivers of this host: what they write is read, what is written they read, cpio included."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

EPOCH = 1_700_000_000
# GNU tar is always there; bsdtar joins in where it is installed.
TOOLS = [tool for tool in ("tar", "bsdtar") if shutil.which(tool)]
LONG = "long/" * 30 + "n" * 150


def run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with every kind of file that an ordinary user can make."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    (root / LONG).parent.mkdir(parents=True)
    (root / LONG).write_bytes(b"long name")
    (root / "tool").write_bytes(b"\x7fELF" * 1000)
    (root / "tool").chmod(0o4755)
    os.link(root / "tool", root / "another-tool")
    (root / "link").symlink_to("t" * 200)
    (root / "caf\u00e9").write_bytes(b"utf-8")
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        for block in range(40):  # more pieces than fit in one GNU header
            file.seek(block * 65536)
            file.write(b"data%d" % block)
        file.truncate(5 << 20)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (EPOCH - 5, EPOCH - 5), follow_symlinks=False)
    return root


def assert_equals_folder(tree: Tree, root: Path) -> None:
    names = ["", *(str(path.relative_to(root)) for path in root.rglob("*"))]
    assert sorted(names) == sorted(tree.names())
    for name, entry in tree.items():
        status = (root / name).lstat()
        assert entry.mode == stat.S_IMODE(status.st_mode), name
        assert (entry.uid, entry.gid, entry.mtime_s) == (status.st_uid, status.st_gid, EPOCH - 5), name
        if entry.kind is Kind.FILE:
            assert entry.content.read() == (root / name).read_bytes(), name
            assert len(tree.links(name)) == status.st_nlink, name
        elif entry.kind is Kind.SYMLINK:
            assert entry.target == str((root / name).readlink())


@pytest.mark.parametrize("form", ["gnu", "posix", "oldgnu"])
@pytest.mark.parametrize("sparse", [(), ("0.0",), ("0.1",), ("1.0",)], ids=lambda version: "".join(version) or "plain")
def test_what_gnu_tar_writes_is_read_in_every_format(
    folder: Path, tmp_path: Path, form: str, sparse: tuple[str, ...]
) -> None:
    options = ["--sparse", f"--sparse-version={sparse[0]}"] if sparse else []
    path = tmp_path / "a.tar"
    run("tar", f"--format={form}", *options, "-C", str(folder), "-cf", str(path), ".")
    assert_equals_folder(Tree.read(path), folder)


def test_every_format_and_order_of_the_same_folder_is_written_as_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    path, outputs = tmp_path / "a.tar", set()
    listing = sorted(str(item.relative_to(folder)) for item in folder.rglob("*"))
    # The first name of a hard link must come before the others whatever the order: it carries the content.
    for form in ("gnu", "posix"):
        for names in (listing, listing[::-1]):
            (tmp_path / "names").write_text("".join(f"./{name}\n" for name in names))
            files = ["--no-recursion", "-C", str(folder), "-cf", str(path), ".", "-T", str(tmp_path / "names")]
            run("tar", f"--format={form}", *files)
            stream = io.BytesIO()
            Tree.read(path).write(stream, epoch=EPOCH)
            outputs.add(stream.getvalue())
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    stream = io.BytesIO()
    Tree.read(path).write(stream, epoch=EPOCH)
    assert len(outputs | {stream.getvalue()}) == 1


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_written_is_extracted_with_every_attribute(folder: Path, tmp_path: Path, tool: str) -> None:
    path, target = tmp_path / "a.tar", tmp_path / "target"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    tree = Tree.read(path)
    tree.write(path, epoch=EPOCH)
    target.mkdir()
    run(tool, "-xpf", str(path), "-C", str(target))
    assert_equals_folder(tree, target)


@pytest.mark.parametrize("tool", TOOLS)
def test_devices_owners_and_attributes_are_listed_without_a_complaint(tmp_path: Path, tool: str) -> None:
    tree = Tree()
    tree.add_device("null", Kind.CHAR, (1, 3), mode=0o666)
    tree.add_device("disk", Kind.BLOCK, (259, 300_000), mode=0o660, gid=6)
    tree.add_file("ping", b"x", uid=3_000_000, xattrs={"security.capability": b"\1\0\0\2" + bytes(16)})
    tree.write(tmp_path / "a.tar", epoch=EPOCH)
    done = subprocess.run(
        [tool, "--numeric-owner", "-tvf", str(tmp_path / "a.tar")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    listing = [" ".join(line.replace("/", " ").split()) for line in done.stdout.splitlines()]
    assert any(line.startswith("crw-rw-rw-") and "1,3" in line and line.endswith("null") for line in listing)
    assert any(line.startswith("brw-rw----") and "259,300000" in line for line in listing)
    assert any("3000000" in line and line.endswith("ping") for line in listing)


def test_tarfile_and_tree_agree_on_a_whole_archive(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    run("tar", "--format=posix", "-C", str(folder), "-cf", str(path), ".")
    tree = Tree.read(path)
    with tarfile.open(path) as tar:
        infos = {"" if info.name == "." else info.name.removeprefix("./"): info for info in tar}
        assert sorted(infos) == sorted(tree.names())
        for name, info in infos.items():
            entry = tree.get(name)
            if not info.issym():
                assert info.mode == entry.mode, name
            assert (info.uid, info.gid, int(info.mtime)) == (entry.uid, entry.gid, entry.mtime_s), name
            content = tar.extractfile(info) if info.isreg() else None
            if content:
                assert content.read() == entry.content.read(), name
