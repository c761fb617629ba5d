"""Builders as folders, for the sandbox: a builder's tar unpacked once, all of it owned by the caller.

What a folder on a host must not hold is left out: device nodes (the sandbox makes its own), setuid and setgid bits
and file capabilities (nothing in a sandbox could use them, somebody on the host might). Owners make no difference,
because the tree is read-only and everybody in the sandbox may read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from osbuilder.engine import base
from osbuilder.engine.base import Builder
from osbuilder.errors import EngineError
from osbuilder.store import remove_tree

_CHUNK_BYTES: Final = 1 << 20
_MOUNT_POINTS: Final = ("cache", "dev", "in", "out", "proc", "run", "sys", "tmp", "var/tmp", "work")
_FILES: Final = (
    ("etc/hostname", f"{base.HOSTNAME}\n"),
    ("etc/hosts", f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{base.HOSTNAME}\n"),
    ("etc/resolv.conf", ""),
)


def ensure_tree(folder: Path, builder: Builder) -> Path:
    """Return the unpacked tree of a builder in `folder`, unpacking it if it is not there.

    One process unpacks, others wait. Raises EngineError if the tar is not what its checksum says, or is malformed.
    """
    tree = folder / builder.sha256
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, builder):
        if not tree.is_dir():
            partial = folder / f"{builder.sha256}.part"
            remove_tree(partial)
            try:
                _unpack(builder, partial)
                # Its name is all that says later that a tree is whole: after a power cut it must not have empty files.
                os.sync()
                partial.rename(tree)
            except BaseException:
                remove_tree(partial)
                raise
    return tree


@contextlib.contextmanager
def _locked(folder: Path, builder: Builder) -> Iterator[None]:
    with (folder / f"{builder.sha256}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(builder: Builder, target: Path) -> None:
    if not builder.tar.is_file():
        raise EngineError(f"builder {builder.name} is missing ({builder.tar})")
    target.mkdir(mode=0o755)
    try:
        with builder.tar.open("rb") as raw:
            hashing = _Hashing(raw)
            with tarfile.open(fileobj=hashing, mode="r|") as archive:
                _extract(archive, target)
            while hashing.read(_CHUNK_BYTES):
                pass  # what follows the end of the archive is part of the checksum
    except (tarfile.TarError, FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise EngineError(f"builder {builder.name} is malformed ({builder.tar}): {error}") from error
    if hashing.hexdigest() != builder.sha256:
        raise base.damaged(builder, hashing.hexdigest())
    for name in _MOUNT_POINTS:
        (target / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES:
        path = target / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="ascii")
        path.chmod(0o644)


def _extract(archive: tarfile.TarFile, target: Path) -> None:
    links: list[tuple[Path, str]] = []
    folders: list[tuple[Path, int]] = []
    for member in archive:
        path = _inside(target, member.name)
        if member.isdir():
            path.mkdir(exist_ok=True)
            folders.append((path, member.mode))
        elif member.issym():
            links.append((path, member.linkname))
        elif member.islnk():
            path.hardlink_to(_inside(target, member.linkname))
        elif member.isreg():
            source = archive.extractfile(member)
            if source is None:
                raise EngineError(f"damaged archive at {member.name!r}")
            with path.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK_BYTES)
            path.chmod(member.mode & 0o777)
    # Links come last, so that nothing is ever written through one; modes after them, so that folders stay writable.
    for path, linkname in links:
        path.symlink_to(linkname)
    for path, mode in reversed(folders):
        # The caller owns everything, whoever owned it in the tar: it must be able to enter and to read.
        path.chmod(mode & 0o777 | stat.S_IRWXU)


def _inside(target: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise EngineError(f"a builder's member leaves its tree: {name!r}")
    return target.joinpath(*parts)


class _Hashing(io.RawIOBase):
    """Reads a file and hashes what goes by."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
