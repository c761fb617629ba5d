"""A file that is still coming: `<destination>.part`, locked, resumable, published by one rename once it is whole.

`<destination>.part.json` says which pin the bytes belong to and what the server calls this version of them. A part
outlives a killed process; a part of another pin is thrown away. Only the holder of the lock touches either file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, Self

from osbuilder.errors import StoreError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_BLOCK_BYTES: Final = 1 << 20


class Proof(Protocol):
    """What makes a file the right one where its sha256 is not known beforehand: a signature, another digest."""

    @property
    def pin(self) -> str:
        """What the file has to be, in a few words: told in messages, and what a part belongs to."""

    def problem(self, path: Path) -> str:
        """Return why a file is not the one, in a few words, or "" when it is. Raises OSError if it cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sha256:
    """The proof of a file whose sha256 (hex) is pinned."""

    digest: str

    @property
    def pin(self) -> str:
        return f"sha256 {self.digest}"

    def problem(self, path: Path) -> str:
        with path.open("rb") as file:
            return self.compare(hashlib.file_digest(file, "sha256").hexdigest())

    def compare(self, came: str) -> str:
        """Return the problem of bytes that have the sha256 `came`."""
        return "" if came == self.digest else f"expected sha256 {self.digest}, got {came}"


class Unproven:
    """Nothing says beforehand what the file has to be: it is never whole by itself, and its reader verifies it."""

    pin = ""

    def problem(self, path: Path) -> str:
        return f"nothing says what {path.name} has to be"


def is_whole(path: Path, proof: Proof) -> bool:
    """Whether `path` is the file that was wanted. Raises StoreError if it is there and cannot be read."""
    try:
        return not proof.problem(path)
    except FileNotFoundError:
        return False
    except OSError as err:
        raise StoreError(f"{path}: cannot be read as a downloaded file: {err.strerror}") from err


class PartFile:
    """The part of one download, held under its lock. Make one with `PartFile.locked`.

    `size_bytes` have come; `origin` is the address that they came from last, `validator` what its server called them
    (an ETag or a date, "" if it said nothing); `spliced` says that they did not all come in one response.
    """

    def __init__(self, descriptor: int, destination: Path, proof: Proof) -> None:
        self.destination = destination
        self.size_bytes = 0
        self.spliced = False
        self.origin = ""
        self.validator = ""
        self._descriptor = descriptor
        self._path, self._sidecar = _names(destination)
        self._proof = proof
        self._hash = hashlib.sha256()

    @classmethod
    @contextlib.contextmanager
    def locked(cls, destination: Path, *, proof: Proof, wait: Callable[[], None]) -> Iterator[Self]:
        """Lock the part of `destination` and read what is there; `wait` is called between tries while another
        process holds it.

        On leaving, an empty part is removed and any other stays for the next try. Raises StoreError.
        """
        path, _ = _names(destination)
        with _explained(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, wait)
        try:
            part = cls(descriptor, destination, proof)
            part._adopt()
            try:
                yield part
            finally:
                part._leave()
        finally:
            os.close(descriptor)

    @property
    def whole(self) -> bool:
        """Whether what has come is what was wanted."""
        return not self.problem()

    def problem(self) -> str:
        """Return why what has come is not what was wanted, or "" when it is."""
        if isinstance(self._proof, Sha256):  # computed while it came: large files are not read again
            return self._proof.compare(self._hash.hexdigest())
        with _explained(self.destination):
            return self._proof.problem(self._path)

    def restart(self) -> None:
        """Throw away what has come."""
        with _explained(self.destination):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._sidecar.unlink(missing_ok=True)
        self._hash = hashlib.sha256()
        self.size_bytes, self.spliced, self.origin, self.validator = 0, False, "", ""

    def expect(self, *, origin: str, validator: str, total_bytes: int | None) -> None:
        """Note where the next bytes come from. Raises StoreError at once if the announced total cannot fit."""
        self.spliced = self.size_bytes > 0
        self.origin, self.validator = origin, validator
        record = {"pin": self._proof.pin, "origin": origin, "validator": validator}
        with _explained(self.destination):
            free_bytes = shutil.disk_usage(self.destination.parent).free
            missing_bytes = (total_bytes or 0) - self.size_bytes
            if missing_bytes > free_bytes:
                raise _full(self.destination, f"{missing_bytes:,} bytes more are needed, {free_bytes:,} are free")
            self._sidecar.write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")

    def write(self, data: bytes) -> None:
        """Append bytes. Raises StoreError on a full disk; what came before stays."""
        view = memoryview(data)
        while view:
            with _explained(self.destination):
                count = os.write(self._descriptor, view)
            self._hash.update(view[:count])
            self.size_bytes += count
            view = view[count:]

    def publish(self) -> None:
        """Give the part its final name, on disk before it shows. It must be `whole`."""
        with _explained(self.destination):
            os.fsync(self._descriptor)
            # First the sidecar: a process killed between the two leaves a part that proves itself by its digest.
            self._sidecar.unlink(missing_ok=True)
            self._path.replace(self.destination)
            folder = os.open(self.destination.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _adopt(self) -> None:
        """Read what an earlier process left; throw it away unless it belongs to this pin."""
        with _explained(self.destination):
            while block := os.read(self._descriptor, _BLOCK_BYTES):
                self._hash.update(block)
                self.size_bytes += len(block)
            try:
                record = json.loads(self._sidecar.read_bytes())
                pin, self.origin, self.validator = (str(record[key]) for key in ("pin", "origin", "validator"))
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                pin = ""
        self.spliced = self.size_bytes > 0
        if pin != self._proof.pin and not self.whole:
            self.restart()

    def _leave(self) -> None:
        """Remove an empty part; after `publish` its name belongs to nobody, or to the next process."""
        if self.size_bytes == 0:
            self._sidecar.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def _names(destination: Path) -> tuple[Path, Path]:
    return (
        destination.with_name(f"{destination.name}.part"),
        destination.with_name(f"{destination.name}.part.json"),
    )


def _lock(path: Path, wait: Callable[[], None]) -> int:
    """Open and lock `path`, calling `wait` between tries while another process holds it."""
    while True:
        with _explained(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if _try_lock(descriptor, path):
                return descriptor
        os.close(descriptor)
        wait()


def _try_lock(descriptor: int, path: Path) -> bool:
    """Whether the lock was free, on a file that still has its name (its holder may have renamed or removed it)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
        return False
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def _explained(destination: Path) -> Iterator[None]:
    """Turn an OSError of the disk into a StoreError."""
    try:
        yield
    except OSError as err:
        if err.errno in _FULL:
            free_bytes = shutil.disk_usage(destination.parent).free
            raise _full(destination, f"{free_bytes:,} bytes are free") from err
        raise StoreError(
            f"cannot write {destination}: {err.strerror}", hint="Choose a folder that you may write to."
        ) from err


def _full(destination: Path, figures: str) -> StoreError:
    return StoreError(
        f"no space left for {destination}: {figures}",
        hint="Make room (inv cache --gc) and run again: what has come is kept and the rest is fetched.",
    )
