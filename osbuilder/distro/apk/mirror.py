"""Mirrors of an Alpine repository: keys, indexes and packages are downloaded here, and verified before they are used.

Layout: <mirror>/v<release>/<repository>/<arch>/APKINDEX.tar.gz, packages beside it. An index has no date of expiry.
What tells a replayed one is the build time of its newest package: an index older than the release itself, or much
older than one that this store has seen, is refused.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.distro.apk.archive import SignedIndex, VerifiedPackage, open_index, open_package
from osbuilder.distro.apk.declared import SigningKey
from osbuilder.distro.apk.index import Package, newest_build
from osbuilder.distro.apk.keys import TrustedKey, TrustedKeys, sha512_of
from osbuilder.errors import FetchError, OsbuilderError, VerificationError
from osbuilder.fetch import Source, shown
from osbuilder.outfile import replacing

if TYPE_CHECKING:
    from osbuilder.step import Job

INDEX: Final = "APKINDEX.tar.gz"
_INDEX_MAX_BYTES: Final = 64 << 20
_KEY_MAX_BYTES: Final = 64 << 10
# Mirrors are minutes to hours behind one another; one that is a week behind has stopped, or serves an old state.
_LAG_MAX_S: Final = 7 * 86400
_SEEN: Final = "apk-indexes"
# Each waits for the network more than it computes.
_CONNECTIONS: Final = 6


class _Outdated(Exception):
    """An index that is validly signed, and too old."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Checked:
    """A fetch proof: `check` reads a file's bytes and raises OsbuilderError for what is wrong with it."""

    pin: str
    check: Callable[[bytes], object]

    def problem(self, path: Path) -> str:
        try:
            self.check(path.read_bytes())
        except OsbuilderError as error:
            return error.message
        return ""


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
        proof=_Checked(f"sha512 {key.sha512}", check),
        max_bytes=_KEY_MAX_BYTES,
    )
    return TrustedKey(key.name, job.fetch(source).read_bytes())


def fetch_indexes(
    job: Job, *, mirrors: Sequence[str], release: str, arch: str, components: Sequence[str], keys: TrustedKeys, day: int
) -> Repositories:
    """Return all indexes from the first mirror that serves them; `day` (seconds) is the release's own.

    A mirror that does not answer or is out of date gives way to the next. Raises FetchError when none is left, and
    VerificationError at once for a wrong signature: that is an attack or a mistake to be told, not a hiccup.
    """
    told: list[str] = []
    hint = ""
    for mirror in mirrors:
        names = tuple(f"v{release}/{component}/{arch}" for component in components)
        try:
            indexes = tuple(_fetch_index(job, mirror, name, keys, day) for name in names)
        except VerificationError:
            raise
        except FetchError as error:
            told.append(error.message)
            hint = error.hint
        except _Outdated as error:
            told.append(str(error))
            hint = _STOPPED
        else:
            return Repositories(mirror=mirror, indexes=indexes, names=names)
    kind = VerificationError if hint == _STOPPED and len(told) == 1 else FetchError
    raise kind("\n".join(told), hint=hint)


_STOPPED: Final = "A mirror that has stopped updating must be replaced (setting mirrors)."


def _fetch_index(job: Job, mirror: str, folder: str, keys: TrustedKeys, day: int) -> SignedIndex:
    url = f"{mirror.rstrip('/')}/{folder}/{INDEX}"
    wrong: list[VerificationError] = []
    opened: list[SignedIndex] = []

    def check(data: bytes) -> None:
        try:
            opened[:] = [open_index(data, keys, where=shown(url))]
        except VerificationError as error:
            wrong.append(error)
            raise

    source = Source(
        name=f"{folder.replace('/', '-')}-{INDEX}",
        urls=(url,),
        proof=_Checked(f"the signed index {shown(url)}", check),
        max_bytes=_INDEX_MAX_BYTES,
    )
    try:
        # Into this build's own folder: what an index says today is asked anew by every build.
        job.fetch(source, into=job.work)
    except FetchError as error:
        if wrong:
            raise wrong[-1] from error
        raise FetchError(_one_line(error), hint="Try again later, or name another mirror (setting mirrors).") from error
    (index,) = opened
    _refuse_old(job, index, day, url=shown(url), ident=f"{folder.replace('/', '-')}-{index.key_name}")
    return index


def _one_line(error: FetchError) -> str:
    """Return the reason of a failed download without the first line, which names the pin."""
    lines = [line.strip() for line in error.message.splitlines()]
    return "; ".join(lines[1:]) if len(lines) > 1 else error.message


def _refuse_old(job: Job, index: SignedIndex, day: int, *, url: str, ident: str) -> None:
    """Raise _Outdated for an index that cannot be today's. Remembers the newest that was seen."""
    newest = newest_build(index.text)
    if newest < day:
        raise _Outdated(
            f"{url} is older than the release: its newest package is of {_date(newest)}, the release of {_date(day)}"
        )
    memory = job.cache(_SEEN) / f"{ident}.json"
    try:
        seen = int(json.loads(memory.read_text(encoding="utf-8"))["newest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        seen = 0
    if newest + _LAG_MAX_S < seen:
        raise _Outdated(
            f"{url} is out of date, or an old state that is served again: its newest package is of {_date(newest)}, "
            f"one of {_date(seen)} was seen before"
        )
    if newest > seen:
        with (
            replacing(memory, FetchError) as descriptor,
            open(descriptor, "w", encoding="utf-8", closefd=False) as file,
        ):
            json.dump({"newest": newest, "url": url}, file)


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


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


def _fetch_package(
    job: Job, package: Package, names: Sequence[str], mirrors: Sequence[str], keys: TrustedKeys
) -> VerifiedPackage:
    # noarch packages lie beside the others, under the index's architecture.
    folder = names[package.repository]
    opened: list[VerifiedPackage] = []

    def check(data: bytes) -> None:
        opened[:] = [open_package(data, package, keys)]

    source = Source(
        name=package.file_name,
        urls=tuple(f"{mirror.rstrip('/')}/{folder}/{package.file_name}" for mirror in mirrors),
        proof=_Checked(f"package {package.fields['C']} of the signed index", check),
        size_bytes=package.size_bytes,
    )
    # A download is returned only after its check has passed, and that one has read and kept the package.
    job.fetch(source)
    return opened[0]
