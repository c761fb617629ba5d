"""The steps that turn a composed rootfs tar into something that boots: a filesystem, a disk image, an initrd.

Names of the files that they hand on: rootfs.tar in, filesystem.img between, image or initrd out.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import zstandard

from osbuilder.engine.base import Command
from osbuilder.image import filesystem
from osbuilder.image.initrd import DEFAULT_LEVELS, Compression, write_initrd
from osbuilder.image.layout import assemble, plan_layout
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
FILESYSTEM: Final = "filesystem.img"
IMAGE: Final = "image"
INITRD: Final = "initrd"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeExt4:
    """Input "rootfs" (rootfs.tar) -> filesystem.img, an ext4 that holds exactly that tree.

    Its identifiers come from the tar's sha256, its times from `epoch` (seconds since 1970).
    """

    free_space_mib: int
    epoch: int

    def describe(self) -> tuple[str, ...]:
        return (
            f"compute blocks and inodes from rootfs.tar, with {self.free_space_mib} MiB of free space",
            f"mke2fs -t ext4 -d /in/{ROOTFS_TAR} /out/{FILESYSTEM} (UUID and hash seed from the tar's sha256)",
            f"debugfs -w /out/{FILESYSTEM} (only for extended attributes other than file capabilities)",
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        rootfs = job.inputs["rootfs"]
        tar = rootfs.path(ROOTFS_TAR)
        tree = Tree.read(tar)
        size = filesystem.size_ext4(tree, free_space_mib=self.free_space_mib)
        argv = filesystem.render_mke2fs(
            tar=f"/in/{ROOTFS_TAR}",
            output=f"/out/{FILESYSTEM}",
            size=size,
            content_key=rootfs.sha256(ROOTFS_TAR),
        )
        job.run(self._command(argv), inputs={ROOTFS_TAR: tar})
        self._set_xattrs(tree, job)
        return {"filesystem": "ext4", "size_bytes": size.size_bytes, "inodes": size.inodes}

    def _set_xattrs(self, tree: Tree, job: Job) -> None:
        script = filesystem.plan_xattrs(tree, values_folder="/in/xattrs")
        if script is None:
            return
        folder = job.work / "xattrs"
        folder.mkdir()
        (folder / "commands").write_text(script.commands)
        for name, value in script.values:
            (folder / name).write_bytes(value)
        argv = filesystem.render_debugfs(commands="/in/xattrs/commands", filesystem=f"/out/{FILESYSTEM}")
        began = job.log.stat().st_size
        job.run(self._command(argv), inputs={"xattrs": folder})
        with job.log.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(began)
            # debugfs echoes each command after its prompt; what remains is what it complains about.
            said = [line for line in stream if not line.startswith(("$ ", "debugfs: "))]
        filesystem.check_debugfs("".join(said))

    def _command(self, argv: tuple[str, ...]) -> Command:
        return Command(argv=argv, env=tuple(filesystem.mkfs_environment(epoch=self.epoch).items()))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AssembleImage:
    """Input "filesystem" (filesystem.img) -> image: partition tables, DAX superblock if asked, and the filesystem."""

    dax: bool
    align_mib: int

    def describe(self) -> tuple[str, ...]:
        header = "two partition tables and a DAX superblock" if self.dax else "a partition table"
        return (f"write {header} and the filesystem as partition 1, size a multiple of {self.align_mib} MiB",)

    def run(self, job: Job) -> Mapping[str, Json]:
        artifact = job.inputs["filesystem"]
        content = artifact.path(FILESYSTEM)
        layout = plan_layout(sizes_bytes=(content.stat().st_size,), dax_header=self.dax, align_mib=self.align_mib)
        disk_id = filesystem.derive_disk_id(artifact.sha256(FILESYSTEM))
        assemble(layout, (content,), job.out / IMAGE, disk_id=disk_id)
        return {
            "dax": self.dax,
            "size_bytes": layout.size_bytes,
            "partitions": [[part.offset_bytes, part.size_bytes] for part in layout.partitions],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeInitrd:
    """Input "rootfs" (rootfs.tar) -> initrd: a newc cpio archive of that tree, compressed.

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
        return (f"write rootfs.tar as newc cpio, compressed with {self.compression.value} (level {self.level})",)

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path(ROOTFS_TAR))
        written = write_initrd(tree, job.out / INITRD, epoch=self.epoch, compression=self.compression, level=self.level)
        return {
            "compression": self.compression.value,
            "cpio_bytes": written.cpio_bytes,
            "entries": written.entries,
            "lost_xattrs": list(written.lost_xattrs),
        }
