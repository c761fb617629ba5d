"""Content-addressed artifacts: key -> folder of files + manifest. The only writer of the store's folder.

    objects/KEY/            the artifact's files and manifest.json; appears by one rename, never half-written
    refs/SUBJECT/NAME       the key that a target had last (what `why` compares with and gc keeps)
    tmp/KEY/                a build under way, or one that failed and is to be looked at (`kept` is in it); else left
                            over only if its process was killed, and swept by the next one (`engine`: what it ran in)
    locks/NAME              flock files: two builds of the same thing wait, of different things don't
    logs/ downloads/ caches/ trees/

An artifact that was damaged on disk is noticed (size, then sha256 whenever a file's stat differs from the one that
was recorded when it was last verified) and rebuilt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from osbuilder.errors import StoreError
from osbuilder.leavings import open_left
from osbuilder.outfile import appearing
from osbuilder.step import canonical

MANIFEST: Final = "manifest.json"
_STAT: Final = "stat.json"
_STORE_LOCK: Final = "store"
_ENGINE: Final = "engine"
_KEPT: Final = "kept"
_KEY: Final = re.compile("[0-9a-f]{64}")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# Gone, forbidden, or damaged on the disk (EUCLEAN, EBADMSG: so say ext4 and XFS where their own checksums fail).
_UNREADABLE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN, errno.EBADMSG}
)

Forget = Callable[[str, Path], bool]
"""Has an engine, of that name, remove what is left there of commands that it ran for a folder; says whether it did."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A published result: its folder, key, content digest (sha256 over names and sha256s of its files) and manifest."""

    folder: Path
    key: str
    digest: str
    manifest: Mapping[str, Any]

    def path(self, name: str) -> Path:
        """Return the path of one of its files. Raises StoreError if it has no such file."""
        if name not in self.manifest["outputs"]:
            raise StoreError(f"artifact {self.key[:12]} ({self.manifest['ident']}) has no file {name!r}")
        return self.folder / name

    def sha256(self, name: str) -> str:
        """Return the sha256 (hex) of one of its files."""
        self.path(name)
        return str(self.manifest["outputs"][name]["sha256"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the action said about its result."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The folders of a build under way; `out` becomes the artifact."""

    out: Path
    work: Path
    log: Path

    @property
    def folder(self) -> Path:
        """The folder that holds them, below tmp/."""
        return self.out.parent

    def keep(self) -> None:
        """Have the folders stay until the next build of the same, or until the store is collected."""
        (self.folder / _KEPT).touch()


class Store:
    """The store below one folder. Raises StoreError, with what to do, when the folder cannot be used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with self._explained("the store cannot be used"):
            for name in ("objects", "refs", "tmp", "locks", "logs", "downloads", "caches", "trees"):
                (root / name).mkdir(parents=True, exist_ok=True)
            if not os.access(root / "objects", os.W_OK):
                raise PermissionError(errno.EACCES, "not writable", str(root))

    def folder(self, name: str) -> Path:
        """Return one of the store's shared folders: downloads, caches, trees, logs."""
        return self.root / name

    # -- reading ---------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Artifact | None:
        """Return the artifact of a key if it is there, whole by name and size. Contents: see `intact`."""
        folder = self.root / "objects" / key
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            whole = manifest["key"] == key and all(
                (folder / name).stat().st_size == entry["size_bytes"] for name, entry in manifest["outputs"].items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Artifact(folder=folder, key=key, digest=manifest["digest"], manifest=manifest) if whole else None

    def intact(self, artifact: Artifact, *, thorough: bool = False) -> bool:
        """Whether every file still has the bytes that were published: not if one cannot be read, or is gone.

        A file whose stat is the one recorded at its last verification is trusted unless `thorough`. Another process may
        put the artifact in place anew meanwhile: who builds what is not intact looks again under the key's lock.
        """
        try:
            recorded = json.loads((artifact.folder / _STAT).read_bytes())
        except (OSError, ValueError):
            recorded = {}
        outputs: Mapping[str, Any] = artifact.manifest["outputs"]
        try:
            signatures = {name: _signature(artifact.folder / name) for name in outputs}
            suspects = [name for name in outputs if thorough or recorded.get(name) != signatures[name]]
            same = all(sha256_file(artifact.folder / name) == outputs[name]["sha256"] for name in suspects)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return False
        if same and suspects:
            try:
                write_atomic(artifact.folder / _STAT, canonical(signatures))
            except FileNotFoundError:
                return False  # its folder went meanwhile
        return same

    def last(self, ident: str) -> Artifact | None:
        """Return the artifact that a target (subject/name) had last."""
        try:
            return self.find((self.root / "refs" / ident).read_text().strip())
        except OSError:
            return None

    # -- writing ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a name over processes and threads; yields whether it is held (always, if `wait`)."""
        with self._explained("the store cannot be locked"):
            descriptor = os.open(self.root / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def in_use(self, tell: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep `alone` out: hold this while artifacts are built or read. `tell` hears that it has to wait for that."""
        with (self.root / "locks" / _STORE_LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                tell()
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the whole store, to remove from it. Raises StoreError while a build or a boot is under way."""
        with (self.root / "locks" / _STORE_LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError("a build is under way", hint="Run it again when the build has ended.") from None
            yield

    @contextlib.contextmanager
    def scratch(self, name: str, forget: Forget | None = None) -> Iterator[Path]:
        """Yield a folder that is gone afterwards; if its process is killed, the next `sweep` removes it.

        A name serves once, so its lock goes with the folder. `forget` is called before that, as `sweep` calls it.
        """
        with self.lock(name):
            folder = self.root / "tmp" / name
            folder.mkdir()
            try:
                yield folder
            finally:
                if forget is None or _forget_below(folder, forget):
                    remove_tree(folder)
                (self.root / "locks" / name).unlink()

    @contextlib.contextmanager
    def workspace(self, key: str, ident: str) -> Iterator[Workspace]:
        """Yield fresh folders for a build; they are gone afterwards, unless kept. The caller holds lock(key)."""
        base = self.root / "tmp" / key
        log = self.root / "logs" / f"{ident.replace('/', '.')}-{key[:12]}.log"
        try:
            with self._explained(f"{ident} cannot be built"):
                remove_tree(base)
                for name in ("out", "work"):
                    (base / name).mkdir(parents=True)
                log.write_bytes(b"")
                yield Workspace(out=base / "out", work=base / "work", log=log)
        finally:
            if not (base / _KEPT).exists():
                remove_tree(base)

    def publish(self, space: Workspace, *, key: str, ident: str, body: Mapping[str, Any]) -> Artifact:
        """Turn a workspace's `out` into the artifact of a key: fsync, manifest, one rename.

        `body` is added to the manifest (ingredients, facts, input keys, times). Raises StoreError for what is no file
        in `out`.
        """
        with self._explained(f"{ident} cannot be published"):
            outputs = {path.name: _seal(path) for path in sorted(space.out.iterdir())}
            digest = hashlib.sha256(canonical({name: entry["sha256"] for name, entry in outputs.items()})).hexdigest()
            manifest = {"key": key, "ident": ident, "digest": digest, "outputs": outputs, **body}
            write_atomic(space.out / _STAT, canonical({name: _signature(space.out / name) for name in outputs}))
            write_atomic(space.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n")
            folder = self.root / "objects" / key
            remove_tree(folder)
            space.out.rename(folder)
            _sync_folder(folder.parent)
        return Artifact(folder=folder, key=key, digest=digest, manifest=manifest)

    def share(self, artifact: Artifact, other: Store) -> None:
        """Put an artifact into another store on the same filesystem, which then has the same files (hard links)."""
        target = other.root / "objects" / artifact.key
        shutil.copytree(artifact.folder, target, copy_function=os.link, dirs_exist_ok=True)

    def remember(self, ident: str, key: str) -> None:
        """Record the key that a target has now."""
        path = self.root / "refs" / ident
        with self._explained("the store cannot be written"):
            # Most builds find what they had: nothing to write, nothing to sync.
            if path.is_file() and path.read_text() == f"{key}\n":
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, f"{key}\n".encode())

    def sweep(self, forget: Forget) -> None:
        """Remove what killed builds left: folders of tmp/ whose lock nobody holds.

        `forget(engine, folder)` has the engine that commands ran in, if any did, remove what is left there. Where it
        does not, the folder stays for the next sweep: it says where something may run still.
        """
        for folder in (self.root / "tmp").iterdir():
            with (
                self._explained("what a killed build left cannot be removed"),
                self.lock(folder.name, wait=False) as held,
            ):
                there = held and folder.exists() and not (folder / _KEPT).exists()
                if there and _forget_below(folder, forget):
                    remove_tree(folder)
                if held and not _KEY.fullmatch(folder.name):
                    (self.root / "locks" / folder.name).unlink(missing_ok=True)  # of a scratch folder

    def kept(self) -> tuple[Path, ...]:
        """Return the folders of builds that failed and are to be looked at."""
        return tuple(sorted(mark.parent for mark in (self.root / "tmp").glob(f"*/{_KEPT}")))

    def unneeded(self) -> tuple[Path, ...]:
        """Return the folder of every artifact that no target's last build needs."""
        return self._without(self._needed())

    def collect(self) -> tuple[int, int]:
        """Remove every artifact that no target's last build needs, old logs, and what is kept of builds that failed.

        Returns (artifacts, bytes) freed. The caller holds `alone`.
        """
        needed = self._needed()
        dropped = self._without(needed)
        freed = sum(total_bytes(folder.iterdir()) for folder in dropped)
        for folder in dropped:
            remove_tree(folder)
        for folder in self.kept():
            freed += total_bytes(folder.rglob("*"))
            remove_tree(folder)
        for log in (self.root / "logs").iterdir():
            if not any(log.stem.endswith(key[:12]) for key in needed):
                log.unlink()
        return len(dropped), freed

    def drop_damaged(self) -> int:
        """Read every artifact and remove those that are not what was published. The caller holds `alone`."""
        damaged = 0
        for folder in (self.root / "objects").iterdir():
            artifact = self.find(folder.name)
            if artifact is None or not self.intact(artifact, thorough=True):
                with self._explained("what is damaged cannot be removed"):
                    remove_tree(folder)
                damaged += 1
        return damaged

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every artifact that is whole by name and size."""
        for folder in sorted((self.root / "objects").iterdir()):
            artifact = self.find(folder.name)
            if artifact:
                yield artifact

    def _without(self, needed: Collection[str]) -> tuple[Path, ...]:
        """Return the folder of every artifact but those with these keys."""
        return tuple(sorted(folder for folder in (self.root / "objects").iterdir() if folder.name not in needed))

    def _needed(self) -> set[str]:
        queue = [path.read_text().strip() for path in (self.root / "refs").rglob("*") if path.is_file()]
        needed: set[str] = set()
        while queue:
            key = queue.pop()
            artifact = None if key in needed else self.find(key)
            if artifact:
                needed.add(key)
                queue.extend(artifact.manifest["input_keys"].values())
        return needed

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain(error, what, self.root) from error


def explain(error: OSError, what: str, root: Path, *, setting: str = "store") -> StoreError:
    """Return the StoreError for an operating system error. A setting names the folder `root`.

    The setting is what to change where the disk is full, or where the error is about a path below the folder (or about
    none); elsewhere it would not help.
    """
    if error.errno in _FULL:
        free = shutil.disk_usage(root).free
        return StoreError(
            f"{what} ({error.filename or root}): the disk is full, {free // 2**20} MiB are free",
            hint="Free some space (`inv cache --gc` drops old artifacts), "
            f"or set OSBUILDER_{setting.upper()} to another disk.",
        )
    # A bare name is of something below it: shutil.rmtree gives such.
    paths = [root / name for name in (error.filename, error.filename2) if isinstance(name, str)]
    below = not paths or any(path.is_relative_to(root) for path in paths)
    return StoreError(
        f"{what} ({error.filename or root}): {error.strerror or error}",
        hint=f"Set OSBUILDER_{setting.upper()} to a folder that you own and can write to." if below else "",
    )


def runs_in(engine: str, folder: Path) -> None:
    """Write down which engine runs commands for a folder of tmp/, for the sweep of what a killed process left."""
    (folder / _ENGINE).write_text(engine)


def _forget_below(folder: Path, forget: Forget) -> bool:
    """Call `forget` with the engine that commands ran in for a folder of tmp/, if any did; return whether all is done.

    First for what a build left in it, where it holds a store of its own: containers have that build's key as label.
    """
    marks = [mark for mark in (*sorted(folder.glob(f"tmp/*/{_ENGINE}")), folder / _ENGINE) if mark.exists()]
    done = [forget(mark.read_text(), mark.parent) for mark in marks]
    return all(done)


def sha256_file(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(path: Path) -> dict[str, Any]:
    """Make a file read-only and return its sha256 (hex) and size; its bytes are on the disk then.

    Hashing does not wait for the disk. Raises StoreError for what is no file.
    """
    with open_left(path) as stream, ThreadPoolExecutor(max_workers=1) as pool:
        os.fchmod(stream.fileno(), 0o444)
        synced = pool.submit(os.fsync, stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        synced.result()
        return {"sha256": digest, "size_bytes": os.fstat(stream.fileno()).st_size}


def remove_tree(path: Path) -> None:
    """Remove a folder that may be missing, with everything in it, also where folders forbid it to their owner."""
    if not path.is_dir():
        return
    _open(path)
    for root, folders, _ in os.walk(path):
        for name in folders:
            _open(Path(root, name))
    shutil.rmtree(path)


def _open(folder: Path) -> None:
    # Somebody else's folder may do as it is; if not, removing it says so.
    with contextlib.suppress(PermissionError):
        if not folder.is_symlink():
            folder.chmod(0o700)


def _signature(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that appears whole and on the disk, or not at all. Raises OSError."""
    with appearing(path) as temporary, temporary.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def total_bytes(paths: Iterable[Path]) -> int:
    """Return the disk space that files take, in bytes: none for one that is gone meanwhile; links are not followed."""
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total
