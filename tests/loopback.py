"""What tests leave in the user's store: what costs time and is for everybody, as far as the disk has room.

What they build from mirrors on loopback nobody can ever build again: the port is another one each time.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osbuilder.errors import StoreError
from osbuilder.execute import BUILDER_TAR
from osbuilder.show import disk_bytes
from osbuilder.store import Store, remove_tree

_LOOPBACK = "127.0.0.1"

# The largest builder, bootstrapped and unpacked, takes 5 GiB for a moment; a cross compiler's 2 GiB.
_SCARCE_BYTES = 6 << 30
_SCARCE_BETWEEN_TESTS_BYTES = 3 << 30
_LARGE_BYTES = 256 << 20
_LARGE_BETWEEN_TESTS_BYTES = 512 << 20


@contextlib.contextmanager
def nothing_of_it_stays(store: Path) -> Iterator[None]:
    """Remove the artifacts of such mirrors, and all that was made of those, from a store that lives on.

    A target that a user had built before is again what it was.
    """
    refs = {path: path.read_text() for path in (store / "refs").rglob("*") if path.is_file()}
    there = _keys(store)
    yield
    manifests = {
        key: json.loads((store / "objects" / key / "manifest.json").read_bytes()) for key in _keys(store) - there
    }
    inputs = {key: set(manifest["input_keys"].values()) for key, manifest in manifests.items()}
    gone = {key for key, manifest in manifests.items() if _of_loopback(manifest)}
    while further := {key for key, needed in inputs.items() if key not in gone and needed & gone}:
        gone |= further
    # While somebody else builds, what is theirs cannot be told from what is ours.
    with contextlib.suppress(StoreError), Store(store).alone():
        _remove(store, gone, refs)


def _remove(store: Path, gone: set[str], refs: Mapping[Path, str]) -> None:
    for key in gone:
        remove_tree(store / "objects" / key)
    for path in [path for path in (store / "refs").rglob("*") if path.is_file() and path.read_text().strip() in gone]:
        if path in refs:
            path.write_text(refs[path])
        else:
            path.unlink()


def make_room(store: Path, *, between_tests: bool = False) -> None:
    """Remove large builders where the disk is nearly full, unpacked ones first: whoever wants them makes them again.

    Between tests of one module those alone, later, and only the largest: what the module shares may hold the others.
    """
    scarce_bytes = _SCARCE_BETWEEN_TESTS_BYTES if between_tests else _SCARCE_BYTES
    large_bytes = _LARGE_BETWEEN_TESTS_BYTES if between_tests else _LARGE_BYTES
    for find in (_unpacked,) if between_tests else (_unpacked, _bootstrapped):
        if not (store / "trees").is_dir() or shutil.disk_usage(store).free >= scarce_bytes:
            return
        with contextlib.suppress(StoreError), Store(store).alone():
            for folder in find(Store(store)):
                if disk_bytes(folder) >= large_bytes:
                    remove_tree(folder)


def _unpacked(store: Store) -> Iterator[Path]:
    return (tree for tree in store.folder("trees").iterdir() if tree.is_dir())


def _bootstrapped(store: Store) -> Iterator[Path]:
    return (artifact.folder for artifact in store.artifacts() if BUILDER_TAR in artifact.manifest["outputs"])


def _of_loopback(manifest: Mapping[str, Any]) -> bool:
    """Whether a test's mirror is named; of locked packages it is not, which are known by their content.

    Neither in what a test made of Debian's packages only to compare it.
    """
    ident = str(manifest["ident"])
    of_test = ident.startswith("test-") and ident.endswith("/packages")
    return of_test or ident.endswith("/locked") or _LOOPBACK in json.dumps(manifest)


def _keys(store: Path) -> set[str]:
    """Return the keys of the artifacts that are whole."""
    return {path.parent.name for path in store.glob("objects/*/manifest.json")}
