"""Arch Linux: pacman in a builder turns signed packages of one day of the archive into a root filesystem tar.

Owns pacman's configuration and command line. Every package's signature is checked (SigLevel Required DatabaseOptional,
as Arch has it) in Arch's own way: pacman-key makes a keyring of the builder's archlinux-keyring, in which a packager
counts when three of the master keys that the recipe pins have signed. Databases are not signed: which state of the
repositories this is says the mirror. pacman reads no configuration of the builder. What goes wrong on the way is told
by osbuilder.distro.pacman_errors.

The package database stays, its dates of installation set to the epoch: pacman writes the clock's.

Sources: pacman(8), pacman.conf(5), pacman-key(8) of pacman 7.0; the Arch Linux Archive for the layout by day.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro.indexes import LAG_MAX_S, date, memory_of, refuse_old
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.order import refuse_foreign
from osbuilder.distro.pacman_errors import FAILED, explain
from osbuilder.distro.problems import first_that_serves
from osbuilder.distro.told import check_mirrors, chosen_repositories
from osbuilder.engine.base import Command
from osbuilder.engine.script import lines
from osbuilder.engine.script import render as render_script
from osbuilder.step import parameters
from osbuilder.template import render
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.distro.problems import Problem
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
_SEEN: Final = "pacman-databases"

CONFIGURATION: Final = """\
[options]
Architecture = {{ arch }}
CacheDir = /tmp/cache/
DBPath = /tmp/root/var/lib/pacman/
DisableSandbox
GPGDir = /tmp/gnupg/
HookDir = /tmp/hooks/
LogFile = /tmp/pacman.log
ParallelDownloads = 4
RootDir = /tmp/root/
SigLevel = Required DatabaseOptional
{% for name, url in repositories %}

[{{ name }}]
Server = {{ url }}
{% endfor %}
"""

# The root lies in /tmp, on memory. Nothing can be mounted, so scripts find a file in the place of /dev/null, under
# every engine the same. pacman goes on when a script fails; which did is told in the manifest: what it says of them
# comes behind the package that they are of.
INSTALL: Final = """\
root=/tmp/root
mkdir -p "$root/var/lib/pacman" "$root/dev" /tmp/cache /tmp/hooks /work/keys
install -m 0666 /dev/null "$root/dev/null"
{% if own_keyring %}
mkdir -m 0700 /work/gnupg
pick() {
  gpg --batch --no-options --no-autostart --quiet --homedir /work/gnupg "$@"
}
pick --import /in/keyring || true
pick --export > /work/keys/osbuilder.gpg
pick --with-colons --list-keys > /work/listing
awk -F: '$1 == "pub" { own = 1 } $1 == "fpr" && own { print $10 ":4:"; own = 0 }' /work/listing \\
  > /work/keys/osbuilder-trusted
{% else %}
cp {{ keyring }}.gpg /work/keys/osbuilder.gpg
cp {{ keyring }}-revoked /work/keys/osbuilder-revoked
gpg --batch --no-options --quiet --homedir /tmp --with-colons --show-keys {{ keyring }}.gpg > /work/listing
for key in {{ fingerprints | sh }}; do
  ! grep -q "^fpr:.*:$key:" /work/listing || echo "$key:4:"
