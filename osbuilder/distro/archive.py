"""A distribution that comes as one tarball of a root filesystem, such as Gentoo's stage3: downloaded, verified, used.

What vouches for the tarball is a sha256 in the recipe, or a chain of clear-signed texts: one names the newest tarball
(latest-stage3-*.txt), another, beside the tarball, has its SHA-512 (*.DIGESTS). Of both only what gpgv says was signed
is read. Nothing of the tarball runs, so every host can make every architecture's.

A signed text has no date of expiry. What tells a replayed one is the timestamp in the tarball's name: one that is older
than the release itself, or much older than one that this store has seen, is refused. The rest of the name tells another
tarball's text: latest-stage3-amd64-openrc.txt names a stage3-amd64-openrc-TIME.

Sources: Gentoo's handbook, "Validating" (the DIGESTS file); gpgv(1) for --output and --status-fd.
"""

from __future__ import annotations

import calendar
import dataclasses
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro.indexes import Digest, from_first, on_one_line, refuse_old
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.order import refuse_packages
from osbuilder.distro.told import need_mirror
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import FetchError, UsageError, VerificationError
from osbuilder.fetch import Source
from osbuilder.openpgp import read_verdict
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
_TEXT_MAX_BYTES: Final = 1 << 20
_KEYS_MAX_BYTES: Final = 16 << 20
_TARBALL_MAX_BYTES: Final = 4 << 30
_SEEN: Final = "archive-tarballs"
# Stage3 tarballs are made each week; a mirror a month behind has stopped.
_LAG_MAX_S: Final = 30 * 86400
STAMP: Final = re.compile(r"\d{8}T\d{6}Z")
_LATEST: Final = re.compile(r"latest-(.+)\.txt")
_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9][A-Za-z0-9._+-]*)*\.tar\.(?:xz|zst|gz)) (\d+)")
_SHA512: Final = re.compile(r"([0-9a-f]{128})  (\S+)")

# Folders of the package database are named CATEGORY/NAME-VERSION (Package Manager Specification, 3.2 and 14).
_PACKAGE: Final = re.compile(r"var/db/pkg/([^/]+)/(.+)-(\d[^-]*(?:-r\d+)?)")

