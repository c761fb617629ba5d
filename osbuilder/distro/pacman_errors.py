"""What pacman and pacman-key said, turned into what happened and what to do next.

The patterns are what pacman 7.0 prints in the C locale (which the engines fix). Anything unknown stays what it is: a
command that failed, with the end of its log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from osbuilder.distro.problems import ANOTHER, CERTIFICATE, UNTRUSTED, Pattern, Problem, find_problem
from osbuilder.distro.told import words_for
from osbuilder.errors import StoreError, UsageError, VerificationError

_OWN: Final = "Name the distribution's own mirror (setting mirrors), or the mirror's own keys (setting keyrings)."
_FILE: Final = r"error: failed retrieving file '(\S+)' from \S+ : "

# The first that matches any line decides: causes stand before the consequences that pacman reports as well.
_PATTERNS: Final = (
    Pattern(
        regex=r"osbuilder: no such key",
        text="none of the keys that may sign {subject} is there: expected {keys}",
        hint="Rebuild the builder pacman with a newer archlinux-keyring, mend signed-by in the recipe, or name a file "
        "with keys (setting keyrings).",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"error: .*(?:Unrecognized archive format|invalid or corrupted database).*",
        text="{mirror} answered with something that is no database of a repository, or a damaged one",
        hint="A proxy or a login page of the network may stand in between. " + ANOTHER,
    ),
    Pattern(
        regex=r"error: target not found: (\S+)",
        text="package {1} does not exist in {subject}",
        hint="Correct the name (--package). {near}",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"warning: cannot resolve \"(.+)\", a dependency of \"(\S+)\"",
        text="the packages cannot be installed together in {subject}: {2} needs {1}, which nothing provides",
        hint="Leave it out (--package), or name a mirror that is complete (setting mirrors).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r":: (\S+) and (\S+) are in conflict.*",
        text="the packages cannot be installed together in {subject}: {1} conflicts with {2}",
        hint="Leave one of them out (--package).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*No space left on device.*",
        text="no space left while the packages were unpacked",
        hint="The target lies in memory and the result in the store: free some of either and build again.",
        kind=StoreError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"error: (\S+): signature from \".*\" is (?:unknown|marginal|never) trust",
        text="{mirror} serves {1}, which none of the trusted keys has signed",
        hint=_OWN,
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*error: key \".*\" could not be looked up remotely",
        text="{mirror} serves a package that none of the trusted keys has signed",
        hint=_OWN,
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"error: (\S+): missing required signature",
        text="{mirror} serves {1} without a signature",
        hint=_OWN + " Nothing is installed unverified.",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=rf"{_FILE}Could not resolve host.*",
        text="{mirror} cannot be found: its host name does not resolve",
        hint="Check the network and its DNS, or the proxy (settings http_proxy, https_proxy).",
    ),
    Pattern(regex=rf"{_FILE}SSL .*certificate.*", text=UNTRUSTED, hint=CERTIFICATE),
    Pattern(regex=rf"{_FILE}Failed to connect .*", text="{mirror} refuses connections", hint=ANOTHER),
    Pattern(
        regex=rf"{_FILE}(?:Operation too slow|Operation timed out|Connection timed out).*",
        text="{mirror} does not answer: it was given up after the time limit",
        hint="Check the network and the proxy (settings http_proxy, https_proxy). " + ANOTHER,
    ),
    Pattern(
        regex=rf"{_FILE}(?:transfer closed|end of response|Empty reply|Recv failure).*",
        text="{mirror} broke the connection in the middle of {1}",
        hint=ANOTHER,
    ),
    Pattern(
        regex=rf"{_FILE}The requested URL returned error: 404",
        text="{mirror} has no {1} of {subject}",
        hint="Check the day, and give the URL that has the days below it (setting mirrors).",
    ),
    Pattern(
        regex=rf"{_FILE}The requested URL returned error: (\d+).*",
        text="{mirror} answered {2} for {1}",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r":: File /tmp/cache/(\S+) is corrupted \(invalid or corrupted package \(PGP signature\)\)\..*",
        text="{mirror} serves {1} with a signature that does not fit it",
        hint=_OWN,
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r":: File /tmp/cache/(\S+) is corrupted \(.*\)\..*",
        text="{mirror} serves {1} with another checksum than its database says",
        hint="It was damaged or altered on the way, or caught in an update. " + ANOTHER,
        kind=VerificationError,
    ),
)

FAILED: Final = "error: command failed to execute correctly"
_MISSING: Final = "error: target not found: "


def explain(log: str, *, mirror: str, subject: str, keys: tuple[str, ...], names: Sequence[str] = ()) -> Problem | None:
    """Return the problem that a log of pacman tells, or None when it is not a known one.

    `names` are those of the packages that there are, to suggest one in the place of a name that is not.
    """
    words = words_for(log, mirror=mirror, subject=subject, keys=keys, missing=_MISSING, names=names)
    return find_problem(log, _PATTERNS, words)
