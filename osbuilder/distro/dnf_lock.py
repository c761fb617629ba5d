"""Locks of the rpm family: what dnf would install today, and installing what is locked.

Resolving asks dnf itself, through a plugin that writes down the transaction before anything is downloaded. Installing
gives dnf a repository of the locked files and nothing else: its index is made in the builder, and the signature of each
package is checked as ever.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from osbuilder.distro.dnf import SETUP, Index, Install, read_index
from osbuilder.distro.dnf import install as installation
from osbuilder.distro.indexes import Digest
from osbuilder.distro.lock import RESOLVED, LockedIndex, LockedPackage, Resolved, lockable, merged
from osbuilder.distro.pool import exactly
from osbuilder.distro.problems import first_that_serves
from osbuilder.engine.script import render
from osbuilder.errors import FetchError
from osbuilder.fetch import Source
from osbuilder.store import sha256_file

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

# dnf calls `resolved` when it knows what to install; the error ends it there (dnf.plugin, dnf.package: dnf's API).
PLUGIN: Final = """\
import json, os
import dnf, dnf.exceptions

class OsbuilderLock(dnf.Plugin):
    name = "osbuilder_lock"

    def resolved(self):
        rows = [
            {"name": each.name, "version": each.evr, "arch": each.arch, "repository": each.repoid,
             "location": each.location, "digest": each.returnIdSum(), "size": each.downloadsize,
             "installed": each.installsize}
            for each in self.base.transaction.install_set
        ]
        with open(os.environ["OSBUILDER_CHOSEN"], "w") as file:
            json.dump(rows, file)
        raise dnf.exceptions.Error("osbuilder: resolved")
