"""Files on their way to and from a daemon that cannot see this host's: tar streams, never a whole file in memory.

Owners are not what travels: whoever runs the command owns what it gets, and the caller owns what comes back. Modes,
links and contents travel; runs of zeros come back as holes.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from osbuilder.errors import EngineError

_CHUNK_BYTES: Final = 1 << 20
_HOLE_BYTES: Final = 4096
_FORMAT: Final = tarfile.PAX_FORMAT


def pack(members: Iterable[tuple[str, Path]], *, uid: int) -> Iterator[bytes]:
    """Yield a tar of host files and folders under the given names, all owned by `uid`.

    A folder's name may be "." to describe the folder that the tar is unpacked in. Raises EngineError for a file that
    is neither a file, a folder nor a link, or that changes while it is read.
    """
    for name, path in members:
        for inner, source in _walk(path):
            yield from _pack_one(str(PurePosixPath(name, inner)), source, uid)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _walk(path: Path) -> Iterator[tuple[str, Path]]:
    yield "", path
    if path.is_dir():
        for root, folders, files in os.walk(path):
            folders.sort()
            for name in sorted((*folders, *files)):
                yield str(Path(root, name).relative_to(path)), Path(root, name)


def _pack_one(name: str, source: Path, uid: int) -> Iterator[bytes]:
    facts = source.lstat()
    info = tarfile.TarInfo(name)
    info.uid = info.gid = uid
    info.mode = stat.S_IMODE(facts.st_mode)
    info.mtime = int(facts.st_mtime)
    if stat.S_ISDIR(facts.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(facts.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(source)  # noqa: PTH115 - the text, not a path
    elif stat.S_ISREG(facts.st_mode):
        info.size = facts.st_size
    else:
        raise EngineError(f"cannot send {source} to the engine: expected a file, a folder or a link")
    yield info.tobuf(_FORMAT, "utf-8", "surrogateescape")
    if info.isreg():
        yield from _content(source, info.size)


def _content(source: Path, size_bytes: int) -> Iterator[bytes]:
    with source.open("rb") as stream:
        left = size_bytes
        while left:
            chunk = stream.read(min(_CHUNK_BYTES, left))
            if not chunk:
                raise EngineError(f"{source} became shorter while it was sent to the engine")
            left -= len(chunk)
            yield chunk
    yield bytes(-size_bytes % tarfile.BLOCKSIZE)


def holds_of_others(folder: Path) -> bool:
    """Whether something below a folder belongs to another user; never for root, who may remove it anyway."""
    uid = os.geteuid()
    if uid == 0:
        return False
    found = [folder]
    for root, folders, files in os.walk(folder):
        found += [Path(root, name) for name in (*folders, *files)]
    return any(path.lstat().st_uid != uid for path in found)


def unpack(chunks: Iterable[bytes], target: Path) -> None:
    """Replace the contents of `target` by the tar's members below their one top folder.

    Raises EngineError for members that leave it, or that are neither files, folders nor links, and OSError.
    """
    for old in target.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    rest = iter(chunks)
    with tarfile.open(fileobj=io.BufferedReader(_Chunks(rest), _CHUNK_BYTES), mode="r|") as archive:
        links, folders = _unpack_files(archive, target)
    for _ in rest:
        pass  # to its end, or the connection that it comes from stays busy
    # Last, so that no member is ever written through a link.
    for path, member in links:
        if member.issym():
            path.symlink_to(member.linkname)
        else:
            path.hardlink_to(_inside(target, member.linkname))
    for path, mode in reversed(folders):
        if path != target:
            path.chmod(mode | stat.S_IRWXU)


def _unpack_files(
    archive: tarfile.TarFile, target: Path
) -> tuple[list[tuple[Path, tarfile.TarInfo]], list[tuple[Path, int]]]:
    """Write files and make folders; return the links that are still to make, and the folders with their modes."""
    links: list[tuple[Path, tarfile.TarInfo]] = []
    folders: list[tuple[Path, int]] = []
    for member in archive:
        path = _inside(target, member.name)
        if member.isdir():
            path.mkdir(exist_ok=True)
            folders.append((path, member.mode))
        elif member.isreg():
            _write(archive, member, path)
        elif member.issym() or member.islnk():
            links.append((path, member))
        else:
            raise EngineError(f"the command left {member.name}: expected files, folders and links only")
    return links, folders


def _inside(target: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise EngineError(f"the engine sent back a file outside of /out: {name!r}")
    return target.joinpath(*parts[1:])


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise EngineError(f"the engine sent back a damaged archive at {member.name!r}")
    with path.open("xb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            _write_sparse(sink, chunk)
        sink.truncate(member.size)
    path.chmod(member.mode & 0o777)


def _write_sparse(sink: io.BufferedWriter, chunk: bytes) -> None:
    hole = bytes(_HOLE_BYTES)
    for start in range(0, len(chunk), _HOLE_BYTES):
        block = chunk[start : start + _HOLE_BYTES]
        if block == hole:
            sink.seek(_HOLE_BYTES, os.SEEK_CUR)
        else:
            sink.write(block)


class _Chunks(io.RawIOBase):
    """The bytes of an iterable as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # BufferedReader passes a memoryview
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def is_readable_by_others(path: Path) -> bool:
    """Whether another user can read a file, or a folder with everything in it, once it is mounted for them."""
    for _, item in _walk(path):
        mode = item.lstat().st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if not stat.S_ISLNK(mode) and mode & needed != needed:
            return False
    return True


def chown_tree(folder: Path, *, uid: int, gid: int) -> None:
    """Give a folder and everything in it to an owner, without following links. For root on this host."""
    for _, item in _walk(folder):
        os.chown(item, uid, gid, follow_symlinks=False)
