"""erofs for a tree: the command that makes it, as data, and the step that makes an image of it.

`mkfs.erofs --tar=f` (erofs-utils 1.8) takes a tar with all that it has: owners, devices, hard links, extended
attributes, times. It needs no mount, no privileges and no size: an erofs is as large as what is in it, and read-only.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from osbuilder.engine.base import Command
from osbuilder.errors import ImageError
from osbuilder.image import filesystem
from osbuilder.image.build import IMAGE, ROOTFS_TAR, check_read_only, describe_headers, finish, lay_out
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from osbuilder.step import Job, Json

BUILDER: Final = "erofs"
"""The builder of versions.yaml that has mkfs.erofs."""

BLOCK_BYTES: Final = 4096  # DAX needs blocks of the page size


def render_mkfs(*, tar: str, output: str, dax: bool, epoch: int, content_key: str) -> tuple[str, ...]:
    """Return the command that makes the filesystem as a file of its own (`output`).

    Not where it belongs in an image: with --offset, mkfs.erofs 1.8.6 writes what files hold to wrong places. `epoch`
    (seconds since 1970) is when it was made; files keep their own times. With `dax` every file is made of whole blocks:
    one whose end lies beside its inode cannot be mapped (kernel: Documentation/filesystems/erofs.rst).
    """
    return (
        "mkfs.erofs",
        "--quiet",
        f"-b{BLOCK_BYTES}",
        f"-T{epoch}",
        "--mkfs-time",
        f"-U{filesystem.derive_uuid(content_key, 'filesystem')}",
        *(("-Enoinline_data",) if dax else ()),
        "--tar=f",
        output,
        tar,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeErofsImage:
    """Input "rootfs" (rootfs.tar) -> image: partition tables, DAX superblock if asked, an erofs of exactly that tree.

    Identifiers come from the tar's sha256. If `measured`, as in build.MakeImage.
    """

    dax: bool
    align_mib: int
    epoch: int
    measured: bool = False

    def describe(self) -> tuple[str, ...]:
        return (
            f"mkfs.erofs --tar=f /out/{_FILE} /in/{ROOTFS_TAR} (identifiers from the tar's sha256)",
            f"copy it to its place in {IMAGE}, partition 1",
            *describe_headers(dax=self.dax, align_mib=self.align_mib, measured=self.measured),
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        rootfs = job.inputs["rootfs"]
        tar, content_key = rootfs.path(ROOTFS_TAR), rootfs.sha256(ROOTFS_TAR)
        check_read_only(Tree.read(tar), "an erofs")
        made = job.work / "erofs"
        made.mkdir()
        argv = render_mkfs(
            tar=f"/in/{ROOTFS_TAR}",
            output=f"/out/{_FILE}",
            dax=self.dax,
            epoch=self.epoch,
            content_key=content_key,
        )
        job.run(Command(argv=argv, env=_ENVIRONMENT), inputs={ROOTFS_TAR: tar}, output=made)
        size = (made / _FILE).stat().st_size
        size += -size % BLOCK_BYTES
        layout = lay_out(size, dax=self.dax, align_mib=self.align_mib, measured=self.measured)
        _place(made / _FILE, job.out / IMAGE, offset_bytes=layout.header_bytes)
        finished = finish(job, layout, content_key, dax=self.dax, measured=self.measured)
        return {"filesystem": "erofs", **finished}


_FILE: Final = "filesystem"
_ENVIRONMENT: Final = (("LC_ALL", "C.UTF-8"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))


def _place(source: Path, image: Path, *, offset_bytes: int) -> None:
    """Move a filesystem to its place in a new image. Raises ImageError."""
    try:
        with source.open("rb") as whole, image.open("wb") as target:
            target.seek(offset_bytes)
            shutil.copyfileobj(whole, target, 1 << 20)
        source.unlink()
    except OSError as error:
        raise ImageError(f"cannot write ({image}): {error.strerror or error}") from error
