"""Locks of Arch Linux: what pacman would install today, and installing what is locked.

pacman's databases are not signed, its packages are: resolving installs each request as a build does, with every
signature checked, and writes down what came. A lock keeps each package's entry of the database and its signature, from
which a locked build makes databases of the locked files and nothing else; the signatures are checked as ever.

Sources: the databases as repo-add(8) of pacman 7 writes them (a tar with NAME-VERSION/desc); pacman.conf(5): a package
that lies in a CacheDir is not downloaded.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro.lock import RESOLVED, LockedIndex, LockedPackage, Resolved, lockable, merged
from osbuilder.distro.pacman import INSTALL, Install, read_database, read_packages
from osbuilder.distro.pacman import install as installation
from osbuilder.distro.pool import exactly
from osbuilder.fetch import Source
from osbuilder.store import sha256_file
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

# What pacman downloads is kept, for us and for the next request.
RESOLVE: Final = f"mkdir -p /out/cache\nln -s /out/cache /tmp/cache\n{INSTALL}"

LOCAL: Final = """\
mkdir /tmp/cache
cp --symbolic-link /in/pool/* /in/signatures/* /tmp/cache
"""
_LOCAL_URL: Final = "file:///in/databases"

# What a record has besides the database's entry: the signature that lay beside the package (base64).
_SIGNATURE: Final = "%SIGNATURE%\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Install each request with what the mirrors have now: leaves resolved.json. `asked` makes each time another key.

    `base` says of which repositories and whose keys.
    """

    base: Install
    requests: tuple[tuple[str, ...], ...]
    asked: str
    script: str = RESOLVE
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return tuple(f"install, to see what pacman takes: {' '.join(request)}" for request in self.requests)

    def run(self, job: Job) -> Mapping[str, Json]:
        base = dataclasses.replace(self.base, script=self.script)
        packages: list[LockedPackage] = []
        for number, request in enumerate(self.requests):
            mirror = dataclasses.replace(base, packages=request).serve(job)
            # All of a lock is one mirror's state.
            base = dataclasses.replace(base, mirrors=(mirror,))
            entries = self._entries(job)
            rows = read_packages(job.out / "packages")
            packages += [_locked(job, *entries[f"{name}-{version}"], number) for name, version in rows]
            indexes = tuple(_index(job, name) for name, _ in base.repositories)
            shutil.rmtree(job.out / "databases")
            for name in ("packages", "scripts"):
                (job.out / name).unlink()
        shutil.rmtree(job.out / "cache")
        Resolved(indexes=indexes, packages=merged(packages)).write(job.out / RESOLVED)
        return {"mirror": mirror}

    def _entries(self, job: Job) -> dict[str, tuple[str, str]]:
        """Return, for each package as NAME-VERSION, the path of the first repository that has it, and its entry."""
        found: dict[str, tuple[str, str]] = {}
        for name, path in self.base.repositories:
            database = Tree.read(job.out / "databases" / f"{name}.db", scratch=job.work)
            for each in database.glob("*/desc"):
                found.setdefault(each.partition("/")[0], (path, database.read_bytes(each).decode("utf-8")))
        return found


def _index(job: Job, name: str) -> LockedIndex:
    path = job.out / "databases" / f"{name}.db"
    return LockedIndex(name=name, sha256=sha256_file(path), date=read_database(path, job.work).get("date", ""))


def _locked(job: Job, folder: str, entry: str, number: int) -> LockedPackage:
    """Return a package of pacman's cache, which has verified it."""
    fields = read_entry(entry)
    file = job.out / "cache" / fields["FILENAME"]
    digest = sha256_file(file)
    # From here on it goes by its sha256: a locked build finds it there.
    job.fetch(Source(name=file.name, urls=(file.as_uri(),), sha256=digest))
    signature = base64.b64encode(file.with_name(f"{file.name}.sig").read_bytes()).decode()
    with lockable(file.name, folder):
        return LockedPackage(
            name=fields["NAME"],
            version=fields["VERSION"],
            arch=fields["ARCH"],
            path=f"{folder}/{file.name}",
            sha256=digest,
            size_bytes=file.stat().st_size,
            installed_bytes=int(fields.get("ISIZE", "0")),
            requests=(number,),
            record=f"{entry.rstrip()}\n\n{_SIGNATURE}{signature}\n",
        )


def read_entry(text: str) -> dict[str, str]:
    """Return the fields of a database's entry, each with the first line of its value."""
    return dict(re.findall(r"(?m)^%([A-Z0-9]+)%\n(.+)$", text))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstallLocked:
    """Install the packages of input `locked` into an empty root: leaves rootfs.tar. No network. Facts: as Install.

    `base` has the packages that were asked for by name, and says of which repository each locked one is.
    """

    base: Install
    locked: tuple[LockedPackage, ...]

    def describe(self) -> tuple[str, ...]:
        return (f"write databases of the {len(self.locked)} locked packages", *self._local().describe())

    def run(self, job: Job) -> Mapping[str, Json]:
        inputs = {"pool": job.inputs["locked"].folder}
        for name in ("databases", "signatures"):
            inputs[name] = job.work / name
            inputs[name].mkdir()
        self._write_databases(inputs["databases"])
        for package in self.locked:
            signature = base64.b64decode(package.record.partition(_SIGNATURE)[2])
            (inputs["signatures"] / f"{package.file_name}.sig").write_bytes(signature)
        local = self._local()
        local.serve(job, further=inputs, network=False)
        facts = local.finish(job)
        # pacman does not tell the architecture of what is installed.
        locked = tuple(dataclasses.replace(package, arch="") for package in self.locked)
        exactly(locked, facts["packages"], subject=self.base.subject)
        return {name: facts[name] for name in ("packages", "failed_scripts")}

    def _local(self) -> Install:
        repositories = tuple((name, _LOCAL_URL) for name, _ in self.base.repositories)
        return dataclasses.replace(self.base, repositories=repositories)

    def _write_databases(self, folder: Path) -> None:
        for name, path in self.base.repositories:
            with tarfile.open(folder / f"{name}.db", "w") as database:
                for package in self.locked:
                    if package.path == f"{path}/{package.file_name}":
                        entry = package.record.partition(_SIGNATURE)[0].encode()
                        member = tarfile.TarInfo(f"{package.name}-{package.version}/desc")
                        member.size = len(entry)
                        database.addfile(member, io.BytesIO(entry))


def resolve(order: Order, requests: tuple[tuple[str, ...], ...], asked: str) -> Resolve:
    """Return the action that asks what an order's requests mean today (adapters.Locker)."""
    return Resolve(base=installation(order), requests=requests, asked=asked)


def install(order: Order, _: Lock, locked: tuple[LockedPackage, ...]) -> InstallLocked:
    """Return the action that installs what is locked for an order (adapters.Locker)."""
    base = installation(order)
    # What does not reach the root is not in the key: mirrors.
    return InstallLocked(base=dataclasses.replace(base, mirrors=(), script=LOCAL + base.script), locked=locked)
