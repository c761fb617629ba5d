"""How a container image is named: a reference to a registry, or a path of this host.

A reference is [HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST], and means what it does everywhere else: without a host it
is one of docker.io, without a tag or digest `latest`. A path begins with /, ./, ../ or ~ and may end with :NAME.

Source: distribution's reference grammar (distribution/reference), OCI distribution-spec 1.1 "Pulling manifests".
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.errors import UsageError
from osbuilder.userpath import parse_path

if TYPE_CHECKING:
    from osbuilder.step import Job

INPUT: Final = "reference"
"""The input that says which image it is: what install.ResolveImage leaves."""

RESOLVED: Final = "image.json"
"""The file that it leaves: the image's digest, and what kind of image that is."""

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>[a-z0-9]+:\w+))?",
    re.ASCII,
)
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB: Final = "docker.io"
# Where Docker Hub's API is, which its images' names do not tell.
_DOCKER_HUB_API: Final = "https://registry-1.docker.io"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image of a registry. `digest` is sha256:HEX, "" where only a tag says which image is meant."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def manifest(self) -> str:
        """What a registry is asked for: the digest if there is one, which leaves nothing to trust."""
        return self.digest or self.tag

    @property
    def api(self) -> str:
        """The address of its registry: https, except on this very host."""
        if self.host == _DOCKER_HUB:
            return _DOCKER_HUB_API
        return f"{'http' if is_loopback(_hostname(self.host)) else 'https'}://{self.host}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """An image in a file or folder of this host; `name` says which, where there are several."""

    path: Path
    name: str = ""


def parse_image(text: str) -> Reference | LocalImage:
    """Return what a user's name of an image means. Raises UsageError."""
    if re.match(r"(/|\.{1,2}/|~)", text):
        return _local(text)
    return parse_reference(text)


def parse_reference(text: str) -> Reference:
    """Return the reference that a text is. Raises UsageError."""
    first, slash, rest = text.partition("/")
    # The first part is a host if it cannot be a part of a repository's name, as everybody else decides it.
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, name = first, rest
    else:
        host, name = _DOCKER_HUB, text
    found = _REFERENCE.fullmatch(name)
    if not found or not _HOST.fullmatch(host):
        raise UsageError(
            f"not the name of a container image: {text!r}",
            hint="Expected [HOST/]NAME[:TAG][@sha256:DIGEST], or the path of a layout, which begins with / or ./",
        )
    digest = found["digest"] or ""
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"the digest of an image ({text}): expected sha256: and 64 hex digits, got {digest!r}")
    repository = found["repository"]
    if host in (_DOCKER_HUB, "index.docker.io"):
        host = _DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    return Reference(host=host, repository=repository, tag=found["tag"] or ("" if digest else "latest"), digest=digest)


def _local(text: str) -> LocalImage:
    # Either may have colons in it: what is there decides.
    places = [(text, ""), *((text[: each.start()], text[each.end() :]) for each in re.finditer(":", text))]
    for place, name in places:
        path = parse_path(place, f"the image {text}")
        if path.exists():
            return LocalImage(path=path.absolute(), name=name)
    return LocalImage(path=parse_path(text, f"the image {text}").absolute())


def resolved(job: Job) -> dict[str, str]:
    """Return what a job's input `reference` says of the image: `digest` and `kind`."""
    found: dict[str, str] = json.loads(job.inputs[INPUT].path(RESOLVED).read_text("utf-8"))
    return found


def is_loopback(hostname: str) -> bool:
    """Whether a host's name means this very machine."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname.strip("[]")).is_loopback
    except ValueError:
        return False


def _hostname(host: str) -> str:
    found = _HOST.fullmatch(host)
    return found["name"] if found else host