done > /work/keys/osbuilder-trusted
{% endif %}
[ -s /work/keys/osbuilder-trusted ] || { echo "osbuilder: no such key"; exit 1; }
# Keys that are not there are looked for nowhere.
{
  pacman-key --gpgdir /tmp/gnupg --init &&
    echo disable-dirmngr >> /tmp/gnupg/gpg.conf &&
    pacman-key --gpgdir /tmp/gnupg --populate-from /work/keys --populate osbuilder
} > /tmp/keys.log 2>&1 || { cat /tmp/keys.log; echo "osbuilder: no such key"; exit 1; }
pacman() {
  command pacman --config /in/pacman.conf "$@"
}
pacman --noconfirm --noprogressbar --sync --refresh -- {{ packages | sh }} 2>&1 | tee /tmp/log || {
  ! grep -q '^error: target not found: ' /tmp/log ||
    pacman --sync --list | cut --delimiter=' ' --fields=2 > /out/names
  exit 1
}
awk '/^installing / { name = $2 } /^{{ failed }}/ { print name }' /tmp/log > /out/scripts
pacman --query > /out/packages
mkdir /out/databases
cp "$root"/var/lib/pacman/sync/*.db /out/databases/
"""
_PACK: Final = """\
tar --create --file=/out/{{ tar | sh }} --directory="$root" --numeric-owner --xattrs --xattrs-include='*' --sort=name .
"""
SCRIPT: Final = INSTALL + _PACK

_LEFTOVERS: Final = (
    "dev/*",
    "tmp/*",
    "var/cache/ldconfig/*",
    "var/lib/pacman/db.lck",
    "var/lib/pacman/sync",
)
_INSTALLED: Final = re.compile(rb"(?<=%INSTALLDATE%\n)\d+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """Install packages into an empty root: leaves rootfs.tar. `subject` names the distribution and its release.

    `repositories` are (name, path below a mirror or whole address). Facts: packages (name, version, ""), repositories
    (name, and the day of the newest package in each), the mirror that served them, and failed_scripts: packages whose
    script failed.
    """

    subject: str
    arch: str
    repositories: tuple[tuple[str, str], ...]
    packages: tuple[str, ...]
    keyring: Keyring
    epoch: int
    mirrors: tuple[str, ...]
    script: str = SCRIPT
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        urls = [f"{name}: {url}" for mirror in self.mirrors for name, url in self._urls(mirror)]
        return (*urls, *lines(self._script()))

    def run(self, job: Job) -> Mapping[str, Json]:
        """Leave the tree. Raises what pacman_errors tells, FetchError when no mirror serves."""
        mirror = self.serve(job)
        return {"mirror": mirror, **self.finish(job)}

    def serve(self, job: Job, *, further: Mapping[str, Path] | None = None, network: bool = True) -> str:
        """Run the script with the first mirror that serves; return which. `further` are inputs that it reads besides.

        A mirror whose databases are older than ones that it served before does not serve. Without a network the
        repositories have whole addresses, and the mirror counts for nothing. Raises as `run`.
        """
        inputs = self._write_inputs(job.work, further or {})

        def attempt(mirror: str) -> None:
            self._call(job, inputs, mirror, network=network)
            if network:
                self._refuse_old(job, mirror)

        return first_that_serves(
            job,
            self.mirrors if network else ("",),
            attempt,
            lambda log, mirror: self._explain(job.out / "names", log, mirror),
        )

    def finish(self, job: Job) -> dict[str, Json]:
        """Make what the script left the artifact; return the facts that it tells."""
        packages = [[*package, ""] for package in read_packages(job.out / "packages")]
        scripts = sorted({name.removesuffix("...") for name in (job.out / "scripts").read_text("utf-8").split()})
        repositories = [
            {"name": path.stem, **read_database(path, job.work)} for path in sorted((job.out / "databases").iterdir())
        ]
        tree = Tree.read(job.out / ROOTFS_TAR)
        self._normalise(tree)
        for path in (*(job.out / "databases").iterdir(), job.out / "packages", job.out / "scripts"):
            path.unlink()
        (job.out / "databases").rmdir()
        tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {"repositories": repositories, "packages": packages, "failed_scripts": scripts}

    def _write_inputs(self, folder: Path, further: Mapping[str, Path]) -> Mapping[str, Path]:
        """Write what the command reads whatever the mirror is; return all that it reads by name."""
        (folder / "script").write_text(self._script(), "utf-8")
        inputs = {**further, "script": folder / "script", "pacman.conf": folder / "pacman.conf"}
        if self.keyring.file:
            inputs["keyring"] = folder / "keyring"
            inputs["keyring"].write_bytes(self.keyring.read())
        return inputs

    def _call(self, job: Job, inputs: Mapping[str, Path], mirror: str, *, network: bool) -> None:
        configuration = render(CONFIGURATION, arch=self.arch, repositories=self._urls(mirror))
        inputs["pacman.conf"].write_text(configuration, "utf-8")
        environment = (("SOURCE_DATE_EPOCH", str(self.epoch)),)
        job.run(
            Command(argv=("bash", "/in/script"), env=environment, root=True, network=network),
            inputs=inputs,
        )

    def _refuse_old(self, job: Job, mirror: str) -> None:
        """Raise Outdated when a database that the script left is older than one that was there before.

        A day of the archive is an address of its own.
        """
        for name, url in self._urls(mirror):
            stamp = newest_build(job.out / "databases" / f"{name}.db", job.work)
            if stamp is not None:
                memory = memory_of(job.cache(_SEEN), url, parameters(self.keyring))
                refuse_old(memory, stamp, lag_max_s=LAG_MAX_S, url=url)

    def _urls(self, mirror: str) -> list[tuple[str, str]]:
        """Return each repository's name and address."""
        return [(name, path if "://" in path else f"{mirror.rstrip('/')}/{path}") for name, path in self.repositories]

    def _explain(self, names: Path, log: str, mirror: str) -> Problem | None:
        return explain(
            log,
            mirror=mirror,
            subject=self.subject,
            keys=self.keyring.fingerprints,
            names=names.read_text("utf-8").splitlines() if names.is_file() else (),
        )

    def _script(self) -> str:
        return render_script(
            self.script,
            own_keyring=self.keyring.file is not None,
            keyring=shlex.quote(self.keyring.builder_path),
            fingerprints=self.keyring.fingerprints,
            packages=self.packages,
            failed=FAILED,
            tar=ROOTFS_TAR,
        )

    def _normalise(self, tree: Tree) -> None:
        """Take out what tells of this build: what pacman left for itself, the clock, a random identity."""
        tree.remove_glob(*_LEFTOVERS)
        for name in tree.glob("var/lib/pacman/local/*/desc"):
            content = _INSTALLED.sub(str(self.epoch).encode(), tree.read_bytes(name))
            tree.add_file(name, content, mode=tree.get(name).mode, replace=True)
        if tree.exists("etc/machine-id"):
            tree.add_file("etc/machine-id", b"", replace=True)


