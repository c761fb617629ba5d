"""Where files of kernel/configs lie: each has its place there, and what has none is refused instead of passed over.

Only what editors leave beside a file that is open in them is no matter of ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from osbuilder.errors import FragmentError, UsageError, suggest
from osbuilder.kernel.conditions import ArchName

VARIANT_FILE: Final = "variant.yaml"
CONFIGS: Final = "kernel/configs"
"""Where all of this lies in a checkout: messages name files so that an editor opens them there."""

_EXTENSION: Final = ".conf"
_LAYERS: Final = ("arch", "common")
_TOP: Final = ("capabilities.yaml", "consumers.yaml", "history.yaml", "waivers.yaml")
_LEFTOVER: Final = re.compile(r"\..*\.sw[a-p]|.*~|#.*#|\.#.*", re.DOTALL)  # vim's; backups; emacs's two


def is_leftover(name: str) -> bool:
    """Say whether a file's name is one that editors give to what they leave beside a file."""
    return _LEFTOVER.fullmatch(name) is not None


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing where there is none."""
    return sorted(path for path in folder.glob("*") if not is_leftover(path.name))


def shown(root: Path, path: Path) -> str:
    """Return how messages call a file or folder below kernel/configs, which is at `root`."""
    return f"{CONFIGS}/{path.relative_to(root).as_posix()}"


def declaration(variant: str) -> str:
    """Return how messages call the file that declares a variant."""
    return f"{CONFIGS}/variant/{variant}/{VARIANT_FILE}"


def variant_folders(root: Path) -> list[Path]:
    """Return the folders of the variants. Raises FragmentError for a file among them."""
    folders = entries(root / "variant")
    for path in folders:
        if not path.is_dir():
            raise FragmentError(
                f"{shown(root, path)} has no place: expected a folder for each variant",
                hint=f"What a variant is, its {VARIANT_FILE} says, and its fragments lie in its common/ and arch/.",
            )
    return folders


def check_base(root: Path, owners: Collection[str]) -> None:
    """Refuse what has no place in kernel/configs outside of the variants' folders; `owners` as in `check_variant`.

    Raises FragmentError, and UsageError for a folder of an unknown architecture.
    """
    _check_entries(root, root, files=_TOP, folders=(*_LAYERS, "variant"))
    _check_fragments(root, root, owners, root / "capabilities.yaml")


def check_variant(root: Path, folder: Path, owners: Collection[str]) -> None:
    """Refuse what has no place in a variant's folder; `owners` are the names that fragments can have.

    Raises as `check_base`.
    """
    _check_entries(root, folder, files=(VARIANT_FILE,), folders=_LAYERS)
    _check_fragments(root, folder, owners, folder / VARIANT_FILE)


def check_named(root: Path, folder: Path, stems: Collection[str], declared: str) -> None:
    """Refuse fragments that a declaration names and that lie in no layer below a folder. Raises FragmentError."""
    there = {path.stem for layer in (folder / "common", *entries(folder / "arch")) for path in entries(layer)}
    if lost := [f"{stem}{_EXTENSION}" for stem in stems if stem not in there]:
        where = " or ".join(f"{shown(root, folder / layer)}/" for layer in ("common", "arch/<arch>"))
        raise FragmentError(
            f"{declared} names {', '.join(lost)}: no such fragment", hint=f"Write it in {where}, or take it out."
        )


def _check_entries(root: Path, folder: Path, *, files: Collection[str], folders: Collection[str]) -> None:
    for path in entries(folder):
        if path.name in files and path.is_file():
            continue
        if path.name in folders and path.is_dir():
            continue
        if path.suffix == _EXTENSION and path.is_file():
            where = " or ".join(f"{shown(root, folder / layer)}/" for layer in ("common", "arch/<arch>"))
            raise FragmentError(f"{shown(root, path)} has no place: nothing reads it here", hint=f"Move it to {where}.")
        raise FragmentError(f"{shown(root, path)} has no place", hint=suggest(path.name, (*files, *folders)))


def _check_fragments(root: Path, folder: Path, owners: Collection[str], declared: Path) -> None:
    for arch in entries(folder / "arch"):
        try:
            ArchName.parse(arch.name)
        except UsageError as error:
            raise UsageError(f"{shown(root, arch)}: {error.message}", hint=error.hint) from None
        if not arch.is_dir():
            raise FragmentError(f"{shown(root, arch)} has no place: expected a folder for each architecture")
    for layer in (folder / "common", *entries(folder / "arch")):
        for path in entries(layer):
            _check_fragment(root, path, owners, declared)


def _check_fragment(root: Path, path: Path, owners: Collection[str], declared: Path) -> None:
    if path.is_dir():
        raise FragmentError(
            f"{shown(root, path)} has no place: expected fragments here, no folder",
            hint=f"Fragments lie in {shown(root, path.parent)}/ itself.",
        )
    if path.suffix != _EXTENSION:
        raise FragmentError(
            f"{shown(root, path)} has no place: expected the extension {_EXTENSION}, got {path.suffix or 'none'}",
            hint=f"A fragment: rename it {path.stem}{_EXTENSION}. Anything else lies elsewhere.",
        )
    if path.stem not in owners:
        near = suggest(path.stem, owners).partition("? ")
        guess = f"{near[0]}? Else add" if near[1] else "Add"
        raise FragmentError(
            f"{shown(root, path)} belongs to no capability of {shown(root, declared)}",
            hint=f"{guess} to {shown(root, declared)}:\n\n{_declaration(path.stem, declared)}",
        )


def _declaration(name: str, declared: Path) -> str:
    """Return the YAML that declares a capability, without the key around it where the file has that already."""
    there = any(line.startswith("capabilities:") for line in declared.read_text(encoding="utf-8").splitlines())
    lines = [
        "    capabilities:" + ("             # there already" if there else ""),
        f"      {name}:",
        "        purpose: what it is for",
        "        unproven: why no probe can show it    # or probes: [NAME]",
    ]
    return "\n".join(lines)
