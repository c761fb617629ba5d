"""dpkg's own records: read from a configured tree, and written for packages that no dpkg has installed.

Texts are left as the packages have them; dpkg and dpkg-divert of a builder rewrite them in their own order and form
(`NORMALISE`). Source: dpkg's admindir as of 1.21 to 1.22 (its doc/ and lib/dpkg), deb-triggers(5), deb-conffiles(5).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from osbuilder.distro.deb import Deb
from osbuilder.distro.dpkg import parse_fields
from osbuilder.errors import RootfsError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Content, Entry, Kind

ADMIN: Final = "var/lib/dpkg"
INFO: Final = f"{ADMIN}/info"
RUN_ON_INSTALL: Final = ("preinst", "config", "postinst")

# What to do where a foreign root cannot be made from a twin.
EMULATED: Final = "Build it emulated: --setting foreign=emulated."

# Nothing is selected and nothing stays diverted: each reads the records and writes them anew.
NORMALISE: Final = """\
dpkg --admindir="$admin" --set-selections < /dev/null
dpkg-divert --admindir="$admin" --local --no-rename --add /osbuilder > /dev/null
dpkg-divert --admindir="$admin" --local --no-rename --remove /osbuilder > /dev/null
"""

_MERGED: Final = ("bin", "lib", "lib32", "lib64", "libo32", "libx32", "sbin")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What dpkg has recorded in a tree: packages (name: name of their records), the names that they bring, digests."""

    tree: Tree
    packages: Mapping[str, str]
    names: frozenset[str]
    digests: Mapping[str, str]

    @classmethod
    def of(cls, tree: Tree) -> Database:
        """Read a tree's records."""
        packages: dict[str, str] = {}
        names: set[str] = set()
        digests: dict[str, str] = {}
        for path in tree.glob(f"{INFO}/*.list"):
            key = path.rpartition("/")[2].removesuffix(".list")
            packages[key.partition(":")[0]] = key
            names.update(_real(tree, line.lstrip("/")) for line in _lines(tree, path))
            for line in _lines(tree, f"{INFO}/{key}.md5sums"):
                digest, _, name = line.partition("  ")
                digests[_real(tree, name)] = digest
        status = tree.read_bytes(f"{ADMIN}/status").decode("utf-8", "replace")
        for name, digest in re.findall(r"^ /(\S+) ([0-9a-f]{32})\b", status, re.MULTILINE):
            digests[_real(tree, name)] = digest
        return cls(tree=tree, packages=packages, names=frozenset(names), digests=digests)

    def brings(self, name: str) -> bool:
        """Say whether a package brings that name."""
        return name in self.names

    def original(self, name: str) -> str | None:
        """Return the md5 (hex) of a file as its package brought it; None where that is not recorded."""
        return self.digests.get(name)

    def changed(self, name: str, entry: Entry) -> bool:
        """Say whether a file is another than its package brought, or may be."""
        return md5(entry.content) != self.digests.get(name)

    def script(self, package: str, script: str) -> str | None:
        """Return a maintainer script of a package; None when there is none."""
        path = f"{INFO}/{self.packages.get(package)}.{script}"
        return self.tree.read_bytes(path).decode("utf-8", "surrogateescape") if self.tree.exists(path) else None


def records(
    debs: tuple[Deb, ...], twin: Tree, translate: Callable[[bytes], bytes], architecture: str
) -> Iterator[tuple[str, Entry]]:
    """Yield dpkg's and apt's records for packages that are installed and configured as those of a twin are.

    `translate` gives a text of the twin the foreign names; `architecture` is Debian's foreign name.
    """
    for deb in debs:
        key = f"{INFO}/{record_name(deb)}"
        for name, entry in deb.control.items():
            yield f"{key}.{name}", entry
        yield f"{key}.list", _file("".join(f"/{member.name or '.'}\n" for member in deb.members()))
    yield f"{INFO}/format", twin.get(f"{INFO}/format")
    for name in ("arch", "arch-native"):
        if twin.exists(f"{ADMIN}/{name}"):
            yield f"{ADMIN}/{name}", _file(f"{architecture}\n")
    yield f"{ADMIN}/status", _file("\n".join(_status(deb) for deb in debs))
    for name, text in {
        f"{ADMIN}/diversions": diversions(debs, translate(twin_text(twin, f"{ADMIN}/diversions")).decode()),
        f"{ADMIN}/triggers/File": triggers(debs, translate(twin_text(twin, f"{ADMIN}/triggers/File")).decode()),
        "var/lib/apt/extended_states": marks(debs, twin_text(twin, "var/lib/apt/extended_states"), architecture),
    }.items():
        if twin.exists(name):
            yield name, dataclasses.replace(twin.get(name), content=Content.of(text.encode()))


