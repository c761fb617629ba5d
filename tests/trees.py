"""What differs between two root filesystems, name by name."""

from __future__ import annotations

from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry


def differences(one: Tree, other: Tree) -> dict[str, str]:
    """Return what is not the same, by name: content, owners, modes, times, targets, attributes, hard links."""
    names = {*one.names(), *other.names()}
    found = {}
    for name in sorted(names):
        here, there = one.find(name), other.find(name)
        if here is None or there is None:
            found[name] = "only in the second" if here is None else "only in the first"
        elif different := ", ".join(_differing(here, there)):
            found[name] = different
    for name, links in one.hard_links().items():
        if other.links(name) != links:
            found[name] = "other hard links"
    return found


def _differing(here: Entry, there: Entry) -> list[str]:
    fields = ("kind", "mode", "uid", "gid", "mtime_s", "target", "device", "xattrs")
    found = [field for field in fields if getattr(here, field) != getattr(there, field)]
    same_size = here.content.size_bytes == there.content.size_bytes
    return [*found, *([] if same_size and here.content.read() == there.content.read() else ["content"])]
