"""ext4 for a tree: its size and inodes computed, the commands that make and complete it, as data.

`mke2fs -d TAR` (e2fsprogs 1.47.2) needs no mount and no privileges, but of all extended attributes it takes
security.capability only (misc/create_inode_libarchive.c); debugfs sets the others afterwards from a script made here.
Nothing depends on the builder's /etc/mke2fs.conf: it is not read, every feature is named.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from types import MappingProxyType

from osbuilder.errors import ImageError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind

BLOCK_BYTES = 4096  # DAX needs blocks of the page size
_MIB = 1 << 20

# none: forget what mke2fs would add. The journal stays because the runtime mounts with data=ordered, which fails
# without. metadata_csum finds damage when it is read; 64bit gives its checksums all 32 bits. No resize_inode: an image
# is built again, not grown; reserved blocks would be dead weight. No orphan_file: kernels before 5.15 refuse it.
_FEATURES = (
    "none",
    "has_journal",
    "ext_attr",
    "dir_index",
    "filetype",
    "extent",
    "64bit",
    "flex_bg",
    "sparse_super",
    "large_file",
    "huge_file",
    "dir_nlink",
    "extra_isize",
    "metadata_csum",
)
# The least that mke2fs makes (1024 blocks). The root is mounted read-only or little written: nothing needs more.
_JOURNAL_MIB = 4
_JOURNAL_BLOCKS = _JOURNAL_MIB * _MIB // BLOCK_BYTES

_INODE_BYTES = 256
_RESERVED_INODES = 11  # 1 to 10, and lost+found
_LOST_FOUND_BLOCKS = 4
_GROUP_BLOCKS = 8 * BLOCK_BYTES  # as many as a one-block bitmap has bits
_DESCRIPTOR_BYTES = 64
_EXTENTS_IN_INODE = 4
_EXTENTS_IN_BLOCK = (BLOCK_BYTES - 12) // 12
_EXTENT_BLOCKS = 32768
_FAST_SYMLINK_BYTES = 60
# In-inode room: 256 bytes less the 128 of old, the 32 of i_extra_isize, the magic, and the list's end mark.
_XATTR_INODE_BYTES = _INODE_BYTES - 128 - 32 - 4 - 4
_XATTR_BLOCK_BYTES = BLOCK_BYTES - 32 - 4
# mke2fs drops a last group with less than its metadata and 50 blocks of room (lib/ext2fs/initialize.c).
_LAST_GROUP_SPARE_BLOCKS = 64
_MAKER_XATTRS = frozenset({"security.capability"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ext4Size:
    """How large an ext4 is to be for a tree: whole blocks, and inodes in all."""

    size_bytes: int
    inodes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class XattrScript:
    """What debugfs has to set after mke2fs: its command file, and the value files that it names.

    `values` are (file name, content); the commands expect them in the folder that was given.
    """

    commands: str
    values: tuple[tuple[str, bytes], ...]


def size_ext4(tree: Tree, *, free_space_mib: int = 0) -> Ext4Size:
    """Return the size that holds a tree, its metadata, 2%, and `free_space_mib` on top.

    An upper bound, not an estimate: holes only make it smaller, so that mke2fs fits at its first try. One inode for
    each 16 KiB of the free space comes on top of the tree's (mke2fs's own ratio). Raises ImageError for a file that
    ext4 cannot hold and for extended attributes beyond one block.
    """
    blocks, inodes = _tree_blocks(tree)
    blocks += blocks // 50 + free_space_mib * _MIB // BLOCK_BYTES
    inodes += _RESERVED_INODES + inodes // 50 + free_space_mib * _MIB // 16384
    # mke2fs refuses a journal that takes more than half of what is free before anything else is written.
    total = 2 * _JOURNAL_BLOCKS + _metadata_blocks(1, inodes) + _LAST_GROUP_SPARE_BLOCKS
    while True:
        needed = blocks + _LOST_FOUND_BLOCKS + _JOURNAL_BLOCKS + _metadata_blocks(total, inodes)
        if needed <= total:
            return Ext4Size(size_bytes=total * BLOCK_BYTES, inodes=inodes)
        total = _avoid_short_group(needed, inodes)


def _tree_blocks(tree: Tree) -> tuple[int, int]:
    """Return (blocks outside of inodes, inodes) that a tree's entries take."""
    blocks = 0
    folders: dict[str, int] = {}
    repeated = {name for names in tree.hard_links().values() for name in names[1:]}
    inodes = 0
    for name, entry in tree.items():
        parent, _, last = name.rpartition("/")
        if name:
            # ext4_dir_entry_2: eight bytes and the name, in multiples of four.
            folders[parent] = folders.get(parent, 0) + 8 + (len(last.encode("utf-8", "surrogateescape")) + 3) // 4 * 4
        if name in repeated:
            continue
        inodes += 1
        blocks += _entry_blocks(name, entry)
        if entry.kind is Kind.DIR:
            folders.setdefault(name, 0)
    return blocks + sum(_folder_blocks(size) for size in folders.values()), inodes


