"""Debian package files: what is in one, read without dpkg, and a repository's index made of several.

Source: deb(5) and deb-control(5); the repository format (wiki/DebianRepository/Format).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from osbuilder.distro.dpkg import parse_fields
from osbuilder.errors import TreeError
from osbuilder.tree.entry import CHUNK_BYTES, Archive, Entry, MemoryArchive
from osbuilder.tree.expand import expand_bytes
from osbuilder.tree.tarread import Member, read_members

_MAGIC: Final = b"!<arch>\n"
_HEADER_BYTES: Final = 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A package: its control files (name: entry), its control paragraph, and the archive of its files."""

    control: Mapping[str, Entry]
    paragraph: str
    data: Archive

    @property
    def fields(self) -> Mapping[str, str]:
        """The one-line fields of the paragraph."""
        return parse_fields(self.paragraph)

    @property
    def name(self) -> str:
        """The package's name, without its architecture."""
        return self.fields["Package"]

    def members(self) -> list[Member]:
        """Return its files in the package's order. Raises TreeError for a malformed archive."""
        return list(read_members(self.data))

    def text(self, name: str) -> str | None:
        """Return a control file (postinst, conffiles, ...) as text; None when there is none."""
        entry = self.control.get(name)
        return None if entry is None else entry.content.read().decode("utf-8", "surrogateescape")


def read_debs(paths: tuple[Path, ...], *, jobs: int, scratch: Path | None = None) -> tuple[Deb, ...]:
    """Read packages, `jobs` at once, sorted by name; `scratch` as in `read_deb`. Raises TreeError as it does."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return tuple(sorted(pool.map(lambda path: read_deb(path, scratch=scratch), paths), key=lambda deb: deb.name))


def read_deb(path: Path, *, scratch: Path | None = None) -> Deb:
    """Read one package, expanded in the folder `scratch` (see open_archive). Raises TreeError when the file is none."""
    archives = _archives(path, "control", "data", scratch=scratch)
    control = _control_files(path, archives["control"])
    return Deb(
        paragraph=control["control"].content.read().decode("utf-8", "surrogateescape").strip("\n") + "\n",
        control={name: entry for name, entry in control.items() if name != "control"},
        data=archives["data"],
    )


def read_control(path: Path) -> str:
    """Return the control paragraph of a package file, without blank lines. Raises TreeError for a malformed file."""
    control = _control_files(path, _archives(path, "control")["control"])
    text = control["control"].content.read().decode("utf-8", "replace")
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def expand_debs(paths: Iterable[Path], folder: Path, *, jobs: int) -> None:
    """Write packages into a folder, `jobs` at once, with plain tar archives in them: dpkg installs the same from those.

    Raises TreeError for a file that is no package.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(_expand_deb, path, folder / path.name) for path in paths]:
            done.result()


def _expand_deb(path: Path, target: Path) -> None:
    with target.open("wb") as file:
        file.write(_MAGIC)
        _add_member(file, "debian-binary", MemoryArchive(b"2.0\n", path.name))
        for part, archive in _archives(path, "control", "data", scratch=target.parent).items():
            _add_member(file, f"{part}.tar", archive)


def _add_member(file: BinaryIO, name: str, content: Archive) -> None:
    # ar(5): name, time, user, group, mode, size and the header's end. Members begin at even places.
    file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{content.size_bytes:<10}`\n".encode("ascii"))
    file.writelines(content.read_at(at, CHUNK_BYTES) for at in range(0, content.size_bytes, CHUNK_BYTES))
    file.write(b"\n" * (content.size_bytes % 2))


def _control_files(path: Path, archive: Archive) -> Mapping[str, Entry]:
    found = {member.name: member.entry for member in read_members(archive) if member.entry and member.name}
    if "control" not in found:
        raise TreeError(f"not a Debian package ({path}): there is no control file in it")
    return found


def _archives(path: Path, *wanted: str, scratch: Path | None = None) -> Mapping[str, Archive]:
    """Return the archives of a package that are wanted (control, data), expanded; the others are not read."""
    names, found = [], {}
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise TreeError(f"not a Debian package ({path}): expected an ar archive")
        size_bytes, at = os.fstat(file.fileno()).st_size, len(_MAGIC)
        while header := file.read(_HEADER_BYTES):
            name, length = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].strip()
            if header[58:] != b"`\n" or not length.isdigit():
                raise TreeError(f"not a Debian package ({path}): bad ar header at byte {at}")
            begin, end = at + _HEADER_BYTES, at + _HEADER_BYTES + int(length)
            if end > size_bytes:
                raise TreeError(f"truncated Debian package ({path}): {name} ends at byte {end}")
            names.append(name)
            part = name.partition(".tar")[0]
            if part in wanted:
                found[part] = expand_bytes(file.read(end - begin), f"{path.name}: {part}", scratch=scratch)
            # Members begin at even places.
            at = end + end % 2
            file.seek(at)
    if len(found) != len(wanted):
        expected = " and ".join(f"{part}.tar" for part in wanted)
        raise TreeError(f"not a Debian package ({path}): expected {expected}, got {', '.join(names) or 'nothing'}")
    return found


def render_index(files: Iterable[Path], *, folder: str) -> str:
    """Return the index Packages of package files; `folder` is where the repository has them."""
    return "".join(
        f"{read_control(path)}Filename: {folder}/{path.name}\nSize: {path.stat().st_size}\nSHA256: {_sha256(path)}\n\n"
        for path in files
    )


def render_release(index: str, *, suite: str, component: str, architecture: str) -> str:
    """Return a Release file for an index Packages: apt needs the code name, and the digest of what it reads."""
    content = index.encode()
    return (
        f"Origin: osbuilder\nSuite: {suite}\nCodename: {suite}\nArchitectures: {architecture}\n"
        f"Components: {component}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n"
        f" {hashlib.sha256(content).hexdigest()} {len(content)} {component}/binary-{architecture}/Packages\n"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
