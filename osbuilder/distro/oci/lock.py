"""Locks of container images: which manifest, configuration and layers a name means today, and unpacking these.

A lock has a package for each of them. Its name says what it is, its version is the beginning of its digest, and its
path is where a registry has it: which registry, the image's name or the setting says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro.indexes import from_first
from osbuilder.distro.lock import RESOLVED, LockedPackage, Resolved, lockable, the_one
from osbuilder.distro.oci.install import Origin, ask_digest, origin_of, read_image, unpack_image
from osbuilder.distro.oci.manifest import Descriptor
from osbuilder.distro.oci.registry import Registry
from osbuilder.distro.order import refuse_packages
from osbuilder.distro.pool import FetchPackages, fetch_each
from osbuilder.errors import PlanError
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.oci.reference import Reference
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

MANIFEST: Final = "manifest"
_SHOWN: Final = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Ask a registry what an image's name means: leaves resolved.json. `asked` makes each time another key.

    `requests` is how many requests it serves.
    """

    origin: Origin
    platform: str
    requests: int
    asked: str
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return (*self.origin.describe(), f"choose what is for {self.platform}")

    def run(self, job: Job) -> Mapping[str, Json]:
        rows = from_first(self.origin.addresses, lambda address: self._ask(job, address))
        requests = tuple(range(self.requests))
        packages = tuple(dataclasses.replace(row, requests=requests) for row in rows)
        Resolved(indexes=(), packages=packages).write(job.out / RESOLVED)
        return {"image": self.origin.name}

    def _ask(self, job: Job, address: str) -> tuple[LockedPackage, ...]:
        reference = _reference(self.origin)
        registry = Registry(job, address, reference.repository)
        digest, _ = ask_digest(registry, reference, self.platform)
        manifest, _ = read_image(registry, digest, name=self.origin.name, platform=self.platform)
        size_bytes = len(registry.manifest(digest))
        found = {digest: self._row(MANIFEST, "manifests", Descriptor(digest=digest, size_bytes=size_bytes))}
        found[manifest.config.digest] = self._row("config", "blobs", manifest.config)
        for number, layer in enumerate(manifest.layers, start=1):
            # An image may have the same layer twice; it is fetched once.
            found.setdefault(layer.digest, self._row(f"layer-{number:02}", "blobs", layer))
        return tuple(found.values())

    def _row(self, name: str, kind: str, part: Descriptor) -> LockedPackage:
        with lockable(name, self.origin.name):
            return LockedPackage(
                name=name,
                version=part.sha256[:_SHOWN],
                arch=self.platform,
                path=f"v2/{_reference(self.origin).repository}/{kind}/{part.digest}",
                sha256=part.sha256,
                size_bytes=part.size_bytes,
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchImage:
    """Fetch the parts of a locked image: leaves one file each, called by its digest. Other fields: as FetchPackages."""

    packages: tuple[LockedPackage, ...]
    origin: Origin = dataclasses.field(metadata=NOT_IN_KEY)
    subject: str = dataclasses.field(metadata=NOT_IN_KEY)
    remedy: str = dataclasses.field(metadata=NOT_IN_KEY)
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        size = sum(package.size_bytes for package in self.packages) / 2**20
        return (f"fetch manifest, configuration and layers of {self.subject} ({size:.1f} MiB), each by its digest",)

    def run(self, job: Job) -> Mapping[str, Json]:
        repository = _reference(self.origin).repository
        registries = [Registry(job, address, repository) for address in self.origin.addresses]

        def fetch(package: LockedPackage) -> None:
            path = from_first(registries, lambda registry: _part(registry, package))
            (job.out / package.file_name).hardlink_to(path)

        return fetch_each(self.packages, fetch, self.subject, self.remedy)


def _part(registry: Registry, package: LockedPackage) -> Path:
    if package.name == MANIFEST:
        return registry.manifest_file(package.file_name)
    return registry.blob(Descriptor(digest=package.file_name, size_bytes=package.size_bytes))


@dataclasses.dataclass(frozen=True, slots=True)
class _Pool:
    """The parts of an image in a folder, each called by its digest; whoever fetched them has verified them."""

    folder: Path

    def manifest(self, digest: str) -> bytes:
        return (self.folder / digest).read_bytes()

    def blob(self, blob: Descriptor) -> Path:
        return self.folder / blob.digest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLocked:
    """Unpack the image in the input `locked`: leaves rootfs.tar. No network. Facts: its digest, its layers."""

    name: str = dataclasses.field(metadata=NOT_IN_KEY)
    digest: str
    platform: str
    epoch: int

    def describe(self) -> tuple[str, ...]:
        return (f"unpack the locked image {self.digest}",)

    def run(self, job: Job) -> Mapping[str, Json]:
        place = _Pool(job.inputs["locked"].folder)
        facts = unpack_image(job, place, self.digest, name=self.name, platform=self.platform, epoch=self.epoch)
        return {"packages": [], "digest": self.digest, **facts}


def resolve(order: Order, requests: tuple[tuple[str, ...], ...], asked: str) -> Resolve:
    """Return the action that asks what an order's image means today (adapters.Locker).

    Raises UsageError for packages, PlanError for an image in a file.
    """
    refuse_packages(order, *(name for request in requests for name in request))
    return Resolve(origin=_remote(order), platform=_platform(order), requests=len(requests), asked=asked)


def fetch(order: Order, plain: FetchPackages) -> FetchImage:
    """Return the action that fetches a locked image: registries want to know who asks (adapters.Locker).

    Raises PlanError for a part that a registry has under another digest than the lock's.
    """
    for part in plain.packages:
        if part.file_name != f"sha256:{part.sha256}":
            raise PlanError(
                f"{plain.subject}: {part.name}: expected a path that ends with its sha256, got {part.path}",
                hint=f"Make it anew: {plain.remedy}",
            )
    return FetchImage(packages=plain.packages, origin=_remote(order), subject=plain.subject, remedy=plain.remedy)


def install(order: Order, lock: Lock, locked: tuple[LockedPackage, ...]) -> UnpackLocked:
    """Return the action that unpacks the image that is locked (adapters.Locker). Raises PlanError for none."""
    refuse_packages(order)
    manifest = the_one(tuple(package for package in locked if package.name == MANIFEST), lock, MANIFEST)
    return UnpackLocked(
        name=_remote(order).name, digest=manifest.file_name, platform=_platform(order), epoch=order.epoch
    )


def _remote(order: Order) -> Origin:
    origin = origin_of(order)
    if origin.local:
        raise PlanError(
            f"{origin.name} is a file: there is nothing to lock, its content says which image it is",
            hint="Build it without --locked.",
        )
    return origin


def _reference(origin: Origin) -> Reference:
    assert origin.reference is not None  # noqa: S101 - images in files were refused
    return origin.reference


def _platform(order: Order) -> str:
    return f"linux/{order.choice.arch.oci}"