def _entry_blocks(name: str, entry: Entry) -> int:
    blocks = 1 if _xattrs_size(name, entry) > _XATTR_INODE_BYTES else 0
    if entry.kind is Kind.SYMLINK and len(entry.target.encode("utf-8", "surrogateescape")) >= _FAST_SYMLINK_BYTES:
        return blocks + 1
    if entry.kind is not Kind.FILE:
        return blocks
    content = -(-entry.content.size_bytes // BLOCK_BYTES)
    if content >= 1 << 32:
        raise ImageError(f"file too large for ext4 (/{name}): {entry.content.size_bytes} bytes")
    # A hole saves a block and costs an extent, 1/170 of a block at worst. Groups' ends split few files.
    extents = -(-content // _EXTENT_BLOCKS) + 1
    return blocks + content + (_extent_tree_blocks(extents) if extents > _EXTENTS_IN_INODE else 0)


def _folder_blocks(entries_bytes: int) -> int:
    """Return the blocks of a folder, every one scattered: it grows while the files in it are written."""
    # 24 bytes for `.` and `..`; 12 at each block's end for the checksum; no entry spans blocks (263 lost at worst).
    blocks = -(-(entries_bytes + 24) // (BLOCK_BYTES - 12 - 263))
    return blocks + (_extent_tree_blocks(blocks) if blocks > _EXTENTS_IN_INODE else 0)


def _extent_tree_blocks(extents: int) -> int:
    # Leaves are split in halves as they fill.
    leaves = -(-extents // (_EXTENTS_IN_BLOCK // 2))
    return leaves + (1 + leaves // (_EXTENTS_IN_BLOCK // 2) if leaves > _EXTENTS_IN_INODE else 0)


def _metadata_blocks(total: int, inodes: int) -> int:
    """Return the blocks of a filesystem's own structures: bitmaps, inode tables, superblocks and descriptors."""
    groups = -(-total // _GROUP_BLOCKS)
    descriptors = -(-groups * _DESCRIPTOR_BYTES // BLOCK_BYTES)
    copies = sum(1 for group in range(groups) if _has_superblock(group))
    # One more for each group: a file that its end splits may need an extent block.
    return groups * (3 + _inode_table_blocks(groups, inodes)) + copies * (1 + descriptors)


def _inode_table_blocks(groups: int, inodes: int) -> int:
    per_group = -(-inodes // groups)
    per_block = BLOCK_BYTES // _INODE_BYTES
    return -(-per_group // per_block)


def _has_superblock(group: int) -> bool:
    """Say whether sparse_super keeps a copy in a group: 0, 1 and the powers of 3, 5 and 7."""
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def _avoid_short_group(total: int, inodes: int) -> int:
    groups, last = divmod(total, _GROUP_BLOCKS)
    descriptors = -(-(groups + 1) * _DESCRIPTOR_BYTES // BLOCK_BYTES)
    least = 3 + _inode_table_blocks(groups + 1, inodes) + descriptors + _LAST_GROUP_SPARE_BLOCKS
    return total - last + least if 0 < last < least else total


def _xattrs_size(name: str, entry: Entry) -> int:
    """Return the bytes that extended attributes take in ext4 (struct ext4_xattr_entry, names and values padded)."""
    size = 0
    for key, value in entry.xattrs:
        size += 16 + (len(key.encode()) + 3) // 4 * 4 + (len(value) + 3) // 4 * 4
    if size > _XATTR_BLOCK_BYTES:
        raise ImageError(
            f"too many extended attributes for ext4 (/{name}): expected at most {_XATTR_BLOCK_BYTES} bytes, got {size}"
        )
    return size


def derive_uuid(content_key: str, purpose: str) -> uuid.UUID:
    """Return an identifier that depends on the content alone, so that equal builds are equal in it too.

    `purpose` tells apart the identifiers of one build ("filesystem", "hash seed", "disk").
    """
    return uuid.uuid5(uuid.NAMESPACE_OID, f"osbuilder/{purpose}/{content_key}")


def derive_disk_id(content_key: str) -> int:
    """Return the 32-bit disk id for a partition table; never 0, which means none."""
    return derive_uuid(content_key, "disk").int >> 96 or 1


def render_mke2fs(*, tar: str, output: str, size: Ext4Size, content_key: str, offset_bytes: int = 0) -> tuple[str, ...]:
    """Return the command that makes the filesystem from `offset_bytes` on in a new sparse file (`output`).

    Run it with `mkfs_environment`. It says that its configuration does not define ext4: true, and meant.
    """
    extended = (
        *((f"offset={offset_bytes}",) if offset_bytes else ()),
        f"hash_seed={derive_uuid(content_key, 'hash seed')}",
        # Inode tables count as initialised, so that no guest's kernel starts a thread to do it.
        "lazy_itable_init=0",
        # In a new file the journal is zeros already: the same bytes, and a hole instead of 4 MiB on disk.
        "lazy_journal_init=1",
        "nodiscard",
        "root_owner=0:0",
    )
    return (
        "mke2fs",
        "-q",
        "-F",
        *("-t", "ext4", "-T", "default"),  # default: no parameters that go by the size
        *("-b", str(BLOCK_BYTES)),
        *("-I", str(_INODE_BYTES)),
        *("-N", str(size.inodes)),
        *("-m", "0"),
        *("-e", "remount-ro"),
        *("-O", ",".join(_FEATURES)),
        *("-G", "16"),
        *("-J", f"size={_JOURNAL_MIB}"),
        *("-U", str(derive_uuid(content_key, "filesystem"))),
        *("-E", ",".join(extended)),
        *("-d", tar),
        output,
        str(size.size_bytes // BLOCK_BYTES),
    )


def plan_xattrs(tree: Tree, *, values_folder: str) -> XattrScript | None:
    """Return what debugfs has to set because mke2fs does not; None when there is nothing (most trees).

    `values_folder` is where the builder sees the value files. Raises ImageError for a name that debugfs cannot read.
    """
    numbers: dict[bytes, str] = {}
    commands = []
    repeated = {name for names in tree.hard_links().values() for name in names[1:]}
    for name, entry in tree.items():
        for key, value in entry.xattrs if name not in repeated else ():
            if key in _MAKER_XATTRS:
                continue
            if not f"{name}{key}".isprintable() or not key.isascii() or " " in key or '"' in key:
                raise ImageError(
                    f"cannot set extended attribute {key!r} (/{name}): debugfs cannot read the name",
                    hint="Rename the file or the attribute, or choose another filesystem.",
                )
            file = numbers.setdefault(value, f"{len(numbers):06d}")
            quoted = name.replace('"', '""')
            commands.append(f'ea_set -f {values_folder}/{file} "/{quoted}" {key}\n')
    if not commands:
        return None
    return XattrScript(commands="".join(commands), values=tuple((file, value) for value, file in numbers.items()))


def render_debugfs(*, commands: str, filesystem: str, offset_bytes: int = 0) -> tuple[str, ...]:
    """Return the command that runs an XattrScript's commands, in a file named `commands`, on the filesystem."""
    return ("debugfs", "-w", "-f", commands, at_offset(filesystem, offset_bytes))


def check_debugfs(errors: str) -> None:
    """Look at what debugfs printed to standard error: it exits with 0 whatever happens. Raises ImageError."""
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith("debugfs 1.")]
    if lines:
        raise ImageError(f"debugfs could not set extended attributes: {lines[0]} ({len(lines)} lines in all)")


def at_offset(file: str, offset_bytes: int) -> str:
    """Return how libext2fs names a filesystem that begins further on in a file (ext2fs_open2, option offset)."""
    return f"{file}?offset={offset_bytes}" if offset_bytes else file


def mkfs_environment(*, epoch: int) -> Mapping[str, str]:
    """Return the environment of all commands here. `epoch` (seconds since 1970) is the time that they write."""
    return MappingProxyType(
        {
            "SOURCE_DATE_EPOCH": str(epoch),
            "LC_ALL": "C.UTF-8",  # else mke2fs cannot convert names that are not ASCII
            "MKE2FS_CONFIG": "/dev/null",
            "E2FSCK_CONFIG": "/dev/null",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
    )
