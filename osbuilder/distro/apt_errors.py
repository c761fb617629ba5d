"""What mmdebstrap, apt and dpkg said, turned into what happened and what to do next.

The patterns are what apt 2.6 to 3.0 prints in the C locale (which the engines fix). Anything unknown stays what it is:
a command that failed, with the end of its log.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from osbuilder.distro.archives import NONE, Archive
from osbuilder.distro.problems import ANOTHER, CERTIFICATE, CLOCK, UNTRUSTED, Pattern, Problem, filled, find_match
from osbuilder.errors import FetchError, RootfsError, StoreError, UsageError, VerificationError

# Lines that say which address they are about.
_NAMES_URL: Final = re.compile(r"\s*(E: Failed to fetch|E: The repository|W: Failed to fetch|W: GPG error|Err:)")

# The first that matches any line decides: causes stand before the consequences that apt reports as well.
_PATTERNS: Final = (
    Pattern(
        regex=r"E: Unable to locate package (\S+)",
        text="package {1} does not exist in {suite} ({components})",
        hint="Correct the name (--package), or add the component that holds it (setting components).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"E: Package '([^']+)' has no installation candidate",
        text="package {1} is only a name that others refer to: {suite} ({components}) has nothing to install for it",
        hint="Name the package that provides it (--package), or add the component that holds it (setting components).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"(\S+) : (?:Pre-)?(?:Depends|Conflicts|Breaks): (.+)",
        text="the packages cannot be installed together in {suite}: {1} needs {2}",
        hint="Leave one of them out (--package), or name a mirror that is complete (setting mirrors).",
        kind=UsageError,
        next_mirror=False,
    ),
    Pattern(
        regex=r".*(?:[Nn]o space left on device|You don't have enough free space).*",
        text="no space left while the packages were unpacked",
        hint="The target lies in memory and the result in the store: free some of either and build again.",
        kind=StoreError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"dpkg: error processing (?:package|archive) (\S+).*",
        text="package {1} could not be installed: its maintainer script or its archive failed",
        hint="The step's log shows what it said.",
        kind=RootfsError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"E: Failed to fetch .*(?:Could not resolve|Temporary failure resolving).*",
        text="{mirror} cannot be found: its host name does not resolve",
        hint="Check the network and its DNS, or the proxy (settings http_proxy, https_proxy).",
    ),
    Pattern(
        # apt with OpenSSL, and before 2.9.19 with GnuTLS.
        regex=r".*(?:certificate verify failed|The certificate is NOT trusted).*",
        text=UNTRUSTED,
        hint=CERTIFICATE,
    ),
    Pattern(
        regex=r"E: Failed to fetch .*[Cc]onnection refused.*",
        text="{mirror} refuses connections",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r"(?:E: Failed to fetch \S+  )?(?:Connection timed out|Connection failed|.*: Connection timed out).*",
        text="{mirror} does not answer: it was given up after the time limit",
        hint="Check the network and the proxy (settings http_proxy, https_proxy). " + ANOTHER,
    ),
    Pattern(
        regex=r".*(?:Error reading from server|Connection reset by peer|Data left in buffer|Undetermined Error).*",
        text="{mirror} broke the connection in the middle of a file",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r"(?:E|W): .*Clearsigned file isn't valid.*",
        text="{mirror} answered with something that is no signed Release file, most likely a web page",
        hint="A proxy or a login page of the network may stand in between. " + ANOTHER,
    ),
    Pattern(
        regex=r"(?:E|W): .*(?:Release file for .* is expired|is not valid yet).*",
        text="{mirror} serves an outdated or future index of {suite}",
        hint=CLOCK,
        kind=VerificationError,
    ),
    Pattern(
        regex=r".*(?:BADSIG|Bad signature|not a signed|Message has been manipulated).*",
        text="{mirror} serves an index of {suite} whose signature is wrong: it was altered",
        hint="Do not use this mirror. Name another one (setting mirrors).",
        kind=VerificationError,
        next_mirror=False,
    ),
    Pattern(
        regex=r"E: Failed to fetch (\S+)  Hash Sum mismatch.*",
        text="{1} came with another sha256 than the mirror's signed index says",
        hint="It was damaged or altered on the way. " + ANOTHER,
        kind=VerificationError,
    ),
    Pattern(
        regex=r"E: Failed to fetch (\S+)  File has unexpected size \((\d+) != (\d+)\).*",
        text="{1} came with {2} bytes, the mirror's signed index says {3}: truncated, or caught in an update",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r"(?:E|Err).*does not have a Release file.*",
        text="{mirror} has no {suite}",
        hint="Give the URL that has dists/{suite}/ below it (setting mirrors).",
    ),
    Pattern(
        regex=r"E: Failed to fetch (\S+)  (\d{3})  (.+?)(?: \[IP.*)?",
        text="the mirror answered {2} ({3}) for {1}",
        hint=ANOTHER,
    ),
    Pattern(
        regex=r"(?:E|W|Err).*(?:NO_PUBKEY|Missing key|is not signed|couldn't be verified|signature verification).*",
        text="{mirror} serves an index of {suite} that none of the trusted keys has signed",
        hint="Name the distribution's own mirror (setting mirrors); its keys are pinned in the recipe (signed-by).",
        kind=VerificationError,
        next_mirror=False,
    ),
)


def explain(
    log: str, *, mirror: str | None, suite: str, components: tuple[str, ...], archives: tuple[Archive, ...] = ()
) -> Problem | None:
    """Return the problem that a log of mmdebstrap tells, or None when it is not a known one. `mirror` None: its own.

    `archives` were used beside the mirror. Where one lies elsewhere and fails, no other mirror helps.
    """
    match = find_match(log, _PATTERNS)
    if match is None:
        return None
    pattern, found = match
    words = {
        "mirror": f"the mirror {mirror}" if mirror else "mmdebstrap's default mirror",
        "suite": suite,
        "components": ", ".join(components),
    }
    archive = _concerned(found.string, log, mirror or "", suite, archives)
    if archive is None or pattern.kind not in (FetchError, VerificationError):
        return filled(pattern, found, words)
    words["suite"] = archive.suite
    if archive.url:
        words["mirror"] = f"the archive {archive.url} ({archive.suite})"
    problem = filled(pattern, found, words)
    return dataclasses.replace(
        problem,
        hint=f"{problem.hint.replace('setting mirrors', 'setting archives') if archive.url else problem.hint} "
        f"In the setting archives `URL {archive.suite}` says where else it is, `{NONE}` does without.",
        next_mirror=problem.next_mirror and not archive.url,
    )


def _concerned(line: str, log: str, mirror: str, suite: str, archives: tuple[Archive, ...]) -> Archive | None:
    """Return the archive that a line of a log is about, or another line where that names none; None for the mirror."""
    own = Archive(suite=suite)
    known = (own, *archives)
    for each in (line, *(other for other in log.splitlines() if _NAMES_URL.match(other))):
        for archive in known:
            where = archive.where(mirror)
            if f"{where} {archive.suite} " in each or f"{where}/dists/{archive.suite}/" in each:
                return None if archive is own else archive
        for archive in known:
            # Of packages, whose suite no address tells.
            if f"{archive.where(mirror)}/" in each:
                return None if archive.where(mirror) == own.where(mirror) else archive
    return None
