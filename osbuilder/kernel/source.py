"""Where a kernel's source comes from: a Debian source package, a tarball, a git repository or a tree of the user's.

Each kind is an action whose artifact is one file, `source.tar.zst`: a tar with one top folder, as it came but
recompressed (zstd unpacks in a fifth of xz's time, and each source is unpacked at least twice). Every archive is walked
before anything is unpacked from it (see archive.py). Facts: `version`, `epoch` (the newest timestamp in it) and what
identifies the source exactly (`package_version`, `sha256`, `commit`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from osbuilder.errors import CommandFailed, FetchError, SourceError
from osbuilder.fetch import Source
from osbuilder.kernel import archive
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.kernel.script import lines, render, run_script
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9.+-]+")  # a Debian package's name (deb-control(5)), or a suite's
_PACKAGE_VERSION: Final = re.compile(r"[0-9][A-Za-z0-9.+~:-]*")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

# A tree of the user's has no date of its own: its files' are those of the checkout. 1980 is the first year that every
# archive format can tell.
_TREE_EPOCH: Final = 315532800


# --- a Debian source package ---------------------------------------------------------------------------------------

# The builder's sources name the mirrors; a suite other than the builder's replaces its name there. Everything that apt
# writes goes to /work: the builder is read-only.
_DEBIAN = """\
mkdir -p /work/apt/sources /work/apt/state/lists/partial /work/apt/cache/archives/partial
base=$(. /etc/os-release; echo "$VERSION_CODENAME")
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  if [ -f "$file" ]; then
    sed -E "s,([[:space:]])$base(-[a-z]+)?,\\1"{{ suite | sh }}"\\2,g" "$file" > "/work/apt/sources/${file##*/}"
  fi
