"""What would be removed is told, and stays."""

from __future__ import annotations

from pathlib import Path

from osbuilder.store import Store
from osbuilder.tidy import unneeded
from tests.unit.test_store import publish


def test_what_collecting_would_remove_is_named_and_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("a", "b"):
        publish(store, key * 64)
    store.remember("tea/pour", "a" * 64)
    (tmp_path / "trees" / ("c" * 64)).mkdir(parents=True)
    told = list(unneeded(store))
    assert told == [
        f"would remove {'b' * 12} 0 MiB tea/pour",
        f"would remove {'c' * 12} 0 MiB, an unpacked builder",
    ]
    assert {artifact.key[0] for artifact in store.artifacts()} == {"a", "b"}
    assert list(unneeded(store)) == told
    store.collect()
    assert list(unneeded(store)) == told[1:]
