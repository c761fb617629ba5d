"""An agent's source and its crates, each one archive: nothing is fetched after them, and no network is needed.

Both are only ever unpacked in a builder without a network. Crates come through Cargo.lock, whose checksums cargo
verifies, or as a tarball that is pinned by its sha256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed, FetchError, SourceError, VerificationError
from osbuilder.kernel.git import Git
from osbuilder.kernel.localtree import walk
from osbuilder.kernel.tarball import Tarball
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

SOURCE: Final = "source.tar.zst"
CRATES: Final = "crates.tar.zst"
VENDOR: Final = "/work/crates/vendor"
"""Where crates are unpacked: in both steps, because cargo writes it into what it compiles."""

_PACK: Final = (
    "tar --create --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX"
    " {arguments} | zstd --quiet -3 -T1 -o /out/{archive}"
)

# What cargo reads to tell which crates are needed. It finds a package's targets by the names of its .rs files.
_MANIFESTS: Final = """\
mkdir -p /work/source
zstd --quiet --decompress --stdout /in/source |
  tar --extract --no-same-owner --strip-components=1 --directory=/work/source
find /work/source -type l '(' -name Cargo.toml -o -name Cargo.lock ')' -exec sh -c '
  for link; do if [ -f "$link" ]; then cp --remove-destination "$(readlink -f "$link")" "$link"; fi; done' sh {} +
find /work/source -type f ! -name Cargo.toml ! -name Cargo.lock ! -path '*/.cargo/*' ! -name '*.rs' -delete
find /work/source -type f -name '*.rs' -exec truncate --size=0 {} +
find /work/source -mindepth 1 -type d -empty -delete
{{ pack }}
"""

_VENDOR: Final = """\
export CARGO_HOME=/cache/cargo CARGO_NET_GIT_FETCH_WITH_CLI=true GIT_TERMINAL_PROMPT=0
mkdir -p /work/source /work/crates
zstd --quiet --decompress --stdout /in/source |
  tar --extract --no-same-owner --strip-components=1 --directory=/work/source
cd /work/source/{{ folder | sh }}
workspace=$(cargo locate-project --workspace --message-format=plain)
if [ ! -f "${workspace%/*}/Cargo.lock" ]; then
  echo "osbuilder: no Cargo.lock"
  exit 1
fi
cargo vendor --locked --versioned-dirs {{ vendor | sh }} > /work/crates/config.toml
mkdir -p {{ vendor | sh }}
{{ pack }}
find {{ vendor | sh }} -mindepth 1 -maxdepth 1 -type d -printf '%f\\n' | sort > /out/crates
"""

_CONFIG: Final = """\
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "/work/crates/vendor"
"""

_REPACK: Final = """\
mkdir -p {{ vendor | sh }}
zstd --quiet --decompress --stdout /in/tarball |
  tar --extract --no-same-owner --strip-components=1 --directory={{ vendor | sh }}