done
cat > /work/apt/conf <<'END'
Dir::State "/work/apt/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "/work/apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "/work/apt/sources";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
END
export APT_CONFIG=/work/apt/conf
cd /work
apt-get --quiet update
apt-get --quiet download {{ wanted | sh }}
dpkg-deb --field ./*.deb Version > /out/package_version
dpkg-deb --fsys-tarfile ./*.deb |
  tar --extract --to-stdout --wildcards './usr/src/linux-source-*.tar.xz' |
  xz --decompress --stdout | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DebianPackage:
    """The newest `package` (linux-source-6.12) of a Debian suite, or one `version` of it; apt verifies the signature.

    Which version was the newest is recorded, and kept as long as the artifact is.
    """

    package: str
    suite: str
    version: str | None = None

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "package"
        output.mkdir()
        try:
            run_script(job, self._script(), output=output, network=True)
        except CommandFailed as error:
            if re.search(r"Unable to locate package|No packages found|Version '.*' for '.*' was not found", error.tail):
                raise SourceError(
                    f"no package {self._wanted} in Debian {self.suite}",
                    hint="Correct the kernel line in versions.yaml; Debian drops old versions from its mirrors.",
                ) from error
            raise FetchError(f"cannot get the package {self._wanted} of Debian {self.suite}: {error}") from error
        version = (output / "package_version").read_text(encoding="utf-8").strip()
        return _deliver(job, output, origin=f"{self.package} {version}") | {"package_version": version}

    @property
    def _wanted(self) -> str:
        return f"{self.package}={self.version}" if self.version else self.package

    def _script(self) -> str:
        return render(_DEBIAN, suite=self.suite, wanted=self._wanted)


# --- a tarball -----------------------------------------------------------------------------------------------------

_UNPACKERS: Final[Mapping[bytes, str]] = {
    b"\xfd7zXZ\0": "xz",
    b"\x1f\x8b": "gzip",
    b"(\xb5/\xfd": "zstd",
}

_TARBALL = """\
{{ unpack | sh }} --decompress --stdout < /in/tarball | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tarball:
    """A tarball (xz, gzip or zstd) with one top folder, from the first of `urls` that has it."""

    urls: tuple[str, ...] = dataclasses.field(metadata=NOT_IN_KEY)
    sha256: str

    def __post_init__(self) -> None:
        self._source()

    def describe(self) -> tuple[str, ...]:
        return (*(f"fetch {url} (sha256 {self.sha256})" for url in self.urls), "recompress it with zstd -3")

    def run(self, job: Job) -> Mapping[str, Any]:
        path = job.fetch(self._source())
        output = job.work / "tarball"
        output.mkdir()
        run_script(job, render(_TARBALL, unpack=_unpacker(path, self._name)), inputs={"tarball": path}, output=output)
        return _deliver(job, output, origin=self._name) | {"sha256": self.sha256}

    @property
    def _name(self) -> str:
        return PurePosixPath(urlsplit(self.urls[0]).path).name if self.urls else ""

    def _source(self) -> Source:
        return Source(name=self._name or "linux.tar", urls=self.urls, sha256=self.sha256)


def _unpacker(path: Path, origin: str) -> str:
    with path.open("rb") as stream:
        magic = stream.read(6)
    for start, program in _UNPACKERS.items():
        if magic.startswith(start):
            return program
    raise SourceError(
        f"{origin}: expected a tarball in xz, gzip or zstd, got a file that begins with {magic!r}",
        hint="Check the URL and the sha256 of the kernel line in versions.yaml.",
    )


# --- a git repository ----------------------------------------------------------------------------------------------

_GIT = """\
export GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=https:http:git
git init --quiet /work/git
cd /work/git
git fetch --quiet --no-tags --depth=1 -- {{ url | sh }} {{ ref | sh }}
git rev-parse --verify 'FETCH_HEAD^{commit}' > /out/commit
git archive --format=tar --prefix=linux/ FETCH_HEAD | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """A commit of a repository. A branch or tag is resolved once, recorded, and kept as long as the artifact is.

    Only a full commit id is verified by its content; so anything else needs a transport that is (https, or this host).
    """

    url: str
    ref: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http", "git") or not parts.hostname:
            raise ValueError(f"git: expected a https, http or git URL, got {self.url!r}; for a local one write tree:")
        if not _REF.fullmatch(self.ref) or ".." in self.ref:
            raise ValueError(f"ref: expected a branch, a tag or a full commit id, got {self.ref!r}")
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK and not _COMMIT.fullmatch(self.ref):
            raise ValueError(
                f"ref: {parts.scheme} does not protect what {self.ref!r} means: expected a full commit id, or https"
            )

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "git"
        output.mkdir()
        try:
            run_script(job, self._script(), output=output, network=True)
        except CommandFailed as error:
            if re.search(r"couldn't find remote ref|not our ref|unadvertised object", error.tail):
                raise SourceError(
                    f"{self.url} has no branch, tag or commit {self.ref!r}",
                    hint=f"List what it has: git ls-remote {self.url}. Commits need their full id.",
                ) from error
            raise FetchError(f"cannot get {self.ref} from {self.url}: {error}") from error
        commit = (output / "commit").read_text(encoding="utf-8").strip()
        if _COMMIT.fullmatch(self.ref) and commit != self.ref:
            raise SourceError(f"{self.url}: {self.ref!r} names the commit {commit} there: expected that very commit")
        return _deliver(job, output, origin=f"{self.url} at {self.ref}") | {"commit": commit}

    def _script(self) -> str:
        return render(_GIT, url=self.url, ref=self.ref)


# --- a tree of the user's ------------------------------------------------------------------------------------------

_TREE = """\
tar --create --format=gnu --sort=name --mtime=@{{ epoch }} --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \\
  --hard-dereference --anchored --exclude=linux/.git --directory=/in linux |
  zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalTree:
    """A kernel tree on this host, as it is now (without .git). Make one with `of_path`.

    `fingerprint` stands for its content as git's index does: names, modes, sizes, inodes and both timestamps of every
    file. A tree that was only touched is read again; its archive comes out the same, so nothing is built again.
    """

    path: Path = dataclasses.field(metadata=NOT_IN_KEY)
    fingerprint: str

    @classmethod
    def of_path(cls, path: Path) -> LocalTree:
        """Look at the tree. Raises SourceError when it is none, or holds what an earlier build left in it."""
        _check_tree(path)
        return cls(path=path, fingerprint=_fingerprint(path))

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "tree"
        output.mkdir()
        run_script(job, self._script(), inputs={"linux": self.path}, output=output)
        if _fingerprint(self.path) != self.fingerprint:
            raise SourceError(f"{self.path} changed while it was read", hint="Run again when it is at rest.")
        # A manifest tells what went in, not where this host keeps it.
        return _deliver(job, output, origin=str(self.path)) | {"origin": f"the tree {self.path.name}"}

    def _script(self) -> str:
        return render(_TREE, epoch=_TREE_EPOCH)


def _check_tree(path: Path) -> None:
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder", hint="Name the top folder of a kernel source with tree:.")
    makefile = path / "Makefile"
    if not makefile.is_file():
        raise SourceError(
            f"{path}: not a kernel source: it has no Makefile", hint="Name the top folder of a kernel source."
        )
    archive.parse_version(makefile.read_text(encoding="utf-8", errors="replace"), origin=str(path))
    # What the kernel's own Makefile looks for before it builds in another folder.
    products = [path / ".config", path / "include" / "config", *path.glob("arch/*/include/generated")]
    for product in products:
        if product.exists():
            raise SourceError(
                f"{path}: was built in before: {product.relative_to(path)} exists",
                hint=f"Save your .config and clean the tree: make -C {path} mrproper",
            )


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    for name, status in _walk(path, ""):
        values = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(b"%b\0%d %d %d %d %d\n" % (os.fsencode(name), *values))
    return digest.hexdigest()


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder but the top's .git, sorted, links not followed."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if not prefix and entry.name == ".git":
            continue
        name = prefix + entry.name
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            # A folder's own timestamps tell of names, and those are listed.
            yield from _walk(Path(entry.path), f"{name}/")
        else:
            yield name, status


