"""What the root of a guest to start comes from: as asked for, as the files say, and built where there are none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.arch import Arch, Machine
from osbuilder.errors import ImageError, PlanError, UsageError
from osbuilder.guest.spec import RootKind
from osbuilder.image import dax
from osbuilder.image.build import IMAGE, INITRD, ROOT_HASH
from osbuilder.image.initrd import Compression
from osbuilder.image.inspect import root_filesystem
from osbuilder.image.measured import find_tree
from osbuilder.image.verity import Verity, read_root_hash, root_hash_file
from osbuilder.request import MEASURED, BootRequest, Filesystem, ImageRequest, InitrdRequest, RootfsRequest

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.store import Artifact

# What a kernel must be able to do for a root, and what it cannot do otherwise.
_CAPABILITIES: Final[Mapping[RootKind, tuple[str, str]]] = {
    RootKind.PMEM: ("nvdimm-root", "map its root from an nvdimm"),
    RootKind.VERITY: ("dm-verity", "verify a root"),
    RootKind.VIRTIO_SCSI: ("virtio-scsi", "have its root on virtio-scsi"),
    RootKind.VIRTIO_PMEM: ("virtio-pmem", "have its root on virtio-pmem"),
}


def root_kind(bench: Workbench, request: BootRequest, arch: Arch, machines: tuple[Machine, ...]) -> RootKind:
    """Return where the root comes from: as asked, else the best that the files, the kernel and the machine allow.

    Raises PlanError for a root that the kernel cannot have.
    """
    capabilities = bench.kernels.capabilities_of(request.variant, arch) if request.kernel_file is None else None
    wanted = RootKind.VERITY if request.root_hash else request.root
    if capabilities is not None:
        _check_able(request, wanted, capabilities)
    verifies = capabilities is None or "dm-verity" in capabilities
    if wanted is not None:
        return wanted
    if request.initrd is not None:
        return RootKind.INITRD
    if verifies and (find_tree(request.image) if request.image else request.variant == MEASURED):
        return RootKind.VERITY
    named = arch.machine(request.machine).name if request.machine else None
    # Firmware takes its time: it is for who asks for it.
    usual = [each for each in machines if (each.name == named if named else not each.firmware)]
    able = any(each.nvdimm for each in usual)
    mapped = request.image is None or _has_dax_header(request.image)
    return RootKind.PMEM if able and mapped else RootKind.VIRTIO_BLK


def _check_able(request: BootRequest, wanted: RootKind | None, capabilities: Collection[str]) -> None:
    """Refuse a root that a kernel of ours has no driver for. Raises PlanError."""
    needed, what = _CAPABILITIES.get(wanted, ("", "")) if wanted else ("", "")
    if needed and needed not in capabilities:
        raise PlanError(
            f"kernel variant {request.variant} cannot {what}: it lacks the capability {needed}",
            hint="Use another --variant (`inv kernel.capabilities`) or another --root.",
        )
    if request.filesystem and request.filesystem.value not in capabilities:
        raise PlanError(
            f"kernel variant {request.variant} cannot read {request.filesystem.value}: it lacks that capability",
            hint="Use another --variant (`inv kernel.capabilities`) or another --fs.",
        )


def verity_of(request: BootRequest, image: Path) -> Verity:
    """Return what a measured image of the user's is verified by: not found in the image, which may have been changed.

    Raises ImageError for a root hash that is missing, malformed, or another image's; UsageError for no such image.
    """
    blocks = find_tree(image)
    if blocks is None:
        raise UsageError(
            f"--root verity: {image} has no hash tree: expected it in a second partition",
            hint="`inv image --measured` builds such an image.",
        )
    path = request.root_hash or root_hash_file(image)
    found = read_root_hash(path)
    if found.data_blocks != blocks:
        raise ImageError(
            f"the root hash is of another image ({path}): expected {blocks} blocks of data, got {found.data_blocks}",
            hint="Name the file that came with the image (--root-hash).",
        )
    return found


def _has_dax_header(image: Path) -> bool:
    if not image.is_file():
        return True
    with image.open("rb") as stream:
        stream.seek(dax.SUPERBLOCK_OFFSET_BYTES)
        return dax.decode_superblock(stream.read(dax.SUPERBLOCK_BYTES)) is not None


def root_request(request: BootRequest, root: RootKind) -> ImageRequest | InitrdRequest:
    """Return what is built where the request names no file."""
    rootfs = RootfsRequest(
        distro=request.distro or "debian",
        arch=request.arch,
        agent=request.agent,
        agent_options=request.agent_options,
        locked=request.locked,
        modules=request.modules,
    )
    if root is RootKind.INITRD:
        return InitrdRequest(rootfs=rootfs, compression=request.compression or Compression.ZSTD)
    return ImageRequest(
        rootfs=rootfs, filesystem=request.filesystem or Filesystem.EXT4, measured=root is RootKind.VERITY
    )


def root_file(bench: Workbench, request: BootRequest, root: RootKind) -> tuple[Path | None, Path | None, Verity | None]:
    """Return the image, or the initrd, and what the image is verified by where it is."""
    if request.initrd is not None:
        return None, request.initrd, None
    if request.image is not None:
        return request.image, None, verity_of(request, request.image) if root is RootKind.VERITY else None
    # From the store: what is in the build folder may be replaced by another build meanwhile.
    return files_of(bench.build(root_request(request, root)).artifact, root)


def files_of(built: Artifact, root: RootKind) -> tuple[Path | None, Path | None, Verity | None]:
    """Return the same of what was built."""
    if root is RootKind.INITRD:
        return None, built.path(INITRD), None
    return built.path(IMAGE), None, read_root_hash(built.path(ROOT_HASH)) if root is RootKind.VERITY else None


def fstype_of(request: BootRequest) -> str:
    """Return what the kernel calls the root's filesystem; ext4 for an image that does not say."""
    if request.image is None:
        return (request.filesystem or Filesystem.EXT4).value
    return root_filesystem(request.image) or Filesystem.EXT4.value
