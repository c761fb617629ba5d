"""Small signed apt repositories, made in memory from nothing: real .deb files, Packages, Release, InRelease.

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

from tests.openpgp import Key

EPOCH = 1754697600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package with one file; `fields` are added to its control file."""

    name: str
    version: str = "1.0"
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)

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

    def deb(self) -> bytes:
        """Return the .deb file."""
        control = _tar({"./control": self.control.encode()})
        data = _tar({f"./usr/share/{self.name}": b"x" * 4096})
        members = {"debian-binary": b"2.0\n", "control.tar.gz": control, "data.tar.gz": data}
        return b"!<arch>\n" + b"".join(_ar_member(name, content) for name, content in members.items())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A suite with one component, main, for amd64."""

    key: Key
    packages: tuple[Package, ...]
    suite: str = "trixie"
    valid_until: int | None = None

    def files(self) -> dict[str, bytes]:
        """Return every file by its path below the mirror's address."""
        debs = {package.path: package.deb() for package in self.packages}
        index = "".join(
            f"{package.control}Filename: {package.path}\nSize: {len(debs[package.path])}\n"
            f"SHA256: {hashlib.sha256(debs[package.path]).hexdigest()}\n\n"
            for package in self.packages
        ).encode()
        indexes = {
            "main/binary-amd64/Packages": index,
            "main/binary-amd64/Packages.gz": gzip.compress(index, mtime=0),
        }
        dists = {name: content for name, content in indexes.items() if name.endswith(".gz")}
        return {
            **debs,
            **{f"dists/{self.suite}/{name}": content for name, content in dists.items()},
            f"dists/{self.suite}/InRelease": self.key.clearsign(self.release(indexes), created=EPOCH).encode(),
        }

    def release(self, indexes: Mapping[str, bytes]) -> str:
        """Return the text of the Release file."""
        lines = [
            "Origin: Test",
            "Label: Test",
            "Suite: stable",
            f"Codename: {self.suite}",
            "Architectures: amd64",
            "Components: main",
            f"Date: {_date(EPOCH)}",
        ]
        if self.valid_until is not None:
            lines.append(f"Valid-Until: {_date(self.valid_until)}")
        lines.append("SHA256:")
        lines += [f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}" for name, content in indexes.items()]
        return "\n".join(lines) + "\n"


def _date(epoch: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(epoch))


def _ar_member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), EPOCH
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
