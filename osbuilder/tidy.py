"""What can be removed: results that were published, and of the store what no target's last build needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder import show
from osbuilder.arch import ARCHES
from osbuilder.engine.choose import container_engines
from osbuilder.execute import BUILDER_TAR
from osbuilder.store import Store, remove_tree

if TYPE_CHECKING:
    from osbuilder.api import Workbench


def clean(build: Path, *, dry: bool) -> str:
    """Remove the architectures of a build folder; returns what was (or would be) removed."""
    folders = [path for path in build.glob("*") if path.name in ARCHES and path.is_dir() and not path.is_symlink()]
    for path in folders if not dry else ():
        remove_tree(path)
    verb = "would remove" if dry else "removed"
    return "\n".join(f"{verb} {path}" for path in folders) or "nothing to remove"


def tidied(bench: Workbench, *, collect: bool, verify: bool) -> Iterator[str]:
    """Tidy the store as asked; yields a line about each. Raises StoreError while a build is under way."""
    if verify:
        with bench.store.alone():
            yield f"verified every artifact, dropped {bench.store.drop_damaged()} damaged"
    if collect:
        with bench.store.alone():
            removed, freed = bench.store.collect()
            freed += _collect_builders(bench)
        yield f"removed {removed} artifacts and what they left, {freed // 2**20} MiB"


def unneeded(store: Store) -> Iterator[str]:
    """Yield a line for each artifact and unpacked builder that collecting would remove; removes nothing."""
    folders = store.unneeded()
    for folder in folders:
        artifact = store.find(folder.name)
        what = str(artifact.manifest["ident"]) if artifact else "not whole"
        yield f"would remove {folder.name[:12]} {show.disk_bytes(folder) // 2**20} MiB {what}"
    for folder in store.kept():
        yield f"would remove {folder.name[:12]} {show.disk_bytes(folder) // 2**20} MiB, kept of a build that failed"
    for tree in _unpacked(store, _builder_tars(store, without={folder.name for folder in folders})):
        yield f"would remove {tree.name[:12]} {show.disk_bytes(tree) // 2**20} MiB, an unpacked builder"


def _collect_builders(bench: Workbench) -> int:
    """Remove what engines made of builders whose tar is gone (unpacked trees, images); returns the bytes freed."""
    kept = _builder_tars(bench.store)
    dropped = _unpacked(bench.store, kept)
    freed = sum(show.disk_bytes(tree) for tree in dropped)
    for tree in dropped:
        remove_tree(tree)
    return freed + sum(engine.collect(kept) for engine in container_engines(bench.settings))


def _builder_tars(store: Store, *, without: Collection[str] = ()) -> set[str]:
    """Return the sha256 of each builder's tar in the store, but for the artifacts with these keys."""
    artifacts = (item for item in store.artifacts() if item.key not in without)
    return {item.sha256(BUILDER_TAR) for item in artifacts if BUILDER_TAR in item.manifest["outputs"]}


def _unpacked(store: Store, kept: Collection[str]) -> list[Path]:
    """Return the folders of unpacked builders that are of other tars than these."""
    return [tree for tree in store.folder("trees").iterdir() if tree.is_dir() and tree.name not in kept]
