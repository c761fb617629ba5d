"""What a recipe says of a distribution that comes as a tarball: where, and what vouches for it."""

from __future__ import annotations

import dataclasses
import re
from typing import Final
from urllib.parse import urlsplit

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tarball:
    """One architecture's root filesystem below a mirror; `{release}` is filled in by `below`.

    Either `path` is the tarball and `sha256` what it has to be, or `latest` is a signed text that names the newest one.
    """

    arch: str
    latest: str = ""
    path: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if bool(self.latest) == bool(self.path):
            raise ValueError("expected latest, or path with sha256")
        if bool(self.path) != bool(self.sha256):
            raise ValueError("path and sha256 go together: where the tarball is, and what it has to be")
        place = self.latest or self.path
        if not _PATH.fullmatch(place.replace("{release}", "x")):
            raise ValueError(f"expected a path below a mirror, with {{release}} for what varies, got {place!r}")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256: expected 64 lower-case hex digits, got {self.sha256!r}")

    def below(self, release: str) -> str:
        """Return the path of the tarball, or of the text that names it, for a release."""
        return (self.latest or self.path).replace("{release}", release)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRecipe:
    """The part of a recipe that only package manager archive reads.

    `keys_url` is a file with public keys, of which only those under a release's signed-by count; tarballs with a sha256
    need none.
    """

    keys_url: str = dataclasses.field(default="", metadata={"key": "keys-url"})
    tarballs: tuple[Tarball, ...]

    def __post_init__(self) -> None:
        if self.keys_url and urlsplit(self.keys_url).scheme not in ("https", "http", "file"):
            raise ValueError(f"keys-url: expected an address, got {self.keys_url!r}")
        if any(each.latest for each in self.tarballs) and not self.keys_url:
            raise ValueError("keys-url: expected where the keys are that sign what latest names")
        if len(self.arches) != len(self.tarballs):
            raise ValueError("tarballs: expected one for each architecture")

    @property
    def arches(self) -> frozenset[str]:
        """The architectures that there is a tarball for."""
        return frozenset(each.arch for each in self.tarballs)

    def tarball(self, arch: str) -> Tarball:
        """Return an architecture's tarball, which has to be there."""
        return next(each for each in self.tarballs if each.arch == arch)
