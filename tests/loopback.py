"""What tests leave in the user's store: what costs time and is for everybody, as far as the disk has room.

What they build from mirrors on loopback nobody can ever build again: the port is another one each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from osbuilder.errors import StoreError
from osbuilder.execute import BUILDER_TAR
from osbuilder.show import disk_bytes
from osbuilder.store import Artifact, Store, Workspace, remove_tree

_LOOPBACK = "127.0.0.1"

# The largest builder, bootstrapped and unpacked, takes 5 GiB for a moment; a cross compiler's 2 GiB.
_SCARCE_BYTES = 6 << 30
_SCARCE_BETWEEN_TESTS_BYTES = 3 << 30
_LARGE_BYTES = 256 << 20
_LARGE_BETWEEN_TESTS_BYTES = 512 << 20


class Made:
    """What this process puts into a store: keys of artifacts, and what the targets were that it gave others.

    By what it did itself, not by what has come: another process may be at work there, a second one of the tests or a
    developer's build. A test that starts `inv` on the user's store names no mirror on loopback.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys: set[str] = set()
        self.refs: dict[Path, str | None] = {}
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of what is published and remembered meanwhile."""
        publish, remember = Store.publish, Store.remember

        def published(store: Store, space: Workspace, *, key: str, ident: str, body: Mapping[str, Any]) -> Artifact:
            artifact = publish(store, space, key=key, ident=ident, body=body)
            if store.root == self.root:
                with self._mutex:
                    self.keys.add(key)
            return artifact

        def remembered(store: Store, ident: str, key: str) -> None:
            if store.root == self.root:
                path = store.root / "refs" / ident
                with self._mutex:
                    if path not in self.refs:
                        self.refs[path] = _text(path)
            remember(store, ident, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "publish", published)
            patch.setattr(Store, "remember", remembered)
            yield


@contextlib.contextmanager
def nothing_of_it_stays(made: Made) -> Iterator[None]:
    """Remove the artifacts of such mirrors, and all that was made of those, from a store that lives on.

    A target that a user had built before is again what it was.
    """
    with made.watched():
        yield
    if not made.keys:
        return
    store = Store(made.root)
    manifests = {key: artifact.manifest for key in made.keys if (artifact := store.find(key))}
    inputs = {key: set(manifest["input_keys"].values()) for key, manifest in manifests.items()}
    gone = {key for key, manifest in manifests.items() if _of_loopback(manifest)}
    while further := {key for key, needed in inputs.items() if key not in gone and needed & gone}:
        gone |= further
    with store.in_use():
        _remove(store, gone, made.refs)


def _remove(store: Store, gone: set[str], refs: Mapping[Path, str | None]) -> None:
    for key in gone:
        with store.lock(key, wait=False) as held:
            if held:
                remove_tree(store.root / "objects" / key)
    for path, before in refs.items():
        # Else somebody has built that target since.
        if (_text(path) or "").strip() in gone:
            if before is not None and store.find(before.strip()):
                path.write_text(before)
            else:
                path.unlink(missing_ok=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def make_room(store: Path, *, between_tests: bool = False) -> None:
    """Remove large builders where the disk is nearly full, unpacked ones first: whoever wants them makes them again.

    Between tests of one module those alone, later, and only the largest: what the module shares may hold the others.
    Not where another process runs tests too: it may be about to use them.
    """
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        return
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
