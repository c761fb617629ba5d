"""What the user asked for, as values: one request type a result. plan.py resolves the names in them.

Everything that arrives as text (a flag, a file) becomes an enum or a number here, with a clear refusal.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from pathlib import Path
from typing import Final, TypeVar

from osbuilder.agents.pin import NO_OPTIONS, AgentOptions, is_given
from osbuilder.errors import UsageError, suggest
from osbuilder.guest.hotplug import Plug
from osbuilder.guest.ready import Ready
from osbuilder.guest.spec import USUAL_DEVICES, Device, RootKind
from osbuilder.image.initrd import Compression
from osbuilder.kernel.packageformat import PackageFormat
from osbuilder.pid1 import Init
from osbuilder.rootfs.archive import Overlay
from osbuilder.rootfs.selinux import FEATURE as SELINUX
from osbuilder.rootfs.trim import Keep


class Filesystem(enum.Enum):
    """The filesystem of a disk image's root partition."""

    EXT4 = "ext4"
    EROFS = "erofs"

    @classmethod
    def parse(cls, text: str) -> Filesystem:
        """Return the filesystem of that name. Raises UsageError; for Kata's xfs, with the reason."""
        if text == "xfs":
            raise UsageError(
                "--fs xfs: no such images: what makes one without mounting it (mkfs.xfs -p) takes neither attributes "
                "nor hard links, and writes other bytes each time",
                hint="Use --fs ext4, or erofs. The kernels do mount an xfs that you made: inv boot --image.",
            )
        return parse_choice(text, cls, "fs")


E = TypeVar("E", bound=enum.Enum)


def parse_choice(text: str, choices: type[E], what: str) -> E:
    """Return the member whose value is `text`. Raises UsageError with a suggestion; `what` names the option."""
    try:
        return choices(text)
    except ValueError:
        known = [str(member.value) for member in choices]
        raise UsageError(f"unknown {what} {text!r}", hint=suggest(text, known)) from None


MEASURED: Final = "measured"
"""What measured images are called, and the kernel variant that starts from one."""

_IMAGE_MAX_MIB: Final = 2 * 1024 * 1024
_VARIANT: Final = re.compile("[A-Za-z0-9]+(-[A-Za-z0-9]+)*")

# systemd.unit(5): what a name is made of, and the kinds of units that a file can be.
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(automount|mount|path|service|slice|socket|swap|target|timer)")


def _exclude(flag: str, **others: object) -> None:
    """Raise UsageError when one of the other flags is given besides `flag`."""
    for name, value in others.items():
        if value:
            raise UsageError(f"--{flag} and --{name.replace('_', '-')} exclude each other", hint=_EXCLUDED[flag])


