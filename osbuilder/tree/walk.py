"""Where a path leads in a tree: symlinks are followed as in the guest, never out of it."""

from __future__ import annotations

from collections.abc import Mapping

from osbuilder.errors import TreeError
from osbuilder.tree.entry import Entry, Kind

_MAX_LINKS = 40  # as many symlinks as the kernel follows (MAXSYMLINKS)


def walk(names: Mapping[str, int], inodes: Mapping[int, Entry], path: str, *, follow_last: bool) -> str:
    """Return the name that a path leads to, which need not be among `names`; its last part is followed on request.

    Raises TreeError for a path with `..`, symlinks that run in a loop, and a folder in the path that is none.
    """
    pending = path.split("/")[::-1]
    if ".." in pending or "\0" in path:
        raise TreeError(f"refusing a path with `..` or a NUL byte ({path!r})")
    here: list[str] = []
    hops = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del here[-1:]  # the root's parent is the root
        if part in ("", ".", ".."):
            continue
        here.append(part)
        inode = names.get("/".join(here))
        entry = None if inode is None else inodes[inode]
        more = any(part not in ("", ".") for part in pending)
        if entry is None or not (more or follow_last):
            continue
        if entry.kind is Kind.SYMLINK:
            hops += 1
            if hops > _MAX_LINKS:
                raise TreeError(f"symlinks run in a loop ({path})")
            here = [] if entry.target.startswith("/") else here[:-1]
            pending.extend(entry.target.split("/")[::-1])
        elif more and entry.kind is not Kind.DIR:
            raise TreeError(f"not a folder in the tree (/{'/'.join(here)}): it is a {entry.kind.value}, in {path}")
    return "/".join(here)
