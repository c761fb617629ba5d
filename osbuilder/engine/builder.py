"""Builders: a Debian suite and packages, bootstrapped with mmdebstrap and normalised to one tar, the same everywhere.

On the host mmdebstrap runs as root in mode root, in namespaces that take its mounts and processes with them when it
ends, and as an ordinary user in its own user namespace (mode unshare). Where a registry answers, it can run in a
container of an image instead, and the host needs neither it nor Debian's keys. Signatures are always checked, against
Debian's archive keyring and nothing else, and indexes have to be of the suites that were asked for, and none older than
one that was seen before (distro.apt_releases).

What varies between hosts and runs is removed from the tree: logs, caches, backups, compiled Python, machine identity,
device nodes; and what no tool reads: documentation and translations. apt and its sources stay: the kernel's source
comes through them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, runtime_checkable

from osbuilder.distro.apt_errors import explain
from osbuilder.distro.apt_releases import check_releases
from osbuilder.distro.archives import Archive
from osbuilder.distro.dpkg import read_packages
from osbuilder.distro.problems import first_that_serves
from osbuilder.engine.base import HOSTNAME, log_tail
from osbuilder.errors import CommandFailed, EngineError, ToolMissing, UsageError
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

BUILDER_TAR: Final = "builder.tar"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

COMPONENTS: Final = ("main",)
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POLL_S: Final = 0.5
_TERMINATE_S: Final = 20

_LISTS: Final = "var/lib/apt/lists"
_REMOVED: Final = (
    "dev/**",
    "run/**",
    "tmp/**",
    "var/tmp/**",
    "var/log/**",
    "var/cache/apt/**",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/**",
    "var/cache/man/**",
    f"{_LISTS}/**",
    "var/lib/dpkg/*-old",
    "var/lib/dbus/machine-id",
    "etc/machine-id",
    "etc/*-",  # backups of passwd, group and their shadows
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "usr/share/doc/**",
    "usr/share/info/**",
    "usr/share/lintian/**",
    "usr/share/locale/**",
    "usr/share/man/**",
    "**/__pycache__",
)
_MOUNT_POINTS: Final = ("cache", "in", "out", "work")


@runtime_checkable
class ImageEngine(Protocol):
    """An engine that can pull images. Implementation: engine.docker."""

    def run_in_image(
        self,
        image: str,
        commands: tuple[tuple[str, ...], ...],
        *,
        output: Path,
        log: Path,
        label: str,
        env: Mapping[str, str],
    ) -> None:
        """Pull an image, run commands in one container of it as uid 0 with a network, and fetch what is in its /out.

        Raises CommandFailed for the first command that fails, EngineError.
        """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapBuilder:
    """Bootstrap a builder: leaves builder.tar. `architecture` is Debian's name of it, `epoch` seconds since 1970.

    `mirrors` are tried in order (none: mmdebstrap's own default), each with `archives` beside it. With `base_image` (a
    reference with its digest) mmdebstrap runs in that image. Facts: packages (name, version, architecture), the mirror
    that served them, and the archives beside it.
    """

    suite: str
    packages: tuple[str, ...]
    architecture: str
    epoch: int
    mirrors: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    base_image: str | None = None
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        target = f"<work>/{BUILDER_TAR}"
        return tuple(shlex.join(mmdebstrap_argv(self, target, mirror)) for mirror in self.mirrors or (None,))

    def run(self, job: Job) -> Mapping[str, Json]:
        raw = job.work / BUILDER_TAR
        mirror = first_that_serves(
            job,
            self.mirrors or (None,),
            lambda mirror: self._attempt(job, raw, mirror),
            lambda log, mirror: explain(
                log, mirror=mirror, suite=self.suite, components=COMPONENTS, archives=self.archives
            ),
        )
        packages = normalise(raw, job.out / BUILDER_TAR, epoch=self.epoch)
        archives = [archive.line(mirror).removeprefix("deb ") for archive in self.archives] if mirror else []
        return {"mirror": mirror, "archives": archives, "packages": [list(package) for package in packages]}

    def _attempt(self, job: Job, raw: Path, mirror: str | None) -> None:
        """Bootstrap from one mirror. Raises as check_releases for indexes of another suite or an older state."""
        self._bootstrap(job, raw, mirror)
        releases = job.work / "releases"
        take_releases(raw, releases)
        check_releases(job, releases, trusted=str(KEYRING))

    def _bootstrap(self, job: Job, raw: Path, mirror: str | None) -> None:
        if self.base_image is None:
            bootstrap_on_host(
                self,
                raw,
                mirror=mirror,
                log=job.log,
                proxies=job.proxies,
                authorities=job.ca_bundle,
                check=job.check_stopped,
            )
        else:
            bootstrap_in_image(
                self,
                raw,
                mirror=mirror,
                image=self.base_image,
                engine=job.engine,
                label=job.key,
                log=job.log,
                proxies=job.proxies,
            )


def mmdebstrap_argv(
    spec: BootstrapBuilder, target: str, mirror: str | None, *, mode: str = "auto", authorities: str | None = None
) -> tuple[str, ...]:
    """Return the mmdebstrap(1) command line that writes a builder's tar, before it is normalised.

    apt trusts the certificate authorities in the file `authorities` (PEM) where one is named, else those around it.
    """
    return (
        "mmdebstrap",
        f"--mode={mode}",
        "--format=tar",
        "--variant=apt",
        f"--architectures={spec.architecture}",
        f"--components={','.join(COMPONENTS)}",
        *((f"--include={','.join(spec.packages)}",) if spec.packages else ()),
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *((f'--aptopt=Acquire::https::CAInfo "{authorities}"',) if authorities else ()),
        "--dpkgopt=force-unsafe-io",
        f"--keyring={KEYRING}",
        # Its answer would go into sources.list and depends on the keys of the host.
        "--skip=check/signed-by",
        # The Release files are looked at afterwards.
        "--skip=cleanup/apt/lists",
        spec.suite,
        target,
        *((mirror, *(archive.line(mirror) for archive in spec.archives)) if mirror else ()),
    )


def bootstrap_on_host(
    spec: BootstrapBuilder,
    target: Path,
    *,
    mirror: str | None,
    log: Path,
    proxies: Mapping[str, str],
    authorities: Path | None = None,
    check: Callable[[], None],
) -> None:
    """Run mmdebstrap on this host. `check` is called now and then; what it raises ends mmdebstrap.

    apt trusts the certificate authorities in the file `authorities` (PEM) instead of the host's. Raises ToolMissing
    without mmdebstrap or Debian's keys, UsageError without that file, CommandFailed when it fails.
    """
    _check_tools()
    root = os.geteuid() == 0
    # In mode unshare another uid unpacks: it cannot enter a home. mmdebstrap makes a folder of its own there.
    scratch = tempfile.gettempdir() if not root else str(target.parent)
    environment = {
        "HOME": scratch,
        "LC_ALL": "C.UTF-8",
        "PATH": _PATH,
        "SOURCE_DATE_EPOCH": str(spec.epoch),
        "TMPDIR": scratch,
        **proxies,
    }
    mode = "root" if root else "unshare"
    # It ends with us, however we end: the next build writes to the same place.
    around = ("setpriv", "--pdeathsig", "KILL" if root else "TERM", "--", *(_isolation() if root else ()))
    with log.open("ab") as output, _readable(authorities) as trusted:
        process = subprocess.Popen(
            (*around, *mmdebstrap_argv(spec, str(target), mirror, mode=mode, authorities=trusted)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=target.parent,
            umask=0o022,
            start_new_session=True,
        )
        status = _wait(process, check)
    if status:
        raise CommandFailed(
            f"mmdebstrap exited with status {status} ({spec.suite}, log {log})", status=status, tail=log_tail(log)
        )


@contextlib.contextmanager
def _readable(authorities: Path | None) -> Iterator[str | None]:
    """Yield a copy of a file of certificates, which are public, that apt's own user can read. None for none."""
    if authorities is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="osbuilder-authorities.") as folder:
        copy = Path(folder) / "authorities.pem"
        try:
            shutil.copyfile(authorities, copy)
        except OSError as error:
            raise UsageError(
                f"ca_bundle: cannot read {authorities}: {error.strerror}", hint="Name a PEM file of certificates."
            ) from error
        copy.chmod(0o644)
        Path(folder).chmod(0o755)
        yield str(copy)


