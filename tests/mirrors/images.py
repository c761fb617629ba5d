"""Container images in their real formats: layers, configurations, manifests, indexes; pushed, laid out, or saved.

    image = Image(layers=(layer({"bin/sh": b"..."}), layer({"etc/.wh.motd": b""}, "zstd")))
    with registry(folder) as url:               # Debian's docker-registry
        push(url, "library/toy", "1", image)

Sources: OCI image-spec and distribution-spec 1.1; docker-registry(1) for the daemon's configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import requests
import zstandard

from tests.mirrors.alpine import BUSYBOX

REGISTRY: Final = "/usr/bin/docker-registry"
NAME_AND_PASSWORD: Final = ("somebody", "secret")
_HTPASSWD: Final = "somebody:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # bcrypt of "secret"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_FOLDERS: Final = ("dev", "etc", "opt", "root", "srv", "tmp", "usr", "usr/bin", "var", "var/lib")
_BUILT: Final = 1767225600  # 2026-01-01


def digest(data: bytes) -> str:
    """Return the digest by which images name bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer's tar as it is stored; `diff_id` is that of the plain tar."""

    data: bytes
    diff_id: str
    media_type: str


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A member that is a link: hard, or symbolic."""

    target: str
    hard: bool = False


Content = bytes | Link | None


def layer(members: Mapping[str, Content] | Iterable[tuple[str, Content, int]], compression: str = "gzip") -> Layer:
    """Return a layer of members: bytes are a file, None a folder; `compression` is gzip, zstd or none."""
    rows = [(name, what, 0o755) for name, what in members.items()] if isinstance(members, Mapping) else members
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, what, mode in rows:
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = mode, _BUILT
            if what is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(what, Link):
                member.type, member.linkname = tarfile.LNKTYPE if what.hard else tarfile.SYMTYPE, what.target
            else:
                member.size = len(what)
            archive.addfile(member, io.BytesIO(what) if isinstance(what, bytes) else None)
    data = plain.getvalue()
    packed = {"gzip": lambda: gzip.compress(data, 1, mtime=0), "zstd": lambda: zstandard.compress(data, 1)}
    stored = packed[compression]() if compression in packed else data
    suffix = f"+{compression}" if compression in packed else ""
    return Layer(data=stored, diff_id=digest(data), media_type=f"{_LAYER}{suffix}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """An image for one platform. `changes` replaces entries of its manifest, `config_changes` of its configuration."""

    layers: tuple[Layer, ...]
    architecture: str = "amd64"
    variant: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def config(self) -> bytes:
        """The configuration."""
        document = {
            "architecture": self.architecture,
            "os": "linux",
            **({"variant": self.variant} if self.variant else {}),
            "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in self.layers]},
            **self.config_changes,
        }
        return json.dumps(document).encode()

    @functools.cached_property
    def manifest(self) -> bytes:
        """The manifest."""
        document = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, self.config),
            "layers": [_descriptor(each.media_type, each.data) for each in self.layers],
            **self.changes,
        }
        return json.dumps(document).encode()

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Everything but the manifest."""
        return (self.config, *(each.data for each in self.layers))

    def listed(self, **further: Any) -> dict[str, Any]:
        """Return this image's entry of an index."""
        platform = {"os": "linux", "architecture": self.architecture}
        if self.variant:
            platform["variant"] = self.variant
        return {**_descriptor(_MANIFEST, self.manifest), "platform": platform, **further}


def index(*images: Image) -> bytes:
    """Return an index of images for several platforms, with an attestation among them as docker buildx leaves it."""
    nobody = {**_descriptor(_MANIFEST, b"{}"), "platform": {"os": "unknown", "architecture": "unknown"}}
    entries = [each.listed() for each in images]
    return json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [nobody, *entries]}).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def guest(architecture: str = "amd64", mark: str = "") -> Image:
    """Return an image that makes a guest: a base, a layer that takes away and links, and one that starts a folder anew.

    Real ones of busybox, for amd64 whatever they say: the agent that boots is osbuilder's own.
    """
    base = layer(
        [
            *((folder, None, 0o755) for folder in _FOLDERS),
            *((name, Link("usr/bin"), 0o777) for name in ("bin", "sbin")),
            ("usr/bin/busybox", BUSYBOX.read_bytes(), 0o755),
            ("usr/bin/sh", Link("busybox"), 0o777),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644),
            ("etc/os-release", b"ID=toy\n", 0o644),
            ("etc/motd", b"Welcome\n", 0o644),
            ("etc/issue", b"old\n", 0o644),
            ("opt/app", None, 0o755),
            ("opt/app/old", b"old\n", 0o644),
            ("srv/kept", b"kept\n", 0o644),
        ]
    )
    second = layer(
        [
            ("etc/.wh.motd", b"", 0o644),
            ("etc/issue", f"new {mark}\n".encode(), 0o600),
            ("usr/bin/tool", b"#!/bin/sh\n", 0o755),
            ("usr/bin/tool-link", Link("usr/bin/tool", hard=True), 0o755),
            ("usr/bin/box", Link("usr/bin/busybox", hard=True), 0o755),  # of the layer below
            ("sbin/fixed", b"#!/bin/sh\n", 0o755),  # through the link of the base
        ],
        "zstd",
    )
    third = layer(
        [("opt/app", None, 0o700), ("opt/app/.wh..wh..opq", b"", 0o644), ("opt/app/new", b"new\n", 0o644)], "none"
    )
    return Image(layers=(base, second, third), architecture=architecture)