def record_name(deb: Deb) -> str:
    """Return what a package's records are called: with its architecture where several can be installed at once."""
    same = deb.fields.get("Multi-Arch") == "same"
    return f"{deb.name}:{deb.fields['Architecture']}" if same else deb.name


def diversions(debs: tuple[Deb, ...], text: str) -> str:
    """Return the twin's diversions (translated) with those of base-files for the foreign architecture.

    base-files diverts the folders of libraries that the architecture could have but does not: its script lists them.
    Raises RootfsError when it is not written as it was known.
    """
    lines = text.splitlines()
    rows = [tuple(lines[at : at + 3]) for at in range(0, len(lines), 3)]
    if not any(package == "base-files" for _, _, package in rows):
        return text
    (script,) = [deb.text("preinst") or "" for deb in debs if deb.name == "base-files"]
    found = re.search(r"^ *for d in ((?:lib\w* ?)+); do$", script, re.MULTILINE)
    if not found:
        raise RootfsError("the preinst of base-files does not say which folders it diverts", hint=EMULATED)
    rows = [row for row in rows if row[2] != "base-files"]
    rows += [(f"/{name}", f"/.{name}.usr-is-merged", "base-files") for name in found[1].split()]
    return "".join(f"{source}\n{target}\n{package}\n" for source, target, package in rows)


def triggers(debs: tuple[Deb, ...], text: str) -> str:
    """Return the twin's file triggers (translated), in its order, with the paths that the foreign packages watch."""
    watched = {record_name(deb): _watched(deb) for deb in debs}
    lines: list[str] = []
    for line in text.splitlines():
        package = line.partition(" ")[2].partition("/")[0]
        lines += watched.pop(package, [])
    return "".join(f"{line}\n" for line in lines)


def marks(debs: tuple[Deb, ...], text: bytes, architecture: str) -> str:
    """Return apt's marks of packages that were installed for the sake of others, without those that are not there."""
    names = {deb.name for deb in debs}
    kept = []
    for paragraph in text.decode().split("\n\n"):
        fields = parse_fields(paragraph)
        if fields.get("Package") in names:
            kept.append(re.sub(r"^Architecture: .*$", f"Architecture: {architecture}", paragraph, flags=re.MULTILINE))
    return "".join(f"{paragraph.strip()}\n\n" for paragraph in kept)


def twin_text(tree: Tree, name: str) -> bytes:
    """Return a file of a tree, empty when there is none."""
    return tree.read_bytes(name) if tree.exists(name) else b""


def md5(content: Content) -> str:
    """Return the md5 of content (hex): what dpkg records."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in content.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _status(deb: Deb) -> str:
    rows = [line.split() for line in (deb.text("conffiles") or "").splitlines()]
    contents = {f"/{member.name}": member.entry.content for member in deb.members() if member.entry}
    listed = [
        # The one flag that there is, for a file that the package no longer has: deb-conffiles(5).
        f" {row[-1]} newconffile {row[0]}\n" if len(row) > 1 else f" {row[0]} {md5(contents[row[0]])}\n"
        for row in rows
        if row
    ]
    return "".join((deb.paragraph, "Status: install ok installed\n", *(["Conffiles:\n"] if listed else []), *listed))


def _watched(deb: Deb) -> list[str]:
    found = []
    for line in (deb.text("triggers") or "").splitlines():
        match line.partition("#")[0].split():
            case ["interest" | "interest-await", path] if path.startswith("/"):
                found.append(f"{path} {record_name(deb)}")
            case ["interest-noawait", path] if path.startswith("/"):
                found.append(f"{path} {record_name(deb)}/noawait")
    return found


def _file(text: str) -> Entry:
    return Entry(kind=Kind.FILE, mode=0o644, content=Content.of(text.encode("utf-8", "surrogateescape")))


def _real(tree: Tree, name: str) -> str:
    """Return where a package's name leads to where /usr is merged."""
    top, slash, rest = name.partition("/")
    if top in _MERGED and slash:
        entry = tree.find(top)
        if entry is not None and entry.kind is Kind.SYMLINK:
            return f"{entry.target}/{rest}"
    return name


def _lines(tree: Tree, path: str) -> list[str]:
    return twin_text(tree, path).decode("utf-8", "surrogateescape").splitlines()
