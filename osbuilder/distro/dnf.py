"""Fedora and its kin: dnf in a builder turns signed rpm repositories into a root filesystem tar.

Owns dnf's configuration and command line, and rpm's macros. Signatures are always checked, and only by the keys that
the recipe pins: of every package, and of a repository's index where the distribution signs it. dnf reads no
configuration of the builder, so that all of it is part of the key. What goes wrong on the way is told by
osbuilder.distro.dnf_errors.

rpm stamps its database with SOURCE_DATE_EPOCH, so that the same packages give the same bytes. What dnf leaves in the
root for itself (state, logs, caches) goes: it tells of this build, not of the distribution.

Sources: dnf(8), dnf.conf(5) 4.23; rpm 4.20: rpm(8), rpmkeys(8), and its manual on macros and on users and groups.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro.dnf_errors import MISSING, explain
from osbuilder.distro.indexes import LAG_MAX_S, memory_of, refuse_old
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.order import refuse_foreign
from osbuilder.distro.problems import first_that_serves
from osbuilder.distro.told import check_mirrors, chosen_repositories
from osbuilder.engine.base import Command
from osbuilder.engine.script import lines
from osbuilder.engine.script import render as render_script
from osbuilder.step import NOT_IN_KEY, parameters
from osbuilder.template import render
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.choice import Choice
    from osbuilder.distro.order import Order
    from osbuilder.distro.problems import Problem
    from osbuilder.distro.recipe import Repository
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
_SEEN: Final = "dnf-indexes"

# minrate is what dnf calls a server that hangs: fewer bytes a second than this for `timeout` seconds. Lists of files
# are read because packages may depend on a file that the main index leaves out.
CONFIGURATION: Final = """\
[main]
assumeyes=1
best=1
cachedir=/var/cache/dnf
check_config_file_age=0
gpgcheck=1
history_record=0
install_weak_deps=0
logfilelevel=0
max_parallel_downloads=4
minrate=1000
optional_metadata_types=filelists
plugins=0
protected_packages=
reposdir=/tmp/none
retries={{ attempts }}
skip_if_unavailable=0
timeout={{ timeout_s }}
varsdir=/tmp/none
zchunk=0
{% for index in indexes %}

