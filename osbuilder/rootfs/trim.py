"""What a guest never reads goes: caches, logs, documentation, translations. Each group can be kept by name.

Copyright files stay: whoever passes an image on passes the packages on, and their licences ask for the notices.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable
from typing import Final

from osbuilder.rootfs.init import remove_units, remove_unneeded_units
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind


class Keep(enum.Enum):
    """Groups of files that are removed unless they are kept."""

    DOCS = "docs"
    LOCALES = "locales"
    UNITS = "units"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """What one group gave back: names removed, and bytes of their contents."""

    what: str
    entries: int
    content_bytes: int


# Written while packages were installed, and again by whoever needs them. Folders stay: services own them.
_WRITTEN: Final = ("var/cache/**", "var/log/**", "var/lib/apt/lists/**")

# What the installation leaves that no two machines write alike, or that must not be shared by all guests.
_LEFTOVERS: Final = (
    "etc/*-",
    "etc/.pwd.lock",
    "etc/ssh/ssh_host_*",
    "root/.gnupg",
    "var/lib/dpkg/*-old",
    "var/lib/systemd/catalog/*",
    "var/lib/systemd/random-seed",
    "**/__pycache__",
)

_DOCS: Final = (
    "etc/alternatives/*.gz",  # links to manual pages
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc/**",
    "usr/share/doc-base",
    "usr/share/fish",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/man",
    "usr/share/zsh",
)
_LOCALES: Final = (
    "usr/lib/*/gconv",  # converters for other encodings
    "usr/lib/locale/*",
    "usr/share/locale/**",
    "usr/share/zoneinfo/**",
)

# The guest's locale is C.UTF-8 (built into libc) and its time zone UTC; chrony reads the leap seconds.
_KEPT_LOCALES: Final = re.compile(
    r"usr/share/locale/locale\.alias|usr/lib/locale/C\..*"
    r"|usr/share/zoneinfo(/Etc(/UTC)?|/UTC|/leap[^/]*)"
)


def trim(
    tree: Tree, *, keep: tuple[Keep, ...] = (), without_units: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> tuple[Trimmed, ...]:
    """Remove what a guest never reads, and say what each group gave back.

    `without_units` go besides; see init.remove_units for these and `needed`, and what it raises.
    """
    groups: dict[str, Callable[[], tuple[str, ...]]] = {
        "caches": lambda: tree.remove_all(_non_folders(tree, _WRITTEN)) + tree.remove_glob(*_LEFTOVERS),
    }
    if Keep.DOCS not in keep:
        groups["docs"] = lambda: tree.remove_all(name for name in tree.glob(*_DOCS) if not _is_notice(tree, name))
    if Keep.LOCALES not in keep:
        groups["locales"] = lambda: tree.remove_all(
            name for name in tree.glob(*_LOCALES) if not _KEPT_LOCALES.fullmatch(name)
        )
    if Keep.UNITS not in keep:
        groups["units"] = lambda: remove_unneeded_units(tree)
    if without_units:
        groups["named units"] = lambda: remove_units(tree, without_units, needed=needed)
    return tuple(_measured(tree, what, remove) for what, remove in groups.items())


def _measured(tree: Tree, what: str, remove: Callable[[], tuple[str, ...]]) -> Trimmed:
    before = tree.summary().content_bytes
    gone = remove()
    return Trimmed(what=what, entries=len(gone), content_bytes=before - tree.summary().content_bytes)


def _non_folders(tree: Tree, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in tree.glob(*patterns) if tree.get(name).kind is not Kind.DIR)


def _is_notice(tree: Tree, name: str) -> bool:
    """Whether a name below usr/share/doc is a copyright file, or leads to one: a package's folder, or a link to it."""
    folder, _, last = name.rpartition("/")
    if folder == "usr/share/doc":
        return tree.get(name).kind in (Kind.DIR, Kind.SYMLINK)
    return folder.startswith("usr/share/doc/") and last.startswith("copyright")
