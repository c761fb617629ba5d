"""How a download gets there: mirrors in order, resume, retry with back-off, verification.

Beside a download under way stands its part (see partfile.py), which outlives a killed process: the next one goes on
from there. Two processes that want the same file wait for each other.

HTTP semantics are those of RFC 9110 (ranges: section 14, If-Range: 13.1.5, Retry-After: 10.2.3).
"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3.exceptions

from osbuilder.errors import FetchError, Interrupted, VerificationError
from osbuilder.fetch import FetchSettings, Progress, Source, shown
from osbuilder.partfile import PartFile, Unproven, is_whole

_BLOCK_BYTES: Final = 64 << 10
_BACKOFF_MAX_S: Final = 30.0
_RETRY_AFTER_MAX_S: Final = 60.0
_LOCK_POLL_S: Final = 0.1
_REDIRECTS_MAX: Final = 10
_PROGRESS_BYTES: Final = 1 << 20  # an attempt that brought this much is not counted as a failed one
_RETRIED_STATUSES: Final = frozenset({408, 429})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def download(
    source: Source, destination: Path, *, settings: FetchSettings, progress: Progress, stop: threading.Event
) -> Path:
    """Do what osbuilder.fetch.fetch promises; it has looked already whether the file is there."""
    pause = _Pause(source.name, stop)
    waiting = iter([f"{source.name}: another process downloads it, waiting"])

    def wait() -> None:
        for line in waiting:
            progress.note(line)
        pause(_LOCK_POLL_S)

    proof = source.verifier
    with PartFile.locked(destination, proof=proof or Unproven(), wait=wait) as part, requests.Session() as session:
        if proof is None:
            part.restart()
        elif is_whole(destination, proof):
            return destination
        session.trust_env = False
        session.verify = str(settings.ca_bundle) if settings.ca_bundle else True
        if not part.whole:
            _Download(source, part, session, settings, progress, pause).run()
        part.publish()
    return destination


class _Pause:
    """Waits; raises Interrupted, at once, when the download is told to stop."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        self._name = name
        self._stop = stop

    def __call__(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Interrupted(f"the download of {self._name} was stopped", hint="Run again: it is resumed.")


class _Again(Exception):
    """An attempt failed in a way that may pass. `wait_s` is how long to wait, if not the usual back-off."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Refused(Exception):
    """A mirror is given up. `unverified` says that it served other bytes than the pin's.

    `challenge` is how it wants to be told who asks (RFC 9110, 11.6.1).
    """

    def __init__(self, reason: str, *, unverified: bool = False, challenge: str = "") -> None:
        super().__init__(reason)
        self.unverified = unverified
        self.challenge = challenge


class _Download:
    """One download under its lock: from mirror to mirror until the part is whole."""

    def __init__(
        self,
        source: Source,
        part: PartFile,
        session: requests.Session,
        settings: FetchSettings,
        progress: Progress,
        pause: _Pause,
    ) -> None:
        self._source = source
        self._part = part
        self._session = session
        self._settings = settings
        self._progress = progress
        self._pause = pause

    def run(self) -> None:
        """Fill the part. Raises FetchError or VerificationError with a line for each mirror."""
        failures: list[tuple[str, _Refused]] = []
        for url in self._source.urls:
            try:
                self._from_mirror(url)
            except _Refused as refusal:
                failures.append((url, refusal))
                self._progress.note(f"{self._source.name}: {shown(url)}: {refusal}")
            else:
                return
        self._fail(failures)

    def _fail(self, failures: list[tuple[str, _Refused]]) -> None:
        lines = [f"  {shown(url)}: {refusal}" for url, refusal in failures]
        hint = "Check the network, the proxy settings and the mirrors, and run again."
        pin = f" ({self._source.verifier.pin})" if self._source.verifier else ""
        message = f"cannot download {self._source.name}{pin}:\n" + "\n".join(lines)
        if any(refusal.unverified for _, refusal in failures):
            raise VerificationError(message, hint="Either the pin is wrong or the mirror is: nothing of it was kept.")
        challenge = next((refusal.challenge for _, refusal in failures if refusal.challenge), "")
        raise FetchError(message, hint=hint, challenge=challenge)

    def _from_mirror(self, url: str) -> None:
        """Try one mirror until it delivers. Raises _Refused."""
        failed = 0
        best_bytes = self._part.size_bytes
        while True:
            try:
                self._attempt(url)
            except _Again as again:
                # Only what was never reached before counts as progress, so that this ends whatever the server does.
                failed = 0 if self._part.size_bytes >= best_bytes + _PROGRESS_BYTES else failed + 1
                best_bytes = max(best_bytes, self._part.size_bytes)
                if failed >= self._settings.attempts:
                    raise _Refused(f"{again}" + (f" ({failed} attempts)" if failed > 1 else "")) from again
                usual_s = min(self._settings.backoff_s * 2 ** max(failed - 1, 0), _BACKOFF_MAX_S)
                wait_s = usual_s if again.wait_s is None else again.wait_s
                self._progress.note(f"{self._source.name}: {shown(url)}: {again}; again in {wait_s:g} s")
                self._pause(wait_s)
            else:
                return

    def _attempt(self, url: str) -> None:
        """Make one request and verify what it completes. Raises _Again or _Refused."""
        if self._part.size_bytes >= (self._source.size_bytes or self._source.max_bytes):
            self._part.restart()
        if _is_remote(url):
            with self._request(url) as response:
                total_bytes = self._agree(response, url)
                kind = response.headers.get("Content-Type", "")
                self._receive(_blocks(response, self._settings.read_timeout_s), total_bytes)
        else:
            kind = ""
            self._copy(url)
        self._verify(kind)

    def _request(self, url: str) -> requests.Response:
        """Send the request, asking for the rest if there is a part, and follow redirects that lose no protection."""
        # identity: the pin is of the bytes as the mirror stores them.
        headers = {"Accept-Encoding": "identity", "User-Agent": "osbuilder", **dict(self._source.headers)}
        if self._part.size_bytes:
            headers["Range"] = f"bytes={self._part.size_bytes}-"
            if self._part.validator and self._part.origin == shown(url):
                headers["If-Range"] = self._part.validator
        for _ in range(_REDIRECTS_MAX):
            try:
                response = self._session.get(
                    url,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(self._settings.connect_timeout_s, self._settings.read_timeout_s),
                    proxies=_proxies(url, self._settings.proxies),
                )
            except requests.RequestException as err:
                raise self._explain(err) from err
            except ValueError as err:
                raise _Refused(f"{shown(url)} is no address: {err}") from err
            if not response.is_redirect:
                return response
            response.close()
            location = response.headers["Location"]
            try:
                target = urljoin(url, location)
            except ValueError as err:
                raise _Refused(f"redirects to {location!r}, which is no address: {err}") from err
            if not _is_remote(target) or (urlsplit(url).scheme, urlsplit(target).scheme) == ("https", "http"):
                raise _Refused(f"redirects from {urlsplit(url).scheme} to {shown(target)}, which is refused")
            if urlsplit(url).netloc != urlsplit(target).netloc:
                headers.pop("Authorization", None)
            url = target
        raise _Refused(f"redirects more than {_REDIRECTS_MAX} times")

    def _explain(self, err: requests.RequestException) -> Exception:
        """Say in a few words why no response came, and whether another try may help."""
        if isinstance(err, requests.exceptions.ConnectTimeout):
            return _Again(f"no connection within {self._settings.connect_timeout_s:g} s")
        if isinstance(err, requests.exceptions.Timeout):
            return _Again(f"no answer within {self._settings.read_timeout_s:g} s")
        if isinstance(err, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(err):
            return _Refused(f"its certificate is not trusted ({_cause(err)}); ca_bundle names others to trust")
        if isinstance(err, requests.exceptions.ProxyError):
            return _Again(f"the proxy failed: {_cause(err)}")
        if isinstance(err, requests.exceptions.ConnectionError):
            return _Again(f"cannot connect: {_cause(err)}")
        return _Refused(f"{type(err).__name__}: {_cause(err)}")

    def _agree(self, response: requests.Response, url: str) -> int | None:
        """Check status, range and announced size; return the total size of the file if it is known."""
        status = response.status_code
        if status in (206, 416):
            total_bytes = self._agree_range(response)
        elif status == 200:
            length = response.headers.get("Content-Length", "")
            # With a transfer coding the length is not the message's (RFC 9112, 6.3).
            known = length.isascii() and length.isdigit() and "Transfer-Encoding" not in response.headers
            total_bytes = int(length) if known else None
        elif status in _RETRIED_STATUSES or status >= 500:
            raise _Again(f"HTTP {status} {response.reason}", wait_s=_retry_after_s(response))
        else:
            challenge = response.headers.get("WWW-Authenticate", "") if status == 401 else ""
            raise _Refused(f"HTTP {status} {response.reason}", challenge=challenge)
        self._check_size(total_bytes, _remark(response.headers.get("Content-Type", "")))
        if status == 200 and self._part.size_bytes:
            self._part.restart()
        if total_bytes is None:
            total_bytes = self._source.size_bytes
        self._part.expect(origin=shown(url), validator=_validator(response), total_bytes=total_bytes)
        return total_bytes

    def _agree_range(self, response: requests.Response) -> int | None:
        """Return the total of a partial response; one that is not the rest of our part costs us the part."""
        given = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(given)
        if response.status_code == 206 and match and int(match[1]) == self._part.size_bytes:
            return None if match[3] == "*" else int(match[3])
        asked = self._part.size_bytes
        self._part.restart()
        raise _Again(f"asked for bytes from {asked}, got HTTP {response.status_code} with {given!r}", wait_s=0)

    def _check_size(self, total_bytes: int | None, remark: str) -> None:
        if total_bytes is None:
            return
        if self._source.size_bytes is not None and total_bytes != self._source.size_bytes:
            raise _Refused(f"expected {self._source.size_bytes} bytes, {total_bytes} are announced{remark}")
        if total_bytes > self._source.max_bytes:
            raise _Refused(f"expected at most {self._source.max_bytes} bytes, {total_bytes} are announced{remark}")

    def _receive(self, blocks: Iterator[bytes], total_bytes: int | None) -> None:
        """Write blocks to the part, up to the total. Raises _Again if they end early."""
        limit_bytes = self._source.max_bytes if total_bytes is None else total_bytes
        self._progress.start(self._source.name, total_bytes, self._part.size_bytes)
        try:
            for block in blocks:
                if self._part.size_bytes + len(block) > limit_bytes:
                    self._part.restart()
                    raise _Refused(f"expected at most {limit_bytes} bytes, got more")
                self._part.write(block)
                self._pause(0)
                self._progress.advance(len(block))
        except _Again as again:
            raise _Again(f"{again}, at {self._reached(total_bytes)}") from again
        finally:
            self._progress.finish()
        if total_bytes is not None and self._part.size_bytes < total_bytes:
            raise _Again(f"the connection ended early, at {self._reached(total_bytes)}")

    def _reached(self, total_bytes: int | None) -> str:
        return f"{self._part.size_bytes} of {'unknown' if total_bytes is None else total_bytes} bytes"

    def _copy(self, url: str) -> None:
        """Fill the part from a file URL (RFC 8089), from its beginning."""
        address = urlsplit(url)
        if address.netloc not in ("", "localhost"):
            raise _Refused(f"expected a file of this host, got the host {address.netloc!r}")
        self._part.restart()
        try:
            with Path(unquote(address.path)).open("rb") as file:
                total_bytes = file.seek(0, 2)
                file.seek(0)
                self._check_size(total_bytes, "")
                self._part.expect(origin=url, validator="", total_bytes=total_bytes)
                self._receive(iter(lambda: file.read(_BLOCK_BYTES), b""), total_bytes)
        except OSError as err:
            raise _Refused(f"cannot be read: {err.strerror}") from err

    def _verify(self, kind: str) -> None:
        """Hold what came against the pin. Bytes that do not match are never kept."""
        problem, spliced = self._part.problem(), self._part.spliced
        if self._source.verifier is None or not problem:
            return
        self._part.restart()
        if spliced:
            # Perhaps the file changed between two responses: the mirror is blamed only for what it sent in one.
            raise _Again("what was resumed did not verify, from the beginning", wait_s=0)
        raise _Refused(f"{problem}{_remark(kind)}", unverified=True)


def _blocks(response: requests.Response, timeout_s: float) -> Iterator[bytes]:
    """Yield the body as it was sent, never decoded. Raises _Again when it stalls or breaks."""
    try:
        while block := response.raw.read(_BLOCK_BYTES, decode_content=False):
            yield block
    except urllib3.exceptions.ReadTimeoutError as err:
        raise _Again(f"nothing came for {timeout_s:g} s") from err
    except urllib3.exceptions.HTTPError as err:
        raise _Again("the connection ended early") from err


def _validator(response: requests.Response) -> str:
    """Return what If-Range may carry: a strong ETag, else the date of the last change, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _retry_after_s(response: requests.Response) -> float | None:
    """Return the wait that the server asks for, within reason."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _RETRY_AFTER_MAX_S)
    try:
        wait_s = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(wait_s, 0.0), _RETRY_AFTER_MAX_S)


def _remark(content_type: str) -> str:
    return "; it is text/html: a captive portal or an error page?" if content_type.startswith("text/html") else ""


def _is_remote(url: str) -> bool:
    return urlsplit(url).scheme in ("https", "http")


def _proxies(url: str, proxies: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy for a URL as requests wants it; no_proxy lists hosts and domains, or `*`."""
    parts = urlsplit(url)
    proxy = proxies.get(f"{parts.scheme}_proxy")
    host = parts.hostname or ""
    for entry in proxies.get("no_proxy", "").replace(",", " ").split():
        domain = entry.lstrip(".").lower()
        if domain in ("*", host, f"{host}:{parts.port}") or host.endswith(f".{domain}"):
            return {}
    return {parts.scheme: proxy} if proxy else {}


def _cause(err: BaseException) -> str:
    """Return the innermost reason of a failed connection: "Connection refused", not four wrappers around it."""
    while True:
        inner = err.__cause__ or err.__context__ or getattr(err, "reason", None)
        if not isinstance(inner, BaseException):
            reason = getattr(err, "verify_message", None) or getattr(err, "strerror", None)
            return str(reason or err or type(err).__name__)
        err = inner
