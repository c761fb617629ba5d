"""Verified downloads: what there is to download, how the network is reached, and the one function that does it.

The final name of a download appears only after verification; download.py says how it gets there. Nothing here reads
the environment: proxies and certificate authorities come with the settings, ~/.netrc is not looked at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import urlsplit

from osbuilder.errors import OfflineError, UsageError
from osbuilder.partfile import Proof, Sha256, is_whole

GET: Final = "Get it while there is a network: inv fetch"
LOCK_FIRST: Final = (
    "Packages that are not locked come from a mirror each time. While there is a network: inv lock, and then "
    "inv fetch; build with --locked."
)
"""What to do where something is missing: with locks, and for packages without one. Its commands take flags."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something to download. `urls` (https, http or file) are tried in order; nothing above `max_bytes` is taken.

    `sha256` (hex) says what it has to be or, where that is not known beforehand, `proof`. Neither is given only for
    what proves itself, such as a signature: it is downloaded anew each time, and its reader verifies it. `size_bytes`
    is checked where it is known. `headers` go to the addresses' own hosts, and an Authorization to nobody that these
    redirect to; they are in no message. Raises ValueError for a malformed pin.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    proof: Proof | None = None
    size_bytes: int | None = None
    max_bytes: int = 4 << 30
    headers: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.name}: expected 64 lower-case hexadecimal digits, got {self.sha256!r}")
        if not self.urls:
            raise ValueError(f"urls of {self.name}: expected at least one")
        for url in self.urls:
            if urlsplit(url).scheme not in ("https", "http", "file"):
                raise ValueError(f"urls of {self.name}: expected https, http or file, got {shown(url)!r}")
            _ = urlsplit(url).port  # which raises ValueError for a bad one
        if not 0 < (self.size_bytes or 1) <= self.max_bytes:
            raise ValueError(f"size_bytes of {self.name}: expected 1 to {self.max_bytes}, got {self.size_bytes}")

    @property
    def verifier(self) -> Proof | None:
        """What decides whether a file is this; None leaves it to the reader."""
        return self.proof or (Sha256(self.sha256) if self.sha256 else None)

    @property
    def ident(self) -> str:
        """64 hex digits that stand for what this is, whatever the mirrors; "" where nothing says what it has to be."""
        if self.proof is not None:
            return hashlib.sha256(self.proof.pin.encode()).hexdigest()
        return self.sha256 or ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How downloads reach the network.

    `attempts` are made at each mirror, `backoff_s` apart and doubling; `read_timeout_s` is how long a server may send
    nothing. `proxies` has the keys http_proxy, https_proxy and no_proxy; `ca_bundle` replaces the built-in
    certificate authorities. `offline` takes nothing but what is there already.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    attempts: int = 3
    backoff_s: float = 1.0
    proxies: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    ca_bundle: Path | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.connect_timeout_s <= 0 or self.read_timeout_s <= 0 or self.backoff_s < 0:
            raise ValueError(f"expected at least one attempt and positive times, got {self}")


class Progress(Protocol):
    """What a download tells while a person waits. `start` ... `finish` may come several times: once a connection."""

    def start(self, name: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        """Begin to show `name`; `done_bytes` of the total are there from before (a resumed download)."""

    def advance(self, count_bytes: int) -> None:
        """That many more bytes have come."""

    def note(self, message: str) -> None:
        """Show a line: why there is a wait or another try."""

    def finish(self) -> None:
        """End what `start` began, whether it went well or not."""


def fetch(
    source: Source,
    destination: Path,
    *,
    settings: FetchSettings,
    progress: Progress,
    stop: threading.Event | None = None,
) -> Path:
    """Download `source` to `destination` and return it; a file that is there already and verifies is not fetched again.

    `stop`, set by another thread, ends it within `read_timeout_s` (at once unless a server is silent).
    Raises FetchError when no mirror serves it (VerificationError when one served other bytes), naming each mirror and
    what went wrong there; StoreError when the disk is full or the folder cannot be written; UsageError for a
    `ca_bundle` that is not a file; OfflineError when it would have to be downloaded and no network is to be used;
    Interrupted after `stop`. What has come is kept for the next call.
    """
    if settings.ca_bundle is not None and not settings.ca_bundle.is_file():
        raise UsageError(f"ca_bundle: no such file: {settings.ca_bundle}", hint="Name a PEM file of certificates.")
    proof = source.verifier
    if proof is not None and is_whole(destination, proof):
        return destination
    if settings.offline:
        raise OfflineError(
            f"{source.name} is not in the store, and the build is to use no network (setting offline)",
            hint=GET,
        )

    # Imported here: a build that downloads nothing does not wait for the HTTP library (0.15 s).
    from osbuilder.download import download

    return download(source, destination, settings=settings, progress=progress, stop=stop or threading.Event())


def shown(url: str) -> str:
    """Return a URL without the name and password that it may carry, for messages and files; also what is no URL."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url, count=1)