[{{ index.name }}]
name={{ index.name }}
baseurl={{ index.url(mirror) }}
enabled=1
gpgkey=file:///tmp/keys.asc
repo_gpgcheck={{ index.signed | int }}
{% endfor %}
"""

# Nothing is installed whose signature and digests are not in order, whatever way it came. Users and groups that
# packages declare are made by the builder's systemd-sysusers: rpm's own stand-in is a shell script around useradd.
MACROS: Final = """\
%_dbpath {{ database }}
%_db_backend sqlite
%_pkgverify_level all
%__systemd_sysusers /usr/bin/systemd-sysusers
{% for plugin in plugins %}
%__transaction_{{ plugin }} %{nil}
{% endfor %}
"""

# What Debian's rpm would have watch it: system services that a builder does not have.
_PLUGINS: Final = (
    "audit",
    "dbus_announce",
    "fapolicyd",
    "fsverity",
    "prioreset",
    "selinux",
    "syslog",
    "systemd_inhibit",
    "unshare",
)

# The root lies in /tmp, on memory. Nothing can be mounted, so scripts find a file in the place of /dev/null, under
# every engine the same. gpg fails for keys of a folder whose kind it does not know; what counts is what it exports.
# A package whose script fails before its files come is not installed, and dnf succeeds all the same; later scripts that
# fail are told in the manifest. dnf's cache has a folder NAME-HASH for each repository, 16 digits of hash. rpm leaves
# its database with a write-ahead log beside it, with which it cannot be read on a read-only root: that is folded in
# (sqlite3 comes with dnf), and what the order of writing left in the file goes.
SETUP: Final = """\
root=/tmp/root
cp /in/macros "$HOME/.rpmmacros"
mkdir -m 0700 /tmp/gnupg
pick() {
  gpg --batch --no-options --no-autostart --quiet --homedir /tmp/gnupg "$@"
}
pick --import {{ keyring }} || true
pick --armor --output /tmp/keys.asc --export {{ fingerprints | sh }}
[ -s /tmp/keys.asc ] || { echo "osbuilder: no such key"; exit 1; }
mkdir -m 0755 "$root" "$root/dev"
install -m 0666 /dev/null "$root/dev/null"
dnf() {
  command dnf --config=/in/dnf.conf --installroot="$root" --releasever={{ version | sh }} "$@"
}
"""
INSTALL: Final = """\
dnf install -- {{ packages | sh }} 2>&1 | tee /tmp/log || {
  ! grep -q {{ missing | sh }} /tmp/log || dnf --cacheonly repoquery --queryformat='%{name}' > /out/names
  exit 1
}
grep '^Error in .* scriptlet in rpm package' /tmp/log > /out/scripts || true
! grep -q '^Error in PRE' /out/scripts || exit 1
rpm --root="$root" --query --all --queryformat='%{NAME}\\t%{EVR}\\t%{ARCH}\\n' > /out/packages
mkdir /out/indexes
{% for name in indexes %}
cp "$root"/var/cache/dnf/{{ name | sh }}-{{ "?" * 16 }}/repodata/repomd.xml /out/indexes/{{ name | sh }}
{% endfor %}
rm -rf "$root/var/cache/dnf"
sqlite3 "$root"{{ database | sh }}/rpmdb.sqlite 'pragma journal_mode = delete; vacuum'
tar --create --file=/out/{{ tar | sh }} --directory="$root" --numeric-owner --xattrs --xattrs-include='*' --sort=name .
"""

SCRIPT: Final = SETUP + INSTALL

_LEFTOVERS: Final = (
    "dev/*",
    "tmp/*",
    "var/lib/dnf",
    "var/log/dnf*",
    "var/log/hawkey.log",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A repository's place below a mirror (or its whole address), and whether its index is signed."""

    name: str
    path: str
    signed: bool

    def url(self, mirror: str) -> str:
        """Return its address."""
        return self.path if "://" in self.path else f"{mirror.rstrip('/')}/{self.path}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """Install rpm packages into an empty root: leaves rootfs.tar. `subject` names the distribution and its release.

    `version` is what $releasever means, `database` where the release keeps rpm's database, `own_mirrors` are the
    distribution's, to be told of when a release is not where it is looked for. Facts: packages (name,
    version, architecture), repositories (name, revision and date of each index), the mirror that served them, and
    failed_scripts (kind and package): rpm goes on when a script fails after its package's files came.
    """

    subject: str
    version: str
    repositories: tuple[Index, ...]
    packages: tuple[str, ...]
    keyring: Keyring
    database: str
    epoch: int
    mirrors: tuple[str, ...]
    script: str = SCRIPT
    timeout_s: int = dataclasses.field(default=30, metadata=NOT_IN_KEY)
    attempts: int = dataclasses.field(default=3, metadata=NOT_IN_KEY)
    own_mirrors: tuple[str, ...] = dataclasses.field(default=(), metadata=NOT_IN_KEY)
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        # A locked installation has its packages beside it, and needs no mirror.
        if self.mirrors or not all("://" in index.path for index in self.repositories):
            check_mirrors(self.mirrors, subject=self.subject, below=f"{self.repositories[0].path}/repodata")

    def describe(self) -> tuple[str, ...]:
        urls = [f"{index.name}: {index.url(mirror)}" for mirror in self.mirrors for index in self.repositories]
        return (*urls, *lines(self._script()))

    def run(self, job: Job) -> Mapping[str, Json]:
        inputs = self.write_inputs(job.work)
        mirror = first_that_serves(
            job,
            self.mirrors,
            lambda mirror: self.call(job, inputs, mirror),
            lambda log, mirror: self.explain(job.out / "names", log, mirror),
        )
        return {"mirror": mirror, **self.finish(job)}

    def finish(self, job: Job) -> dict[str, Json]:
        """Make what the script left the artifact; return the facts that it tells."""
        packages = read_packages(job.out / "packages")
        repositories = [
            {"name": path.name, **read_index(path.read_text("utf-8"))}
            for path in sorted((job.out / "indexes").iterdir())
        ]
        scripts = re.findall(r"Error in (\S+) scriptlet in rpm package (\S+)", (job.out / "scripts").read_text("utf-8"))
        for name in ("packages", "scripts"):
            (job.out / name).unlink()
        shutil.rmtree(job.out / "indexes")
        self._normalise(job.out / ROOTFS_TAR, job.work / ROOTFS_TAR)
        return {
            "repositories": repositories,
            "packages": [list(package) for package in packages],
            "failed_scripts": [list(script) for script in scripts],
        }

    def write_inputs(self, folder: Path) -> Mapping[str, Path]:
        """Write what the same command reads whatever the mirror is; return it by name."""
        files = {"macros": render(MACROS, database=self.database, plugins=_PLUGINS), "script": self._script()}
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
        if self.keyring.file:
            (folder / "keyring").write_bytes(self.keyring.read())
        names = (*files, "dnf.conf", *(("keyring",) if self.keyring.file else ()))
        return {name: folder / name for name in names}

    def call(self, job: Job, inputs: Mapping[str, Path], mirror: str, *, network: bool = True) -> None:
        """Run the script with a mirror's configuration. Raises Outdated for an index that was newer once."""
        configuration = render(
            CONFIGURATION,
            indexes=self.repositories,
            mirror=mirror,
            attempts=self.attempts,
            timeout_s=self.timeout_s,
        )
        inputs["dnf.conf"].write_text(configuration, "utf-8")
        # Python's own order of sets would be another one each time.
        environment = (("PYTHONHASHSEED", "0"), ("SOURCE_DATE_EPOCH", str(self.epoch)))
        job.run(
            Command(argv=("bash", "/in/script"), env=environment, root=True, network=network),
            inputs=inputs,
        )
        if network:
            self._refuse_old(job, mirror)

    def _refuse_old(self, job: Job, mirror: str) -> None:
        """Raise Outdated when an index that the script left is older than one that was there before."""
        for index in self.repositories:
            stamp = newest_stamp((job.out / "indexes" / index.name).read_text("utf-8"))
            url = index.url(mirror)
            if stamp is not None:
                memory = memory_of(job.cache(_SEEN), url, parameters(self.keyring))
                refuse_old(memory, stamp, lag_max_s=LAG_MAX_S, url=url, what="its newest list")

    def explain(self, names: Path, log: str, mirror: str) -> Problem | None:
        """Return the problem that a log tells; `names` may have the names of all packages."""
        return explain(
            log,
            mirror=mirror,
            subject=self.subject,
            keys=self.keyring.fingerprints,
            own_mirrors=self.own_mirrors,
            names=names.read_text("utf-8").splitlines() if names.is_file() else (),
        )

    def _script(self) -> str:
        return render_script(self.script, **self.words())

    def words(self) -> dict[str, object]:
        """Return what scripts fill in."""
        return {
            "keyring": "/in/keyring" if self.keyring.file else f"{shlex.quote(self.keyring.builder_path)}/*",
            "fingerprints": self.keyring.fingerprints,
            "version": self.version,
            "packages": self.packages,
            "indexes": tuple(index.name for index in self.repositories),
            "missing": MISSING,
            "database": self.database,
            "tar": ROOTFS_TAR,
        }

    def _normalise(self, tar: Path, scratch: Path) -> None:
        """Write the tar anew: without what dnf left for itself, in one order, no file younger than the release."""
        tree = Tree.read(tar)
        database = self.database.lstrip("/")
        tree.remove_glob(*_LEFTOVERS, f"{database}/.rpm.lock")
        if tree.exists("etc/dnf") and tree.glob("etc/dnf/**") == ("etc/dnf/modules.d",):
            tree.remove("etc/dnf")
        tree.write(scratch, epoch=self.epoch)
        scratch.replace(tar)


