"""Trees of the user's that go into a guest's root: an agent with what belongs to it, and overlays.

An archive is a tar, plain or in any compression that tree.expand knows. It is read strictly: names that are absolute,
lead upwards, or lie below a link of the same archive are refused (tree.tarread, tree.load). An agent also comes in a
container image, whose layers distro.oci has laid over each other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.arch import ARCHES, Arch
from osbuilder.distro.oci.reference import resolved
from osbuilder.errors import UsageError, VerificationError
from osbuilder.rootfs.agent import AGENT, VERSION, check_name, copy_verified, describe_machine, fits
from osbuilder.rootfs.elf import parse_elf
from osbuilder.step import NOT_IN_KEY
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from osbuilder.userpath import parse_path

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

FILES: Final = "files.tar"
"""What comes with an agent: files to lay over the guest's root."""

OVERLAY: Final = "overlay"
_USUAL: Final = "kata-agent"
_FOLDER: Final = "usr/bin"
_MAGICS: Final = (b"\x1f\x8b", b"\xfd7zXZ\0", b"(\xb5/\xfd", b"BZh")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SYSTEM: Final = ("etc/os-release", "usr/lib/os-release")

EPOCH_MAX: Final = 2**33 - 1
"""ustar's latest time, for what the rootfs's own epoch bounds later (seconds since 1970)."""

IMAGE: Final = "image"
IMAGE_TAR: Final = "rootfs.tar"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """An archive to lay over the root; with `sha256` (hex) it has to be exactly that one."""

    path: Path
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> Overlay:
        """Return what FILE or FILE,sha256=HEX means. Raises UsageError."""
        path, comma, pin = text.rpartition(",sha256=")
        if not comma:
            return cls(path=parse_path(text, f"--overlay {text}"))
        if not _SHA256.fullmatch(pin) or not path:
            raise UsageError(
                f"--overlay {text}: expected FILE,sha256= and 64 lower-case hexadecimal digits, got {pin!r}",
                hint="`sha256sum FILE` prints them.",
            )
        return cls(path=parse_path(path, f"--overlay {text}"), sha256=pin)

    def action(self) -> OverlayFile:
        """Return the action that takes it. Raises UsageError, and VerificationError when it is another file."""
        sha256 = _digest(self.path, "--overlay")
        if self.sha256 not in (None, sha256):
            raise VerificationError(
                f"--overlay {self.path}: expected sha256 {self.sha256}, got {sha256}",
                hint="Get the file again from where its checksum is published.",
            )
        return OverlayFile(sha256=sha256, path=self.path, name=self.path.name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OverlayFile:
    """Take an overlay from a file of this host, read to its end; `sha256` (hex) is what it holds."""

    sha256: str
    name: str
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return (f"copy {self.path} (sha256 {self.sha256})",)

    def run(self, job: Job) -> Mapping[str, Json]:
        copy_verified(self.path, job.out / OVERLAY, self.sha256)
        return {
            "name": self.name,
            "sha256": self.sha256,
            "entries": len(Tree.read(job.out / OVERLAY, scratch=job.work)) - 1,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentArchive:
    """Take the agent and what belongs to it from an archive like Kata's: usr/bin/`install`, units and the like."""

    sha256: str
    arch: str
    install: str
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)

    @classmethod
    def of_path(cls, path: Path, arch: Arch) -> AgentArchive:
        """Return the action for an archive. Raises UsageError when no program in its usr/bin can be the agent."""
        sha256 = _digest(path, "--agent")
        tree = Tree.read(path)
        install = _find_program(tree, str(path))
        _check_program(tree, install, str(path), arch)
        return cls(sha256=sha256, arch=arch.name, install=install, path=path)

    def describe(self) -> tuple[str, ...]:
        return (f"take /{_FOLDER}/{self.install} and what comes with it from {self.path} (sha256 {self.sha256})",)

    def run(self, job: Job) -> Mapping[str, Json]:
        copy = job.work / "archive"
        copy_verified(self.path, copy, self.sha256)
        tree = Tree.read(copy, scratch=job.work)
        _check_program(tree, self.install, str(self.path), ARCHES[self.arch])
        return _take(tree, self.install, job)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentImage:
    """Take the agent and what belongs to it from a container image, laid out like an archive of one.

    The inputs are `reference`, which image it is, and `image`, that image unpacked; what the agent is called is known
    when it is there (fact `install`).
    """

    arch: str
    origin: str = dataclasses.field(metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return (f"take the program in /{_FOLDER} and what comes with it from the image",)

    def run(self, job: Job) -> Mapping[str, Json]:
        """Leave them. Raises UsageError for an image without an agent for the guest, and for one of a whole system."""
        image = job.inputs[IMAGE]
        tree = Tree.read(image.path(IMAGE_TAR))
        for name in _SYSTEM:
            if tree.exists(name):
                raise UsageError(
                    f"--agent {self.origin}: expected an image of the agent alone, got one of a whole system: it has "
                    f"/{name}, and all of it would be laid over the guest's root",
                    hint="Make an image FROM scratch, and copy the agent and what belongs to it into that.",
                )
        install = _find_program(tree, self.origin)
        _check_program(tree, install, self.origin, ARCHES[self.arch])
        (job.out / VERSION).write_text(resolved(job)["digest"], encoding="utf-8")
        return _take(tree, install, job)


def is_archive(path: Path) -> bool:
    """Whether a file looks like a tar, plain or compressed, rather than like a program."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(512)
    return head.startswith(_MAGICS) or head[257:262] == b"ustar"


def _digest(path: Path, option: str) -> str:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise UsageError(f"{option} {path}: expected a file, it is {what}", hint="Name a tar archive.")
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read: {error.strerror}") from error


def _find_program(tree: Tree, origin: str) -> str:
    """Return the name of the program in a tree's usr/bin that is the agent. Raises UsageError."""
    found = [name for name in tree.glob(f"{_FOLDER}/*") if tree.get(name).kind is Kind.FILE]
    names = [name.rpartition("/")[2] for name in found]
    if _USUAL in names:
        names = [_USUAL]
    if len(names) != 1:
        raise UsageError(
            f"--agent {origin}: expected one program in {_FOLDER}, or {_USUAL} among them, "
            f"got {', '.join(names) or 'none'}",
            hint="Make it of the agent alone, names from the root on. A container image is named --agent oci:IMAGE.",
        )
    check_name(names[0], origin)
    return names[0]


def _take(tree: Tree, install: str, job: Job) -> dict[str, Json]:
    """Leave the agent of a tree, and the rest of the tree as what comes with it; return the facts."""
    (job.out / AGENT).write_bytes(tree.read_bytes(f"{_FOLDER}/{install}"))
    tree.remove(f"{_FOLDER}/{install}")
    tree.write(job.out / FILES, epoch=EPOCH_MAX)
    return {"install": install, "size_bytes": (job.out / AGENT).stat().st_size, "files": len(tree) - 1}


def _check_program(tree: Tree, name: str, origin: str, arch: Arch) -> None:
    try:
        elf = parse_elf(tree.read_bytes(f"{_FOLDER}/{name}"))
    except ValueError as error:
        raise UsageError(
            f"--agent {origin}: {_FOLDER}/{name}: expected an executable, got {error}",
            hint="The agent is a compiled program: a guest may have no shell.",
        ) from None
    if not fits(elf, arch):
        raise UsageError(
            f"--agent {origin}: {_FOLDER}/{name} is for {describe_machine(elf)}: expected {arch.name}",
            hint=f"Name the one for {arch.name}, or its own architecture (--arch).",
        )
