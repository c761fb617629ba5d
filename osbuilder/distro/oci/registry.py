"""A registry's API, as far as pulling goes: manifests and blobs of one repository, over the project's own downloads.

Who asks is told when the registry wants to know: it answers 401 and says how, which is either a token from a service
that it names (for most public images anybody gets one) or a name and password. These come with the address of a mirror,
https://NAME:PASSWORD@HOST, and go to that host and its token service only.

Sources: OCI distribution-spec 1.1 ("Pull"); Docker's token authentication specification; RFC 9110, section 11.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from osbuilder.distro.indexes import on_one_line
from osbuilder.distro.oci.manifest import INDEXES, MANIFEST_MAX_BYTES, MANIFESTS, Descriptor
from osbuilder.errors import FetchError, VerificationError
from osbuilder.fetch import Source

if TYPE_CHECKING:
    from osbuilder.step import Job

_TOKEN_MAX_BYTES: Final = 1 << 20
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """One repository of a registry. `address` is https://HOST or http://HOST, perhaps with a name and password."""

    def __init__(self, job: Job, address: str, repository: str) -> None:
        parts = urlsplit(address)
        self._job = job
        self._repository = repository
        self.address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        self._basic = _basic(parts.username, parts.password) if parts.username else ""
        self._authorization = ""

    def manifest(self, name: str) -> bytes:
        """Return a manifest or index by its tag or digest. Raises FetchError, VerificationError."""
        return self.manifest_file(name).read_bytes()

    def manifest_file(self, name: str) -> Path:
        """Return the file of a manifest or index. Raises FetchError, VerificationError."""
        accept = ("Accept", ", ".join((*INDEXES, *MANIFESTS)))
        sha256 = name.partition(":")[2] if ":" in name else None
        return self._get(
            f"manifests/{name}",
            Source(
                name="manifest",
                urls=(self._url("manifests", name),),
                sha256=sha256,
                max_bytes=MANIFEST_MAX_BYTES,
                headers=(accept,),
            ),
        )

    def blob(self, blob: Descriptor) -> Path:
        """Return a blob's file. Raises FetchError, VerificationError."""
        if blob.size_bytes == 0:
            # Nothing to ask for; a size of 0 is no size to a download.
            raise VerificationError(f"{self._repository}: expected the blob {blob.digest} to have bytes, got none")
        source = Source(
            name="blob",
            urls=(self._url("blobs", blob.digest),),
            sha256=blob.sha256,
            size_bytes=blob.size_bytes,
            max_bytes=max(blob.size_bytes, 1 << 20),
        )
        return self._get(f"blob {blob.digest}", source)

    def _url(self, kind: str, name: str) -> str:
        return f"{self.address}/v2/{self._repository}/{kind}/{name}"

    def _get(self, what: str, source: Source) -> Path:
        try:
            return self._fetch(source)
        except VerificationError:
            raise
        except FetchError as error:
            if not error.challenge:
                raise self._explained(error, what) from error
            challenge = error.challenge
        self._authorization = self._authorize(challenge)
        try:
            return self._fetch(source)
        except VerificationError:
            raise
        except FetchError as error:
            raise self._explained(error, what) from error

    def _fetch(self, source: Source) -> Path:
        headers = source.headers
        if self._authorization:
            headers = (*headers, ("Authorization", self._authorization))
        asked = dataclasses.replace(source, headers=headers)
        # What a tag means today is asked anew by every build; a digest is what it is.
        return self._job.fetch(asked, into=None if source.sha256 else self._job.work)

    def _explained(self, error: FetchError, what: str) -> FetchError:
        plain = on_one_line(error)
        if error.challenge or "HTTP 401" in error.message or "HTTP 403" in error.message:
            return FetchError(
                f"{self.address} refuses {what} of {self._repository} to {self._who}: {plain.message}",
                hint=f"Check the image's name. {_NAME}",
            )
        if "HTTP 404" in error.message:
            return FetchError(
                f"{self.address} has no {what} of {self._repository}: {plain.message}",
                hint="Check the image's name and its tag, and the registry (setting mirrors).",
            )
        return plain

    @property
    def _who(self) -> str:
        return "the name that was given" if self._basic else "a stranger"

    def _authorize(self, challenge: str) -> str:
        """Return what to send as Authorization. Raises FetchError."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "bearer":
            return f"Bearer {self._token(dict(_PARAMETER.findall(rest)))}"
        if scheme.lower() == "basic" and self._basic:
            return self._basic
        if scheme.lower() == "basic":
            raise FetchError(f"{self.address} wants to know who asks for {self._repository}", hint=_NAME)
        raise FetchError(f"{self.address} wants to be told who asks in a way that is not known: {challenge!r}")

    def _token(self, challenge: dict[str, str]) -> str:
        """Return a token from the service that a registry names."""
        realm = challenge.get("realm", "")
        try:
            parts = urlsplit(realm)
            readable = parts.port != 0
        except ValueError:
            readable = False
        if not readable:
            raise FetchError(f"{self.address} names a token service whose address is none: {realm!r}", hint=_OTHER)
        if parts.scheme not in ("https", urlsplit(self.address).scheme):
            raise FetchError(f"{self.address} names a token service that is not protected: {realm!r}", hint=_OTHER)
        asked: dict[str, str] = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        asked.setdefault("scope", f"repository:{self._repository}:pull")
        headers = (("Authorization", self._basic),) if self._basic else ()
        url = f"{realm}{'&' if parts.query else '?'}{urlencode(asked)}"
        source = Source(name="token", urls=(url,), sha256=None, max_bytes=_TOKEN_MAX_BYTES, headers=headers)
        try:
            path = self._job.fetch(source, into=self._job.work)
        except FetchError as error:
            raise FetchError(
                f"{self.address}: its token service refuses {self._repository} to {self._who}: "
                f"{on_one_line(error).message}",
                hint=_OTHER,
            ) from error
        text = path.read_bytes()
        path.unlink()
        try:
            answer = json.loads(text)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise FetchError(f"{self.address}: its token service {realm} answered without a token", hint=_OTHER)
        return token


_NAME: Final = (
    "Where it is private, give a name and password with the registry's address: "
    "--setting mirrors=oci=https://NAME:PASSWORD@HOST"
)
_OTHER: Final = "Name another registry that has the image (setting mirrors=oci=URL), or its layout as a file."


def _basic(name: str | None, password: str | None) -> str:
    words = f"{unquote(name or '')}:{unquote(password or '')}"
    return f"Basic {base64.b64encode(words.encode()).decode()}"


def digest_of(data: bytes) -> str:
    """Return the digest by which images name bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
