"""Locks of apt's distributions: what apt would install today, and installing what is locked.

Resolving asks apt itself, set up by mmdebstrap as for a build, in the same two stages: the essential packages, then the
others on top of them. Installing hands mmdebstrap a repository of the locked files and nothing else: they were verified
by their sha256 when they were fetched, so that nothing has to be signed anew, and no network is there. The repository
is an artifact of its own, ready to be installed from again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import unquote

from osbuilder.distro.apt import ROOTFS_TAR, Bootstrap, bootstrap
from osbuilder.distro.apt_releases import read_release
from osbuilder.distro.archives import Archive
from osbuilder.distro.deb import expand_debs, render_index, render_release
from osbuilder.distro.dpkg import parse_fields, read_packages
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.lock import RESOLVED, LockedIndex, LockedPackage, Resolved, lockable, merged
from osbuilder.distro.pool import exactly
from osbuilder.engine.script import render
from osbuilder.errors import FetchError
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.order import Order
    from osbuilder.engine.base import Command
    from osbuilder.step import Job, Json

# Run by mmdebstrap with the target's path: apt knows the repositories, and nothing is installed. What the first stage
# chooses counts as installed in the second, as it is when mmdebstrap gets there.
RESOLVE_HOOK: Final = """\
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir -m 0777 /out/releases /out/chosen
cp "$1"/var/lib/apt/lists/*Release /out/releases/
choose() {
  folder=$1
  shift
  apt-get --yes --print-uris install "$@" | { grep "^'" || true; } > /tmp/uris
  cat /tmp/uris >> "$folder/uris"
  sed "s/^'[^']*' \\([^_]*\\)_\\([^_]*\\)_.*/\\1=\\2/; s/%3a/:/" /tmp/uris > /tmp/names
  xargs --no-run-if-empty --arg-file=/tmp/names apt-cache show > /tmp/new
  cat /tmp/new >> "$folder/records"
}
{% for request in requests %}
mkdir -m 0777 /out/chosen/{{ loop.index0 }}
: > "$1/var/lib/dpkg/status"
choose /out/chosen/{{ loop.index0 }} {{ essential | sh }}
awk 'BEGIN { RS = ""; ORS = "\\n\\n" } !seen[$2]++ { sub(/\\n/, "\\nStatus: install ok installed\\n"); print }' \\
  /tmp/new > "$1/var/lib/dpkg/status"
{% if request %}
choose /out/chosen/{{ loop.index0 }} {{ request | sh }}
{% endif %}
{% endfor %}
"""

# As osbuilder.distro.apt's, for a root whose repository is not one that the guest could ask.
INSTALL_HOOK: Final = """\
#!/bin/sh
set -eu
rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/apt/sources.list"
[ ! -e "$1/usr/bin/apt-get" ] || [ ! -s /in/sources ] || cp /in/sources "$1/etc/apt/sources.list"
"""

_COMPONENT: Final = "main"
_POOL: Final = "pool"
_INDEX: Final = "Packages"
_UNLOCKED: Final = "Or build without --locked: a twin lends its configuration then, and nothing foreign runs."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Ask apt what it would install for each request, now: leaves resolved.json. `asked` makes each time another key.

    `bootstrap` says of which repositories.
    """

    bootstrap: Bootstrap
    requests: tuple[tuple[str, ...], ...]
    asked: str
    hook: str = RESOLVE_HOOK
    ONLINE: ClassVar[bool] = True

    @property
    def notes(self) -> tuple[str, ...]:
        """As the Bootstrap's."""
        return self.bootstrap.notes

    def describe(self) -> tuple[str, ...]:
        return tuple(f"ask apt what it would install for: {' '.join(request)}" for request in self.requests)

    def run(self, job: Job) -> Mapping[str, Json]:
        setup = dataclasses.replace(self.bootstrap, packages=(), variant="custom")
        essential = (
            f"?narrow(?or(?archive(^{setup.suite}$),?codename(^{setup.suite}$)),"
            f"?architecture({setup.architecture}),?essential)"
        )
        script = render(self.hook, requests=self.requests, essential=essential)
        mirror = setup.serve(job, setup.options("/dev/null"), f"#!/bin/bash\n{script}")
        packages = [
            dataclasses.replace(package, requests=(number,))
            for number in range(len(self.requests))
            for package in _chosen(job.out / "chosen" / str(number), below_mirror=mirror is not None)
        ]
        resolved = Resolved(indexes=tuple(_indexes(job.out / "releases")), packages=merged(packages))
        for name in ("releases", "chosen"):
            shutil.rmtree(job.out / name)
        resolved.write(job.out / RESOLVED)
        return setup.origin(mirror)


def _indexes(folder: Path) -> Iterator[LockedIndex]:
    # Named HOST_PATH_dists_SUITE_InRelease, with _ for slashes.
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        yield LockedIndex(
            name=f"dists/{path.name.rpartition('_dists_')[2].rpartition('_')[0]}",
            sha256=hashlib.sha256(content).hexdigest(),
            date=read_release(content.decode("utf-8", "replace")).get("Date", ""),
        )