def install(order: Order) -> Install:
    """Return the action for an order (the adapter of package manager dnf).

    Raises UsageError for a mirror or a repository (setting components) that cannot be, PlanError for a guest of another
    architecture than this machine's.
    """
    choice = order.choice
    subject = f"{choice.recipe.name} {choice.release_name}"
    refuse_foreign(choice)
    return Install(
        subject=subject,
        version=choice.release.version,
        repositories=tuple(_index(each, choice) for each in chosen_repositories(order)),
        packages=order.packages.everything,
        keyring=Keyring.of_order(order),
        database=choice.release.rpm_database,
        epoch=order.epoch,
        mirrors=order.mirrors,
        timeout_s=order.timeout_s,
        attempts=order.attempts,
        own_mirrors=choice.recipe.mirrors,
    )


def _index(repository: Repository, choice: Choice) -> Index:
    # rpm calls architectures what uname -m calls them.
    path = repository.below(release=choice.release_name, arch=choice.arch.name)
    return Index(name=repository.name, path=path, signed=repository.signed_index)


def read_packages(listing: Path) -> tuple[tuple[str, str, str], ...]:
    """Return (name, version, architecture) of each package in rpm's listing, sorted; it lists keys as well."""
    rows = [line.split("\t") for line in listing.read_text("utf-8").splitlines()]
    return tuple(sorted((name, version, arch) for name, version, arch in rows if name != "gpg-pubkey"))


def read_index(text: str) -> dict[str, str]:
    """Return what a repomd.xml says of its repository's state: revision, and the newest timestamp of what it lists."""
    revision = re.search(r"<revision>([^<]+)</revision>", text)
    stamp = newest_stamp(text)
    found = {"revision": revision[1]} if revision else {}
    if stamp is not None:
        found["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp))
    return found


def newest_stamp(text: str) -> int | None:
    """Return the time (seconds since 1970) of the newest thing that a repomd.xml lists, None when it tells none."""
    return max((int(stamp) for stamp in re.findall(r"<timestamp>(\d+)", text)), default=None)
