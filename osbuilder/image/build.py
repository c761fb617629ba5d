"""The steps that turn a composed rootfs tar into something that boots: a disk image, an initrd.

Names of the files that they hand on: rootfs.tar in, image (with its root hash, if measured) or initrd out.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import zstandard

from osbuilder.engine.base import Command
from osbuilder.errors import ImageError, TreeError
from osbuilder.image import filesystem, verity
from osbuilder.image.initrd import DEFAULT_LEVELS, Compression, write_initrd
from osbuilder.image.layout import Layout, plan_layout, write_headers
from osbuilder.image.measured import kernel_parameters, write_tree
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
IMAGE: Final = "image"
ROOT_HASH: Final = "root_hash"
INITRD: Final = "initrd"

# The fact which names lost their extended attributes, and how many of them a note shows.
_LOST: Final = "lost_xattrs"
_SHOWN: Final = 4

# Where the kernel looks for an init in an initrd, and where it looks first on a disk (admin-guide/init.rst).
_INIT: Final = "init"
_ON_A_DISK: Final = "/sbin/init"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeImage:
    """Input "rootfs" (rootfs.tar) -> image: partition tables, DAX superblock if asked, an ext4 of exactly that tree.

    mke2fs writes the filesystem where it belongs in the image, so that its bytes are written and read once. Identifiers
    come from the tar's sha256, times from `epoch` (seconds since 1970). If `measured`, partition 2 is its dm-verity
    hash tree, and root_hash the line that a VMM needs to start a guest from it.
    """

    free_space_mib: int
    dax: bool
    align_mib: int
    epoch: int
    measured: bool = False

    def describe(self) -> tuple[str, ...]:
        return (
            f"compute blocks and inodes from rootfs.tar, with {self.free_space_mib} MiB of free space",
            f"mke2fs -t ext4 -d /in/{ROOTFS_TAR} /out/{IMAGE} as partition 1 (identifiers from the tar's sha256)",
            f"debugfs -w /out/{IMAGE} (only for extended attributes other than file capabilities)",
            *describe_headers(dax=self.dax, align_mib=self.align_mib, measured=self.measured),
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        rootfs = job.inputs["rootfs"]
        tar, content_key = rootfs.path(ROOTFS_TAR), rootfs.sha256(ROOTFS_TAR)
        tree = Tree.read(tar)
        if self.measured:
            check_read_only(tree, "a measured root")
        size = filesystem.size_ext4(tree, free_space_mib=self.free_space_mib)
        layout = lay_out(size.size_bytes, dax=self.dax, align_mib=self.align_mib, measured=self.measured)
        offset_bytes = layout.partitions[0].offset_bytes
        argv = filesystem.render_mke2fs(
            tar=f"/in/{ROOTFS_TAR}",
            output=f"/out/{IMAGE}",
            offset_bytes=offset_bytes,
            size=size,
            content_key=content_key,
        )
        job.run(self._command(argv), inputs={ROOTFS_TAR: tar})
        self._set_xattrs(tree, job, offset_bytes=offset_bytes)
        finished = finish(job, layout, content_key, dax=self.dax, measured=self.measured)
        return {"filesystem": "ext4", "inodes": size.inodes, **finished}

    def _set_xattrs(self, tree: Tree, job: Job, *, offset_bytes: int) -> None:
        script = filesystem.plan_xattrs(tree, values_folder="/in/xattrs")
        if script is None:
            return
        folder = job.work / "xattrs"
        folder.mkdir()
        (folder / "commands").write_text(script.commands)
        for name, value in script.values:
            (folder / name).write_bytes(value)
        argv = filesystem.render_debugfs(
            commands="/in/xattrs/commands", filesystem=f"/out/{IMAGE}", offset_bytes=offset_bytes
        )
        began = job.log.stat().st_size
        job.run(self._command(argv), inputs={"xattrs": folder})
        with job.log.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(began)
            # The engine writes what it runs, debugfs echoes each command after its prompt; the rest are complaints.
            said = [line for line in stream if not line.startswith(("$ ", "# ", "debugfs: "))]
        filesystem.check_debugfs("".join(said))

    def _command(self, argv: tuple[str, ...]) -> Command:
        return Command(argv=argv, env=tuple(filesystem.mkfs_environment(epoch=self.epoch).items()))


def lay_out(size_bytes: int, *, dax: bool, align_mib: int, measured: bool) -> Layout:
    """Return the layout of an image with a filesystem of that size and, if measured, with its hash tree behind it."""
    hashes = (verity.tree_bytes(size_bytes // verity.BLOCK_BYTES),) if measured else ()
    return plan_layout(sizes_bytes=(size_bytes, *hashes), dax_header=dax, align_mib=align_mib)


def finish(job: Job, layout: Layout, content_key: str, *, dax: bool, measured: bool) -> Mapping[str, Json]:
    """Write what is around an image's filesystem, see `describe_headers`; return facts."""
    write_headers(layout, job.out / IMAGE, disk_id=filesystem.derive_disk_id(content_key))
    return {
        "dax": dax,
        "size_bytes": layout.size_bytes,
        "partitions": [[part.offset_bytes, part.size_bytes] for part in layout.partitions],
        **(_measure(job, layout, content_key) if measured else {}),
    }