_EXCLUDED: Final = {
    "extension": "An extension has neither agent nor init: the guest that mounts it has them.",
    "measured": "A measured root is read-only: nothing could be written there.",
    "fs erofs": "An erofs is read-only: nothing could be written there.",
    "provision": "The tree that you bring has its packages already.",
    "locked": "Build the file itself --locked.",
    "modules": "Build it with them: inv image (or initrd) --modules FILE.",
    "fs": "What a file is, is read from it.",
    "compression": "What a file is, the kernel finds out.",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootfsRequest:
    """A root filesystem. None means the default of versions.yaml or of the recipe.

    `agent` is the name of an agent of versions.yaml, or the path of a file (anything with a slash). `features` are
    names of the recipe's; `keep` are groups of files that would be trimmed otherwise; `without_units` are systemd's.
    An `extension` has no agent and no init: a guest mounts it. `provision` is a tree of the user's (a tar, a folder)
    instead of a distribution's packages. `selinux` asks for labels. `distro` None is the default of versions.yaml.
    `locked` takes the packages of the distribution's lock, and no others. `modules` are a kernel's, in a tar or a
    folder; `agent_policy` is a text that says what the agent serves; `overlays` are laid over the rest, in order.
    """

    distro: str | None = None
    release: str | None = None
    arch: str | None = None
    init: Init | None = None
    agent: str | None = None
    packages: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    keep: tuple[Keep, ...] = ()
    without_units: tuple[str, ...] = ()
    extension: bool = False
    provision: Path | None = None
    selinux: bool = False
    locked: bool = False
    agent_options: AgentOptions = NO_OPTIONS
    modules: Path | None = None
    overlays: tuple[Overlay, ...] = ()
    agent_policy: Path | None = None

    @property
    def labelled(self) -> bool:
        """Whether files get SELinux labels: a policy that is installed is of no use without them."""
        return self.selinux or SELINUX in self.features

    @property
    def all_features(self) -> tuple[str, ...]:
        """The features of the recipe that it takes, sorted: those that it names, and the policy that labels are of."""
        return tuple(sorted({*self.features, *((SELINUX,) if self.selinux else ())}))

    def __post_init__(self) -> None:
        for unit in self.without_units:
            if not _UNIT.fullmatch(unit):
                raise UsageError(
                    f"--without-unit: expected the name of a unit with its kind, got {unit!r}",
                    hint="For example: --without-unit systemd-sysctl.service",
                )
        if self.extension:
            _exclude(
                "extension",
                selinux=self.labelled,
                init=self.init,
                agent=self.agent,
                agent_option=self.agent_options,
                agent_policy=self.agent_policy,
                overlay=self.overlays,
                without_unit=self.without_units,
            )
        if self.provision is not None:
            distro = {"distro": self.distro, "release": self.release}
            _exclude("provision", **distro, package=self.packages, feature=self.features, locked=self.locked)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A disk image of a root filesystem; sizes in MiB as the user gives them.

    A `measured` one has a second partition, the dm-verity hash tree of the first. `build_variant` is a part of the
    files' names (None: "measured" for such an image, else nothing).
    """

    rootfs: RootfsRequest
    filesystem: Filesystem = Filesystem.EXT4
    dax: bool = True
    free_space_mib: int = 0
    align_mib: int = 128
    measured: bool = False
    build_variant: str | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """What is added to the names of the files, in order."""
        extension = ("extension",) if self.rootfs.extension else ()
        named = self.build_variant or (MEASURED if self.measured else None)
        return (*extension, *((named,) if named else ()))

    def __post_init__(self) -> None:
        if self.measured:
            _exclude("measured", free_space_mib=self.free_space_mib)
        if self.filesystem is Filesystem.EROFS:
            _exclude("fs erofs", free_space_mib=self.free_space_mib)
        if self.build_variant is not None and not _VARIANT.fullmatch(self.build_variant):
            raise UsageError(
                f"--build-variant: expected letters, digits and dashes, got {self.build_variant!r}",
                hint="It becomes a part of file names: root_hash_confidential.txt.",
            )
        if self.free_space_mib < 0:
            raise UsageError(f"--free-space-mib: expected 0 or more, got {self.free_space_mib}")
        for flag, size_mib in (("--free-space-mib", self.free_space_mib), ("--align-mib", self.align_mib)):
            if size_mib >= _IMAGE_MAX_MIB:
                raise UsageError(
                    f"{flag}: expected less than 2 TiB ({_IMAGE_MAX_MIB} MiB), which is what a partition table can "
                    f"tell, got {size_mib}"
                )
        if self.align_mib < 1 or self.align_mib & (self.align_mib - 1):
            raise UsageError(
                f"--align-mib: expected a power of two, got {self.align_mib}",
                hint="nvdimm hotplug wants 128, the default.",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InitrdRequest:
    """An initrd of a root filesystem; its init is the agent unless the request says otherwise."""

    rootfs: RootfsRequest
    compression: Compression = Compression.ZSTD

    @property
    def guest(self) -> RootfsRequest:
        """The root filesystem as it is built: an initrd is the whole guest in memory, with its agent as PID 1."""
        return dataclasses.replace(self.rootfs, init=self.rootfs.init or Init.AGENT)

    def __post_init__(self) -> None:
        if self.rootfs.extension:
            raise UsageError("--extension: an initrd is a whole guest", hint="Build an image of it (inv image).")
        if self.rootfs.labelled:
            raise UsageError(
                "--selinux: an initrd cannot hold labels: cpio has none", hint="Build an image (inv image)."
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    """A guest kernel. `line` is a name of versions.yaml (None: its default).

    Instead of a line, `git` (a URL) with `ref` (a branch, a tag or a full commit id), or `tree`, a folder of this host.
    `patches` are series instead of the line's own, as kernel.series.SeriesNames reads them; `variant` is a folder of
    kernel/configs/variant.
    `fragments` are files that ask for more than the variant does.
    """

    arch: str | None = None
    line: str | None = None
    git: str | None = None
    ref: str | None = None
    tree: Path | None = None
    patches: str | None = None
    variant: str = "base"
    fragments: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        flags = {"kernel": self.line, "git": self.git, "tree": self.tree}
        given = [f"--{name}" for name, value in flags.items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other", hint="Name one source of the kernel.")
        if (self.git is None) != (self.ref is None):
            raise UsageError(
                "--git and --ref go together", hint="For example: --git https://HOST/linux.git --ref v6.12"
            )

    @property
    def from_line(self) -> bool:
        """Whether its source is that of a kernel line, patches included, as versions.yaml says."""
        return self.git is None and self.tree is None and self.patches is None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequest:
    """An agent alone; see RootfsRequest for what `agent` names."""

    agent: str | None = None
    arch: str | None = None
    agent_options: AgentOptions = NO_OPTIONS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeadersRequest:
    """What modules for a kernel are built with, as a package or a tar."""

    kernel: KernelRequest
    format: PackageFormat = PackageFormat.DEB

    @property
    def arch(self) -> str | None:
        """The kernel's."""
        return self.kernel.arch


BuildRequest = RootfsRequest | ImageRequest | InitrdRequest | KernelRequest | HeadersRequest | AgentRequest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BootRequest:
    """A guest to start: a file that exists, or a distribution whose image (or initrd) is built first.

    `kernel` is a line of versions.yaml or the path of a file (anything with a slash); `variant` and `fragments` are as
    in KernelRequest.
    `filesystem` and `compression` are those of the image or initrd that is built (None: the usual one).
    `locked` and `agent` (the guest's) are as in RootfsRequest; `ready` is how the agent is known to serve (default:
    what versions.yaml says of it). `root_hash` is the file of a measured image's root hash (None: the
    one beside the image). `append` are further words of the kernel line. `modules` are kernel modules for what is
    built, as in RootfsRequest.
    """

    agent: str | None = None
    agent_options: AgentOptions = NO_OPTIONS
    ready: Ready | None = None
    modules: Path | None = None
    image: Path | None = None
    initrd: Path | None = None
    distro: str | None = None
    filesystem: Filesystem | None = None
    compression: Compression | None = None
    locked: bool = False
    kernel: str | None = None
    variant: str = "base"
    fragments: tuple[Path, ...] = ()
    arch: str | None = None
    machine: str | None = None
    root: RootKind | None = None
    root_hash: Path | None = None
    memory_mib: int = 256
    vcpus: int = 1
    devices: tuple[Device, ...] = USUAL_DEVICES
    append: tuple[str, ...] = ()
    plugs: tuple[Plug, ...] = ()
    timeout_s: int = 180

    def __post_init__(self) -> None:
        given = [name for name in ("image", "initrd", "distro") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} exclude each other", hint="Name one thing to boot.")
        _check_what_is_built(self)
        for name, least in (("memory_mib", 64), ("vcpus", 1), ("timeout_s", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')}: expected {least} or more, got {getattr(self, name)}")
        for flag, choice in {"variant": self.variant != "base", "fragment": bool(self.fragments)}.items():
            if choice and self.kernel_file is not None:
                raise UsageError(f"--{flag} does not go with a kernel's file", hint="Name a line of versions.yaml.")
        if self.root is RootKind.INITRD and self.image is not None:
            raise UsageError("--root initrd and --image exclude each other", hint="Name the initrd with --initrd.")
        if self.root not in (None, RootKind.INITRD) and self.initrd is not None:
            raise UsageError(
                f"--root {self.root.value} and --initrd exclude each other", hint="Name the image with --image."
            )
        if self.root_hash is not None and (self.image is None or self.root not in (None, RootKind.VERITY)):
            raise UsageError(
                "--root-hash goes with --image and --root verity",
                hint="What `inv image --measured` makes has its root hash beside it.",
            )

    @property
    def kernel_file(self) -> Path | None:
        """The kernel's file, where the request names one rather than a line of versions.yaml."""
        return Path(self.kernel) if self.kernel and "/" in self.kernel else None

    def kernel_request(self, arch: str | None) -> KernelRequest:
        """Return the kernel to build for it, where it names no file."""
        return KernelRequest(arch=arch, line=self.kernel, variant=self.variant, fragments=self.fragments)


def _check_what_is_built(request: BootRequest) -> None:
    """Refuse what is about a root to build where a file has it already."""
    for flag, value in {
        "locked": request.locked,
        "modules": request.modules,
        # One of versions.yaml says how it is known to serve, in a file too.
        "agent": request.agent is not None and is_given(request.agent),
        "agent-option": bool(request.agent_options),
        "fs": request.filesystem,
        "compression": request.compression,
    }.items():
        if value:
            _exclude(flag, image=request.image, initrd=request.initrd)
    if request.compression and request.root is not RootKind.INITRD:
        raise UsageError("--compression is about initrds", hint="Say --root initrd.")
    if request.filesystem and request.root is RootKind.INITRD:
        raise UsageError("--fs and --root initrd exclude each other", hint="An initrd has no filesystem of its own.")
