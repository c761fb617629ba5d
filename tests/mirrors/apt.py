"""Signed apt repositories in the real format: Packages, Release, InRelease, of packages made from nothing or real ones.

    key = Key.of_seed(1)
    files = Repository(key=key, packages=(Toy(name="toy"),)).files()

Source: deb(5), Debian Policy 5.3, and the repository format (wiki/DebianRepository/Format).
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import tarfile
import time
from collections.abc import Mapping
from typing import Protocol

from tests.openpgp import Key

EPOCH = 1754697600


class Package(Protocol):
    """A package of a repository. `component` is where it is listed."""

    @property
    def component(self) -> str: ...

    @property
    def path(self) -> str:
        """Its place below the mirror's address."""

    @property
    def record(self) -> str:
        """Its paragraph in an index, with an empty line after it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """A package with one file, made from nothing; `fields` are added to its control file."""

    name: str
    version: str = "1.0"
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    component: str = "main"

    @property
    def control(self) -> str:
        """The control paragraph."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "amd64",
            "Maintainer": "Nobody <nobody@example.org>",
            "Description": "a package of a test",
            **self.fields,
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())

    @property
    def path(self) -> str:
        """Its place below the mirror's address."""
        return f"pool/{self.name}_{self.version}_amd64.deb"

    @property
    def record(self) -> str:
        """Its paragraph in an index."""
        deb = self.deb()
        digest = hashlib.sha256(deb).hexdigest()
        return f"{self.control}Filename: {self.path}\nSize: {len(deb)}\nSHA256: {digest}\n\n"

    def deb(self) -> bytes:
        """Return the .deb file."""
        control = tar({"./control": self.control.encode()})
        data = tar({f"./usr/share/{self.name}": b"x" * 4096})
        packed = {name: gzip.compress(content, mtime=0) for name, content in (("control", control), ("data", data))}
        return ar({"debian-binary": b"2.0\n", **{f"{name}.tar.gz": content for name, content in packed.items()}})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A suite for one architecture (Debian's name), as `origin` calls itself; `date` is that of its state.

    Its names are those that the suites of its origin have: Ubuntu's, or Debian's stable release.
    """

    key: Key
    packages: tuple[Package, ...]
    suite: str = "trixie"
    components: tuple[str, ...] = ("main",)
    architecture: str = "amd64"
    origin: str = "Test"
    date: int = EPOCH
    valid_until: int | None = None

    def files(self) -> dict[str, bytes]:
        """Return every file by its path below the mirror's address; of packages, those that are made from nothing."""
        toys = {package.path: package.deb() for package in self.packages if isinstance(package, Toy)}
        indexes = self._indexes()
        dists = {name: content for name, content in indexes.items() if name.endswith(".gz")}
        return {
            **toys,
            **{f"dists/{self.suite}/{name}": content for name, content in dists.items()},
            f"dists/{self.suite}/InRelease": self.key.clearsign(self.release(indexes), created=EPOCH).encode(),
        }

    def release(self, indexes: Mapping[str, bytes]) -> str:
        """Return the text of the Release file."""
        lines = [
            f"Origin: {self.origin}",
            f"Label: {self.origin}",
            *self._names(),
            f"Architectures: {self.architecture}",
            f"Components: {' '.join(self.components)}",
            f"Date: {_date(self.date)}",
        ]
        if self.valid_until is not None:
            lines.append(f"Valid-Until: {_date(self.valid_until)}")
        lines.append("SHA256:")
        lines += [f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}" for name, content in indexes.items()]
        return "\n".join(lines) + "\n"

    def _names(self) -> tuple[str, str]:
        release, dash, pocket = self.suite.partition("-")
        if self.origin == "Ubuntu":
            return f"Suite: {self.suite}", f"Codename: {release}"
        return f"Suite: stable{dash}{pocket}", f"Codename: {self.suite}"

    def _indexes(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for component in self.components:
            records = [package.record for package in self.packages if package.component == component]
            index = "".join(records).encode()
            name = f"{component}/binary-{self.architecture}/Packages"
            found |= {name: index, f"{name}.gz": gzip.compress(index, mtime=0)}
        return found


def _date(epoch: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(epoch))


def ar(members: Mapping[str, bytes]) -> bytes:
    """Return an ar archive: what a .deb is."""
    return b"!<arch>\n" + b"".join(_ar_member(name, content) for name, content in members.items())


def tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of files; a name that ends with a slash is a folder, content that begins with -> a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mtime = EPOCH
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif content.startswith(b"->"):
                member.type, member.linkname = tarfile.SYMTYPE, content[2:].decode()
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def _ar_member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)
