"""Volumes of a daemon that cannot see this host's files: those of one command, and those that stand for caches.

A cache's volume stays. Its labels say of which store and folder it is, so that it can go when the folder has gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from osbuilder.engine.containers import Containers

STORE_LABEL: Final = "osbuilder.store"
_CACHE_LABEL: Final = "osbuilder.cache"


class Volumes:
    """One store's volumes on one daemon. What its methods raise is what the client library raises."""

    def __init__(self, containers: Containers, store_id: str) -> None:
        self._containers = containers
        self._store_id = store_id

    @contextlib.contextmanager
    def of_command(self, prefix: str, targets: tuple[str, ...], labels: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Yield new volumes by the path that each is to have inside; they are gone afterwards."""
        names = {target: f"{prefix}-{target[1:]}" for target in targets}
        try:
            for name in names.values():
                self._containers.client.create_volume(name, labels=dict(labels))
            yield names
        finally:
            for name in names.values():
                self._containers.forget(volume=name)

    def of_caches(self, caches: Mapping[str, Path]) -> dict[str, str]:
        """Return the volumes that stand for caches, by path inside: one for each folder, made where it is not there."""
        names: dict[str, str] = {}
        for target, path in caches.items():
            cache = path.resolve()
            digest = hashlib.sha256(os.fsencode(cache)).hexdigest()[:12]
            names[target] = f"osbuilder-{self._store_id}-{digest}{target.replace('/', '-')}"
            labels = {STORE_LABEL: self._store_id, _CACHE_LABEL: str(cache)}
            self._containers.client.create_volume(names[target], labels=labels)
        return names

    def drop_caches(self, unwanted: Callable[[Path], bool]) -> None:
        """Remove the volumes of caches whose folders are unwanted; one that a container has stays."""
        wanted = {"label": [f"{STORE_LABEL}={self._store_id}", _CACHE_LABEL]}
        for volume in self._containers.client.volumes(filters=wanted)["Volumes"] or ():
            if unwanted(Path(volume["Labels"][_CACHE_LABEL])):
                self._containers.forget(volume=volume["Name"])