_NAMESPACES: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def _isolation() -> tuple[str, ...]:
    """Return what keeps the mounts of mmdebstrap's mode root off this host, even when it is killed.

    Root without CAP_SYS_ADMIN (in a container) can make no namespaces, and mmdebstrap then mounts nothing either.
    """
    try:
        tried = subprocess.run((*_NAMESPACES, "true"), check=False, capture_output=True, env={"PATH": _PATH})
    except FileNotFoundError as error:
        raise ToolMissing("unshare is missing", hint="sudo apt-get install util-linux") from error
    return _NAMESPACES if tried.returncode == 0 else ()


def _wait(process: subprocess.Popen[bytes], check: Callable[[], None]) -> int:
    try:
        while True:
            try:
                return process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                check()
    except BaseException:
        # mmdebstrap removes what it made when all its processes are asked to end, as a terminal does.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_TERMINATE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise


def _check_tools() -> None:
    missing = [name for name in ("mmdebstrap",) if not shutil.which(name, path=_PATH)]
    missing += [] if KEYRING.exists() else ["debian-archive-keyring"]
    missing += [] if os.geteuid() == 0 or shutil.which("newuidmap", path=_PATH) else ["uidmap"]
    if missing:
        raise ToolMissing(
            f"builders cannot be bootstrapped here: {', '.join(missing)} is missing",
            hint=f"sudo apt-get install {' '.join(missing)}   (or name an image to do it in: setting base_image)",
        )


