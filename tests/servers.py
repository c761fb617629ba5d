"""An HTTP server on 127.0.0.1 whose faults are scripted, for everything that downloads.

    with FaultyServer() as server:
        url = server.serve("/f.tar", Reply(status=500), Reply(body=data))  # the last reply repeats
        ...
        assert [seen.range for seen in server.seen("/f.tar")] == [None, None]

A hanging reply ends when the server stops, so that a test never waits for its own fault. `closed_url` is an address
where nobody listens. With `certificate` (a PEM file with key and certificate) it speaks https.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.prerequisites import program


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server does with one request.

    `send_bytes` of the body are sent and then the connection ends (`hang`: stays open and silent); `delay_s` before
    each 16 KiB. `ranges` says whether Range is honoured, `content_range` lies about it. `announce` says whether there
    is a Content-Length (else the body ends with the connection), `chunked` sends chunks instead.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    content_range: str | None = None
    etag: bool = True
    announce: bool = True
    chunked: bool = False
    send_bytes: int | None = None
    hang: bool = False
    hang_before_headers: bool = False
    delay_s: float = 0.0


@dataclasses.dataclass(slots=True, kw_only=True)
class Seen:
    """A request that came, and how many bytes of body it got."""

    path: str
    headers: Mapping[str, str]
    sent_bytes: int = 0

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("Range")


class FaultyServer:
    """A threaded server; use it as a context manager."""

    def __init__(self, *, certificate: Path | None = None) -> None:
        self._replies: dict[str, list[Reply]] = {}
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def serve(self, path: str, *replies: Reply) -> str:
        """Script what `path` does, request by request; the last reply repeats. Returns its URL."""
        with self._lock:
            self._replies[path] = list(replies)
        return f"{self.url}{path}"

    def seen(self, path: str) -> list[Seen]:
        """Return the requests for `path` so far."""
        with self._lock:
            return [seen for seen in self._seen if seen.path == path]

    def record(self, seen: Seen) -> Reply:
        """Note a request and return what to do with it."""
        with self._lock:
            self._seen.append(seen)
            replies = self._replies.get(seen.path, [Reply(status=404, body=b"no such file")])
            return replies.pop(0) if len(replies) > 1 else replies[0]


def make_certificate(folder: Path) -> Path:
    """Return a PEM file with a key and a self-signed certificate for 127.0.0.1; the latter alone is in FILE.crt."""
    path = folder / "server.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    further = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt")
    _openssl(*command.split(), *further)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def make_authority(folder: Path) -> tuple[Path, Path]:
    """Return a private authority's certificate, and a PEM file with a key and a certificate by it for 127.0.0.1."""
    authority, server, request, extension = (folder / name for name in ("ca.crt", "server.pem", "request", "extension"))
    extension.write_text("subjectAltName = IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    made_for = ("-subj", "/CN=127.0.0.1", "-keyout", str(server), "-out", str(request))
    own_key = ("-keyout", str(folder / "ca.key"), "-out", str(authority))
    signed_by = ("-CA", str(authority), "-CAkey", str(folder / "ca.key"), "-CAcreateserial")
    signing = ("x509", "-req", "-days", "2", "-in", str(request), *signed_by, "-extfile", str(extension))
    _openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=An authority of a test", *own_key)
    _openssl("req", "-new", *key, *made_for)
    server.write_bytes(server.read_bytes() + _openssl(*signing))
    return authority, server


def _openssl(*arguments: str) -> bytes:
    return subprocess.run((program("openssl"), *arguments), check=True, capture_output=True).stdout


# Bound and not listened on: nobody else gets these ports.
_CLOSED: list[socket.socket] = []


def closed_url(path: str = "/") -> str:
    """Return an address on this host that refuses connections, as long as this process lives."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    _CLOSED.append(held)
    return f"http://127.0.0.1:{held.getsockname()[1]}{path}"


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: Any) -> None:
        """End TLS as its protocol says: some clients take less for an attack."""
        if isinstance(request, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                request.settimeout(1)
                request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyServer

    def do_GET(self) -> None:  # the name that http.server calls
        seen = Seen(path=self.path, headers=dict(self.headers.items()))
        reply = self.owner.record(seen)
        self.close_connection = True
        if reply.hang_before_headers:
            self.owner.stopping.wait()
            return
        start = self._start(reply)
        body = reply.body[start:]
        self._send_head(reply, start, len(body))
        with contextlib.suppress(OSError):
            self._send_body(reply, body, seen)
        if reply.hang:
            self.owner.stopping.wait()

    def _start(self, reply: Reply) -> int:
        """Return where the body begins for this request: its Range, if the reply honours it and If-Range agrees."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not (match and reply.ranges and reply.status == 200) or condition not in (None, _etag(reply)):
            return 0
        return int(match[1])

    def _send_head(self, reply: Reply, start: int, length: int) -> None:
        if start >= len(reply.body) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(reply.body)}")
            self.end_headers()
            return
        self.send_response(206 if start else reply.status)
        if start:
            truth = f"bytes {start}-{len(reply.body) - 1}/{len(reply.body)}"
            self.send_header("Content-Range", reply.content_range or truth)
        if reply.etag:
            self.send_header("ETag", _etag(reply))
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.announce:
            self.send_header("Content-Length", str(length))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, reply: Reply, body: bytes, seen: Seen) -> None:
        body = body if reply.send_bytes is None else body[: reply.send_bytes]
        for offset in range(0, len(body), 16 << 10):
            if reply.delay_s and self.owner.stopping.wait(reply.delay_s):
                return
            block = body[offset : offset + (16 << 10)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if reply.chunked else block)
            self.wfile.flush()
            seen.sent_bytes += len(block)
        if reply.chunked and reply.send_bytes is None:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name that http.server calls
        """Keep the test's output clean."""


def _etag(reply: Reply) -> str:
    return f'"{hashlib.sha256(reply.body).hexdigest()[:16]}"'
