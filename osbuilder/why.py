"""Why a step would run: its ingredients now against those of its last build, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from osbuilder.step import key_of

if TYPE_CHECKING:
    from osbuilder.step import Json, Step
    from osbuilder.store import Artifact, Store

_SHOWN = 100


def explain(target: Step, store: Store | None, found: Mapping[str, Artifact | None]) -> str:
    """Return a text that says, for each step of a plan, whether it would run and what changed since it ran last.

    `store` is None where there is none yet; `found` is what Executor.peek says of the plan.
    """
    lines = []
    for step in target.walk():
        artifact = found[step.ident]
        if artifact is not None:
            lines.append(f"{step.ident}: up to date (key {artifact.key[:12]})")
            continue
        lines.append(f"{step.ident}: would run")
        lines.extend(f"  {reason}" for reason in _reasons(step, store, found))
    return "\n".join(lines)


def _reasons(step: Step, store: Store | None, found: Mapping[str, Artifact | None]) -> Iterator[str]:
    waiting = [name for name, dependency in step.dependencies() if found[dependency.ident] is None]
    last = store.last(step.ident) if store is not None else None
    if last is None:
        yield "nothing of it is in the store"
        return
    digests = {name: artifact.digest for name, item in step.dependencies() if (artifact := found[item.ident])}
    old: Mapping[str, Json] = last.manifest["ingredients"]
    new = step.ingredients({**dict.fromkeys(waiting, ""), **digests})
    for name in waiting:
        yield f"its input {name} would run first, and may come out the same"
    for name, digest in new["inputs"].items():
        if name not in waiting and old["inputs"].get(name) != digest:
            yield f"its input {name} changed: {_cut(old['inputs'].get(name))} -> {_cut(digest)}"
    if old["action"] != new["action"]:
        yield f"another action does it: {old['action']} -> {new['action']}"
    yield from _changes("", old["parameters"], new["parameters"])
    for module in sorted(old["source"].keys() | new["source"].keys()):
        if old["source"].get(module) != new["source"].get(module):
            yield f"the code of {module} changed"
    if not waiting and key_of(new) == last.key:
        yield "its artifact is damaged"


def _changes(path: str, old: Json, new: Json) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from _changes(f"{path}.{name}" if path else name, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and all(isinstance(item, str) for item in (*old, *new)):
        gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
        yield from (f"{path}: without {_cut(item)}" for item in gone)
        yield from (f"{path}: with {_cut(item)}" for item in come)
        if old != new and not gone and not come:
            yield f"{path}: in another order"
    elif old != new:
        yield f"{path}: {_cut(old)} -> {_cut(new)}"


def _cut(value: Json) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
