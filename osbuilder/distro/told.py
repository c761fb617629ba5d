"""What adapters of package managers tell alike: settings that cannot be, and names that do not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from osbuilder.errors import NoMirror, UsageError, suggest

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.distro.recipe import Repository

_URL: Final = re.compile(r"https?://[^\s\[\]]+")
_WHERE: Final = "Give the URL that has {below}/ below it"

# RFC 3986, 3.2: what stands before the @ of an authority; the // may be missing, or be half a one.
_USERINFO: Final = re.compile(r"([^/?#\s]*/{1,2})?[^/?#\s]*@")


def check_mirrors(mirrors: tuple[str, ...], *, subject: str, below: str) -> None:
    """Raise NoMirror when there is none, UsageError for one that cannot be; `below` is what a mirror's URL has."""
    need_mirror(mirrors, subject=subject, below=below)
    for mirror in mirrors:
        if not _URL.fullmatch(mirror):
            raise UsageError(f"not a mirror of {subject}: {mirror!r}", hint=f"{_WHERE.format(below=below)}.")


def need_mirror(mirrors: tuple[str, ...], *, subject: str, below: str) -> None:
    """Raise NoMirror when there is none; `below` is what a mirror's URL has."""
    if not mirrors:
        raise NoMirror(
            f"no mirror of {subject} is known: its recipe names none",
            hint=f"{_WHERE.format(below=below)}: --setting mirrors={subject.split()[0]}=URL",
        )


def refuse_password(address: str, where: str) -> None:
    """Raise UsageError for an address with a name or password in it, which it does not show; `where` says whose it is.

    A mirror's address is part of keys and manifests, and stands in logs and in a guest that has its package manager.
    """
    if found := _USERINFO.match(address):
        shown = f"{found[1] or ''}...@{address[found.end() :]}"
        raise UsageError(
            f"{where}: expected an address without a name and password, got {shown}",
            hint="They would stand in manifests, logs and guests. Name a mirror that asks for none, such as a proxy of "
            "your own that logs in.",
        )


def chosen_repositories(order: Order) -> tuple[Repository, ...]:
    """Return the release's repositories, of which the setting `components` may choose. Raises UsageError for others."""
    choice = order.choice
    repositories = choice.release.repositories
    known = [each.name for each in repositories]
    for name in order.components:
        if name not in known:
            raise UsageError(
                f"unknown repository {name!r} of {choice.recipe.name} {choice.release_name} (setting components)",
                hint=suggest(name, known),
            )
    return tuple(each for each in repositories if not order.components or each.name in order.components)


def words_for(
    log: str, *, mirror: str, subject: str, keys: tuple[str, ...], missing: str, names: Sequence[str]
) -> dict[str, str]:
    """Return the words that patterns of problems are filled with.

    `names` are the packages that there are, to suggest one in the place of a name that is not: that name stands in the
    log behind `missing`.
    """
    wanted = next((line.removeprefix(missing) for line in log.splitlines() if line.startswith(missing)), "")
    near = difflib.get_close_matches(wanted, names, n=3) if wanted else []
    return {
        "mirror": f"the mirror {mirror}",
        "subject": subject,
        "keys": ", ".join(keys) or "a key in the keyring that was named",
        "near": f"Did you mean {' or '.join(near)}?" if near else "Its repositories know no name like it.",
    }
