"""A kernel's source from a Debian source package; apt verifies the signature, and what it signs is looked at here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from osbuilder.distro.apt_releases import check_releases
from osbuilder.distro.problems import STOPPED, Outdated
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed, FetchError, SourceError, VerificationError
from osbuilder.kernel.archive import deliver

if TYPE_CHECKING:
    from osbuilder.step import Job

# The builder's sources name the mirrors, a line each; a suite other than the builder's replaces its name there.
# Everything that apt writes goes to /work: the builder is read-only.
_DEBIAN = """\
mkdir -p /work/apt/sources /work/apt/state/lists/partial /work/apt/cache/archives/partial
base=$(. /etc/os-release; echo "$VERSION_CODENAME")
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  if [ -f "$file" ]; then
    sed -E -e "{{ "/[[:space:]]$base-[a-z]/d" if alone }}" \\
      -e "s,([[:space:]])$base(-[a-z]+)?,\\1"{{ suite | sh }}"\\2,g" "$file" > "/work/apt/sources/${file##*/}"
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
mkdir /out/releases
cp /work/apt/state/lists/*Release /out/releases/
apt-cache madison {{ package | sh }} | cut -d '|' -f 2 > /out/available
apt-get --quiet download {{ wanted | sh }}
dpkg-deb --field ./*.deb Version > /out/package_version
dpkg-deb --fsys-tarfile ./*.deb |
  tar --extract --to-stdout --wildcards './usr/src/linux-source-*.tar.xz' |
  xz --decompress --stdout | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


# Whom apt trusts here, which no setting changes: every key of Debian's that the builder has.
_TRUSTED: Final = "the builder's keys"

# What changes at any time, and what is itself an addition to a suite (trixie-backports), has no -updates or -security.
_ROLLING: Final = ("sid", "unstable", "experimental")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DebianPackage:
    """The newest `package` (linux-source-6.12) of a Debian suite, or one `version` of it; apt verifies the signature.

    The indexes have to be of the suites that were asked for, and none older than one that this store has seen. Which
    version was the newest is recorded, and kept as long as the artifact is.
    """

    package: str
    suite: str
    version: str | None = None
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "package"
        output.mkdir()
        try:
            run_script(job, self._script(), output=output, network=True)
        except CommandFailed as error:
            if re.search(r"Unable to locate package|No packages found|Version '.*' for '.*' was not found", error.tail):
                raise self._missing(output) from error
            raise FetchError(f"cannot get the package {self._wanted} of Debian {self.suite}: {error}") from error
        try:
            check_releases(job, output / "releases", trusted=_TRUSTED)
        except Outdated as error:
            raise VerificationError(str(error), hint=STOPPED) from error
        version = (output / "package_version").read_text(encoding="utf-8").strip()
        return deliver(job, output, origin=f"{self.package} {version}") | {"package_version": version}

    def _missing(self, output: Path) -> SourceError:
        """Return what to say when the archive does not have the package, or another version of it than the pinned."""
        listing = output / "available"
        versions = listing.read_text(encoding="utf-8").split() if listing.exists() else []
        if self.version and versions:
            return SourceError(
                f"Debian {self.suite} has no {self.package} {self.version}: it has {', '.join(versions)}",
                hint="Pin what it has in versions.yaml, or name a mirror that keeps old versions (setting mirrors).",
            )
        return SourceError(
            f"no package {self._wanted} in Debian {self.suite}", hint="Correct the kernel line in versions.yaml."
        )

    @property
    def _wanted(self) -> str:
        return f"{self.package}={self.version}" if self.version else self.package

    def _script(self) -> str:
        return render(
            _DEBIAN,
            suite=self.suite,
            package=self.package,
            wanted=self._wanted,
            alone=self.suite in _ROLLING or "-" in self.suite,
        )
