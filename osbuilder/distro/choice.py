"""What a request settles on in a recipe: release, architecture and init, and the packages that follow."""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePosixPath

from osbuilder.arch import Arch
from osbuilder.distro.recipe import OtherReleases, Recipe, Release, check_package
from osbuilder.errors import NotOffered, UsageError, suggest
from osbuilder.pid1 import Init


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A recipe with the release, architecture and init that a request settled on (init None: an extension)."""

    recipe: Recipe
    release_name: str
    arch: Arch
    init: Init | None

    @property
    def release(self) -> Release:
        """The chosen release."""
        return self.recipe.release(self.release_name)

    @property
    def told_release(self) -> str:
        """The release as results tell it: of an image in a file the file's name, not where it lies."""
        if self.recipe.other_releases is OtherReleases.IMAGE and self.release_name[0] in "./~":
            return PurePosixPath(self.release_name).name
        return self.release_name

    @property
    def label(self) -> str:
        """The distribution and its release in names of files."""
        return f"{self.recipe.name}-{re.sub(r'[^A-Za-z0-9._+-]+', '-', self.told_release).strip('-.')}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to install, each list sorted and free of doubles: the recipe's packages, and the user's further ones."""

    default: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def everything(self) -> tuple[str, ...]:
        """Both lists in one, sorted."""
        return tuple(sorted({*self.default, *self.extra}))


def choose(recipe: Recipe, *, release: str | None, arch: Arch, init: Init | None, extension: bool = False) -> Choice:
    """Return what a request means for a recipe; None is the recipe's default. An extension gets no init.

    Raises UsageError for an unknown release, NotOffered for an architecture or init that the recipe lacks.
    """
    name = recipe.canonical(release or recipe.default_release)
    recipe.release(name)
    if why := recipe.why_excluded(name, arch.name):
        raise NotOffered(f"{recipe.name} {name} is not offered for {arch.name}: {why}")
    if arch.name not in recipe.arches:
        raise NotOffered(f"{recipe.name} has no architecture {arch.name!r}", hint=suggest(arch.name, recipe.arches))
    if extension:
        return Choice(recipe=recipe, release_name=name, arch=arch, init=None)
    chosen = init or recipe.inits[0]
    if chosen not in recipe.inits:
        offered = [each.value for each in recipe.inits]
        raise NotOffered(f"{recipe.name} has no init {chosen.value!r}", hint=suggest(chosen.value, offered))
    return Choice(recipe=recipe, release_name=name, arch=arch, init=chosen)


def select_packages(choice: Choice, *, features: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> Selection:
    """Return what to install for a choice. What the user adds and the recipe has anyway counts as the recipe's.

    Raises UsageError for a feature that the recipe does not know or a text that cannot be a package's name.
    """
    recipe = choice.recipe
    for feature in features:
        if feature not in recipe.features:
            raise UsageError(f"unknown feature of {recipe.name}: {feature!r}", hint=suggest(feature, recipe.features))
    for name in extra:
        check_package(name)
    default = set(recipe.packages.always)
    for condition in recipe.packages.when:
        if (
            condition.init in (None, choice.init)
            and condition.arch in (None, choice.arch.name)
            and condition.release in (None, choice.release_name)
            and (condition.feature is None or condition.feature in features)
        ):
            default.update(condition.packages)
    return Selection(default=tuple(sorted(default)), extra=tuple(sorted(set(extra) - default)))