VERIFY: Final = """\
mkdir --mode=700 /work/gnupg
pgp() { gpg --batch --no-options --no-autostart --homedir /work/gnupg "$@"; }
pgp --quiet --import /in/keys || true
pgp --export {{ fingerprints | sh }} > /work/trusted.gpg
gpgv --homedir /work/gnupg --keyring /work/trusted.gpg --output /out/text --status-fd 3 /in/signed \\
  3> /out/verdict || true
"""
"""Leaves what was signed in /out/text, and the verdict on it in /out/verdict; none is a refusal."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unpack:
    """Download a tarball and leave it as rootfs.tar. `subject` names the distribution and its release.

    `path`, below each of `mirrors`, is the tarball with that `sha256` or, without one, a signed text that names it;
    then the keys of `keyring` count, from `keys_url` unless the user brought them. Facts: `packages`, the `mirror` that
    served, the `tarball` and its `sha512`, and `signed_by`.
    """

    subject: str
    path: str
    sha256: str
    keyring: Keyring
    keys_url: str
    mirrors: tuple[str, ...]
    released: int
    epoch: int
    script: str = VERIFY
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for mirror in self.mirrors:
            if not re.fullmatch(r"(https?|file)://\S+", mirror):
                raise UsageError(
                    f"not a mirror of {self.subject}: {mirror!r}",
                    hint=f"Give the URL that has {self.path} below it.",
                )

    def describe(self) -> tuple[str, ...]:
        urls = tuple(f"fetch {self._url(mirror, self.path)}" for mirror in self.mirrors)
        if self.sha256:
            return (*urls, f"check that its sha256 is {self.sha256}")
        keys = () if self.keyring.file else (f"fetch {self.keys_url}",)
        return (*keys, *urls, *lines(self._script()), "fetch the tarball that it names, check it with its DIGESTS")

    def run(self, job: Job) -> Mapping[str, Json]:
        """Deliver the tree. Raises FetchError, VerificationError, TreeError."""
        path, facts = self.download(job)
        return {**facts, "packages": unpack_tarball(path, job, epoch=self.epoch)}

    def download(self, job: Job) -> tuple[Path, dict[str, Json]]:
        """Return the verified tarball, and the facts of where it came from and what vouches for it. Raises as `run`."""
        return self._pinned(job) if self.sha256 else self._newest(job)

    def _pinned(self, job: Job) -> tuple[Path, dict[str, Json]]:
        urls = tuple(self._url(mirror, self.path) for mirror in self.mirrors)
        source = Source(name=PurePosixPath(self.path).name, urls=urls, sha256=self.sha256, max_bytes=_TARBALL_MAX_BYTES)
        return job.fetch(source), {"tarball": self.path, "sha256": self.sha256}

    def _newest(self, job: Job) -> tuple[Path, dict[str, Json]]:
        keys = job.work / "keys"
        keys.write_bytes(self.keyring.read() if self.keyring.file else self._fetch_keys(job))
        return from_first(self.mirrors, lambda mirror: self._from_mirror(job, mirror, keys))

    def _from_mirror(self, job: Job, mirror: str, keys: Path) -> tuple[Path, dict[str, Json]]:
        url = self._url(mirror, self.path)
        text, signer = self._signed_text(job, url, keys)
        name, size_bytes = read_latest(text, url=url)
        refuse_another_tarball(name, url=url)
        memory = job.cache(_SEEN) / f"{self.path.replace('/', '-')}-{signer}.json"
        stamp = stamp_of(name, url=url)
        refuse_old(memory, stamp, day=self.released, lag_max_s=_LAG_MAX_S, url=url, what="its tarball")

        # The text names files relative to the folder that it lies in.
        tarball = f"{self.path.rpartition('/')[0]}/{name}".lstrip("/")
        digests, _ = self._signed_text(job, f"{self._url(mirror, tarball)}.DIGESTS", keys)
        sha512 = read_sha512(digests, PurePosixPath(name).name, url=f"{self._url(mirror, tarball)}.DIGESTS")
        source = Source(
            name=PurePosixPath(name).name,
            urls=(self._url(mirror, tarball), *(self._url(m, tarball) for m in self.mirrors if m != mirror)),
            proof=Digest("sha512", sha512),
            size_bytes=size_bytes,
            max_bytes=_TARBALL_MAX_BYTES,
        )
        facts = {"mirror": mirror, "tarball": tarball, "sha512": sha512, "signed_by": signer}
        return job.fetch(source), facts

    def _fetch_keys(self, job: Job) -> bytes:
        # Not pinned itself: of what comes only keys with the pinned fingerprints are used.
        source = Source(name="keys", urls=(self.keys_url,), sha256=None, max_bytes=_KEYS_MAX_BYTES)
        return job.fetch(source, into=job.work).read_bytes()

    def _signed_text(self, job: Job, url: str, keys: Path) -> tuple[str, str]:
        """Return what was signed of a clear-signed text, and the signer. Raises FetchError, VerificationError."""
        name = PurePosixPath(url).name
        try:
            source = Source(name=name, urls=(url,), sha256=None, max_bytes=_TEXT_MAX_BYTES)
            signed = job.fetch(source, into=job.work)
        except FetchError as error:
            raise on_one_line(error) from error
        output = Path(tempfile.mkdtemp(dir=job.work))
        run_script(job, self._script(), inputs={"signed": signed, "keys": keys}, output=output)
        status = (output / "verdict").read_text("utf-8", "replace")
        trusted = None if self.keyring.file else self.keyring.fingerprints
        verdict = read_verdict(status, trusted=trusted, keys="the keyring")
        if not verdict.signer:
            wanted = " or ".join(self.keyring.fingerprints) or "a key of the keyring that was named"
            raise VerificationError(
                f"{url}: {verdict.problem}\n  expected a good signature by {wanted}",
                hint="Nothing of it was used. Name the distribution's own mirror (setting mirrors), or the mirror's "
                "own key (setting keyrings).",
            )
        return (output / "text").read_text("utf-8", "replace"), verdict.signer

    def _script(self) -> str:
        return render(self.script, fingerprints=self.keyring.fingerprints)

    def _url(self, mirror: str, path: str) -> str:
        return f"{mirror.rstrip('/')}/{path}"


def unpack_tarball(path: Path, job: Job, *, epoch: int) -> list[list[str]]:
    """Leave a tarball as a root filesystem tar, no file younger than `epoch`; return its packages. Raises TreeError."""
    tree = Tree.read(path, scratch=job.work)
    tree.write(job.out / ROOTFS_TAR, epoch=epoch)
    return read_packages(tree)


def read_latest(text: str, *, url: str) -> tuple[str, int]:
    """Return the tarball's path and size in bytes that a signed text names. Raises VerificationError."""
    found = [match for line in text.splitlines() if (match := _NAMED.fullmatch(line.strip()))]
    if len(found) != 1:
        raise VerificationError(
            f"{url}: expected one line with a tarball and its size, got {len(found)}",
            hint="It is validly signed: the distribution changed its format, or this is another text of theirs.",
        )
    return found[0][1], int(found[0][2])