def _chosen(folder: Path, *, below_mirror: bool) -> Iterator[LockedPackage]:
    """Yield the packages of a request: apt's list of addresses says which, its records say the rest."""
    records: dict[str, dict[str, str]] = {}
    for paragraph in (folder / "records").read_text("utf-8").split("\n\n"):
        fields = parse_fields(paragraph)
        if fields:
            records[fields["Filename"]] = fields
    for line in (folder / "uris").read_text("utf-8").splitlines():
        # Addresses are percent-encoded, names in the records are not.
        url = unquote(shlex.split(line)[0])
        fields = next((record for name, record in records.items() if url.endswith(f"/{name}")), {})
        if "SHA256" not in fields:
            raise FetchError(f"the index names no sha256 for {url}", hint="Name another mirror (setting mirrors).")
        with lockable(fields.get("Package", "a package"), url):
            package = LockedPackage(
                name=fields["Package"],
                version=fields["Version"],
                arch=fields["Architecture"],
                path=fields["Filename"] if below_mirror else url,
                sha256=fields["SHA256"],
                size_bytes=int(fields["Size"]),
                installed_bytes=int(fields.get("Installed-Size", "0")) << 10,
            )
        yield package


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeRepository:
    """Make a repository of the packages of input `locked`: leaves them, expanded, with the index Packages.

    dpkg expands one package after the other, and the essential ones twice; here it is done once, on all processors.
    Raises TreeError for a file that is no package.
    """

    locked: tuple[LockedPackage, ...]

    def describe(self) -> tuple[str, ...]:
        return (f"expand the {len(self.locked)} locked packages, index them as a repository",)

    def run(self, job: Job) -> Mapping[str, Json]:
        names = [package.file_name for package in self.locked]
        expand_debs([job.inputs["locked"].path(name) for name in names], job.out, jobs=job.jobs)
        index = render_index((job.out / name for name in names), folder=_POOL)
        (job.out / _INDEX).write_text(index, "utf-8")
        return {"packages": len(names)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstallLocked:
    """Install the packages of input `repository` (MakeRepository) into an empty root: leaves rootfs.tar. No network.

    `packages` are what was asked for by name; what is locked besides comes because they need it. `sources` is the
    guest's sources.list, for a guest with apt. Facts: packages (name, version, architecture). Raises what
    Bootstrap.check_host raises.
    """

    bootstrap: Bootstrap
    locked: tuple[LockedPackage, ...]
    sources: str
    hook: str = INSTALL_HOOK

    def describe(self) -> tuple[str, ...]:
        return (shlex.join(self._command().argv),)

    def run(self, job: Job) -> Mapping[str, Json]:
        # The packages' own scripts run, for another architecture too: what is locked has no twin.
        self.bootstrap.check_host(otherwise=_UNLOCKED)
        repository = job.inputs["repository"]
        index = repository.path(_INDEX).read_text("utf-8")
        architecture = self.bootstrap.architecture
        suite = job.work / "dists" / self.bootstrap.suite
        binary = suite / _COMPONENT / f"binary-{architecture}"
        binary.mkdir(parents=True)
        (binary / _INDEX).write_text(index, "utf-8")
        release = render_release(index, suite=self.bootstrap.suite, component=_COMPONENT, architecture=architecture)
        (suite / "Release").write_text(release, "utf-8")
        (job.work / "sources").write_text(self.sources, "utf-8")
        hook = job.work / "hook"
        hook.write_text(self.hook, "utf-8")
        hook.chmod(0o755)
        inputs = {"dists": job.work / "dists", _POOL: repository.folder, "hook": hook, "sources": job.work / "sources"}
        job.run(self._command(), inputs=inputs)
        packages = read_packages(Tree.read(job.out / ROOTFS_TAR))
        exactly(self.locked, packages, subject=f"{self.bootstrap.suite} for {architecture}")
        return {"packages": [list(package) for package in packages]}

    def _command(self) -> Command:
        # /in/dists and /in/pool are the repository whose address is /in.
        source = f"deb [trusted=yes] copy:///in {self.bootstrap.suite} {_COMPONENT}"
        return self.bootstrap.command(source, signed=False, network=False)


def resolve(order: Order, requests: tuple[tuple[str, ...], ...], asked: str) -> Resolve:
    """Return the action that asks what an order's requests mean today (adapters.Locker)."""
    return Resolve(bootstrap=bootstrap(order), requests=requests, asked=asked)


def repository(locked: tuple[LockedPackage, ...]) -> MakeRepository:
    """Return the action that makes the repository that `install` takes (adapters.Locker)."""
    return MakeRepository(locked=locked)


def install(order: Order, _: Lock, locked: tuple[LockedPackage, ...]) -> InstallLocked:
    """Return the action that installs what is locked for an order (adapters.Locker)."""
    action = bootstrap(order)
    lines = [
        f"{archive.line(mirror)}\n"
        for mirror in action.mirrors[:1]
        for archive in (Archive(suite=action.suite, components=action.components), *action.archives)
    ]
    has_apt = any(package.name == "apt" for package in locked)
    return InstallLocked(
        # What does not reach the root is not in the key: mirrors, archives and keys.
        bootstrap=dataclasses.replace(action, mirrors=(), archives=(), keyring=Keyring()),
        locked=locked,
        sources="".join(lines) if has_apt else "",
    )