# --- where images are put


@contextlib.contextmanager
def registry(folder: Path, *, private: bool = False, port: int = 0) -> Iterator[str]:
    """Start Debian's docker-registry on 127.0.0.1 with its storage in a folder, and yield its address."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(_HTPASSWD)
    configuration: dict[str, Any] = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of no consequence"},
    }
    if private:
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    path = folder / "config.yml"
    path.write_text(json.dumps(configuration))  # which is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", str(path)], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process, folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{url}/v2/", timeout=5)
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"docker-registry did not start: {log.read_text()}")


def push(
    url: str, repository: str, tag: str, *images: Image, auth: tuple[str, str] | None = None, listed: bool = False
) -> str:
    """Push an image, or an index of several, under a tag; return the digest of what the tag means."""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = auth
        for image in images:
            for blob in image.blobs:
                _push_blob(session, f"{url}/v2/{repository}", blob)
        if len(images) == 1 and not listed:
            return _push_manifest(session, f"{url}/v2/{repository}", tag, images[0].manifest, _MANIFEST)
        for image in images:
            _push_manifest(session, f"{url}/v2/{repository}", digest(image.manifest), image.manifest, _MANIFEST)
        entries = [each.listed() for each in images]
        document = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}).encode()
        return _push_manifest(session, f"{url}/v2/{repository}", tag, document, _INDEX)


def _push_blob(session: requests.Session, base: str, data: bytes) -> None:
    begun = session.post(f"{base}/blobs/uploads/", timeout=30)
    begun.raise_for_status()
    place = begun.headers["Location"]
    joint = "&" if "?" in place else "?"
    session.put(
        f"{place}{joint}digest={digest(data)}",
        data=data,
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    ).raise_for_status()


def _push_manifest(session: requests.Session, base: str, name: str, data: bytes, media_type: str) -> str:
    answer = session.put(f"{base}/manifests/{name}", data=data, headers={"Content-Type": media_type}, timeout=30)
    answer.raise_for_status()
    return digest(data)


def write_layout(folder: Path, images: Mapping[str, Image], *, listed: bool = False) -> Path:
    """Write an OCI layout with images by name, or (`listed`) as one index of platforms; return the folder."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entries = []
    for name, image in images.items():
        for blob in (*image.blobs, image.manifest):
            (blobs / digest(blob).removeprefix("sha256:")).write_bytes(blob)
        named = {} if listed else {"annotations": {"org.opencontainers.image.ref.name": name}}
        entries.append({**image.listed(), **named})
    if listed:
        nested = index(*images.values())
        (blobs / digest(nested).removeprefix("sha256:")).write_bytes(nested)
        entries = [_descriptor(_INDEX, nested)]
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return folder


def pack(folder: Path, path: Path) -> Path:
    """Pack a layout's folder into a tar; return the tar."""
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
    return path


def save(path: Path, images: Mapping[str, Image]) -> Path:
    """Write what `docker save` wrote before it wrote layouts: plain layers, one shared by a link; return the tar."""
    with tarfile.open(path, "w") as archive:
        entries = []
        for name, image in images.items():
            config = f"{digest(image.config).removeprefix('sha256:')}.json"
            _member(archive, config, image.config)
            layers = []
            for each in image.layers:
                plain = _plain(each)
                folder = f"{hashlib.sha256(name.encode() + plain).hexdigest()}/layer.tar"
                _member(archive, folder, plain)
                link = tarfile.TarInfo(f"{folder.partition('/')[0]}-again/layer.tar")
                link.type, link.linkname = tarfile.SYMTYPE, f"../{folder}"
                archive.addfile(link)
                layers.append(link.name)
            entries.append({"Config": config, "RepoTags": [name], "Layers": layers})
        _member(archive, "manifest.json", json.dumps(entries).encode())
    return path


def _plain(each: Layer) -> bytes:
    if each.media_type.endswith("gzip"):
        return gzip.decompress(each.data)
    return zstandard.decompress(each.data) if each.media_type.endswith("zstd") else each.data


def _member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def can_serve() -> bool:
    """Whether this machine has docker-registry."""
    return shutil.which(REGISTRY) is not None
