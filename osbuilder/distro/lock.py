"""Locks: which packages a distribution's guests are made of, to the byte, in distros/NAME/lock/RELEASE.ARCH.json.

Owns the file's format and what can be told from it: whether it still fits its recipe and a request, and how two of them
differ. What resolves packages and what installs them is an adapter's (osbuilder.distro.adapters).

The file is JSON with a line a package, so that a version control's diff reads well. It names no mirror: an address is
below whichever mirror is set, unless the package manager's own default mirrors served it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from osbuilder import decode
from osbuilder.errors import FetchError, PlanError
from osbuilder.outfile import replacing
from osbuilder.step import canonical, parameters

if TYPE_CHECKING:
    from osbuilder.distro.choice import Choice

FORMAT: Final = 1
FOLDER: Final = "lock"
RESOLVED: Final = "resolved.json"
"""The file that an adapter's resolving step leaves (Resolved.write)."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~%:^@=-]*")

# What YAML, which reads our JSON, refuses as it stands or takes for the end of a line (YAML 1.1, 5.1 and 5.4).
_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

# What of a recipe says nothing of where packages come from, who signs them and how they are installed: packages are
# compared by name (Lock.requests), other releases and architectures have locks of their own.
_UNLOCKED: Final = (
    *("title", "aliases", "default_release", "releases", "mirrors", "arches", "excluded", "inits", "features"),
    "packages",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LockedIndex:
    """The state of a repository when its packages were locked: the sha256 (hex) of its index, and the index's date."""

    name: str
    sha256: str
    date: str = ""

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LockedKey:
    """A public key (PEM) that signed packages and that the guest trusts, by the name of its file there."""

    name: str
    pem: str

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name):
            raise ValueError(f"name: expected the name of a file, got {self.name!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LockedPackage:
    """One package. `path` is below a mirror, or a whole address where no mirror was set.

    `size_bytes` is the file's, `installed_bytes` what it takes in the guest as its packager says. `requests` are the
    places in Lock.requests of those that it is installed for. `record` is what the index said of it, where a package
    manager needs that later.
    """

    name: str
    version: str
    arch: str
    path: str
    sha256: str
    size_bytes: int
    installed_bytes: int = 0
    requests: tuple[int, ...] = (0,)
    record: str = ""

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)
        if self.size_bytes < 1:
            raise ValueError(f"size_bytes: expected 1 or more, got {self.size_bytes}")
        parts = PurePosixPath(urlsplit(self.path).path).parts
        if not _FILE_NAME.fullmatch(self.file_name) or ".." in parts or (self.path.startswith("/")):
            raise ValueError(f"path: expected one below a mirror, got {self.path!r}")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def file_name(self) -> str:
        """The package's file."""
        return self.path.rpartition("/")[2]

    def urls(self, mirrors: Iterable[str]) -> tuple[str, ...]:
        """Return where the package is to be had, in order. Raises FetchError when there is no mirror to ask."""
        if urlsplit(self.path).scheme:
            return (self.path,)
        found = tuple(f"{mirror.rstrip('/')}/{self.path}" for mirror in mirrors)
        if not found:
            raise FetchError(
                f"no mirror to fetch {self.path} from: the lock was made with one",
                hint="Name it (setting mirrors), or make the lock anew with `inv lock`.",
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What mirrors have now for some requests: the state of their indexes, and the packages of each request.

    `keys` are there where a package manager needs them to install: they come from a network too.
    """

    indexes: tuple[LockedIndex, ...]
    packages: tuple[LockedPackage, ...]
    keys: tuple[LockedKey, ...] = ()

    def write(self, path: Path) -> None:
        """Write it to a file, for `read`."""
        path.write_text(_json(parameters(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Resolved:
        """Return what `write` wrote."""
        return decode.load(path, cls)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A distribution's packages for one release and architecture.

    `recipe` is the digest (recipe_digest) of what it was made from, `requests` are the packages that were asked for by
    name, a sorted list for each init that the lock serves. `packages` are sorted by name.
    """

    format: int
    distro: str
    release: str
    arch: str
    recipe: str
    indexes: tuple[LockedIndex, ...]
    requests: tuple[tuple[str, ...], ...]
    packages: tuple[LockedPackage, ...]
    keys: tuple[LockedKey, ...] = ()

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format: expected {FORMAT}, got {self.format}: another osbuilder wrote this lock")
        for package in self.packages:
            if not package.requests or not all(0 <= number < len(self.requests) for number in package.requests):
                raise ValueError(f"packages: {package.name}: requests: expected places in the lock's requests")

    @classmethod
    def of(cls, choice: Choice, requests: tuple[tuple[str, ...], ...], resolved: Resolved) -> Lock:
        """Return the lock of what was resolved for some requests."""
        return cls(
            format=FORMAT,
            distro=choice.recipe.name,
            release=choice.release_name,
            arch=choice.arch.name,
            recipe=recipe_digest(choice),
            indexes=tuple(sorted(resolved.indexes, key=lambda index: index.name)),
            requests=requests,
            packages=merged(resolved.packages),
            keys=tuple(sorted(resolved.keys, key=lambda key: key.name)),
        )

    @property
    def subject(self) -> str:
        """What it locks, for people."""
        return f"{self.distro} {self.release} for {self.arch}"

    def of_request(self, request: tuple[str, ...]) -> tuple[LockedPackage, ...]:
        """Return the packages of a request that it has."""
        number = self.requests.index(request)
        return tuple(package for package in self.packages if number in package.requests)

    def text(self) -> str:
        """Return the file's content: a line a package."""
        data = {name: value for name, value in parameters(self).items() if name not in _LISTS}
        lines = [f" {_json(name)}: {_json(value)},\n" for name, value in data.items()]
        lists = {name: parameters(getattr(self, name)) for name in _LISTS}
        blocks = [_block(name, rows) for name, rows in lists.items() if rows or name != "keys"]
        return "{\n" + "".join(lines) + ",\n".join(blocks) + "\n}\n"


_LISTS: Final = ("indexes", "keys", "requests", "packages")


def _block(name: str, rows: list[Any]) -> str:
    texts = ",\n".join(f"  {_json(_shortened(row))}" for row in rows)
    return f' "{name}": [\n{texts}\n ]' if rows else f' "{name}": []'


def _json(value: Any) -> str:
    """Return JSON that YAML reads alike: it knows no pair of escapes for one character beyond the BMP."""
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _shortened(row: Any) -> Any:
    """Leave out what a package or an index does not say."""
    return {name: value for name, value in row.items() if value not in ("", 0)} if isinstance(row, dict) else row


@contextlib.contextmanager
def lockable(what: str, where: str) -> Iterator[None]:
    """Say in a FetchError of what, and where, a mirror tells what no lock can hold (a ValueError or KeyError)."""
    try:
        yield
    except (KeyError, ValueError) as error:
        problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise FetchError(
            f"cannot lock {what} ({where}): {problem}", hint="Name another mirror (setting mirrors)."
        ) from None


def merged(packages: Iterable[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return packages sorted by name, those that several requests install once."""
    found: dict[tuple[str, str, str, str], LockedPackage] = {}
    for package in packages:
        key = (package.name, package.arch, package.version, package.path)
        requests = {*package.requests, *(found[key].requests if key in found else ())}
        found[key] = dataclasses.replace(package, requests=tuple(sorted(requests)))
    return tuple(found[key] for key in sorted(found))


def lock_path(folder: Path, choice: Choice) -> Path:
    """Return where the lock of a choice is; `folder` has the recipes."""
    # A release may be a day (2026/11/01) or an image's name: files have - where these have what no file's name should.
    release = choice.label.removeprefix(f"{choice.recipe.name}-")
    return folder / choice.recipe.name / FOLDER / f"{release}.{choice.arch.name}.json"


def read_lock(folder: Path, choice: Choice) -> Lock:
    """Return the lock of a choice, stale or not. Raises PlanError when there is none; DecodeError for a bad file."""
    path = lock_path(folder, choice)
    if not path.is_file():
        raise PlanError(
            f"{choice.recipe.name} {choice.release_name} has no lock for {choice.arch.name} ({path})",
            hint=f"Make it: {lock_command(choice)}",
        )
    lock = decode.load(path, Lock)
    wanted = (choice.recipe.name, choice.release_name, choice.arch.name)
    if (lock.distro, lock.release, lock.arch) != wanted:
        raise PlanError(f"{path} is the lock of {lock.subject}: expected {' '.join(wanted)}", hint="Move it back.")
    return lock


def load_lock(folder: Path, choice: Choice) -> Lock:
    """Return the lock of a choice. Raises PlanError when there is none, or it is stale; DecodeError for a bad file."""
    lock = read_lock(folder, choice)
    expected = recipe_digest(choice)
    if lock.recipe != expected:
        raise _stale(choice, f"the recipe changed since it was made: expected its digest {expected}, got {lock.recipe}")
    return lock


def find_request(lock: Lock, choice: Choice, request: tuple[str, ...]) -> tuple[LockedPackage, ...]:
    """Return the packages that a lock has for a request. Raises PlanError when it was made for other requests."""
    if request in lock.requests:
        return lock.of_request(request)
    nearest = min(lock.requests, key=lambda each: len({*each} ^ {*request}), default=())
    told = [f"{name} is not in it" for name in sorted({*request} - {*nearest})]
    told += [f"{name} is no longer asked for" for name in sorted({*nearest} - {*request})]
    raise _stale(choice, f"it was made for other packages: {', '.join(told)}")


def the_one(packages: tuple[LockedPackage, ...], lock: Lock, what: str) -> LockedPackage:
    """Return the package of a lock that has to have just one. Raises PlanError, which says `what` was expected."""
    if len(packages) != 1:
        raise PlanError(
            f"the lock of {lock.subject}: expected one {what}, got {len(packages)}", hint="Make it anew: inv lock"
        )
    return packages[0]


def _stale(choice: Choice, why: str) -> PlanError:
    command = lock_command(choice)
    return PlanError(
        f"the lock of {choice.recipe.name} {choice.release_name} for {choice.arch.name} is stale: {why}",
        hint=f"See what an update changes: {command} --diff   Make it anew: {command}   "
        "(with the same --package, --feature and --init as the build)",
    )


def lock_command(choice: Choice) -> str:
    """Return the command that makes a choice's lock."""
    release = choice.release_name
    return f"inv lock --distro {choice.recipe.name} --release {release} --arch {choice.arch.name}"


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock to its place, whole or not at all. Raises PlanError when it cannot be written."""
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot write the lock ({path}): {error.strerror}") from error
    with replacing(path, PlanError) as descriptor, open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(lock.text())


def recipe_digest(choice: Choice) -> str:
    """Return the sha256 (hex) of what a recipe says of a release, without its packages; comments do not count."""
    data = {name: value for name, value in parameters(choice.recipe).items() if name not in _UNLOCKED}
    release = {name: value for name, value in parameters(choice.release).items() if name not in _UNLOCKED}
    return hashlib.sha256(canonical({**data, "release": release})).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What changes from one list of packages to another: a name, and what it was and will be (None: not there)."""

    rows: tuple[tuple[str, LockedPackage | None, LockedPackage | None], ...]
    before: tuple[LockedPackage, ...]
    after: tuple[LockedPackage, ...]

    @classmethod
    def between(cls, before: tuple[LockedPackage, ...], after: tuple[LockedPackage, ...]) -> Difference:
        """Compare packages by name and architecture."""
        old, new = _by_name(before), _by_name(after)
        rows = tuple(
            (key[0], old.get(key), new.get(key)) for key in sorted({*old, *new}) if _moved(old.get(key), new.get(key))
        )
        return cls(rows=rows, before=before, after=after)

    def text(self) -> str:
        """Return it for a person: a line for each package that changes, and the sizes of all of them."""
        if not self.rows:
            return "nothing would change"
        lines = [_row(name, old, new) for name, old, new in self.rows]
        counts = [
            f"{len([1 for _, old, _ in self.rows if old is None])} added",
            f"{len([1 for _, _, new in self.rows if new is None])} removed",
            f"{len([1 for _, old, new in self.rows if old and new])} changed",
        ]
        sizes = [
            f"{what} {_mib(old)} -> {_mib(new)} MiB ({round((new - old) / 2**20, 1) + 0.0:+.1f})"
            for what, old, new in (
                ("download", sum(p.size_bytes for p in self.before), sum(p.size_bytes for p in self.after)),
                ("installed", sum(p.installed_bytes for p in self.before), sum(p.installed_bytes for p in self.after)),
            )
        ]
        return "\n".join([*lines, f"{', '.join(counts)}; {', '.join(sizes)}"])


def _by_name(packages: Iterable[LockedPackage]) -> Mapping[tuple[str, str], LockedPackage]:
    return {(package.name, package.arch): package for package in packages}


def _moved(old: LockedPackage | None, new: LockedPackage | None) -> bool:
    return old is None or new is None or (old.version, old.sha256) != (new.version, new.sha256)


def _row(name: str, old: LockedPackage | None, new: LockedPackage | None) -> str:
    grown = _kib(_weight(new) - _weight(old))
    if old and new and old.version == new.version:
        return f"! {name} {old.version}: the same version with other bytes ({grown})"
    if old and new:
        return f"~ {name} {old.version} -> {new.version} ({grown})"
    return f"+ {name} {new.version} ({grown})" if new else f"- {name} {old.version if old else ''} ({grown})"


def _weight(package: LockedPackage | None) -> int:
    return (package.installed_bytes or package.size_bytes) if package else 0


def _kib(count_bytes: int) -> str:
    return f"{count_bytes / 1024:+.0f} KiB"


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:.1f}"


def _check_sha256(text: str) -> None:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"sha256: expected 64 lower-case hexadecimal digits, got {text!r}")
