"""The packages of a lock, fetched by ourselves: each verified by its sha256, for every package manager alike.

The artifact is a folder of package files, so that the step which installs them needs no network. Its files are those of
the store's downloads (hard links): two locks that share a package share its bytes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro.lock import LockedPackage
from osbuilder.errors import FetchError, LockMoved, PlanError, VerificationError
from osbuilder.fetch import Source
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

# Each waits for the network more than it computes.
_CONNECTIONS: Final = 6
_GONE: Final = ("HTTP 404", "HTTP 410", "cannot be read: No such file")
_OTHER_SIZE: Final = "are announced"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchPackages:
    """Fetch the packages of a lock: leaves one file each. `subject` says whose lock, `remedy` what makes it anew.

    Raises PlanError for two packages in files of one name.
    """

    packages: tuple[LockedPackage, ...]
    mirrors: tuple[str, ...] = dataclasses.field(metadata=NOT_IN_KEY)
    subject: str = dataclasses.field(metadata=NOT_IN_KEY)
    remedy: str = dataclasses.field(metadata=NOT_IN_KEY)
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        names: dict[str, LockedPackage] = {}
        for package in self.packages:
            other = names.setdefault(package.file_name, package)
            if other != package:
                raise PlanError(
                    f"{self.subject}: two packages are in files of one name: {other} ({other.path}) and "
                    f"{package} ({package.path})",
                    hint=f"Make it anew: {self.remedy}",
                )

    def describe(self) -> tuple[str, ...]:
        size = sum(package.size_bytes for package in self.packages) / 2**20
        return (f"fetch the {len(self.packages)} packages of {self.subject} ({size:.1f} MiB), each by its sha256",)

    def run(self, job: Job) -> Mapping[str, Json]:
        return fetch_each(self.packages, lambda package: self._fetch(job, package), self.subject, self.remedy)

    def _fetch(self, job: Job, package: LockedPackage) -> None:
        source = Source(
            name=package.file_name,
            urls=package.urls(self.mirrors),
            sha256=package.sha256,
            size_bytes=package.size_bytes,
        )
        (job.out / package.file_name).hardlink_to(job.fetch(source))


def fetch_each(
    packages: tuple[LockedPackage, ...], fetch: Callable[[LockedPackage], None], subject: str, remedy: str
) -> Mapping[str, Json]:
    """Fetch packages, several at once; return the facts. `fetch` puts one into its place.

    Raises LockMoved that names each which is gone or has other bytes, and what `fetch` raises for what may pass.
    """
    moved: dict[str, str] = {}
    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="locked") as pool:
        waiting = {pool.submit(_moved, fetch, package): package for package in packages}
        try:
            for future, package in waiting.items():
                if why := future.result():
                    moved[package.name] = f"{package} ({package.path}): {why}"
        finally:
            for future in waiting:
                future.cancel()
    if moved:
        told = "".join(f"\n  {line}" for line in moved.values())
        raise LockMoved(
            f"the mirror no longer has what {subject} says:{told}",
            hint=f"See what an update changes: {remedy} --diff   Make it anew: {remedy}",
            packages=tuple(moved),
        )
    return {"packages": len(packages)}


def _moved(fetch: Callable[[LockedPackage], None], package: LockedPackage) -> str:
    """Fetch a package, or return why the mirrors do not have it. Raises FetchError for what may pass."""
    try:
        fetch(package)
    except VerificationError as error:
        return f"other bytes: {_reasons(error)}"
    except FetchError as error:
        reasons = _reasons(error)
        if all(any(sign in line for sign in _GONE) for line in reasons.split("; ")):
            return f"gone: {reasons}"
        if _OTHER_SIZE in reasons:
            return f"other bytes: {reasons}"
        raise
    return ""


def _reasons(error: FetchError) -> str:
    """Return what each mirror did, without a first line that only names the package."""
    lines = [line.strip() for line in error.message.splitlines()]
    return "; ".join(lines[1:] if lines[0].endswith(":") else lines)


def exactly(packages: tuple[LockedPackage, ...], installed: Iterable[Sequence[str]], *, subject: str) -> None:
    """Raise VerificationError unless what was installed, [(name, version, arch)], is what the lock says."""
    expected = {(package.name, package.version, package.arch) for package in packages}
    came = {(name, version, arch) for name, version, arch in installed}
    if came == expected:
        return
    told = [f"{name} {version} was left out" for name, version, _ in sorted(expected - came)]
    told += [f"{name} {version} came besides" for name, version, _ in sorted(came - expected)]
    raise VerificationError(
        f"{subject}: the package manager did not install what is locked: {', '.join(told)}",
        hint="Make the lock anew: inv lock",
    )
