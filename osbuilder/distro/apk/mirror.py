"""Mirrors of an Alpine repository: keys, indexes and packages are downloaded here, and verified before they are used.

Layout: <mirror>/v<release>/<repository>/<arch>/APKINDEX.tar.gz, packages beside it. An index has no date of expiry.
What tells a replayed one is the build time of its newest package: an index older than the release itself, or much
older than one that this store has seen, is refused. What tells another release's is its description.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from osbuilder.distro.apk.archive import SignedIndex, VerifiedPackage, open_index, open_package
from osbuilder.distro.apk.declared import SigningKey
from osbuilder.distro.apk.index import Package, newest_build
from osbuilder.distro.apk.keys import TrustedKey, TrustedKeys, sha512_of
from osbuilder.distro.indexes import LAG_MAX_S, Checked, from_first, memory_of, on_one_line, refuse_old
from osbuilder.errors import FetchError, VerificationError
from osbuilder.fetch import Source

if TYPE_CHECKING:
    from pathlib import Path

    from osbuilder.step import Job

INDEX: Final = "APKINDEX.tar.gz"
_INDEX_MAX_BYTES: Final = 64 << 20
_KEY_MAX_BYTES: Final = 64 << 10
_SEEN: Final = "apk-indexes"
# Alpine's builders describe an index by `git describe` of their aports: v3.23.2-113-g0123abcd in a release's branch,
# v20220809-216-g0123abcd or v3.13.0-712-g0123abcd (the newest tag below it) in edge. apk-mkndx(8), and what
# `apk update` prints. Repositories of other people say what they like.
_OFFICIAL: Final = re.compile(r"v(?:(\d+\.\d+)\.\d+(?:_\w+)?|\d{6,8})(?:-\d+-g[0-9a-f]+)?")
# Each waits for the network more than it computes.
_CONNECTIONS: Final = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repositories:
    """The indexes of one mirror; `names` are their folders below it, such as v3.23/main/x86_64."""

    mirror: str
    indexes: tuple[SignedIndex, ...]
    names: tuple[str, ...]


def fetch_keys(job: Job, pinned: Iterable[SigningKey], url: str) -> TrustedKeys:
    """Return the pinned keys, downloaded once and held against their sha512. Raises FetchError, VerificationError."""
    return TrustedKeys(tuple(_fetch_key(job, key, url) for key in pinned))


def _fetch_key(job: Job, key: SigningKey, url: str) -> TrustedKey:
    def check(data: bytes) -> None:
        came = sha512_of(data)
        if came != key.sha512:
            raise VerificationError(f"expected sha512 {key.sha512}, got {came}")

    source = Source(
        name=key.name,
        urls=(f"{url.rstrip('/')}/{key.name}",),
        proof=Checked(f"sha512 {key.sha512}", check),
        max_bytes=_KEY_MAX_BYTES,
    )
    return TrustedKey(key.name, job.fetch(source).read_bytes())


def fetch_indexes(
    job: Job, *, mirrors: Sequence[str], release: str, arch: str, components: Sequence[str], keys: TrustedKeys, day: int
) -> Repositories:
    """Return all indexes from the first mirror that serves them; `day` (seconds) is the release's own.

    A mirror that does not answer or is out of date gives way to the next. Raises FetchError when none is left, and
    VerificationError at once for a wrong signature or another release: that is an attack or a mistake to be told, not a
    hiccup.
    """
    names = tuple(f"v{release}/{component}/{arch}" for component in components)

    def attempt(mirror: str) -> Repositories:
        indexes = tuple(_fetch_index(job, mirror, name, keys, release, day) for name in names)
        return Repositories(mirror=mirror, indexes=indexes, names=names)

    return from_first(mirrors, attempt)


def _fetch_index(job: Job, mirror: str, folder: str, keys: TrustedKeys, release: str, day: int) -> SignedIndex:
    url = f"{mirror.rstrip('/')}/{folder}/{INDEX}"
    wrong: list[VerificationError] = []
    opened: list[SignedIndex] = []

    def check(data: bytes) -> None:
        try:
            opened[:] = [open_index(data, keys, where=url)]
        except VerificationError as error:
            wrong.append(error)
            raise

    source = Source(
        name=f"{folder.replace('/', '-')}-{INDEX}",
        urls=(url,),
        proof=Checked(f"the signed index {url}", check),
        max_bytes=_INDEX_MAX_BYTES,
    )
    try:
        # Into this build's own folder: what an index says today is asked anew by every build.
        job.fetch(source, into=job.work)
    except FetchError as error:
        if wrong:
            raise wrong[-1] from error
        raise on_one_line(error) from error
    (index,) = opened
    _refuse_another_release(index.description, release, url=url)
    # One for all mirrors, and for the keys themselves: what a signature calls its key, nobody has signed.
    memory = memory_of(job.cache(_SEEN), folder, list(keys.digests))
    refuse_old(memory, newest_build(index.text), day=day, lag_max_s=LAG_MAX_S, url=url)
    return index


def _refuse_another_release(description: str, release: str, *, url: str) -> None:
    """Raise VerificationError when an index with Alpine's own form of description says another release than asked."""
    official = _OFFICIAL.fullmatch(description)
    if official and official[1] != release:
        raise VerificationError(
            f"another release's index came ({url}): expected one of {release}, got {official[1] or 'edge'}, "
            f"which describes itself as {description}",
            hint="It is validly signed, so that a mirror that mixes releases up, or somebody on the way to it, put it "
            "there. Nothing of it was used. Name another mirror (setting mirrors); in a repository of your own, "
            "describe it otherwise (apk index --description).",
        )


