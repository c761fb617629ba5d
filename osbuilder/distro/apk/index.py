"""The package index of an Alpine repository (APKINDEX): records, and the dependencies that they name. Parsing only.

Source: apk-package(5), apk-world(5), and the format of APKINDEX as apk-tools 2.14 reads and writes it: records apart by
blank lines, a letter and a colon a line.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Final

from osbuilder.distro.apk.version import matches
from osbuilder.errors import FetchError

_DEPENDENCY: Final = re.compile(
    r"(?P<conflict>!?)(?P<name>[^!<>=~@\s]+)(?:(?P<operator>[<>=~]+)(?P<version>[^<>=@\s]+))?"
)

_NAMES: Final = re.compile(r"^([Ppi]):(.*)$", re.MULTILINE)
_NAME_END: Final = re.compile(r"[<>=~@]")
_CHECKSUM: Final = re.compile(r"Q1[A-Za-z0-9+/]{27}=")
_BUILT: Final = re.compile(r"^t:(\d{1,12})$", re.MULTILINE)

# What a name or version may be made of, so that neither leads a path anywhere: both become part of an address.
_SAFE: Final = re.compile(r"[A-Za-z0-9.][A-Za-z0-9._+~-]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Provide:
    """A name that a package answers to. Without a version (None) several packages may, side by side."""

    name: str
    version: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Dependency:
    """A name, perhaps with an operator and a version, that a package needs, or must not meet (`conflict`)."""

    name: str
    operator: str = ""
    version: str = ""
    conflict: bool = False

    def __str__(self) -> str:
        return f"{'!' if self.conflict else ''}{self.name}{self.operator}{self.version}"

    def is_met_by(self, provide: Provide) -> bool:
        """Whether a provided name is the one that is meant (of a conflict: the one that must not be met)."""
        if provide.name != self.name:
            return False
        if not self.operator:
            return True
        return provide.version is not None and matches(provide.version, self.operator, self.version)


def parse_dependency(text: str) -> Dependency:
    """Return the dependency of a word such as `so:libc.so.6`, `musl>=1.2` or `!uclibc`. Raises ValueError."""
    found = _DEPENDENCY.match(text)
    # What follows an @ names a repository, which only a world file may ask for.
    if not found or text[found.end() :].partition("@")[0]:
        raise ValueError(f"malformed dependency {text!r}")
    return Dependency(found["name"], found["operator"] or "", found["version"] or "", bool(found["conflict"]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A record of an index. `fields` are its lines by letter; `repository` is the index's place among all, from 0.

    `identity` is the SHA-1 of the package's control segment: what the signed index calls the package by.
    """

    name: str
    version: str
    arch: str
    size_bytes: int
    identity: bytes
    built: int
    origin: str
    priority: int
    depends: tuple[Dependency, ...]
    provides: tuple[Provide, ...]
    install_if: tuple[Dependency, ...]
    repository: int
    fields: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"

    @property
    def file_name(self) -> str:
        """The package's file, beside the index."""
        return f"{self.name}-{self.version}.apk"

    def answers(self, name: str) -> tuple[Provide, ...]:
        """Return what the package provides under a name, its own name included."""
        own = (Provide(self.name, self.version),) if name == self.name else ()
        return own + tuple(provide for provide in self.provides if provide.name == name)


def checksum_text(digest: bytes) -> str:
    """Return a SHA-1 as apk writes it: Q1 and base64."""
    return f"Q1{base64.b64encode(digest).decode()}"


class Catalogue:
    """All packages of some indexes, found by the names that they answer to.

    A repository has tens of thousands of records, a guest takes dozens: records are parsed when they are asked for.
    `indexes` are (text, what messages call it), in the order of preference.
    """

    def __init__(self, indexes: Iterable[tuple[str, str]]) -> None:
        self._records: list[tuple[str, int, str]] = []
        self._answering: dict[str, list[int]] = {}
        self._installed_if: dict[str, list[int]] = {}
        self._parsed: dict[int, Package] = {}
        for repository, (text, where) in enumerate(indexes):
            for block in text.split("\n\n"):
                if block.strip():
                    self._take(block.strip("\n"), repository, where)

    def _take(self, block: str, repository: int, where: str) -> None:
        number = len(self._records)
        self._records.append((block, repository, where))
        for letter, value in _NAMES.findall(block):
            if letter == "i":
                for word in value.split():
                    self._installed_if.setdefault(_NAME_END.split(word, maxsplit=1)[0], []).append(number)
            else:
                for word in value.split():
                    self._answering.setdefault(word.partition("=")[0], []).append(number)

    def __contains__(self, name: str) -> bool:
        return name in self._answering

    def names(self) -> Iterable[str]:
        """Return every name that a package answers to."""
        return self._answering.keys()

    def answering(self, name: str) -> tuple[Package, ...]:
        """Return the packages that are called `name` or provide it, in the order of the indexes, each once."""
        return tuple(self._package(number) for number in dict.fromkeys(self._answering.get(name, ())))

    def installed_if(self, name: str) -> tuple[Package, ...]:
        """Return the packages whose install_if names `name`."""
        return tuple(self._package(number) for number in dict.fromkeys(self._installed_if.get(name, ())))

    def _package(self, number: int) -> Package:
        if number not in self._parsed:
            self._parsed[number] = _parse_record(*self._records[number])
        return self._parsed[number]


def newest_build(text: str) -> int:
    """Return the latest build time (seconds since 1970) of an index's packages, 0 when none says."""
    return max(map(int, _BUILT.findall(text)), default=0)


def _parse_record(block: str, repository: int, where: str) -> Package:
    fields = {line[0]: line[2:] for line in block.splitlines() if line[1:2] == ":"}
    try:
        return Package(
            name=_safe(fields["P"]),
            version=_safe(fields["V"]),
            arch=fields["A"],
            size_bytes=int(fields["S"]),
            identity=_identity(fields["C"]),
            built=int(fields.get("t", "0")),
            origin=fields.get("o", ""),
            priority=int(fields.get("k", "0")),
            depends=tuple(map(parse_dependency, fields.get("D", "").split())),
            provides=tuple(map(_parse_provide, fields.get("p", "").split())),
            install_if=tuple(map(parse_dependency, fields.get("i", "").split())),
            repository=repository,
            fields=fields,
        )
    except (KeyError, ValueError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise FetchError(
            f"bad package index ({where}): record of {fields.get('P', 'an unnamed package')}: {what}",
            hint="Name another mirror (setting mirrors).",
        ) from None


def _safe(text: str) -> str:
    if not _SAFE.fullmatch(text):
        raise ValueError(f"malformed name or version {text!r}")
    return text


def _identity(text: str) -> bytes:
    if not _CHECKSUM.fullmatch(text):
        raise ValueError(f"expected a checksum of the kind Q1, got {text!r}")
    return base64.b64decode(text.removeprefix("Q1"))


def _parse_provide(text: str) -> Provide:
    name, equals, version = text.partition("=")
    return Provide(name, version if equals else None)