# --- versions.yaml -------------------------------------------------------------------------------------------------

AnySource = DebianPackage | Tarball | Git | LocalTree

# The key that makes a kernel line of one kind -> (the keys that it needs besides, those that it may have).
_KINDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "package": (("suite",), ("version",)),
    "urls": (("sha256",), ()),
    "git": (("ref",), ()),
    "tree": ((), ()),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelLine:
    """One entry of `kernels` in versions.yaml: exactly one kind of source, and the patch series for it.

    Kinds: package + suite (+ version), urls + sha256, git + ref, tree (relative to the checkout's folder). `patches` is
    the name of a folder of kernel/patches, by default the line's own; a line without that folder has no patches.
    """

    package: str | None = None
    suite: str | None = None
    version: str | None = None
    urls: tuple[str, ...] | None = None
    sha256: str | None = None
    git: str | None = None
    ref: str | None = None
    tree: str | None = None
    patches: str | None = None

    def __post_init__(self) -> None:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none of them"
            raise ValueError(f"expected exactly one of {', '.join(_KINDS)}, got {got}")
        needed, allowed = _KINDS[kinds[0]]
        for name in ("suite", "version", "sha256", "ref"):
            given = getattr(self, name) is not None
            if given and name not in needed + allowed:
                raise ValueError(f"{name} does not go with {kinds[0]}")
            if not given and name in needed:
                raise ValueError(f"{kinds[0]} needs {name} beside it")
        for name, pattern in (("package", _WORD), ("suite", _WORD), ("version", _PACKAGE_VERSION), ("patches", _WORD)):
            text = getattr(self, name)
            if text is not None and not pattern.fullmatch(text):
                raise ValueError(f"{name}: malformed: {text!r}")
        if self.tree is None:
            self.source(Path())

    def __str__(self) -> str:
        """What it is made from, for `inv versions`."""
        parts = (self.package, self.suite, self.version, *(self.urls or ()), self.git, self.ref, self.tree)
        return " ".join(part for part in parts if part)

    def source(self, root: Path) -> AnySource:
        """Return the action that gets the source; a relative tree is looked up below `root`.

        Raises ValueError for a malformed pin and SourceError for a tree that cannot be used.
        """
        if self.package is not None and self.suite is not None:
            return DebianPackage(package=self.package, suite=self.suite, version=self.version)
        if self.urls is not None and self.sha256 is not None:
            return Tarball(urls=self.urls, sha256=self.sha256)
        if self.git is not None and self.ref is not None:
            return Git(url=self.git, ref=self.ref)
        return LocalTree.of_path((root / (self.tree or "")).expanduser().resolve())


def _deliver(job: Job, output: Path, *, origin: str) -> dict[str, Any]:
    """Check the archive that a script left in `output`, make it the artifact, return the facts of every kind."""
    found = archive.inspect(output / ARCHIVE, origin=origin)
    (output / ARCHIVE).rename(job.out / ARCHIVE)
    return {"version": found.version, "epoch": found.epoch, "origin": origin}
