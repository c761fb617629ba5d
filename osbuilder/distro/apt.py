"""Debian and its kin: mmdebstrap in a builder turns a signed apt repository into a root filesystem tar.

Owns mmdebstrap's command line. Signatures are always checked, and only by the keys that the recipe pins: there is no
way to say otherwise. What goes wrong on the way is told by osbuilder.distro.apt_errors.

Sources: mmdebstrap(1) 1.5, apt.conf(5), apt-get(8), deb-src-control and the repository format (Debian Policy 5.3,
wiki/DebianRepository/Format).
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.arch import ARCHES, host_arch
from osbuilder.binfmt import CARRIED, check_emulation
from osbuilder.distro.apt_errors import explain
from osbuilder.distro.apt_releases import check_releases, take_releases
from osbuilder.distro.archives import Archive, Archives, find_archives, is_address
from osbuilder.distro.dpkg import read_packages
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.problems import first_that_serves
from osbuilder.engine.base import Command
from osbuilder.errors import UsageError, VerificationError
from osbuilder.step import NOT_IN_KEY, parameters
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"

# mmdebstrap runs it with the target's path when all packages are configured. It keeps the signed Release files, which
# say what state of the archive this was, and removes what mmdebstrap or apt took from the builder and the command
# line: files that say nothing about the distribution and would differ between builders. A guest without apt has no use
# for sources.list, which names the mirror.
CUSTOMIZE_HOOK: Final = """\
#!/bin/sh
set -eu
mkdir -p -m 0777 /out/releases
cp "$1"/var/lib/apt/lists/*Release /out/releases/
rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/apt/apt.conf.d/99mmdebstrap"
[ -e "$1/usr/bin/apt-get" ] || rm -f "$1/etc/apt/sources.list"
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Install Debian packages into an empty root: leaves rootfs.tar. `architecture` is Debian's name of it.

    `archives` are used beside whichever of the `mirrors` serves; `notes` say of them what a person should know.

    Facts: packages (name, version, architecture), repositories (what the signed Release files say of themselves), the
    mirror that served them (null: mmdebstrap's own default), the archives beside it, and the notes.
    """

    suite: str
    architecture: str
    components: tuple[str, ...]
    packages: tuple[str, ...]
    keyring: Keyring
    epoch: int
    mirrors: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    # Essential packages and what `packages` names, nothing else: apt itself is no use in a read-only guest.
    variant: str = "essential"
    hook: str = CUSTOMIZE_HOOK
    notes: tuple[str, ...] = dataclasses.field(default=(), metadata=NOT_IN_KEY)
    timeout_s: int = dataclasses.field(default=30, metadata=NOT_IN_KEY)
    attempts: int = dataclasses.field(default=3, metadata=NOT_IN_KEY)
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for mirror in self.mirrors:
            if not is_address(mirror):
                raise UsageError(
                    f"not a mirror of apt packages: {mirror!r}",
                    hint="Give the URL that has dists/ and pool/ below it, such as https://HOST/debian.",
                )

    def describe(self) -> tuple[str, ...]:
        return self.describe_with(self.options())

    def run(self, job: Job) -> Mapping[str, Json]:
        self.check_host()
        mirror = self.serve(job, self.options(), self.hook)
        repositories = take_releases(job.out)
        packages = read_packages(Tree.read(job.out / ROOTFS_TAR))
        return {
            **self.origin(mirror),
            "repositories": repositories,
            "packages": [list(package) for package in packages],
        }

    def origin(self, mirror: str | None) -> dict[str, Json]:
        """Return the facts of where packages came from: the mirror that served them, and what was used beside it."""
        archives = [archive.line(mirror).removeprefix("deb ") for archive in self.archives] if mirror else []
        return {"mirror": mirror, "archives": archives, "notes": list(self.notes)}

    def describe_with(self, options: tuple[str, ...]) -> tuple[str, ...]:
        """Return the commands that `serve` runs with these options."""
        commands = [] if self.keyring.file else [self._export_command()]
        commands += [self._mmdebstrap(options, mirror) for mirror in self.mirrors or (None,)]
        return tuple(shlex.join(command.argv) for command in commands)

    def serve(self, job: Job, options: tuple[str, ...], hook: str) -> str | None:
        """Run mmdebstrap with further options and a hook (/in/hook) on the first mirror that serves; return which.

        The target is the last of the options. The hook leaves the Release files in /out/releases; a mirror whose are
        older than ones that it served before does not serve. Raises what osbuilder.distro.apt_errors knows,
        VerificationError for another suite's Release file, else CommandFailed.
        """
        inputs = {
            "keyring": self.trusted_keys(job),
            "hook": _executable(job.work / "hook", hook),
        }

        def attempt(mirror: str | None) -> None:
            job.run(self._mmdebstrap(options, mirror), inputs=inputs)
            check_releases(job, job.out / "releases", trusted=parameters(self.keyring))

        return first_that_serves(
            job,
            self.mirrors or (None,),
            attempt,
            lambda log, mirror: explain(
                log, mirror=mirror, suite=self.suite, components=self.components, archives=self.archives
            ),
        )

    def options(self, target: str = f"/out/{ROOTFS_TAR}") -> tuple[str, ...]:
        """Return the options of an installation into a target, for `serve`."""
        return (
            f"--format={'null' if target == '/dev/null' else 'tar'}",
            f"--variant={self.variant}",
            *((f"--include={','.join(self.packages)}",) if self.packages else ()),
            "--customize-hook=/in/hook",
            target,
        )

    def check_host(self, otherwise: str = CARRIED) -> None:
        """Raise what binfmt.check_emulation raises when the packages' scripts are another architecture's."""
        if self.architecture != host_arch().debian:
            (arch,) = [each for each in ARCHES.values() if each.debian == self.architecture]
            check_emulation(arch, otherwise=otherwise)

    def trusted_keys(self, job: Job) -> Path:
        """Return a folder with one keyring in it: all that apt is told to trust."""
        folder = job.work / "keyring"
        folder.mkdir()
        if self.keyring.file:
            content = self.keyring.read()
            # apt tells the two forms apart by their suffix.
            armoured = content.startswith(b"-----BEGIN PGP")
            (folder / f"keyring.{'asc' if armoured else 'gpg'}").write_bytes(content)
        else:
            job.run(self._export_command(), output=folder)
            exported = folder / "keyring.gpg"
            if not exported.is_file() or not exported.stat().st_size:
                raise VerificationError(
                    f"the builder has none of the pinned keys of {self.suite} ({self.keyring.builder_path}): "
                    f"expected {', '.join(self.keyring.fingerprints)}",
                    hint="Rebuild the builder with a newer keyring package, or mend signed-by in the recipe.",
                )
        return folder

    def _export_command(self) -> Command:
        return Command(
            argv=(
                *("gpg", "--batch", "--no-options", "--homedir", "/tmp"),  # noqa: S108 - the builder's tmpfs
                *("--no-default-keyring", "--keyring", self.keyring.builder_path),
                *("--output", "/out/keyring.gpg", "--export", *self.keyring.fingerprints),
            )
        )

    def command(
        self,
        mirror: str | None,
        *,
        target: str = f"/out/{ROOTFS_TAR}",
        signed: bool = True,
        network: bool = True,
    ) -> Command:
        """Return mmdebstrap's command. `mirror` is an address or a line of sources.list (None: mmdebstrap's own).

        Unless `signed`, no key is trusted, for a repository that needs none. A `target` of /dev/null keeps nothing.
        """
        options = self.options(target)
        return self._mmdebstrap(options, mirror, signed=signed, network=network)

    def _mmdebstrap(
        self,
        options: tuple[str, ...],
        mirror: str | None,
        *,
        signed: bool = True,
        network: bool = True,
    ) -> Command:
        *flags, target = options
        apt = {
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": str(self.attempts - 1),
            "Acquire::http::Timeout": str(self.timeout_s),
            "Acquire::https::Timeout": str(self.timeout_s),
        }
        return Command(
            argv=(
                "mmdebstrap",
                "--mode=root",
                f"--architectures={self.architecture}",
                f"--components={','.join(self.components)}",
                *(f'--aptopt={name} "{value}"' for name, value in apt.items()),
                *(("--keyring=/in/keyring",) if signed else ()),
                # check/signed-by would name the builder's whole keyring in sources.list, past the pinned keys.
                # chroot/mount: no engine allows mounts, and a rootfs must not differ where one does.
                # check/qemu: it asks programs that no builder has; who plans a foreign rootfs looks at the host.
                "--skip=check/signed-by,check/qemu,chroot/mount",
                *flags,
                self.suite,
                target,
                *((mirror, *(archive.line(mirror) for archive in self.archives)) if mirror else ()),
            ),
            # The target lies in /tmp, on memory: dpkg syncs every file that it unpacks (1.9x on a disk).
            env=(("SOURCE_DATE_EPOCH", str(self.epoch)), ("TMPDIR", "/tmp")),  # noqa: S108
            root=True,
            network=network,
        )


def bootstrap(order: Order) -> Bootstrap:
    """Return the action for an order (the adapter of package manager apt)."""
    choice = order.choice
    archives = archives_of(order)
    return Bootstrap(
        suite=choice.release_name,
        architecture=choice.arch.debian,
        components=order.components or choice.release.components,
        packages=order.packages.everything,
        keyring=Keyring.of_order(order),
        epoch=order.epoch,
        mirrors=order.mirrors,
        archives=archives.everything,
        notes=archives.notes,
        timeout_s=order.timeout_s,
        attempts=order.attempts,
    )


def archives_of(order: Order) -> Archives:
    """Return what an order uses beside its mirrors. Raises UsageError for what cannot be."""
    return find_archives(
        order.choice.recipe,
        order.choice.release_name,
        order.archives,
        components=order.components or order.choice.release.components,
        mirrors=order.mirrors,
        own_keys=order.keyring is not None,
    )


def addresses(order: Order) -> tuple[str, ...]:
    """Return below which addresses packages are: the mirrors, and what is used beside them (adapters.Locker)."""
    return tuple(dict.fromkeys((*order.mirrors, *(each.url for each in archives_of(order).everything if each.url))))


def _executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path