cat > /work/crates/config.toml <<'END'
{{ config }}END
{{ pack }}
find {{ vendor | sh }} -mindepth 1 -maxdepth 1 -type d -printf '%f\\n' | sort > /out/crates
"""


def pack(folder: str, archive: str, *options: str, what: str = ".") -> str:
    """Return the commands that make what is in a folder of the builder an archive that depends on its content alone."""
    return _PACK.format(arguments=shlex.join((*options, f"--directory={folder}", what)), archive=archive)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A source that is fetched: the archive as it came, recompressed. Facts: `commit` or `sha256`."""

    origin: Tarball | Git
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return self.origin.describe()

    def run(self, job: Job) -> Mapping[str, Any]:
        if isinstance(self.origin, Git):
            output, commit = self.origin.get(job)
            facts = {"commit": commit}
        else:
            output, facts = self.origin.get(job), {"sha256": self.origin.sha256}
        (output / SOURCE).rename(job.out / SOURCE)
        return facts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A folder of this host as it is now, without what `left_out` names. Make one with `of_path`.

    `fingerprint` stands for its content as git's index does: names, modes, sizes, inodes and both timestamps.
    """

    path: Path = dataclasses.field(metadata=NOT_IN_KEY)
    fingerprint: str
    left_out: tuple[str, ...]

    @classmethod
    def of_path(cls, path: Path, folder: str = ".") -> Tree:
        """Look at the folder; its Cargo.toml is in `folder`. Left out are .git and what cargo makes, there and at the
        top. Raises SourceError when there is none."""
        if not path.is_dir():
            raise SourceError(f"{path}: no such folder", hint="Name the top folder of the agent's source with tree.")
        left_out = tuple(dict.fromkeys((".git", "target", str(PurePosixPath(folder, "target")))))
        return cls(path=path, fingerprint=_fingerprint(path, left_out), left_out=left_out)

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        run_script(job, self._script(), inputs={"agent": self.path})
        if _fingerprint(self.path, self.left_out) != self.fingerprint:
            raise SourceError(f"{self.path} changed while it was read", hint="Run again when it is at rest.")
        return {"origin": f"the tree {self.path.name}"}

    def _script(self) -> str:
        left_out = (f"--exclude=agent/{name}" for name in self.left_out)
        return render(pack("/in", SOURCE, "--anchored", *left_out, what="agent") + "\n")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """What decides which crates a source needs: its manifests and its lock, and .rs files without what is in them.

    An edit of its code leaves this the same, so the crates that are there stay good, without a network too.
    """

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        run_script(job, self._script(), inputs={"source": job.inputs["source"].path(SOURCE)})
        return {}

    def _script(self) -> str:
        return render(_MANIFESTS, pack=pack("/work", SOURCE, what="source"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VendorCrates:
    """Fetch what Cargo.lock names, with a network; cargo verifies each crate with the checksum that stands there."""

    agent: str
    folder: str
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "crates"
        output.mkdir()
        inputs = {"source": job.inputs["source"].path(SOURCE)}
        try:
            run_script(job, self._script(), inputs=inputs, caches=("cargo",), output=output, network=True)
        except CommandFailed as error:
            raise self._explained(error) from error
        return _delivered(job, output)

    def _explained(self, error: CommandFailed) -> Exception:
        if "osbuilder: no Cargo.lock" in error.tail:
            return SourceError(
                f"agent {self.agent}: its source has no Cargo.lock: expected one that pins every crate",
                hint="Make it with `cargo generate-lockfile` and keep it with the source.",
            )
        if stale := stale_lock(self.agent, error.tail):
            return stale
        if re.search(r"checksum for `.*` changed|failed to verify the checksum|checksum .* not match", error.tail):
            found = re.search(r"checksum (?:for|of) `([^`]*)`", error.tail)
            return VerificationError(
                f"agent {self.agent}: the crate {found[1] if found else '(see the log)'} is not what Cargo.lock says: "
                "its checksum is another one",
                hint="Compare Cargo.lock with upstream's: it was changed, or the registry serves something else.",
            )
        said = error.tail.strip().splitlines()[-1:]
        return FetchError(f"agent {self.agent}: cannot get its crates: {' '.join(said).strip() or error}")

    def _script(self) -> str:
        return render(_VENDOR, folder=self.folder, vendor=VENDOR, pack=pack("/work/crates", CRATES))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CratesTarball:
    """Take the crates from a tarball that `cargo vendor` made; cargo compares its list with Cargo.lock later."""

    tarball: Tarball
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return (*self.tarball.describe(), *lines(self._script()))

    def run(self, job: Job) -> Mapping[str, Any]:
        archive = self.tarball.get(job) / SOURCE
        output = job.work / "crates"
        output.mkdir()
        run_script(job, self._script(), inputs={"tarball": archive}, output=output)
        return _delivered(job, output) | {"sha256": self.tarball.sha256}

    def _script(self) -> str:
        return render(_REPACK, vendor=VENDOR, config=_CONFIG, pack=pack("/work/crates", CRATES))


def stale_lock(agent: str, tail: str) -> SourceError | None:
    """Return what to say when cargo found that Cargo.lock does not fit Cargo.toml, or None."""
    if not re.search(r"lock file .* (needs to be|because --locked)|cannot update the lock file", tail):
        return None
    return SourceError(
        f"agent {agent}: Cargo.lock does not fit Cargo.toml: a crate that is needed has no entry, or another version",
        hint="Bring it up to date (`cargo update --workspace`), and keep it with the source.",
    )


def _delivered(job: Job, output: Path) -> dict[str, Any]:
    (output / CRATES).rename(job.out / CRATES)
    return {"crates": (output / "crates").read_text(encoding="utf-8").split()}


def _fingerprint(path: Path, left_out: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name, status in walk(path, "", without=left_out):
        values = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(b"%b\0%d %d %d %d %d\n" % (os.fsencode(name), *values))
    return digest.hexdigest()
