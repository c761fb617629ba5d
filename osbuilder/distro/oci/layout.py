"""An image in a file or folder of this host: an OCI image layout, a tar of one, or what `docker save` writes.

Source: OCI image-spec 1.1, image-layout.md; moby's image/spec for manifest.json of a saved image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from osbuilder.distro.oci.manifest import MANIFEST_MAX_BYTES, Descriptor
from osbuilder.distro.oci.reference import LocalImage
from osbuilder.errors import FetchError, UsageError, VerificationError, suggest

INDEX: Final = "index.json"
SAVED: Final = "manifest.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The files of a layout, whether they lie in a folder or in a tar."""

    path: Path

    def names(self) -> frozenset[str]:
        """Return which of the files there are that say what this is. Raises UsageError when it is none."""
        if self.path.is_dir():
            found = frozenset(name for name in (INDEX, SAVED) if (self.path / name).is_file())
        else:
            with self._tar() as archive:
                found = frozenset(_plain(name) for name in archive.getnames()) & {INDEX, SAVED}
        if not found:
            raise UsageError(
                f"no image in {self.path}: expected {INDEX} (an OCI layout) or {SAVED} (docker save) in it",
                hint="Write one: skopeo copy docker://NAME oci:FOLDER, or docker save --output FILE NAME.",
            )
        return found

    def read(self, name: str) -> bytes:
        """Return a small file. Raises FetchError when it is not there."""
        with self.open(name) as stream:
            return stream.read(MANIFEST_MAX_BYTES)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a file. Raises FetchError when it is not there."""
        missing = FetchError(f"{self.path} is not whole: it names {name}, which is not in it")
        if self.path.is_dir():
            try:
                stream: IO[bytes] = (self.path / name).open("rb")
            except OSError as error:
                raise missing from error
            with stream:
                yield stream
            return
        with self._tar() as archive:
            member = next((each for each in archive if _plain(each.name) == name), None)
            try:
                content = archive.extractfile(member) if member else None
            except KeyError as error:
                raise missing from error
            if content is None:
                raise missing
            yield content

    @contextlib.contextmanager
    def _tar(self) -> Iterator[tarfile.TarFile]:
        try:
            with tarfile.open(self.path, "r:*") as archive:
                yield archive
        except (tarfile.TarError, EOFError) as error:
            raise UsageError(
                f"cannot read the image in {self.path}: {error}",
                hint="Expected a layout's folder, a tar of one, or what docker save writes.",
            ) from error
        except OSError as error:
            raise UsageError(f"cannot read the image in {self.path}: {error.strerror or error}") from error

    def blob(self, blob: Descriptor, target: Path) -> Path:
        """Copy a blob of an OCI layout to a new file and return that. Raises FetchError, VerificationError."""
        with self.open(f"blobs/sha256/{blob.sha256}") as stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        with target.open("rb") as copied:
            came = f"sha256:{hashlib.file_digest(copied, 'sha256').hexdigest()}"
        if came != blob.digest:
            raise VerificationError(
                f"{self.path}: a blob is not what its name says: expected {blob.digest}, got {came}",
                hint="The layout is damaged or was changed: write it again.",
            )
        return target


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """An entry of a saved image's manifest.json: the names of its configuration and of its layers, lowest first."""

    config: str
    layers: tuple[str, ...]


def identity(image: LocalImage) -> str:
    """Return the sha256 (hex) of what says which image it is.

    That is a layout's index, of a saved image in a folder its list of images and its configuration, else the whole
    file. Raises UsageError for what can be no image, FetchError for one that is not whole.
    """
    if image.path.is_dir():
        layout = Layout(image.path)
        if INDEX in layout.names():
            return hashlib.sha256(layout.read(INDEX)).hexdigest()
        saved = layout.read(SAVED)
        return hashlib.sha256(saved + layout.read(read_saved(saved, image).config)).hexdigest()
    try:
        with image.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(
            f"cannot read the image in {image.path}: {error.strerror}",
            hint=f"Expected a layout ({INDEX}), a tar of one, or what docker save writes.",
        ) from error


def pick(found: tuple[Descriptor, ...], image: LocalImage) -> tuple[Descriptor, ...]:
    """Return those of an index that a name means; without a name all of them. Raises UsageError."""
    if not image.name:
        return found
    named = tuple(each for each in found if each.name == image.name)
    if not named:
        names = [each.name for each in found if each.name]
        raise UsageError(f"no image {image.name!r} in {image.path}", hint=suggest(image.name, names))
    return named


def read_saved(data: bytes, image: LocalImage) -> SavedImage:
    """Return the image of a saved one's manifest.json. Raises FetchError, UsageError."""
    try:
        entries: list[dict[str, Any]] = json.loads(data)
        images = [
            (each.get("RepoTags") or [], SavedImage(config=str(each["Config"]), layers=tuple(map(str, each["Layers"]))))
            for each in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{image.path}: {SAVED}: expected what docker save writes, got {data[:40]!r}") from error
    chosen = [each for tags, each in images if not image.name or image.name in tags]
    if len(chosen) == 1:
        return chosen[0]
    known = [tag for tags, _ in images for tag in tags]
    if not chosen:
        raise UsageError(f"no image {image.name!r} in {image.path}", hint=suggest(image.name, known))
    raise UsageError(f"{len(chosen)} images in {image.path}: which one?", hint=f"Name it, as PATH:{known[0]}.")


def _plain(name: str) -> str:
    return name.removeprefix("./")
