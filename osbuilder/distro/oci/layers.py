"""Layers laid over each other as a container runtime does it: later ones replace, and whiteouts take away.

A whiteout takes from the layers below, never from its own. Names are looked up as in the guest: a layer that has
bin/tool over a layer where bin is a link to usr/bin adds usr/bin/tool, and makes usr/bin where it is missing. A leading
slash means the root of the image; no name leads out of it.

Source: OCI image-spec 1.1, layer.md ("Applying Changesets", "Whiteouts", "Opaque Whiteout").
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from osbuilder.errors import TreeError, VerificationError
from osbuilder.tree import Tree
from osbuilder.tree.entry import CHUNK_BYTES, Archive, Kind
from osbuilder.tree.expand import open_archive
from osbuilder.tree.tarread import Member, normalise_name, read_members

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
# What aufs kept for itself; old layers still have it.
_AUFS: Final = ".wh..wh."


def open_layer(path: Path, *, diff_id: str, origin: str, scratch: Path | None = None) -> Archive:
    """Return a layer's tar, expanded in the folder `scratch` (see open_archive).

    Raises TreeError, and VerificationError when it is not what `diff_id` says.
    """
    archive = open_archive(path, scratch=scratch)
    digest = hashlib.sha256()
    for offset in range(0, archive.size_bytes, CHUNK_BYTES):
        digest.update(archive.read_at(offset, CHUNK_BYTES))
    came = f"sha256:{digest.hexdigest()}"
    if came != diff_id:
        raise VerificationError(
            f"a layer of {origin} does not unpack to what its image says: expected {diff_id}, got {came}",
            hint="Whoever made the image made a mistake, or it was tampered with: do not use it.",
        )
    return archive


def apply_layer(tree: Tree, layer: Archive, *, label: str) -> None:
    """Lay a layer over a tree. Raises TreeError, in which `label` names the layer."""
    found = list(read_members(layer, name_of=_name_in_image))
    for member in found:
        _take_away(tree, member.name)
    for member in found:
        if _is_whiteout(member.name):
            continue
        try:
            _put(tree, member)
        except TreeError as error:
            raise TreeError(f"bad layer ({label}): member {member.name!r}: {error.message}", hint=error.hint) from None


def _name_in_image(name: str) -> str:
    return normalise_name(f".{name}" if name.startswith("/") else name)


def _is_whiteout(name: str) -> bool:
    return any(part.startswith(_WHITEOUT) for part in name.split("/"))


def _take_away(tree: Tree, name: str) -> None:
    folder, _, last = name.rpartition("/")
    if not last.startswith(_WHITEOUT):
        return
    if last == _OPAQUE:
        if _is_folder(tree, folder):
            below = tree.resolve(folder)
            prefix = f"{below}/" if below else ""
            tree.remove_all(f"{prefix}{child}" for child in tree.children(below))
    elif not last.startswith(_AUFS):
        gone = f"{folder}/{last.removeprefix(_WHITEOUT)}"
        if _is_folder(tree, folder) and tree.find(gone) is not None:
            tree.remove(gone)


def _is_folder(tree: Tree, name: str) -> bool:
    try:
        return tree.get(tree.resolve(name)).kind is Kind.DIR
    except TreeError:
        return False


def _put(tree: Tree, member: Member) -> None:
    there = tree.find(member.name) if member.name else tree.get("")
    entry = member.entry
    tree.add_parents(member.name)
    if entry is None:
        # Its target is of this layer, or of one below.
        if there is not None and there is not tree.find(member.link or ""):
            tree.remove(member.name)
        if tree.find(member.name) is None:
            tree.add_link(member.name, member.link or "")
    elif there is not None and there.kind is Kind.DIR and entry.kind is Kind.DIR:
        attributes = {"mode": entry.mode, "uid": entry.uid, "gid": entry.gid}
        tree.add_dir(member.name, **attributes, xattrs=dict(entry.xattrs), replace=True)
    else:
        if there is not None:
            tree.remove(member.name)
        tree.merge(Tree.of_members((member,), member.name))
