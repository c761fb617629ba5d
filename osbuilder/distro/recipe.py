"""Recipes: what a distribution is, read from distros/NAME/recipe.yaml. Data only; how it is installed is an adapter's.

A recipe stands alone: there is no inheritance between recipes, and nothing here knows a distribution by its name.
"""

from __future__ import annotations

import calendar
import dataclasses
import enum
import re
import time
from collections.abc import Mapping
from pathlib import Path

from osbuilder.arch import ARCHES
from osbuilder.decode import load
from osbuilder.distro.apk.declared import ApkRecipe
from osbuilder.distro.archives import Archive
from osbuilder.distro.tarballs import ArchiveRecipe
from osbuilder.distro.told import refuse_password
from osbuilder.errors import DecodeError, UsageError, suggest
from osbuilder.openpgp import Fingerprint
from osbuilder.pid1 import Init

RECIPE = "recipe.yaml"

# Debian Policy 5.6.1 and 5.6.7 (apt also takes NAME:ARCH); rpm's and apk's names add capitals and underscores.
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*(:[a-z0-9-]+)?")


class PackageManager(enum.Enum):
    """How packages get into an empty root filesystem: the key of osbuilder.distro.adapters."""

    APK = "apk"
    APT = "apt"
    ARCHIVE = "archive"
    DNF = "dnf"
    NONE = "none"
    OCI = "oci"
    PACMAN = "pacman"

    @property
    def installs_packages(self) -> bool:
        """Whether packages can be chosen; else the root filesystem is what it is."""
        return self not in (PackageManager.ARCHIVE, PackageManager.NONE, PackageManager.OCI)


class OtherReleases(enum.Enum):
    """What a release may be called besides those that a recipe lists; it is as the default release otherwise."""

    DAY = "day"  # of an archive that keeps each day's state: 2026/11/01
    IMAGE = "image"  # a container image