def bootstrap_in_image(
    spec: BootstrapBuilder,
    target: Path,
    *,
    mirror: str | None,
    image: str,
    engine: object,
    label: str,
    log: Path,
    proxies: Mapping[str, str],
) -> None:
    """Run mmdebstrap in a container of a Debian image that is pulled by its digest.

    Raises EngineError for an engine without images and for a reference without a digest, CommandFailed.
    """
    if not isinstance(engine, ImageEngine):
        raise EngineError(
            "the setting base_image needs an engine with images: expected Docker or Podman, got the sandbox",
            hint="Choose one (setting engine), or leave base_image out to bootstrap on this host.",
        )
    if "@sha256:" not in image:
        raise EngineError(
            f"base_image is not pinned: expected NAME@sha256:DIGEST, got {image}",
            hint="`docker pull` prints the digest of what it pulled.",
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="image-") as folder:
        engine.run_in_image(
            image,
            (
                ("apt-get", "--quiet", "update"),
                ("apt-get", "--quiet", "--yes", "--no-install-recommends", "install", *_IMAGE_PACKAGES),
                ("mkdir", "--parents", "/out"),
                mmdebstrap_argv(spec, f"/out/{BUILDER_TAR}", mirror, mode="root"),
            ),
            output=Path(folder),
            log=log,
            label=label,
            env={"DEBIAN_FRONTEND": "noninteractive", "SOURCE_DATE_EPOCH": str(spec.epoch), **proxies},
        )
        (Path(folder) / BUILDER_TAR).replace(target)


_IMAGE_PACKAGES: Final = ("debian-archive-keyring", "gpg", "gpgv", "mmdebstrap")


def take_releases(raw: Path, folder: Path) -> None:
    """Write the Release files that apt used, out of a builder's tar before it is normalised, into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tree = Tree.read(raw)
    for path in tree.glob(f"{_LISTS}/*Release"):
        (folder / Path(path).name).write_bytes(tree.read_bytes(path))


def normalise(raw: Path, target: Path, *, epoch: int) -> tuple[tuple[str, str, str], ...]:
    """Write a builder's tar without what varies; return (name, version, architecture) of its packages.

    Raises TreeError for a malformed tar, RootfsError for a package that is not configured.
    """
    tree = Tree.read(raw)
    tree.remove_glob(*_REMOVED)
    for path in _MOUNT_POINTS:
        tree.add_dir(path, replace=True)
    # A tmpfs gets the mode of the folder that it is mounted on (runc), whatever mode is asked for.
    for path in ("run", "tmp", "var/tmp"):
        tree.add_dir(path, mode=0o1777, replace=True)
    tree.add_file("etc/hostname", f"{HOSTNAME}\n".encode(), replace=True)
    tree.add_file("etc/resolv.conf", b"", replace=True)
    packages = read_packages(tree)
    tree.write(target, epoch=epoch)
    return packages
