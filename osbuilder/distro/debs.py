"""Debian packages as data: downloaded by apt without being installed, and read without dpkg.

Source: deb(5), deb-control(5); apt-get(8) for --download-only, mmdebstrap(1) on hooks.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.distro.dpkg import parse_fields
from osbuilder.errors import TreeError
from osbuilder.kernel.script import render
from osbuilder.tree.entry import Archive, Entry
from osbuilder.tree.expand import expand_bytes
from osbuilder.tree.tarread import Member, read_members

if TYPE_CHECKING:
    from osbuilder.distro.apt import Bootstrap
    from osbuilder.step import Job

# mmdebstrap has verified the indexes, and runs this with the target's path instead of installing anything: apt chooses
# as it would for an installation, essential packages first.
_DOWNLOAD: Final = """\
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get --yes --download-only install '?essential' {{ packages | sh }}
mkdir -m 0777 /out/debs /out/releases
mv "$1"/var/cache/apt/archives/*.deb /out/debs/
cp "$1"/var/lib/apt/lists/*Release /out/releases/
"""
OPTIONS: Final = ("--format=null", "--variant=extract", "--extract-hook=/in/hook", "/dev/null")

_MAGIC: Final = b"!<arch>\n"


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


def download(job: Job, spec: Bootstrap) -> tuple[str | None, tuple[Path, ...]]:
    """Download what an installation would install; return the mirror that served and the .deb files, below job.work.

    The signed Release files are left in job.out/releases. Raises as Bootstrap.serve.
    """
    mirror = spec.serve(job, OPTIONS, hook(spec))
    folder = job.work / "debs"
    shutil.move(job.out / "debs", folder)
    return mirror, tuple(sorted(folder.iterdir()))


def hook(spec: Bootstrap) -> str:
    """Return the script that mmdebstrap runs to download the packages."""
    return "#!/bin/bash\n" + render(_DOWNLOAD, packages=spec.packages)


def read_debs(paths: tuple[Path, ...], *, jobs: int) -> tuple[Deb, ...]:
    """Read packages, `jobs` at once, sorted by name. Raises TreeError for a file that is no package."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return tuple(sorted(pool.map(read_deb, paths), key=lambda deb: deb.name))


def read_deb(path: Path) -> Deb:
    """Read one package. Raises TreeError when the file is none."""
    parts = {name.partition(".tar")[0]: content for name, content in _ar_members(path)}
    if not {"control", "data"} <= parts.keys():
        raise TreeError(f"not a Debian package ({path}): expected control.tar and data.tar, got {sorted(parts)}")
    archive = expand_bytes(parts["control"], f"{path.name}: control")
    control = {member.name: member.entry for member in read_members(archive) if member.entry and member.name}
    if "control" not in control:
        raise TreeError(f"not a Debian package ({path}): there is no control file in it")
    return Deb(
        paragraph=control["control"].content.read().decode("utf-8", "surrogateescape").strip("\n") + "\n",
        control={name: entry for name, entry in control.items() if name != "control"},
        data=expand_bytes(parts["data"], f"{path.name}: data"),
    )


def _ar_members(path: Path) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise TreeError(f"not a Debian package ({path}): expected an ar archive")
    found, at = [], len(_MAGIC)
    while at < len(data):
        name, size = data[at : at + 16].decode("ascii", "replace").rstrip(" /"), data[at + 48 : at + 58]
        if data[at + 58 : at + 60] != b"`\n" or not size.strip().isdigit():
            raise TreeError(f"not a Debian package ({path}): bad ar header at byte {at}")
        begin, length = at + 60, int(size)
        if begin + length > len(data):
            raise TreeError(f"truncated Debian package ({path}): {name} ends at byte {begin + length}")
        found.append((name, data[begin : begin + length]))
        at = begin + length + length % 2
    return found
