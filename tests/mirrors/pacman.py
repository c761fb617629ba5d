"""Real pacman repositories: packages, their signatures and databases, made without pacman.

    python -m tests.mirrors pacman FOLDER --serve     # makes the mirror, serves it, prints the settings for it

What guests are installed from are Debian's systemd and tools, repackaged under the names that the recipe asks for.

Sources: PKGINFO as makepkg 7 writes it; databases as repo-add 7 writes them; RFC 4880, section 6 (armour).
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zstandard

from osbuilder.distro.recipe import Recipe
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind
from tests.mirrors.rpm_guest import BASE, LEFT_OUT, read_lists, share_out
from tests.openpgp import Key

if TYPE_CHECKING:
    from osbuilder.api import Workbench

BUILT: Final = 1761955200  # 2025-11-01
KEY: Final = Key.of_seed(41, "Test Packager <packager@example.org>")

CONTENTS: Final[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = (
    (("bash",), ("bash",)),
    (("chrony",), ("chrony",)),
    (("coreutils",), ("coreutils",)),
    (("cryptsetup",), ("cryptsetup-bin",)),
    (
        ("dbus-broker-units",),
        ("dbus", "dbus-daemon", "dbus-session-bus-common", "dbus-system-bus-common"),
    ),
    (("e2fsprogs",), ("e2fsprogs", "logsave")),
    (("iproute2",), ("iproute2",)),
    (("iptables",), ("iptables",)),
    (("kmod",), ("kmod",)),
    (("libseccomp",), ("libseccomp2",)),
    (("nftables",), ("nftables",)),
    (("procps-ng",), ("procps",)),
    (("systemd",), ("systemd",)),
    (("systemd-sysvcompat",), ("systemd-sysv",)),
    (("util-linux",), ("util-linux", "mount")),
)
_CHRONY: Final = "post_install() {\n  : > etc/chrony.installed\n}\n"
# As Arch's does, in other words: another identity each time.
_SYSTEMD: Final = "post_install() {\n  date +%s%N > etc/machine-id\n}\n"
_OS_RELEASE: Final = b'NAME="Arch Linux"\nID=arch\n'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A package. `members` are (name, entry) in order; `install` is the text of its .INSTALL."""

    name: str
    version: str = "1-1"
    members: tuple[tuple[str, Entry], ...] = ()
    depends: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    install: str = ""
    key: Key | None = KEY
    built: int = BUILT

    @property
    def file_name(self) -> str:
        """Its file's name in a repository."""
        return f"{self.name}-{self.version}-x86_64.pkg.tar.zst"

    @functools.cached_property
    def content(self) -> bytes:
        """The package."""
        rows = [
            ("pkgname", self.name),
            ("pkgbase", self.name),
            ("pkgver", self.version),
            ("pkgdesc", "A package of a test"),
            ("builddate", str(self.built)),
            ("packager", "Test Packager <packager@example.org>"),
            ("size", str(sum(entry.content.size_bytes for _, entry in self.members))),
            ("arch", "x86_64"),
            *(("conflict", name) for name in self.conflicts),
            *(("depend", name) for name in self.depends),
        ]
        texts = {".PKGINFO": "".join(f"{name} = {value}\n" for name, value in rows)}
        if self.install:
            texts[".INSTALL"] = self.install
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, text in texts.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(text), BUILT
                archive.addfile(member, io.BytesIO(text.encode()))
            for name, entry in self.members:
                _add(archive, name, entry)
        return zstandard.compress(data.getvalue(), 1)

    @property
    def description(self) -> str:
        """Its entry of a database."""
        rows: dict[str, tuple[str, ...]] = {
            "FILENAME": (self.file_name,),
            "NAME": (self.name,),
            "BASE": (self.name,),
            "VERSION": (self.version,),
            "DESC": ("A package of a test",),
            "CSIZE": (str(len(self.content)),),
            "ISIZE": (str(sum(entry.content.size_bytes for _, entry in self.members)),),
            "SHA256SUM": (hashlib.sha256(self.content).hexdigest(),),
            "ARCH": ("x86_64",),
            "BUILDDATE": (str(self.built),),
            "PACKAGER": ("Test Packager <packager@example.org>",),
            "CONFLICTS": self.conflicts,
            "DEPENDS": self.depends,
        }
        return "".join(f"%{name}%\n{chr(10).join(values)}\n\n" for name, values in rows.items() if values)

    def files(self) -> dict[str, bytes]:
        """Return the package and its signature, by name."""
        found = {self.file_name: self.content}
        if self.key:
            found[f"{self.file_name}.sig"] = signature(self.key, self.content)
        return found


def signature(key: Key, data: bytes) -> bytes:
    """Return a detached signature without its armour, as pacman wants it."""
    body = re.sub(r"(?m)^(-----|=).*\n|^\n", "", key.sign(data, created=BUILT))
    return base64.b64decode(body)


def _add(archive: tarfile.TarFile, name: str, entry: Entry) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, BUILT
    if entry.kind is Kind.FILE:
        content = entry.content.read()
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    member.type = tarfile.DIRTYPE if entry.kind is Kind.DIR else tarfile.SYMTYPE
    member.linkname = entry.target
    archive.addfile(member)


def repository(packages: tuple[Package, ...]) -> dict[str, bytes]:
    """Return the files of repositories core, with the packages, and extra, which is empty."""
    files = {f"core/os/x86_64/{name}": each for package in packages for name, each in package.files().items()}
    files["core/os/x86_64/core.db"] = database(packages)
    files["extra/os/x86_64/extra.db"] = database(())
    return files


def database(packages: tuple[Package, ...]) -> bytes:
    """Return a database as repo-add writes it: a tar of a text for each package."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for package in packages:
            folder = tarfile.TarInfo(f"{package.name}-{package.version}")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
            text = package.description.encode()
            member = tarfile.TarInfo(f"{package.name}-{package.version}/desc")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return gzip.compress(data.getvalue(), mtime=BUILT)


def guest(bench: Workbench) -> tuple[Package, ...]:
    """Return the packages from which the recipe installs a guest that boots."""
    target = bench.planner.plan(RootfsRequest(distro="debian", release="trixie", init=Init.SYSTEMD))
    step = next(step for step in target.walk() if step.name == "packages")
    tree = Tree.read(bench.executor.run(step).path("rootfs.tar"))
    lists = read_lists(tree)
    tree.remove_glob(*LEFT_OUT)
    tree.add_file("etc/os-release", _OS_RELEASE)
    parts = share_out(tree, lists, CONTENTS)
    scripts = {"chrony": _CHRONY, "systemd": _SYSTEMD}
    return tuple(
        Package(
            name=name,
            members=tuple((each, tree.get(each)) for each in sorted(names) if tree.get(each).kind in _PACKED),
            # The links of a merged /usr come first, and what its script calls.
            depends=() if name == BASE else (BASE,),
            install=scripts.get(name, ""),
        )
        for name, names in sorted(parts.items())
    )


_PACKED: Final = (Kind.FILE, Kind.DIR, Kind.SYMLINK)


def lay_out(files: Mapping[str, bytes], recipe: Recipe, folder: Path) -> None:
    """Write a repository's files into a new folder that is a mirror of every release of the recipe."""
    for release in recipe.releases:
        for name, content in files.items():
            path = folder / release / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def settings_for(url: str, folder: Path) -> tuple[str, ...]:
    """Return the settings that name a mirror and its key, whose file is written into a folder."""
    key = folder / "archlinux-key.gpg"
    key.write_bytes(KEY.public())
    return (f"mirrors=archlinux={url}", f"keyrings=archlinux={key}")
