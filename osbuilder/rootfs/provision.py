"""A root filesystem that a user brings, instead of a distribution's packages: a tar, or a folder of this host.

Either is known by its content: the sha256 is taken when the build is planned, is part of the key, and what is read
later has to bear it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.errors import UsageError, VerificationError
from osbuilder.step import NOT_IN_KEY
from osbuilder.tree import Tree
from osbuilder.tree.folder import read_folder

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
OPTION: Final = "--provision"

EPOCH: Final = 315532800
"""The latest time of a file, in seconds since 1970, where the setting source_date_epoch names no other.

A tree of the user's has no date of its own: its files' are those of the copy. 1980 is the first year that every archive
format can tell.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProvidedTar:
    """Take the root filesystem from a tar, plain or compressed; `sha256` (hex) is that of the file."""

    sha256: str
    epoch: int
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return (f"read {self.path} (sha256 {self.sha256}), write {ROOTFS_TAR}",)

    def run(self, job: Job) -> Mapping[str, Json]:
        copy = job.work / "provided"
        try:
            shutil.copyfile(self.path, copy)
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from error
        _check_unchanged(self.path, expected=self.sha256, got=_sha256_of(copy))
        Tree.read(copy, scratch=job.work).write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {"packages": []}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProvidedFolder:
    """Take the root filesystem from a folder; `sha256` (hex) is that of the tar that it makes."""

    sha256: str
    epoch: int
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return (f"read the folder {self.path}, whose owner is root in it, write {ROOTFS_TAR} (sha256 {self.sha256})",)

    def run(self, job: Job) -> Mapping[str, Json]:
        output = job.out / ROOTFS_TAR
        read_folder(self.path).write(output, epoch=self.epoch)
        _check_unchanged(self.path, expected=self.sha256, got=_sha256_of(output))
        return {"packages": []}


def provide(path: Path, *, epoch: int, option: str = OPTION) -> ProvidedTar | ProvidedFolder:
    """Return the action for a tar or a folder; reads it once. Raises UsageError for what can be neither.

    `option` names where the path came from in messages.
    """
    if path.resolve() == Path("/"):
        raise UsageError(f"{option} {path}: this is the root of this machine", hint="Name the folder of a tree.")
    if path.is_dir():
        if not any(path.iterdir()):
            raise UsageError(f"{option} {path}: the folder is empty", hint="Name the folder of a root filesystem.")
        digest = hashlib.sha256()
        read_folder(path).write(_Hashing(digest), epoch=epoch)
        return ProvidedFolder(sha256=digest.hexdigest(), epoch=epoch, path=path)
    if not path.is_file():
        raise UsageError(f"{option} {path}: expected a folder or a tar, got {_kind(path)}")
    try:
        return ProvidedTar(sha256=_sha256_of(path), epoch=epoch, path=path)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot read it: {error.strerror}") from error


def name_of(path: Path) -> str:
    """Return what a tree is called after where it lies: a folder's or a tar's name without what follows a dot."""
    name = re.sub(r"[^a-z0-9]+", "-", path.absolute().name.lower().partition(".tar")[0]).strip("-")
    return name or "tree"


class _Hashing:
    """Gives what is written to a hash."""

    def __init__(self, digest: hashlib._Hash) -> None:
        self._digest = digest

    def write(self, data: bytes, /) -> None:
        """Take all of `data`."""
        self._digest.update(data)


def _kind(path: Path) -> str:
    return "something else" if path.exists() else "nothing"


def _sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_unchanged(path: Path, *, expected: str, got: str) -> None:
    if got != expected:
        raise VerificationError(
            f"{path} changed during the build: expected sha256 {expected}, got {got}",
            hint="Build again when it is at rest.",
        )
