"""The state that the guest's own apk goes on from: /lib/apk/db and /etc/apk.

Formats: apk-tools 2.14, which 3.0 reads as well. `installed` has a record a package: the lines of its index record,
then `r:` and `q:` (replaces), and its files: `F:` a folder, `M:` its owner and mode unless 0:0:755, `R:` a file in it,
`a:` its owner and mode unless 0:0:644, `Z:` the SHA-1 of its content.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from osbuilder.distro.apk.accounts import Accounts
from osbuilder.distro.apk.index import checksum_text
from osbuilder.distro.apk.unpack import Installation, Unpacked
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

DATABASE: Final = "lib/apk/db"
CONFIGURATION: Final = "etc/apk"

# The order in which apk writes them.
_FIELDS: Final = "CPVASITULomtckDpi"


def write_database(installation: Installation, accounts: Accounts) -> None:
    """Write what is installed, the scripts of the packages, and the folders that their triggers watch."""
    tree = installation.tree
    records = [_record(installation, number, accounts) for number in range(len(installation.installed))]
    _add(tree, f"{DATABASE}/installed", "".join(f"{record}\n" for record in records).encode())
    _add(tree, f"{DATABASE}/scripts.tar", _scripts(installation.installed))
    _add(tree, f"{DATABASE}/triggers", "".join(_triggers(installation.installed)).encode())
    _add(tree, f"{DATABASE}/lock", b"", mode=0o600)


def write_configuration(
    tree: Tree, *, arch: str, world: Iterable[str], repositories: Iterable[str], keys: Mapping[str, bytes]
) -> None:
    """Write what was asked for, where it came from, and who may sign it. Files of packages stay as they are."""
    _add(tree, f"{CONFIGURATION}/arch", f"{arch}\n".encode())
    _add(tree, f"{CONFIGURATION}/world", "".join(f"{name}\n" for name in sorted(world)).encode())
    _add(tree, f"{CONFIGURATION}/repositories", "".join(f"{line}\n" for line in repositories).encode())
    for name, pem in keys.items():
        if not tree.exists(f"{CONFIGURATION}/keys/{name}"):
            _add(tree, f"{CONFIGURATION}/keys/{name}", pem)


def _add(tree: Tree, path: str, content: bytes, *, mode: int = 0o644) -> None:
    tree.add_file(path, content, mode=mode, parents_mode=0o755, replace=True)


def _record(installation: Installation, number: int, accounts: Accounts) -> str:
    unpacked = installation.installed[number]
    lines = [f"{letter}:{unpacked.package.fields[letter]}" for letter in _FIELDS if letter in unpacked.package.fields]
    replaces = " ".join(unpacked.control.all("replaces"))
    lines += [f"r:{replaces}"] if replaces else []
    priority = unpacked.control.one("replaces_priority")
    lines += [f"q:{priority}"] if priority else []
    folders: dict[str, list[str]] = {}
    for name in installation.files_of(number):
        if unpacked.tree.get(name).kind is Kind.DIR:
            folders.setdefault(name, [])
        else:
            folders.setdefault(name.rpartition("/")[0], []).append(name)
    for folder, files in folders.items():
        lines.append(f"F:{folder}")
        lines += _access(unpacked, accounts, folder, "M", "0:0:755") if folder else []
        for name in files:
            lines.append(f"R:{name.rpartition('/')[2]}")
            lines += _access(unpacked, accounts, name, "a", "0:0:644")
            lines += [f"Z:{checksum_text(unpacked.sha1[name])}"] if name in unpacked.sha1 else []
    return "".join(f"{line}\n" for line in lines)


def _access(unpacked: Unpacked, accounts: Accounts, name: str, letter: str, default: str) -> list[str]:
    entry = unpacked.tree.get(name)
    uid, gid = Installation.owner_numbers(accounts, entry, *unpacked.owners.get(name, ("root", "root")))
    text = f"{uid}:{gid}:{entry.mode:o}"
    return [] if text == default else [f"{letter}:{text}"]


def _scripts(installed: Sequence[Unpacked]) -> bytes:
    """Return an archive of every script, named package-version.checksum.kind."""
    buffer = io.BytesIO()
    # Not a Tree: a checksum may hold slashes, and apk takes the name as it stands.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for unpacked in installed:
            identity = checksum_text(unpacked.package.identity)
            for kind, content in sorted(unpacked.control.scripts.items()):
                member = tarfile.TarInfo(f"{unpacked.package}.{identity}.{kind}")
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _triggers(installed: Sequence[Unpacked]) -> Iterable[str]:
    for unpacked in installed:
        watched = " ".join(unpacked.control.all("triggers"))
        if watched:
            yield f"{checksum_text(unpacked.package.identity)} {watched}\n"