"""

RESOLVE: Final = """\
mkdir -m 0777 /out/chosen /out/indexes /tmp/plugins
cp /in/plugin /tmp/plugins/osbuilder_lock.py
{% for request in requests %}
export OSBUILDER_CHOSEN=/out/chosen/{{ loop.index0 }}
dnf --setopt=plugins=1 --setopt=pluginpath=/tmp/plugins install -- {{ request | sh }} 2>&1 | tee /tmp/log || true
[ -e "$OSBUILDER_CHOSEN" ] || {
  ! grep -q {{ missing | sh }} /tmp/log || dnf --cacheonly repoquery --queryformat='%{name}' > /out/names
  exit 1
}
{% endfor %}
{% for name in indexes %}
cp "$root"/var/cache/dnf/{{ name | sh }}-{{ "?" * 16 }}/repodata/repomd.xml /out/indexes/{{ name | sh }}
{% endfor %}
"""

# Links: the index is written beside the packages, and those are read-only.
LOCAL: Final = """\
mkdir /tmp/pool
cp --symbolic-link /in/pool/*.rpm /tmp/pool
createrepo_c --quiet --no-database --simple-md-filenames --workers=1 /tmp/pool
"""
_LOCAL_INDEX: Final = Index(name="locked", path="file:///tmp/pool", signed=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Ask dnf what it would install for each request, now: leaves resolved.json. `asked` makes each time another key.

    `base` says of which repositories and whose keys.
    """

    base: Install
    requests: tuple[tuple[str, ...], ...]
    asked: str
    plugin: str = PLUGIN
    script: str = SETUP + RESOLVE
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return tuple(f"ask dnf what it would install for: {' '.join(request)}" for request in self.requests)

    def run(self, job: Job) -> Mapping[str, Json]:
        inputs = dict(self.base.write_inputs(job.work))
        inputs["plugin"] = job.work / "plugin"
        inputs["plugin"].write_text(self.plugin, "utf-8")
        inputs["script"].write_text(self._script(), "utf-8")
        mirror = first_that_serves(
            job,
            self.base.mirrors,
            lambda mirror: self.base.call(job, inputs, mirror),
            lambda log, mirror: self.base.explain(job.out / "names", log, mirror),
        )
        paths = {index.name: index.path for index in self.base.repositories}
        packages = [
            _locked(job, row, number, path=f"{paths[row['repository']]}/{row['location']}", mirror=mirror)
            for number in range(len(self.requests))
            for row in json.loads((job.out / "chosen" / str(number)).read_text("utf-8"))
        ]
        indexes = tuple(_indexes(job.out / "indexes"))
        for name in ("chosen", "indexes"):
            shutil.rmtree(job.out / name)
        Resolved(indexes=indexes, packages=merged(packages)).write(job.out / RESOLVED)
        return {"mirror": mirror}

    def _script(self) -> str:
        return render(self.script, requests=self.requests, **self.base.words())


def _indexes(folder: Path) -> Iterator[LockedIndex]:
    for path in sorted(folder.iterdir()):
        date = read_index(path.read_text("utf-8")).get("date", "")
        yield LockedIndex(name=path.name, sha256=sha256_file(path), date=date)


def _locked(job: Job, row: Mapping[str, Any], number: int, *, path: str, mirror: str) -> LockedPackage:
    algorithm, digest = row["digest"]
    if algorithm != "sha256":
        # Some indexes name other digests: then the file has to say.
        url = f"{mirror.rstrip('/')}/{path}"
        source = Source(name=path.rpartition("/")[2], urls=(url,), proof=_proof(algorithm, digest, url))
        file = job.fetch(source)
        digest = sha256_file(file)
        # From here on it goes by its sha256: a locked build finds it there.
        job.fetch(Source(name=source.name, urls=(file.as_uri(),), sha256=digest))
    with lockable(row["name"], path):
        return LockedPackage(
            name=row["name"],
            version=row["version"],
            arch=row["arch"],
            path=path,
            sha256=digest,
            size_bytes=row["size"],
            installed_bytes=row["installed"],
            requests=(number,),
        )


def _proof(algorithm: str, digest: str, url: str) -> Digest:
    if algorithm not in ("sha384", "sha512"):
        raise FetchError(
            f"the index names only a {algorithm} for {url}: expected sha256, sha384 or sha512",
            hint="Name another mirror (setting mirrors).",
        )
    return Digest(algorithm, digest)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstallLocked:
    """Install the packages of input `locked` into an empty root: leaves rootfs.tar. No network. Facts: as Install.

    `base` has the packages that were asked for by name, and the index of the locked files as its only repository.
    """

    base: Install
    locked: tuple[LockedPackage, ...]

    def describe(self) -> tuple[str, ...]:
        return (f"index the {len(self.locked)} locked packages as a repository", *self.base.describe())

    def run(self, job: Job) -> Mapping[str, Json]:
        inputs = {**self.base.write_inputs(job.work), "pool": job.inputs["locked"].folder}
        first_that_serves(
            job,
            (_LOCAL_INDEX.path,),
            lambda mirror: self.base.call(job, inputs, mirror, network=False),
            lambda log, mirror: self.base.explain(job.out / "names", log, mirror),
        )
        facts = self.base.finish(job)
        # dnf leaves an epoch of 0 out, rpm tells it where a package names it.
        installed = ((name, version.removeprefix("0:"), arch) for name, version, arch in facts["packages"])
        exactly(self.locked, installed, subject=self.base.subject)
        return {name: facts[name] for name in ("packages", "failed_scripts")}


def resolve(order: Order, requests: tuple[tuple[str, ...], ...], asked: str) -> Resolve:
    """Return the action that asks what an order's requests mean today (adapters.Locker)."""
    return Resolve(base=installation(order), requests=requests, asked=asked)


def install(order: Order, _: Lock, locked: tuple[LockedPackage, ...]) -> InstallLocked:
    """Return the action that installs what is locked for an order (adapters.Locker)."""
    base = installation(order)
    # What does not reach the root is not in the key: mirrors and their indexes.
    base = dataclasses.replace(base, mirrors=(), repositories=(_LOCAL_INDEX,), script=LOCAL + base.script)
    return InstallLocked(base=base, locked=locked)
