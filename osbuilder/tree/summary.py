"""What a tree weighs: its sizes and counts, of the whole and by the root's folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from osbuilder.tree.entry import Entry, Kind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What lies in one folder of the root: content bytes (hard links count once) and names."""

    path: str
    content_bytes: int
    entries: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Sizes of a tree. `folders` are the root's, largest first; "." stands for files in the root itself."""

    content_bytes: int
    entries: int
    kinds: tuple[tuple[Kind, int], ...]
    folders: tuple[Usage, ...]


def summarise(rows: Iterable[tuple[str, int, Entry]]) -> Summary:
    """Return the summary of (name, inode number, entry), folders before what is in them."""
    kinds: dict[Kind, int] = {}
    sizes: dict[str, int] = {}
    counts: dict[str, int] = {}
    seen: set[int] = set()
    for name, inode, entry in rows:
        kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
        top = name.partition("/")[0] if "/" in name or entry.kind is Kind.DIR else ""
        counts[top] = counts.get(top, 0) + 1
        sizes[top] = sizes.get(top, 0) + (0 if inode in seen else entry.content.size_bytes)
        seen.add(inode)
    folders = [Usage(path=top or ".", content_bytes=sizes[top], entries=counts[top]) for top in counts]
    return Summary(
        content_bytes=sum(sizes.values()),
        entries=sum(counts.values()),
        kinds=tuple(sorted(kinds.items(), key=lambda item: item[0].value)),
        folders=tuple(sorted(folders, key=lambda usage: (-usage.content_bytes, usage.path))),
    )
