"""A root filesystem as data: read a tar, edit names and attributes, write a tar. No root, no mount, little memory.

Names are relative to the root, without `.`, `..` or empty parts; the root itself is "". Methods take paths as a person
in the guest would write them: a leading slash is optional, and symlinks in the folders of a path are followed as in
the guest, never out of the tree. The last part is followed by `resolve` only.

Same tree, same bytes: `write` depends on names, attributes, content and the epoch, not on the format or order read.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from osbuilder.errors import TreeError
from osbuilder.outfile import replacing
from osbuilder.tree.entry import Content, Entry, Kind, Sink, Writable
from osbuilder.tree.expand import open_archive
from osbuilder.tree.load import load_members
from osbuilder.tree.pattern import matcher
from osbuilder.tree.summary import Summary, summarise
from osbuilder.tree.tarread import Member, read_members
from osbuilder.tree.tarwrite import write_end, write_entry, write_link
from osbuilder.tree.walk import walk


def name_key(name: str) -> bytes:
    """Return the key that sorts names depth first, a folder before what is in it, by bytes whatever the locale."""
    return name.encode("utf-8", "surrogateescape").replace(b"/", b"\0")


class Tree:
    """A root filesystem. A new one has a root folder (0755, 0:0) and nothing in it."""

    def __init__(self) -> None:
        self._inodes: dict[int, Entry] = {0: Entry(kind=Kind.DIR, mode=0o755)}
        self._names: dict[str, int] = {"": 0}

    # Reading and writing

    @classmethod
    def read(cls, path: Path, *, scratch: Path | None = None) -> Tree:
        """Read a rootfs archive: tar (ustar, PAX, GNU), plain or compressed with bzip2, gzip, xz or zstd.

        Contents stay in the file (compressed: in an unnamed one in `scratch`, see open_archive). Folders that the
        archive leaves out become 0755, 0:0. Raises TreeError, with the member's name and offset, for anything
        malformed, truncated, escaping, duplicate or shadowing.
        """
        return cls.of_members(read_members(open_archive(path, scratch=scratch)), str(path))

    @classmethod
    def of_members(cls, members: Iterable[Member], label: str) -> Tree:
        """Return the tree that an archive's members make up; `label` names the archive in errors. Raises as `read`."""
        tree = cls()
        tree._names, tree._inodes = load_members(members, label)
        return tree

    def write(self, target: Path | Writable, *, epoch: int) -> None:
        """Write the tree as a tar, deterministically. No mtime is later than `epoch` (seconds since 1970).

        A path is replaced at once, when all is written; it may be the file that the tree was read from. Raises
        TreeError when content cannot be read any more, or the path not be written.
        """
        if not isinstance(target, Path):
            self._write_to(target, epoch)
            return
        with replacing(target, TreeError) as fd, open(fd, "wb", closefd=False) as stream:
            self._write_to(stream, epoch)

    def _write_to(self, stream: Writable, epoch: int) -> None:
        sink = Sink(stream)
        first_names: dict[int, str] = {}
        for name in self.names():
            inode = self._names[name]
            entry = self._inodes[inode]
            first = first_names.setdefault(inode, name)
            if first is name:
                write_entry(sink, name, entry, epoch=epoch)
            else:
                write_link(sink, name, entry, first, epoch=epoch)
        write_end(sink)
        sink.flush()

    # Looking

    def names(self) -> list[str]:
        """Return all names, the root's "" first, folders before what is in them, in the order that `write` uses."""
        return sorted(self._names, key=name_key)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Yield (name, entry) in the order of `names`."""
        for name in self.names():
            yield name, self._inodes[self._names[name]]

    def __len__(self) -> int:
        return len(self._names)

    def find(self, path: str) -> Entry | None:
        """Return the entry of a path (not following a final symlink), or None."""
        inode = self._names.get(self._walk(path, follow_last=False))
        return None if inode is None else self._inodes[inode]

    def exists(self, path: str) -> bool:
        """Say whether there is an entry of that path (not following a final symlink)."""
        return self.find(path) is not None

    def get(self, path: str) -> Entry:
        """Return the entry of a path (not following a final symlink). Raises TreeError when there is none."""
        entry = self.find(path)
        if entry is None:
            raise TreeError(f"no such name in the tree ({path})")
        return entry

    def resolve(self, path: str) -> str:
        """Return the name that a path leads to when every symlink is followed inside the tree.

        Raises TreeError when a symlink dangles or they run in a loop.
        """
        name = self._walk(path, follow_last=True)
        if name not in self._names:
            raise TreeError(f"dangling path in the tree ({path}): it leads to /{name}, which does not exist")
        return name

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content, symlinks followed. Raises TreeError when it is not a regular file."""
        entry = self.get(self.resolve(path))
        if entry.kind is not Kind.FILE:
            raise TreeError(f"cannot read content ({path}): expected a regular file, got a {entry.kind.value}")
        return entry.content.read()

    def children(self, path: str) -> tuple[str, ...]:
        """Return the sorted last parts of the names in a folder. Raises TreeError when it is not a folder."""
        folder = self.resolve(path)
        if self.get(folder).kind is not Kind.DIR:
            raise TreeError(f"not a folder in the tree ({path})")
        prefix = f"{folder}/" if folder else ""
        below = (name[len(prefix) :] for name in self._names if name.startswith(prefix))
        return tuple(sorted(part for part in below if part and "/" not in part))

    def links(self, path: str) -> tuple[str, ...]:
        """Return every name of the entry of a path, sorted: more than one for a hard link."""
        inode = self._names[self._existing(path)]
        return tuple(sorted((name for name, number in self._names.items() if number == inode), key=name_key))

    def hard_links(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of each entry that has several, by its first name."""
        counts = collections.Counter(self._names.values())
        groups: dict[int, list[str]] = {}
        for name in sorted((name for name, inode in self._names.items() if counts[inode] > 1), key=name_key):
            groups.setdefault(self._names[name], []).append(name)
        return {names[0]: tuple(names) for names in groups.values()}

    def glob(self, *patterns: str) -> tuple[str, ...]:
        """Return the names that match any pattern, sorted: `*` and `?` stay in one part, `**` spans parts."""
        matches = matcher(patterns)
        return tuple(name for name in self.names() if name and matches(name))

    def summary(self) -> Summary:
        """Return sizes and counts, of the whole and by the root's folders."""
        numbers = ((name, self._names[name]) for name in self.names())
        return summarise((name, inode, self._inodes[inode]) for name, inode in numbers)

    # Editing. A name that is taken is an error unless `replace`; a folder is only ever removed by `remove`.

    def add_file(
        self,
        path: str,
        content: bytes | Path,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        xattrs: Mapping[str, bytes] | None = None,
        parents_mode: int | None = None,
        replace: bool = False,
    ) -> None:
        """Add a regular file from bytes or from a file on disk, which must stay as it is until the tree is written.

        Missing folders are an error, or made with `parents_mode`, owner 0:0. Raises TreeError when the name is taken
        (with `replace`: by a folder), or a folder in the path is none.
        """
        entry = Entry(
            kind=Kind.FILE, mode=mode, uid=uid, gid=gid, content=Content.of(content), xattrs=_xattrs(xattrs or {})
        )
        self._add(path, entry, parents_mode=parents_mode, replace=replace)

    def add_dir(
        self,
        path: str,
        *,
        mode: int = 0o755,
        uid: int = 0,
        gid: int = 0,
        xattrs: Mapping[str, bytes] | None = None,
        parents_mode: int | None = None,
        replace: bool = False,
    ) -> None:
        """Add a folder. With `replace`, one that exists gets these attributes and keeps what is in it.

        Raises TreeError as `add_file` does.
        """
        entry = Entry(kind=Kind.DIR, mode=mode, uid=uid, gid=gid, xattrs=_xattrs(xattrs or {}))
        self._add(path, entry, parents_mode=parents_mode, replace=replace)

    def add_parents(self, path: str) -> None:
        """Add the folders that a path lies in where they are missing, also behind a link: 0755, 0:0."""
        self._make_parents(self._walk(path, follow_last=False), 0o755)

    def add_symlink(
        self,
        path: str,
        target: str,
        *,
        uid: int = 0,
        gid: int = 0,
        parents_mode: int | None = None,
        replace: bool = False,
    ) -> None:
        """Add a symlink to `target`, stored as it is; it need not exist. Raises TreeError as `add_file` does."""
        if not target or "\0" in target:
            raise TreeError(f"cannot add a symlink ({path}): its target {target!r} is empty or holds a NUL byte")
        entry = Entry(kind=Kind.SYMLINK, mode=0o777, uid=uid, gid=gid, target=target)
        self._add(path, entry, parents_mode=parents_mode, replace=replace)

    def add_device(
        self,
        path: str,
        kind: Kind,
        device: tuple[int, int] = (0, 0),
        *,
        mode: int = 0o600,
        uid: int = 0,
        gid: int = 0,
        parents_mode: int | None = None,
        replace: bool = False,
    ) -> None:
        """Add a device node (Kind.CHAR or Kind.BLOCK with (major, minor)) or a fifo. Raises TreeError as `add_file`."""
        if kind not in (Kind.CHAR, Kind.BLOCK, Kind.FIFO):
            raise TreeError(f"cannot add a device ({path}): expected a device or fifo, got a {kind.value}")
        entry = Entry(kind=kind, mode=mode, uid=uid, gid=gid, device=device)
        self._add(path, entry, parents_mode=parents_mode, replace=replace)

    def add_link(self, path: str, existing: str) -> None:
        """Add a further name (hard link) for an entry. Raises TreeError when the name is taken, or for a folder."""
        source = self._existing(existing)
        inode = self._names[source]
        if self._inodes[inode].kind is Kind.DIR:
            raise TreeError(f"cannot link to a folder (/{source})")
        self._names[self._place(path, parents_mode=None, replace=False)] = inode

    def remove(self, path: str) -> None:
        """Remove a name, and everything below it. Other names of a hard-linked file keep its content.

        Raises TreeError when there is no such name, or for the root.
        """
        name = self._existing(path)
        if not name:
            raise TreeError("refusing to remove the root of the tree")
        for gone in self._subtree(name):
            del self._names[gone]

    def remove_glob(self, *patterns: str) -> tuple[str, ...]:
        """Remove every name that matches a pattern (see `glob`), with what is below; return the names removed."""
        return self.remove_all(self.glob(*patterns))

    def remove_all(self, names: Iterable[str]) -> tuple[str, ...]:
        """Remove many names at once (as `glob` and `items` give them), with what is below; return the names removed."""
        matched = set(names)
        gone = tuple(name for name in self.names() if any(part in matched for part in _upwards(name)))
        for name in gone:
            del self._names[name]
        return gone

    def move(self, path: str, to: str) -> None:
        """Rename a name and everything below it. Raises TreeError when `to` is taken, or lies below `path`."""
        source = self._existing(path)
        target = self._place(to, parents_mode=None, replace=False)
        if not source or target.startswith(f"{source}/"):
            raise TreeError(f"cannot move /{source} to /{target}: a folder cannot go below itself")
        for name in self._subtree(source):
            self._names[target + name[len(source) :]] = self._names.pop(name)

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits of an entry, for all its names. Raises TreeError when there is none."""
        if self.get(path).kind is Kind.SYMLINK:
            raise TreeError(f"cannot change the mode of a symlink ({path})", hint="Give the path that it leads to.")
        self._change(path, mode=_checked_mode(path, mode))

    def chown(self, path: str, *, uid: int, gid: int) -> None:
        """Set the owner of an entry, for all its names. Raises TreeError when there is none."""
        self._change(path, uid=uid, gid=gid)

    def set_xattrs(self, path: str, xattrs: Mapping[str, bytes]) -> None:
        """Replace the extended attributes of an entry, for all its names. Raises TreeError when there is none."""
        self._change(path, xattrs=_xattrs(xattrs))

    def merge(self, other: Tree, *, replace: bool = False) -> None:
        """Lay another tree over this one, as unpacking its archive in the guest would, but refusing surprises.

        Folders that both have keep this tree's attributes; symlinked folders here are followed. Raises TreeError where
        a name is taken (with `replace`: by a folder, or for a folder).
        """
        placed: dict[int, str] = {}
        for name in other.names():
            inode = other._names[name]
            entry = other._inodes[inode]
            if entry.kind is Kind.DIR and self._is_folder(name):
                continue
            if inode in placed:
                target = self._place(name, parents_mode=None, replace=replace)
                self._names[target] = self._names[placed[inode]]
            else:
                placed[inode] = self._add(name, entry, parents_mode=None, replace=replace)

    # Inside

    def _is_folder(self, path: str) -> bool:
        inode = self._names.get(self._walk(path, follow_last=True))
        return inode is not None and self._inodes[inode].kind is Kind.DIR

    def _walk(self, path: str, *, follow_last: bool) -> str:
        return walk(self._names, self._inodes, path, follow_last=follow_last)

    def _existing(self, path: str) -> str:
        name = self._walk(path, follow_last=False)
        if name not in self._names:
            raise TreeError(f"no such name in the tree ({path})")
        return name

    def _subtree(self, name: str) -> list[str]:
        return [other for other in self._names if other == name or other.startswith(f"{name}/")]

    def _change(self, path: str, **changes: object) -> None:
        inode = self._names[self._existing(path)]
        self._inodes[inode] = dataclasses.replace(self._inodes[inode], **changes)  # type: ignore[arg-type]

    def _add(self, path: str, entry: Entry, *, parents_mode: int | None, replace: bool) -> str:
        _checked_mode(path, entry.mode)
        name = self._place(path, parents_mode=parents_mode, replace=replace, folder=entry.kind is Kind.DIR)
        if entry.kind is Kind.DIR and name in self._names:
            self._inodes[self._names[name]] = entry
        else:
            self._insert(name, entry)
        return name

    def _insert(self, name: str, entry: Entry) -> None:
        inode = len(self._inodes)  # numbers are never reused: inodes stay when their last name goes
        self._inodes[inode] = entry
        self._names[name] = inode

    def _place(self, path: str, *, parents_mode: int | None, replace: bool, folder: bool = False) -> str:
        """Return the name to add at, after making its folders and checking that it is free or may be replaced."""
        name = self._walk(path, follow_last=False)
        inode = self._names.get(name)
        if inode is not None:
            taken = self._inodes[inode].kind
            if not replace:
                raise TreeError(
                    f"name is taken in the tree (/{name}): there is a {taken.value}",
                    hint="Pass replace=True, or remove it.",
                )
            if (taken is Kind.DIR) is not folder:
                wanted = "a folder" if folder else "something else"
                raise TreeError(
                    f"cannot replace a {taken.value} by {wanted} (/{name})", hint="Remove it first if that is meant."
                )
        self._make_parents(name, parents_mode)
        return name

    def _make_parents(self, name: str, mode: int | None) -> None:
        missing = list(itertools.takewhile(lambda folder: folder not in self._names, _upwards(name.rpartition("/")[0])))
        if not missing:
            return
        if mode is None:
            raise TreeError(
                f"no folder in the tree for /{name}: /{missing[0]} does not exist", hint="Add it, or pass parents_mode."
            )
        for folder in reversed(missing):
            self._insert(folder, Entry(kind=Kind.DIR, mode=_checked_mode(folder, mode)))


def _upwards(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]


def _xattrs(xattrs: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted(xattrs.items()))


def _checked_mode(path: str, mode: int) -> int:
    if not 0 <= mode <= 0o7777:
        raise TreeError(f"bad mode ({path}): expected permission bits up to 07777, got {mode:#o}")
    return mode
