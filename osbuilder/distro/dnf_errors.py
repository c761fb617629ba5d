"""What dnf, librepo, rpm and gpg said, turned into what happened and what to do next.

The patterns are what dnf 4.23 with librepo 1.20 and rpm 4.20 print in the C locale (which the engines fix). Anything
unknown stays what it is: a command that failed, with the end of its log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from osbuilder.distro.problems import ANOTHER, CERTIFICATE, UNTRUSTED, Pattern, Problem, find_problem
from osbuilder.distro.told import words_for
from osbuilder.errors import RootfsError, StoreError, UsageError, VerificationError

_BECAUSE: Final = r"(?:Problem(?: \d+)?: |- )"

# The first that matches any line decides: causes stand before the consequences that dnf reports as well.
_PATTERNS: Final = (
    Pattern(
        regex=r"osbuilder: no such key",
        text="none of the keys that may sign {subject} is there: expected {keys}",
        hint="Rebuild the builder rpm with newer distribution-gpg-keys, mend signed-by in the recipe, "
        "or name a file with keys (setting keyrings).",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"No match for argument: (\S+)",
        text="package {1} does not exist in {subject}",
        hint="Correct the name (--package). {near}",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=rf"{_BECAUSE}nothing provides (.+) needed by (\S+) from .*",
        text="the packages cannot be installed together in {subject}: {2} needs {1}, which nothing provides",
        hint="Leave it out (--package), or name a mirror that is complete (setting mirrors).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=rf"{_BECAUSE}package (\S+) from \S+ conflicts with (.+) provided by (\S+) from .*",
        text="the packages cannot be installed together in {subject}: {1} conflicts with {3}",
        hint="Leave one of them out (--package).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*(?:[Nn]o space left on device|more space needed on the).*",
        text="no space left while the packages were unpacked",
        hint="The target lies in memory and the result in the store: free some of either and build again.",
        kind=StoreError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"Error in PRE(?:IN|TRANS) scriptlet in rpm package (\S+)",
        text="package {1} could not be installed: its script failed",
        hint="The step's log shows what it said.",
        kind=RootfsError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*repomd\.xml GPG signature verification error: Bad GPG signature.*",
        text="{mirror} serves an index of {subject} that none of the trusted keys has signed, or that was altered",
        hint="Name the distribution's own mirror (setting mirrors); its keys are pinned in the recipe (signed-by).",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*GPG signature is not available.*",
        text="{mirror} serves an index of {subject} without a signature (repomd.xml.asc)",
        hint="Name the distribution's own mirror (setting mirrors).",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"Package (\S+) is not signed",
        text="{mirror} serves {1} without a signature",
        hint="Name the distribution's own mirror (setting mirrors); nothing is installed unverified.",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"Public key for (\S+) is not installed.*",
        text="{mirror} serves {1}, which none of the trusted keys has signed",
        hint="Name the distribution's own mirror (setting mirrors); its keys are pinned in the recipe (signed-by).",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*Curl error \(6\): .*",
        text="{mirror} cannot be found: its host name does not resolve",
        hint="Check the network and its DNS, or the proxy (settings http_proxy, https_proxy).",
    ),
    Pattern(
        regex=r".*Curl error \(60\): .*",
        text=UNTRUSTED,
        hint=CERTIFICATE,
    ),
    Pattern(
        regex=r".*Curl error \(7\): .*",
        text="{mirror} refuses connections",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r".*Curl error \(28\): .*",
        text="{mirror} does not answer: it was given up after the time limit",
        hint="Check the network and the proxy (settings http_proxy, https_proxy). " + ANOTHER,
    ),
    Pattern(
        regex=r".*Curl error \((?:18|52|56)\): .*",
        text="{mirror} broke the connection in the middle of a file",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r"\[MIRROR\] (\S+): .*Content-Length: (\d+), repository metadata states file length: (\d+) .*",
        text="{mirror} serves {1} with {2} bytes, its index says {3}: truncated, or caught in an update",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r".*\[MIRROR\] (\S+): Downloading successful, but checksum doesn't match.*",
        text="{mirror} serves {1} with another checksum than its index says",
        hint="It was damaged or altered on the way. " + ANOTHER,
        kind=VerificationError,
    ),
    Pattern(
        regex=r".*Downloading successful, but checksum doesn't match.*",
        text="{mirror} serves a part of its index with another checksum than the index says",
        hint="It was damaged or altered on the way, or caught in an update. " + ANOTHER,
        kind=VerificationError,
    ),
    Pattern(
        regex=r".*repomd\.xml parser error.*",
        text="{mirror} answered with something that is no index of a repository, most likely a web page",
        hint="A proxy or a login page of the network may stand in between. " + ANOTHER,
    ),
    Pattern(
        regex=r".*Status code: 404 for (\S+/repodata/repomd\.xml) .*",
        text="{mirror} has no {subject}: nothing is at {1}",
        hint="Give the URL that has the release's repositories below it (setting mirrors). {elsewhere}",
    ),
    Pattern(
        regex=r".*Status code: (\d+) for (\S+) .*",
        text="the mirror answered {1} for {2}",
        hint=ANOTHER,
    ),
)

MISSING: Final = "No match for argument: "


def explain(
    log: str,
    *,
    mirror: str,
    subject: str,
    keys: tuple[str, ...],
    own_mirrors: tuple[str, ...] = (),
    names: Sequence[str] = (),
) -> Problem | None:
    """Return the problem that a log of dnf tells, or None when it is not a known one.

    `names` are those of the packages that there are, to suggest one in the place of a name that is not; `own_mirrors`
    the distribution's own, to suggest these for a release that has moved.
    """
    words = words_for(log, mirror=mirror, subject=subject, keys=keys, missing=MISSING, names=names)
    own = f": the distribution's own are {', '.join(own_mirrors)}" if own_mirrors else ""
    words["elsewhere"] = f"A release that has ended may have moved to another server{own}."
    return find_problem(log, _PATTERNS, words)
