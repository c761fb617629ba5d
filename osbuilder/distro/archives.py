"""Archives of apt packages that are used beside a mirror: a release's updates and security fixes, and a user's own.

Which ones a release has says its recipe. A mirror that is named has those that the recipe does not place elsewhere; the
setting `archives` says where they are instead, names further ones, or says `none`. Without a mirror mmdebstrap chooses,
and takes the same archives by itself.

Sources: sources.list(5) for the form of a line; mmdebstrap(1) 1.5 (get_sourceslist_by_suite) for what it takes.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

from osbuilder.distro.told import refuse_password
from osbuilder.errors import UsageError

if TYPE_CHECKING:
    from osbuilder.distro.recipe import Recipe

NONE: Final = "none"

_URL: Final = re.compile(r"(https?|file)://[^\s\[\]]+")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9./+_-]*")
_RELEASE: Final = "{release}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A suite of packages. `url` has dists/ below it; none: the mirror's. Without `components` those of the release.

    `{release}` in the suite is filled in by `of_release`. Raises ValueError for what cannot be, and UsageError for an
    address with a password.
    """

    suite: str
    url: str = ""
    components: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse_password(self.url, "url")
        if self.url and not is_address(self.url):
            raise ValueError(f"expected a URL that has dists/ below it, got {self.url!r}")
        for word in (self.suite.replace(_RELEASE, "x"), *self.components):
            if not _WORD.fullmatch(word) or word.endswith("/"):
                raise ValueError(f"expected the name of a suite or component, got {word!r}")

    @classmethod
    def of_line(cls, line: str) -> Archive:
        """Return the archive of a line `URL SUITE [COMPONENT...]`. Raises ValueError."""
        url, *words = line.split() or [""]
        if not url or not words:
            raise ValueError(f"expected URL SUITE [COMPONENT...] or {NONE}, got {line!r}")
        return cls(url=url, suite=words[0], components=tuple(words[1:]))

    def of_release(self, release: str, components: tuple[str, ...]) -> Archive:
        """Return it for a release, with that one's components where it names none."""
        suite = self.suite.replace(_RELEASE, release)
        return dataclasses.replace(self, suite=suite, components=self.components or components)

    def where(self, mirror: str) -> str:
        """Return its address, without a slash at its end."""
        return (self.url or mirror).rstrip("/")

    def line(self, mirror: str) -> str:
        """Return it as sources.list has it."""
        return " ".join(("deb", self.url or mirror, self.suite, *self.components))


def is_address(text: str) -> bool:
    """Whether a text may be the address of a mirror: no option of sources.list can hide in it."""
    return _URL.fullmatch(text) is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Archives:
    """What is used beside a mirror: the release's own archives, and a user's further ones.

    `notes` are for people: what comes from elsewhere than any setting says, and what is left out.
    """

    release: tuple[Archive, ...] = ()
    further: tuple[Archive, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def everything(self) -> tuple[Archive, ...]:
        """Both."""
        return (*self.release, *self.further)


def find_archives(
    recipe: Recipe,
    release: str,
    named: tuple[str, ...],
    *,
    components: tuple[str, ...],
    mirrors: tuple[str, ...],
    own_keys: bool = False,
) -> Archives:
    """Return what is used beside the mirrors of a distribution's release.

    `named` is the setting: lines, of which those with the suite of a recipe's archive take that one's place, and the
    word `none`, with which nothing of the recipe's is used. With `own_keys` (setting keyrings) what lies
    elsewhere than on the mirror is left out unless it is named: other keys have signed it. Raises UsageError.
    """
    distro = recipe.name
    for mirror in mirrors:
        refuse_password(mirror, f"setting mirrors: {distro}")
    if not mirrors:
        if named:
            raise UsageError(
                f"setting archives: {distro} has no mirror that they stand beside",
                hint=f"Name it (setting mirrors: {distro}=URL); without one mmdebstrap takes all that it knows.",
            )
        return Archives()
    lines = [_parse(line, distro).of_release(release, components) for line in named if line != NONE]
    own = [archive.of_release(release, components) for archive in recipe.archives]
    instead = {archive.suite: [line for line in lines if line.suite == archive.suite] for archive in own}
    kept = [archive for archive in own if not instead[archive.suite] and NONE not in named]
    elsewhere = [archive for archive in kept if archive.url]
    if own_keys:
        kept = [archive for archive in kept if archive not in elsewhere]
    used = [each for archive in own for each in (instead[archive.suite] or [archive]) if each in (*lines, *kept)]
    return Archives(
        release=tuple(used),
        further=tuple(archive for archive in lines if archive.suite not in instead),
        notes=tuple(_note(archive, distro, left_out=own_keys) for archive in elsewhere),
    )


def _parse(line: str, distro: str) -> Archive:
    refuse_password(line, f"setting archives: {distro}")
    try:
        return Archive.of_line(line)
    except ValueError as error:
        raise UsageError(
            f"setting archives: {distro}: {error}",
            hint=f"Such as: archives={distro}=https://HOST/debian-security {_RELEASE}-security main",
        ) from None


def _note(archive: Archive, distro: str, *, left_out: bool) -> str:
    if left_out:
        told = (
            f"{archive.suite} is NOT used: it lies at {archive.url}, signed by other keys than the setting keyrings has"
        )
    else:
        told = f"{archive.suite} is taken from {archive.url}, which no setting names"
    return f"{told} (setting archives: {distro}=URL {archive.suite} says where it is, {distro}={NONE} does without)"
