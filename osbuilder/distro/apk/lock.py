"""Locks of apk's distributions: what the solver would install today, and installing what is locked.

An index names packages by a SHA-1 of their control segment and not by a sha256, so that resolving fetches and verifies
them. A lock keeps each package's record: together they are a small index, from which locked packages are installed just
as others are from the mirror's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from osbuilder.distro.apk.archive import SignedIndex, open_package
from osbuilder.distro.apk.index import Package, newest_build
from osbuilder.distro.apk.install import InstallPackages, Keyring, bootstrap, guest_keys, package_facts
from osbuilder.distro.apk.keys import TrustedKey, TrustedKeys
from osbuilder.distro.apk.mirror import Repositories, fetch_files, package_path
from osbuilder.distro.lock import RESOLVED, LockedIndex, LockedKey, LockedPackage, Resolved, lockable, merged
from osbuilder.distro.pool import exactly
from osbuilder.fetch import Source

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Solve each request with what the mirrors have now: leaves resolved.json. `asked` makes each time another key.

    `base` says of which mirrors and whose keys.
    """

    base: InstallPackages
    requests: tuple[tuple[str, ...], ...]
    asked: str
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return tuple(f"solve and fetch: {' '.join(request)}" for request in self.requests)

    def run(self, job: Job) -> Mapping[str, Json]:
        base = self.base
        keys = base.keyring.load(job)
        repositories = base.indexes(job, keys)
        solved = [base.solve(repositories, request) for request in self.requests]
        packages = tuple({package.name: package for found in solved for package in found}.values())
        files = fetch_files(job, packages, repositories, mirrors=base.mirrors, keys=keys)
        locked = [
            dataclasses.replace(_locked(job, package, files[package.name], repositories), requests=(number,))
            for number, found in enumerate(solved)
            for package in found
        ]
        resolved = Resolved(
            indexes=tuple(map(_index, repositories.indexes, repositories.names)),
            packages=merged(locked),
            keys=tuple(_key(name, pem) for name, pem in guest_keys(repositories, keys).items()),
        )
        resolved.write(job.out / RESOLVED)
        return {}


def _index(index: SignedIndex, name: str) -> LockedIndex:
    newest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest_build(index.text)))
    return LockedIndex(name=name, sha256=hashlib.sha256(index.text.encode()).hexdigest(), date=newest)


def _key(name: str, pem: bytes) -> LockedKey:
    with lockable("a key", "a signature of the index"):
        return LockedKey(name=name, pem=pem.decode())


def _locked(job: Job, package: Package, file: Path, repositories: Repositories) -> LockedPackage:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    # From here on it goes by its sha256: a locked build finds it there.
    job.fetch(Source(name=package.file_name, urls=(file.as_uri(),), sha256=digest))
    with lockable(str(package), repositories.names[package.repository]):
        return LockedPackage(
            name=package.name,
            version=package.version,
            arch=package.arch,
            path=package_path(package, repositories.names),
            sha256=digest,
            size_bytes=len(content),
            installed_bytes=int(package.fields.get("I", "0")),
            record="\n".join(f"{letter}:{value}" for letter, value in package.fields.items()),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstallLocked:
    """Install the packages of input `locked` into an empty root: leaves rootfs.tar. Facts: as InstallPackages.

    Of `base` the first mirror counts, which the guest's own apk is told; `keys` are those that signed the packages.
    """

    base: InstallPackages
    locked: tuple[LockedPackage, ...]
    keys: tuple[LockedKey, ...]

    def describe(self) -> tuple[str, ...]:
        return (f"install the {len(self.locked)} locked packages for {' '.join(self.base.packages)}",)

    def run(self, job: Job) -> Mapping[str, Json]:
        keys = TrustedKeys(tuple(TrustedKey(key.name, key.pem.encode()) for key in self.keys))
        pool = job.inputs["locked"].folder
        packages = self.base.solve(self._repositories(keys), self.base.packages)
        facts = package_facts(packages)
        exactly(self.locked, facts, subject=f"{self.base.release} for {self.base.arch}")
        verified = {
            package.name: open_package((pool / package.file_name).read_bytes(), package, keys) for package in packages
        }
        stood_in = self.base.install(job, packages, verified, keys={key.name: key.pem.encode() for key in self.keys})
        return {"packages": facts, "scripts": stood_in}

    def _repositories(self, keys: TrustedKeys) -> Repositories:
        """Return the locked records as the indexes that they came from; those of the recipe's components first."""
        ours = [f"v{self.base.release}/{component}/{self.base.arch}" for component in self.base.components]
        folders = [package.path.rpartition("/")[0] for package in self.locked]
        names = tuple(dict.fromkeys((*ours, *sorted(folders))))
        texts = (
            "\n\n".join(package.record for package in self.locked if package.path.rpartition("/")[0] == name)
            for name in names
        )
        indexes = tuple(SignedIndex(text=text, description="", key_name="", key=keys.keys[0]) for text in texts)
        return Repositories(mirror=self.base.mirrors[0], indexes=indexes, names=names)


def resolve(order: Order, requests: tuple[tuple[str, ...], ...], asked: str) -> Resolve:
    """Return the action that asks what an order's requests mean today (adapters.Locker)."""
    return Resolve(base=bootstrap(order), requests=requests, asked=asked)


def install(order: Order, lock: Lock, locked: tuple[LockedPackage, ...]) -> InstallLocked:
    """Return the action that installs what is locked for an order (adapters.Locker)."""
    base = bootstrap(order)
    # What does not reach the root is not in the key: whom to trust, the lock says.
    base = dataclasses.replace(base, keyring=Keyring(), mirrors=base.mirrors[:1])
    return InstallLocked(base=base, locked=locked, keys=lock.keys)
