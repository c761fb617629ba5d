"""What adapters of package managers tell alike: mirrors that cannot be, and names that do not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from osbuilder.errors import NoMirror, UsageError

_URL: Final = re.compile(r"https?://[^\s\[\]]+")
_WHERE: Final = "Give the URL that has {below}/ below it"


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
