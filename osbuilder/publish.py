"""Puts artifacts where people look: build/<arch>/ under the names that other programs read, each with its manifest.

A published file shares its bytes with the store where it can (a hard link), is a sparse copy elsewhere, and replaces
an older one in one rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder import __version__
from osbuilder.errors import StoreError, UsageError
from osbuilder.image.build import IMAGE, ROOT_HASH
from osbuilder.image.verity import ROOT_HASH_SUFFIX
from osbuilder.outfile import appearing, copy_data
from osbuilder.store import Artifact, Store, explain

if TYPE_CHECKING:
    from osbuilder.step import Json


MANIFEST_SCHEMA: Final = 1
"""The form of manifests; a member that goes or means something else makes it another one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What a file of an artifact is called outside of the store, and the link (if any) that names the newest one."""

    file: str
    published: str
    link: str | None = None


def image_names(label: str, variants: tuple[str, ...], *, measured: bool) -> tuple[Name, ...]:
    """Return Kata's names for a disk image of `label` (debian-trixie), and for its root hash where it is measured."""
    suffix = "".join(f"-{variant}" for variant in variants)
    image = f"kata-{label}{suffix}.image"
    named = (Name(file=IMAGE, published=image, link=f"kata-containers{suffix}.img"),)
    if not measured:
        return named
    link = f"root_hash_{suffix.removeprefix('-')}.txt"
    return (*named, Name(file=ROOT_HASH, published=f"{image}{ROOT_HASH_SUFFIX}", link=link))


def publish(store: Store, artifact: Artifact, names: tuple[Name, ...], folder: Path) -> tuple[Path, ...]:
    """Put files of an artifact into a folder, with manifests and links; returns their paths in the order of `names`.

    What builds at the same time puts there under the same names comes before or after, never between. Raises StoreError
    when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _turn(folder):
            for name in names:
                _place(artifact.path(name.file), folder / name.published)
                write_manifest(store, artifact, name.file, folder / name.published)
                if name.link:
                    _relink(folder / name.link, name.published)
    except OSError as error:
        there = _existing(folder)
        raise explain(error, "the result cannot be put into the build folder", there, setting="build") from error
    return tuple(folder / name.published for name in names)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until nobody else puts files into a folder, and keep others waiting meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # network filesystems lock no folder that is open for reading
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def copy_out(artifact: Artifact, file: str, output: Path, *, store: Store | None = None) -> Path:
    """Write an independent, sparse copy of a file to `output`; never half-written. Raises UsageError for a bad path.

    With the `store` that it is from, its manifest goes beside it. Raises StoreError when it cannot be written.
    """
    check_output(output)
    try:
        with appearing(output) as temporary:
            _copy_sparse(artifact.path(file), temporary)
            temporary.chmod(0o644)
        if store is not None:
            write_manifest(store, artifact, file, output)
    except OSError as error:
        raise StoreError(
            f"{output} cannot be written: {error.strerror or error}",
            hint=f"Take it from the store, {artifact.path(file)}, or run it again with another --output.",
        ) from error
    return output


def write_manifest(store: Store, artifact: Artifact, file: str, published: Path) -> None:
    """Write the manifest of a file beside where it was put. Raises OSError."""
    _write(published.with_name(f"{published.name}.manifest.json"), manifest_text(store, artifact, file, published.name))


def check_output(output: Path) -> None:
    """Refuse an output path that cannot become a file. Raises UsageError; call it before anything is built."""
    folder = output.absolute().parent
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder", hint="Name a file in it.")
    if output.exists() and not output.is_file():
        raise UsageError(
            f"--output {output}: expected a file, or nothing yet; it is a device, a pipe or a socket",
            hint="The result would take its place. Name a file, and read that.",
        )
    if not folder.is_dir():
        raise UsageError(f"--output {output}: there is no folder {folder}", hint="Make it first.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass  # it has no name, and is gone
    except OSError as error:
        raise UsageError(
            f"--output {output}: nothing can be written in {folder}: {error.strerror or error}",
            hint="Name a file in a folder that you may write to.",
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a build folder that cannot be made or written. Raises StoreError; call it before anything is built."""
    there = _existing(folder)
    reason = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
    if reason:
        error = OSError(reason, os.strerror(reason), str(there))
        raise explain(error, "results cannot be put into the build folder", there, setting="build")


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def manifest_text(store: Store, artifact: Artifact, file: str, published: str) -> str:
    """Return the manifest of one file, which has the name `published`: what went in, by step, with keys, digests,
    facts and times. Its form is MANIFEST_SCHEMA.
    """
    entry = artifact.manifest["outputs"][file]
    steps = [
        {
            "step": item.manifest["ident"],
            "key": item.key,
            "digest": item.digest,
            "inputs": item.manifest["input_keys"],
            "action": item.manifest["ingredients"]["action"],
            "parameters": item.manifest["ingredients"]["parameters"],
            "facts": item.facts,
            "wall_s": item.manifest["wall_s"],
        }
        for item in ancestors(store, artifact)
    ]
    content: Mapping[str, Json] = {
        "schema": MANIFEST_SCHEMA,
        "osbuilder": __version__,
        "file": published,
        "key": artifact.key,
        "sha256": entry["sha256"],
        "size_bytes": entry["size_bytes"],
        "disk_bytes": artifact.path(file).stat().st_blocks * 512,
        "steps": steps,
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def ancestors(store: Store, artifact: Artifact) -> Iterator[Artifact]:
    """Yield the artifacts that went into one, dependencies first, and itself last."""
    seen: set[str] = set()

    def visit(item: Artifact) -> Iterator[Artifact]:
        if item.key in seen:
            return
        seen.add(item.key)
        for _, key in sorted(item.manifest["input_keys"].items()):
            above = store.find(key)
            if above:
                yield from visit(above)
        yield item

    yield from visit(artifact)


def _place(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    with appearing(target) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            _copy_sparse(source, temporary)


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        os.ftruncate(writer.fileno(), os.fstat(reader.fileno()).st_size)
        copy_data(reader.fileno(), writer.fileno())


def _write(path: Path, text: str) -> None:
    with appearing(path) as temporary:
        temporary.write_text(text)


def _relink(link: Path, target: str) -> None:
    with appearing(link) as temporary:
        temporary.symlink_to(target)