def fetch_packages(
    job: Job, packages: Sequence[Package], repositories: Repositories, *, mirrors: Sequence[str], keys: TrustedKeys
) -> Mapping[str, VerifiedPackage]:
    """Return the packages by name, several downloads at once; the mirror of the index is asked first.

    Raises FetchError or VerificationError for the first package, in their order, that cannot be had.
    """
    ordered = (repositories.mirror, *(mirror for mirror in mirrors if mirror != repositories.mirror))
    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="apk") as pool:
        waiting = {
            package.name: pool.submit(_fetch_package, job, package, repositories.names, ordered, keys)
            for package in packages
        }
        try:
            return {name: future.result() for name, future in waiting.items()}
        finally:
            for future in waiting.values():
                future.cancel()


def fetch_files(
    job: Job, packages: Sequence[Package], repositories: Repositories, *, mirrors: Sequence[str], keys: TrustedKeys
) -> Mapping[str, Path]:
    """Return the packages' files by name, verified as `fetch_packages` does. Raises FetchError, VerificationError."""
    ordered = (repositories.mirror, *(mirror for mirror in mirrors if mirror != repositories.mirror))

    def fetch_file(package: Package) -> Path:
        source, _ = _source(package, repositories.names, ordered, keys)
        return job.fetch(source)

    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="apk") as pool:
        return dict(zip((package.name for package in packages), pool.map(fetch_file, packages), strict=True))


def _fetch_package(
    job: Job, package: Package, names: Sequence[str], mirrors: Sequence[str], keys: TrustedKeys
) -> VerifiedPackage:
    source, opened = _source(package, names, mirrors, keys)
    # A download is returned only after its check has passed, and that one has read and kept the package.
    job.fetch(source)
    return opened[0]


def package_path(package: Package, names: Sequence[str]) -> str:
    """Return where a package is below a mirror: noarch ones lie beside the others, under the index's architecture."""
    return f"{names[package.repository]}/{package.file_name}"


def _source(
    package: Package, names: Sequence[str], mirrors: Sequence[str], keys: TrustedKeys
) -> tuple[Source, list[VerifiedPackage]]:
    """Return what to fetch for a package, and the list where its check leaves what it has opened."""
    opened: list[VerifiedPackage] = []

    def check(data: bytes) -> None:
        opened[:] = [open_package(data, package, keys)]

    source = Source(
        name=package.file_name,
        urls=tuple(f"{mirror.rstrip('/')}/{package_path(package, names)}" for mirror in mirrors),
        proof=Checked(f"package {package.fields['C']} of the signed index", check),
        size_bytes=package.size_bytes,
    )
    return source, opened
