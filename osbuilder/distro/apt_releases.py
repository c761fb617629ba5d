"""Release files: what apt's archives say of themselves, and that none is older than one that was seen before.

apt itself looks at their signatures, and at Valid-Until where an archive gives one. An old state that was signed once
and has no such line is no error to it.

Source: the repository format (wiki/DebianRepository/Format).
"""

from __future__ import annotations

import email.utils
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from osbuilder.distro.dpkg import parse_fields
from osbuilder.distro.indexes import LAG_MAX_S, memory_of, refuse_old
from osbuilder.openpgp import signed_text
from osbuilder.step import parameters

if TYPE_CHECKING:
    from osbuilder.distro.keyring import Keyring
    from osbuilder.step import Job

_SEEN: Final = "apt-indexes"


def take_releases(out: Path) -> list[dict[str, str]]:
    """Remove the Release files that a hook left below `out`; return what they say (see `read_releases`)."""
    repositories = read_releases(out / "releases")
    shutil.rmtree(out / "releases")
    return repositories


def read_releases(folder: Path) -> list[dict[str, str]]:
    """Return what each Release file in a folder says of itself: origin, suite, codename, version and date."""
    wanted = ("Origin", "Suite", "Codename", "Version", "Date")
    found = []
    for path in sorted(folder.iterdir()):
        fields = read_release(path.read_text("utf-8", "replace"))
        found.append({name.lower(): fields[name] for name in wanted if name in fields})
    return found


def read_release(text: str) -> dict[str, str]:
    """Return the one-line fields of a Release or InRelease file, of what is signed in it alone."""
    return parse_fields(signed_text(text))


def refuse_old_releases(job: Job, folder: Path, keyring: Keyring) -> None:
    """Raise Outdated when a Release file is older than one of the same address, trusted by the same keys, was before.

    apt names the files by their address, without a scheme and a password: HOST_PATH_dists_SUITE_InRelease.
    """
    trusted = parameters(keyring)
    for path in sorted(folder.iterdir()):
        stamp = release_time(path.read_text("utf-8", "replace"))
        if stamp is not None:
            url = unquote(path.name.replace("_", "/"))
            refuse_old(
                memory_of(job.cache(_SEEN), url, trusted),
                stamp,
                lag_max_s=LAG_MAX_S,
                url=url,
                what="its date",
            )


def release_time(text: str) -> int | None:
    """Return the time (seconds since 1970) in a Release file's Date, None when it has none that can be read."""
    try:
        return int(email.utils.parsedate_to_datetime(read_release(text)["Date"]).timestamp())
    except (KeyError, ValueError):
        return None
