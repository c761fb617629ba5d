"""Release files: what apt's archives say of themselves, that each is of the suite that was asked for, and that none is
older than one that was seen before.

apt itself looks at their signatures, and at Valid-Until where an archive gives one. An old state that was signed once
and has no such line is no error to it, and another suite's file in a suite's place is a warning.

Source: the repository format (wiki/DebianRepository/Format); apt's metaIndex::CheckDist for which names a suite has.
"""

from __future__ import annotations

import email.utils
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from osbuilder.distro.dpkg import parse_fields
from osbuilder.distro.indexes import LAG_MAX_S, memory_of, refuse_old
from osbuilder.errors import VerificationError
from osbuilder.openpgp import signed_text

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

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


def check_releases(job: Job, folder: Path, *, trusted: Json) -> None:
    """Look at the Release files in a folder; `trusted` says by which keys they are (JSON data).

    Raises VerificationError for one of another suite than its address has, Outdated for one that is older than one of
    the same address, trusted by the same keys, was before.

    apt names the files by their address, without a scheme and a password: HOST_PATH_dists_SUITE_InRelease.
    """
    texts = {
        unquote(path.name.replace("_", "/")): path.read_text("utf-8", "replace") for path in sorted(folder.iterdir())
    }
    # Before any date is remembered: another suite's says nothing about this one.
    for url, text in texts.items():
        refuse_another_suite(text, url=url)
    for url, text in texts.items():
        stamp = release_time(text)
        if stamp is not None:
            refuse_old(
                memory_of(job.cache(_SEEN), url, trusted),
                stamp,
                lag_max_s=LAG_MAX_S,
                url=url,
                what="its date",
            )


def refuse_another_suite(text: str, *, url: str) -> None:
    """Raise VerificationError when the Release file of the address HOST/PATH/dists/SUITE/InRelease is another suite's.

    One that names no suite at all is taken: archives made by hand may have none, distributions' own all have one.
    """
    fields = read_release(text)
    suite, codename = fields.get("Suite", ""), fields.get("Codename", "")
    # Debian's trixie-security is Suite stable-security, Codename trixie-security. Ubuntu's noble-security has noble's
    # Codename, as noble and noble-updates have: there only the Suite tells them apart.
    names = {suite} if codename and suite.startswith(f"{codename}-") else {suite, codename}
    asked = url.rpartition("/dists/")[2].rpartition("/")[0]
    # focal/tool/7.0 may call itself focal/tool, and bullseye/updates bullseye.
    if names.isdisjoint({asked, asked.rpartition("/")[0] or asked}) and any(names):
        raise VerificationError(
            f"another suite's index came ({url}): expected Suite or Codename {asked}, "
            f"got Suite {suite or '(none)'}, Codename {codename or '(none)'}",
            hint="It is validly signed, so that a mirror that mixes suites up, or somebody on the way to it, put it "
            "there. Nothing of it was used. Name another mirror, or where else the suite is (settings mirrors, "
            "archives).",
        )


def release_time(text: str) -> int | None:
    """Return the time (seconds since 1970) in a Release file's Date, None when it has none that can be read."""
    try:
        return int(email.utils.parsedate_to_datetime(read_release(text)["Date"]).timestamp())
    except (KeyError, ValueError):
        return None