def _measure(job: Job, layout: Layout, content_key: str) -> Mapping[str, Json]:
    """Write the hash tree of an image's first partition into the second one, and the root hash's file; return facts."""
    salt = verity.derive_salt(filesystem.derive_uuid(content_key, "filesystem"))
    found = write_tree(layout, job.out / IMAGE, salt=salt)
    (job.out / ROOT_HASH).write_text(f"{found.line()}\n", encoding="ascii")
    return {"verity": {**dataclasses.asdict(found), "kernel_parameters": kernel_parameters(found)}}


def describe_headers(*, dax: bool, align_mib: int, measured: bool) -> tuple[str, ...]:
    """Return what is written around a filesystem, a line each (for --dry)."""
    tree = f"write the dm-verity hash tree of partition 1 as partition 2, and what it hangs from as {ROOT_HASH}"
    header = "two partition tables and a DAX superblock" if dax else "a partition table"
    return (f"write {header}, size a multiple of {align_mib} MiB", *((tree,) if measured else ()))


def check_read_only(tree: Tree, what: str) -> None:
    """Refuse a tree that wants its root writable, where nobody can write to it: `what` it is. Raises ImageError."""
    fstab = tree.find("etc/fstab")
    if fstab is None or fstab.kind is not Kind.FILE:
        return
    for number, line in enumerate(fstab.content.read().decode("utf-8", "replace").splitlines(), 1):
        # fstab(5): device, mount point, type, options.
        words = line.split()
        if not line.lstrip().startswith("#") and words[1:2] == ["/"] and "ro" not in "".join(words[3:4]).split(","):
            raise ImageError(
                f"{what} is read-only, but /etc/fstab mounts it writable: expected the option ro in line "
                f"{number}, got {line.strip()!r}",
                hint="Remove the line: the kernel has mounted the root already.",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeInitrd:
    """Input "rootfs" (rootfs.tar) -> initrd: a newc cpio archive of that tree, with an /init, compressed.

    `packer` names the compressing library's version: another one may pack to other bytes.
    """

    compression: Compression
    level: int
    packer: str
    epoch: int

    @classmethod
    def of(cls, compression: Compression, *, epoch: int) -> MakeInitrd:
        """Return the step for a compression at its default level, with the libraries of this process."""
        packer = {
            Compression.ZSTD: f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}",
            Compression.GZIP: f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
            Compression.NONE: "",
        }[compression]
        return cls(compression=compression, level=DEFAULT_LEVELS[compression], packer=packer, epoch=epoch)

    def describe(self) -> tuple[str, ...]:
        return (
            f"lead /{_INIT} to {_ON_A_DISK}, unless the tree has one",
            f"write rootfs.tar as newc cpio, compressed with {self.compression.value} (level {self.level})",
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path(ROOTFS_TAR))
        _provide_init(tree)
        written = write_initrd(tree, job.out / INITRD, epoch=self.epoch, compression=self.compression, level=self.level)
        return {
            "compression": self.compression.value,
            "cpio_bytes": written.cpio_bytes,
            "entries": written.entries,
            _LOST: list(written.lost_xattrs),
        }

    def notes_on(self, facts: Mapping[str, Json]) -> tuple[str, ...]:
        """Return what there is to know of an initrd: whose extended attributes it lacks."""
        lost = facts[_LOST]
        shown = ", ".join("/" if name == "." else f"/{name}" for name in lost[:_SHOWN])
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        note = (
            f"an initrd holds no extended attributes (file capabilities, ACLs): {len(lost)} names lost theirs: "
            f"{shown}{more}; an image keeps them"
        )
        return (note,) if lost else ()


def _provide_init(tree: Tree) -> None:
    """Lead /init to /sbin/init where a tree has none: without it a kernel passes over an initrd. Raises ImageError.

    systemd is what it is on a disk there too: only with an /etc/initrd-release it looks for another root (systemd(1)).
    """
    if not tree.exists(_INIT):
        tree.add_symlink(_INIT, _ON_A_DISK)
    try:
        name = tree.resolve(_INIT)
    except TreeError as error:
        raise ImageError(
            f"an initrd starts with /{_INIT}, which leads nowhere ({error.message})",
            hint=f"Install an init as {_ON_A_DISK}, or bring an /{_INIT}.",
        ) from error
    entry = tree.get(name)
    if entry.kind is not Kind.FILE or not entry.mode & 0o111:
        got = f"mode {entry.mode:04o}" if entry.kind is Kind.FILE else entry.kind.value
        raise ImageError(
            f"an initrd starts with /{_INIT}, which cannot be executed (/{name}): "
            f"expected an executable file, got {got}",
            hint="Give it mode 0755.",
        )
