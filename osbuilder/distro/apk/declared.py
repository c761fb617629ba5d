"""What a recipe says of an apk distribution: its signing keys, and what its install scripts amount to."""

from __future__ import annotations

import dataclasses
import enum
import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

_SHA512: Final = re.compile(r"[0-9a-f]{128}")


class ScriptKind(enum.Enum):
    """The scripts of a package that run when it is installed; those of upgrades and removals do not."""

    PRE_INSTALL = "pre-install"
    POST_INSTALL = "post-install"
    TRIGGER = "trigger"


@dataclasses.dataclass(frozen=True, slots=True)
class GuestPath:
    """An absolute path in the guest."""

    text: str

    @classmethod
    def parse(cls, text: str) -> GuestPath:
        """Return the path. Raises ValueError for a relative one, or one with `..` in it."""
        if not text.startswith("/") or ".." in PurePosixPath(text).parts:
            raise ValueError(f'expected an absolute path, got "{text}"')
        return cls(text)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that may sign an architecture's repositories: its file's name and the sha512 of that file."""

    arch: str
    name: str
    sha512: str

    def __post_init__(self) -> None:
        if not _SHA512.fullmatch(self.sha512):
            raise ValueError(f"sha512: expected 128 lower-case hex digits, got {self.sha512!r}")
        if "/" in self.name:
            raise ValueError(f"name: expected the name of a file, got {self.name!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A file's owner by the names of the guest's own /etc/passwd and /etc/group."""

    path: GuestPath
    user: str
    group: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredScript:
    """What scripts of a package amount to in a fresh root filesystem, and `why` that is all.

    `applets` is a program that is linked under each name of its list (/etc/busybox-paths.d), `owners` are set. With
    neither the scripts have nothing to do.
    """

    package: str
    kinds: tuple[ScriptKind, ...]
    why: str
    applets: GuestPath | None = None
    owners: tuple[Owner, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApkRecipe:
    """The part of a recipe that only apk reads.

    `keys` are fetched from `keys_url` and held against their sha512.
    """

    keys_url: str = dataclasses.field(metadata={"key": "keys-url"})
    keys: tuple[SigningKey, ...]
    scripts: tuple[DeclaredScript, ...] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("keys: expected at least one; nothing is installed unverified")
        if urlsplit(self.keys_url).scheme not in ("https", "http", "file"):
            raise ValueError(f"keys-url: expected an address, got {self.keys_url!r}")
