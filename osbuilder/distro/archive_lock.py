"""Locks of distributions that come as one tarball: which it is today, and using the one that is locked.

A lock has one package, the tarball: its name without the time, the time as its version. What vouches for it is checked
when the lock is made; from then on its sha256 does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from osbuilder.distro.archive import ROOTFS_TAR, STAMP, Unpack, unpack, unpack_tarball
from osbuilder.distro.lock import RESOLVED, LockedPackage, Resolved, lockable, the_one
from osbuilder.distro.order import refuse_packages
from osbuilder.fetch import Source
from osbuilder.store import sha256_file

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Download the tarball of today and verify it: leaves resolved.json. `asked` makes each time another key.

    `base` says of which mirrors and whose keys, `requests` is how many requests it serves, `arch` whose it is.
    """

    base: Unpack
    arch: str
    requests: int
    asked: str
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return self.base.describe()

    def run(self, job: Job) -> Mapping[str, Json]:
        path, facts = self.base.download(job)
        file = PurePosixPath(str(facts["tarball"]))
        digest = sha256_file(path)
        # From here on it goes by its sha256: a locked build finds it there.
        job.fetch(Source(name=file.name, urls=(path.as_uri(),), sha256=digest))
        name, version = named(file.name, digest)
        with lockable(str(file), self.base.path):
            package = LockedPackage(
                name=name,
                version=version,
                arch=self.arch,
                path=str(file),
                sha256=digest,
                size_bytes=path.stat().st_size,
                requests=tuple(range(self.requests)),
            )
        Resolved(indexes=(), packages=(package,)).write(job.out / RESOLVED)
        return facts


def named(file: str, sha256: str) -> tuple[str, str]:
    """Return the name and version of a tarball; the version of one without a time is the beginning of its sha256."""
    stem = file.partition(".tar.")[0]
    stamps = STAMP.findall(stem)
    if not stamps:
        return stem, sha256[:12]
    return stem.replace(stamps[-1], "").strip("-_."), stamps[-1]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLocked:
    """Leave the tarball of input `locked` as rootfs.tar. No network. Facts: `packages`, and the `tarball`."""

    locked: LockedPackage
    epoch: int

    def describe(self) -> tuple[str, ...]:
        return (f"write {self.locked.file_name} as {ROOTFS_TAR}",)

    def run(self, job: Job) -> Mapping[str, Json]:
        path = job.inputs["locked"].path(self.locked.file_name)
        packages = unpack_tarball(path, job, epoch=self.epoch)
        return {"packages": packages, "tarball": self.locked.path}


def resolve(order: Order, requests: tuple[tuple[str, ...], ...], asked: str) -> Resolve:
    """Return the action that finds out which tarball is today's (adapters.Locker). Raises UsageError for packages."""
    refuse_packages(order, *(name for request in requests for name in request))
    return Resolve(base=unpack(order), arch=order.choice.arch.name, requests=len(requests), asked=asked)


def install(order: Order, lock: Lock, locked: tuple[LockedPackage, ...]) -> UnpackLocked:
    """Return the action that uses the tarball that is locked (adapters.Locker). Raises PlanError unless it is one."""
    refuse_packages(order)
    return UnpackLocked(locked=the_one(locked, lock, "tarball"), epoch=order.epoch)