def refuse_another_tarball(name: str, *, url: str) -> None:
    """Raise VerificationError when the text at .../latest-STEM.txt names a tarball that is not STEM-TIME.

    The same key signs all flavours and architectures. A text with a name of another form says nothing of its tarball.
    """
    latest = _LATEST.fullmatch(PurePosixPath(url).name)
    if latest and not re.match(rf"{re.escape(latest[1])}-{STAMP.pattern}\.", PurePosixPath(name).name):
        raise VerificationError(
            f"another tarball's text came ({url}): expected it to name {latest[1]}-TIME, got {name}",
            hint="It is validly signed, so that a mirror that mixes flavours or architectures up, or somebody on the "
            "way to it, put it there. Nothing of it was used. Name another mirror (setting mirrors).",
        )


def stamp_of(name: str, *, url: str) -> int:
    """Return the time that a tarball's name bears, in seconds since 1970. Raises VerificationError."""
    stamps = STAMP.findall(name)
    if not stamps:
        raise VerificationError(f"{url} names {name}: expected a name with a time such as 20260101T000000Z in it")
    return calendar.timegm(time.strptime(stamps[-1], "%Y%m%dT%H%M%SZ"))


def read_sha512(text: str, name: str, *, url: str) -> str:
    """Return the SHA-512 of a file that a signed list of digests has. Raises VerificationError."""
    method, named = "", []
    for line in text.splitlines():
        # BLAKE2B digests are as long: a line before them says which they are.
        if heading := re.fullmatch(r"# (\S+) HASH", line):
            method = heading[1]
        elif (match := _SHA512.fullmatch(line)) and method == "SHA512" and match[2] == name:
            named.append(match[1])
    if len(named) != 1:
        raise VerificationError(f"{url}: expected the SHA512 of {name} in it, got {len(named)} of them")
    return named[0]


def read_packages(tree: Tree) -> list[list[str]]:
    """Return [name, version, ""] of each package in Gentoo's database of a tree, sorted; none without one."""
    found = (_PACKAGE.fullmatch(name) for name in tree.glob("var/db/pkg/*/*"))
    return sorted([f"{match[1]}/{match[2]}", match[3], ""] for match in found if match)


def unpack(order: Order) -> Unpack:
    """Return the action for an order (the adapter of package manager archive).

    Raises UsageError for any package, NoMirror where neither a setting nor the recipe names one.
    """
    choice = order.choice
    declared = choice.recipe.archive
    assert declared is not None  # noqa: S101 - the recipe's own check
    refuse_packages(order)
    tarball = declared.tarball(choice.arch.name)
    if order.keyring:
        keyring = Keyring.of_file(order.keyring)
    else:
        keyring = Keyring(fingerprints=tuple(key.text for key in choice.release.signed_by))
    subject = f"{choice.recipe.name} {choice.release_name}"
    path = tarball.below(choice.release_name)
    need_mirror(order.mirrors, subject=subject, below=path.rpartition("/")[0] or path)
    return Unpack(
        subject=subject,
        path=path,
        sha256=tarball.sha256,
        keyring=keyring,
        keys_url=declared.keys_url,
        mirrors=order.mirrors,
        released=choice.release.released.epoch,
        epoch=order.epoch,
    )