def read_packages(listing: Path) -> list[tuple[str, str]]:
    """Return the name and version of each package in pacman's listing, sorted."""
    rows = (line.partition(" ") for line in listing.read_text("utf-8").splitlines())
    return sorted((name, version) for name, _, version in rows)


def read_database(path: Path, scratch: Path) -> dict[str, str]:
    """Return the day of the newest package in a repository's database, {} for an empty one."""
    stamp = newest_build(path, scratch)
    return {} if stamp is None else {"date": date(stamp)}


def newest_build(path: Path, scratch: Path) -> int | None:
    """Return when the newest package of a database was built, in seconds since 1970.

    A database is a tar of texts, which is expanded in the folder `scratch`.
    """
    database = Tree.read(path, scratch=scratch)
    texts = (database.read_bytes(name) for name in database.glob("*/desc"))
    built = (int(found[1]) for text in texts if (found := re.search(rb"%BUILDDATE%\n(\d+)", text)))
    return max(built, default=None)


def install(order: Order) -> Install:
    """Return the action for an order (the adapter of package manager pacman).

    Raises UsageError for a mirror or a repository (setting components) that cannot be, PlanError for a guest of another
    architecture than this machine's.
    """
    choice = order.choice
    refuse_foreign(choice)
    subject = f"{choice.recipe.name} {choice.release_name}"
    repositories = tuple(
        (each.name, each.below(release=choice.release_name.replace("-", "/"), arch=choice.arch.name))
        for each in chosen_repositories(order)
    )
    check_mirrors(order.mirrors, subject=subject, below=repositories[0][1])
    return Install(
        subject=subject,
        arch=choice.arch.name,
        repositories=repositories,
        packages=order.packages.everything,
        keyring=Keyring.of_order(order),
        epoch=order.epoch,
        mirrors=order.mirrors,
    )