@dataclasses.dataclass(frozen=True, slots=True)
class Day:
    """A calendar day in UTC, written "2025-08-09". It pins timestamps: nothing in a rootfs is younger."""

    epoch: int

    @classmethod
    def parse(cls, text: str) -> Day:
        """Return the day that `text` names. Raises ValueError."""
        try:
            moment = time.strptime(text, "%Y-%m-%d")
        except ValueError:
            raise ValueError(f'expected a day such as "2025-08-09", got "{text}"') from None
        return cls(calendar.timegm(moment))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One of a release's repositories below a mirror. `{release}` and `{arch}` in `path` are filled in by `below`.

    `signed_index` says whether the distribution signs the index itself; its packages are signed in any case.
    """

    name: str
    path: str
    signed_index: bool = dataclasses.field(metadata={"key": "signed-index"})

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise ValueError(f"name: expected small letters, digits and dashes, got {self.name!r}")
        filled = self.path.replace("{release}", "x").replace("{arch}", "x")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", filled):
            raise ValueError(
                f"path: expected one below a mirror, with {{release}} and {{arch}} for what varies, got {self.path!r}"
            )

    def below(self, *, release: str, arch: str) -> str:
        """Return the path for a release and an architecture, as the distribution calls them."""
        return self.path.replace("{release}", release).replace("{arch}", arch)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release: its number, the day that pins its timestamps, its components, and the keys that may sign it.

    `repositories` are for dnf and pacman, `rpm_database` (where the release keeps it) for rpm's distributions.
    `aliases` are what else people call it.
    """

    version: str
    released: Day
    aliases: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    rpm_database: str = dataclasses.field(default="", metadata={"key": "rpm-database"})
    signed_by: tuple[Fingerprint, ...] = dataclasses.field(default=(), metadata={"key": "signed-by"})

    def __post_init__(self) -> None:
        if self.rpm_database and not re.fullmatch(r"(/[a-z]+)+", self.rpm_database):
            raise ValueError(f"rpm-database: expected a path such as /var/lib/rpm, got {self.rpm_database!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """An architecture that a recipe does not offer, for one release or for all of them, and why: that is printed."""

    arch: str
    why: str
    release: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Packages for some guests only: every key that is given must hold."""

    packages: tuple[str, ...]
    init: Init | None = None
    feature: str | None = None
    arch: str | None = None
    release: str | None = None

    def __post_init__(self) -> None:
        if not (self.init or self.feature or self.arch or self.release):
            raise ValueError("expected a condition (init, feature, arch or release); list these under always instead")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What is installed: always, and by condition."""

    always: tuple[str, ...]
    when: tuple[Condition, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A distribution. `inits` and `arches` are what it offers, the default init first.

    `aliases` are names that it had, or has elsewhere. `other_releases` says what else than `releases` may be asked for.
    `retired` says that there is no such distribution any more, and what is left: its mirrors and keys are the user's.
    `mirrors` are the distribution's own public ones in order, for when the setting names none. `keyring` is where the
    builder has the distribution's keys, of which each release names those that may sign it; `archives` are what apt
    finds a release's updates in, and `apk` and `archive` have what these need instead. `features` are the names that a
    request may switch on, each with what it does.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    package_manager: PackageManager = dataclasses.field(metadata={"key": "package-manager"})
    default_release: str = dataclasses.field(metadata={"key": "default-release"})
    other_releases: OtherReleases | None = dataclasses.field(default=None, metadata={"key": "other-releases"})
    retired: str = ""
    mirrors: tuple[str, ...] = ()
    keyring: str = ""
    archives: tuple[Archive, ...] = ()
    apk: ApkRecipe | None = None
    archive: ArchiveRecipe | None = None
    releases: Mapping[str, Release]
    arches: tuple[str, ...]
    excluded: tuple[Excluded, ...] = ()
    inits: tuple[Init, ...]
    features: Mapping[str, str] = dataclasses.field(default_factory=dict)
    packages: Packages

    def __post_init__(self) -> None:
        if self.default_release not in self.releases:
            raise UsageError(
                f"default-release: no release {self.default_release!r}",
                hint=suggest(self.default_release, self.releases),
            )
        self._check_keys()
        self._check_archive()
        if not self.inits:
            raise ValueError("inits: expected at least one of systemd, agent")
        for mirror in self.mirrors:
            refuse_password(mirror, "mirrors")
        for name, release in self.releases.items():
            for key, given, wanted in (
                ("repositories", release.repositories, (PackageManager.DNF, PackageManager.PACMAN)),
                ("rpm-database", release.rpm_database, (PackageManager.DNF,)),
            ):
                if bool(given) != (self.package_manager in wanted):
                    expected = f"no {key}" if given else key
                    raise ValueError(f"releases.{name}: expected {expected} with {self.package_manager.value}")
        self._check_arches()
        for condition in self.packages.when:
            _known(condition.feature, self.features, "packages.when: no feature")
            _known(condition.release, self.releases, "packages.when: no release")
            _known(condition.arch, self.arches, "packages.when: not an architecture of this recipe:")
        for name in (*self.packages.always, *(name for when in self.packages.when for name in when.packages)):
            check_package(name)

    def _check_arches(self) -> None:
        for arch in self.arches:
            _known(arch, ARCHES, "arches: no architecture")
        for excluded in self.excluded:
            _known(excluded.release, self.releases, "excluded: no release")
            _known(excluded.arch, ARCHES, "excluded: no architecture")
            if excluded.release is None and excluded.arch in self.arches:
                raise ValueError(f"excluded: {excluded.arch} is among arches: expected one of the two, or a release")

    def _check_keys(self) -> None:
        if self.apk is not None or self.retired or not self.package_manager.installs_packages:
            return
        if not self.keyring:
            raise ValueError("keyring: expected the place of the distribution's keys in the builder")
        for name, release in self.releases.items():
            if not release.signed_by:
                raise ValueError(
                    f"releases.{name}.signed-by: expected at least one key; nothing is installed unverified"
                )

    def other_names(self, name: str) -> tuple[str, ...]:
        """Return what else a listed release may be called: its version and its aliases."""
        release = self.releases[name]
        if self.other_releases is OtherReleases.IMAGE:
            return ()
        return tuple(text for text in (release.version, *release.aliases) if text not in self.releases)

    def canonical(self, text: str) -> str:
        """Return the name of the release that a text means: its name, its version or an alias; else the text itself.

        Raises UsageError for a version that several releases have.
        """
        if text in self.releases:
            return text
        found = [name for name in self.releases if text in self.other_names(name)]
        if len(found) > 1:
            raise UsageError(
                f"release {text!r} of {self.name} is several: {', '.join(found)}", hint="Name one of them."
            )
        return found[0] if found else text

    def why_excluded(self, release: str, arch: str) -> str | None:
        """Return why a release is not offered for an architecture, where the recipe says so."""
        # A release that the recipe does not list is as the default one.
        listed = release if release in self.releases else self.default_release
        for excluded in self.excluded:
            if excluded.arch == arch and excluded.release in (None, listed):
                return excluded.why
        return None

    def release(self, name: str) -> Release:
        """Return a release: one of the recipe's, or another that it admits. Raises UsageError with a suggestion."""
        if name in self.releases:
            return self.releases[name]
        model = self.releases[self.default_release]
        if self.other_releases is OtherReleases.IMAGE:
            return dataclasses.replace(model, version=name)
        if self.other_releases is OtherReleases.DAY:
            try:
                day = Day.parse(name.replace("/", "-", 2))
            except ValueError:
                raise UsageError(
                    f"unknown release {name!r} of {self.name}: expected a day such as {self.default_release}"
                ) from None
            return dataclasses.replace(model, version=name, released=day)
        raise UsageError(f"unknown release {name!r} of {self.name}", hint=suggest(name, self.releases))

    def _check_archive(self) -> None:
        if self.archives and self.package_manager is not PackageManager.APT:
            raise ValueError("archives: goes with package-manager apt")
        if (self.archive is not None) != (self.package_manager is PackageManager.ARCHIVE):
            raise ValueError("archive: goes with package-manager archive, and only with it")
        if self.archive is None:
            return
        if missing := [arch for arch in self.arches if arch not in self.archive.arches]:
            raise ValueError(f"archive.tarballs: none is for {', '.join(missing)}")
        for name, release in self.releases.items():
            if self.archive.keys_url and not release.signed_by:
                raise ValueError(f"releases.{name}.signed-by: expected at least one key; nothing is used unverified")


def load_recipes(folder: Path) -> Mapping[str, Recipe]:
    """Return every recipe below a folder (distros/), by name. Raises DecodeError naming file:line."""
    return {path.parent.name: load_recipe(path) for path in sorted(folder.glob(f"*/{RECIPE}"))}


def load_recipe(path: Path) -> Recipe:
    """Return the recipe of a file. Raises DecodeError, also when its name is not its folder's."""
    recipe = load(path, Recipe)
    if recipe.name != path.parent.name:
        raise DecodeError(
            f"{path}: name: expected {path.parent.name!r} as the folder is called, got {recipe.name!r}",
            hint="Rename one of them.",
        )
    return recipe


def find_recipe(name: str, folder: Path) -> Recipe:
    """Return the recipe of a distribution by its name or an alias. Raises UsageError with a suggestion.

    With the name it reads that one file only.
    """
    known = {path.parent.name for path in folder.glob(f"*/{RECIPE}")}
    if name in known:
        return load_recipe(folder / name / RECIPE)
    for recipe in load_recipes(folder).values():
        if name in recipe.aliases:
            return recipe
    raise UsageError(f"unknown distro {name!r}", hint=suggest(name, known))


def check_package(name: str) -> None:
    """Raise UsageError when a text cannot be a package's name, before it reaches a package manager's options."""
    if not _PACKAGE.fullmatch(name):
        raise UsageError(f"not a package name: {name!r}", hint="Give one name each, without blanks or options.")


def _known(name: str | None, known: Mapping[str, object] | tuple[str, ...], problem: str) -> None:
    if name is not None and name not in known:
        raise UsageError(f"{problem} {name!r}", hint=suggest(name, known))
