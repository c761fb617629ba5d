"""The JSON of container images: indexes, manifests and configurations, as far as a root filesystem needs them.

Sources: OCI image-spec 1.1 (index, manifest, config, media types); Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from osbuilder.errors import FetchError, PlanError

INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
MANIFEST_MAX_BYTES: Final = 4 << 20  # what registries take at most (distribution-spec 1.1, "Pushing Manifests")

_LAYERS: Final = re.compile(
    r"application/vnd\.(oci\.image\.layer(\.nondistributable)?\.v1\.tar(\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?)"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NAME: Final = "org.opencontainers.image.ref.name"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a manifest says of a blob. `platform` is as people write it (linux/arm64/v8), "" where it is not said."""

    digest: str
    size_bytes: int
    media_type: str = ""
    platform: str = ""
    name: str = ""

    @property
    def sha256(self) -> str:
        """The digest's hex digits."""
        return self.digest.partition(":")[2]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image for one platform: its configuration, and its layers, the lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a configuration says of the platform, and the digests of the layers' tars (not of what compresses them)."""

    platform: str
    diff_ids: tuple[str, ...]


class Malformed(Exception):
    """JSON that is not what the formats say; the text says where."""


def parse_json(data: bytes, origin: str) -> Mapping[str, Any]:
    """Return a document. Raises FetchError that names `origin`."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise FetchError(f"{origin}: expected JSON, got {data[:40]!r}", hint=_WRONG) from error
    if not isinstance(value, dict):
        raise FetchError(f"{origin}: expected a JSON object, got {data[:40]!r}", hint=_WRONG)
    return value


_WRONG: Final = "Check the image's name: what answered there is no image, or none that is whole."


def kind_of(document: Mapping[str, Any], origin: str) -> str:
    """Return "index" or "manifest". Raises FetchError for anything else, such as Docker's schema 1."""
    named = document.get("mediaType")
    if named in INDEXES or (named is None and "manifests" in document):
        return "index"
    if named in MANIFESTS or (named is None and "layers" in document):
        return "manifest"
    if document.get("schemaVersion") == 1:
        raise FetchError(
            f"{origin} is an image manifest of schema 1: expected schema 2 or OCI",
            hint="That format cannot be verified. Push the image again with a tool of this decade.",
        )
    raise FetchError(f"{origin}: expected an image or an index of images, got {named!r}", hint=_WRONG)


def parse_index(document: Mapping[str, Any], origin: str) -> tuple[Descriptor, ...]:
    """Return what an index lists. Raises FetchError."""
    try:
        return tuple(_descriptor(each, f"manifests[{at}]") for at, each in enumerate(_list(document, "manifests")))
    except Malformed as error:
        raise FetchError(f"{origin}: {error}", hint=_WRONG) from None


def parse_manifest(document: Mapping[str, Any], origin: str) -> Manifest:
    """Return an image. Raises FetchError, also for layers that are no tar."""
    try:
        manifest = Manifest(
            config=_descriptor(document.get("config"), "config"),
            layers=tuple(_descriptor(each, f"layers[{at}]") for at, each in enumerate(_list(document, "layers"))),
        )
    except Malformed as error:
        raise FetchError(f"{origin}: {error}", hint=_WRONG) from None
    for layer in manifest.layers:
        if layer.media_type and not _LAYERS.fullmatch(layer.media_type):
            raise FetchError(
                f"{origin} has a layer of type {layer.media_type}: expected a tar, plain or with gzip or zstd",
                hint="This is an artifact of another kind, or its layers are encrypted: there is no filesystem in it.",
            )
    return manifest


def parse_config(data: bytes, origin: str) -> Config:
    """Return an image's configuration. Raises FetchError."""
    document = parse_json(data, f"the configuration of {origin}")
    rootfs = document.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list) or not all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in ids):
        raise FetchError(f"the configuration of {origin}: rootfs.diff_ids: expected a list of sha256:HEX", hint=_WRONG)
    return Config(platform=_platform(document), diff_ids=tuple(ids))


def choose_platform(found: tuple[Descriptor, ...], wanted: str, origin: str) -> Descriptor:
    """Return the image for a platform (linux/arm64), whatever its variant. Raises PlanError with what there is."""
    for exact in (True, False):
        for each in found:
            if each.platform == wanted or (not exact and each.platform.startswith(f"{wanted}/")):
                return each
    # Attestations are listed beside images, for the platform unknown/unknown.
    offered = {each.platform or "one that it does not name" for each in found} - {"unknown/unknown"}
    raise wrong_platform(wanted, offered, origin)


def wrong_platform(wanted: str, offered: Iterable[str], origin: str) -> PlanError:
    """Return the error for an image that is not for the guest's architecture."""
    return PlanError(
        f"{origin} is not for {wanted}: expected that platform, got {', '.join(sorted(offered)) or 'none'}",
        hint="Choose one of these (--arch), or another image.",
    )


def _descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise Malformed(f"{where}: expected a descriptor, got {value!r:.60}")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise Malformed(f"{where}.digest: expected sha256: and 64 hex digits, got {digest!r:.80}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Malformed(f"{where}.size: expected a number of bytes, got {size!r:.40}")
    platform = value.get("platform")
    annotations = value.get("annotations")
    return Descriptor(
        digest=digest,
        size_bytes=size,
        media_type=str(value.get("mediaType", "")),
        platform=_platform(platform) if isinstance(platform, dict) else "",
        name=str(annotations.get(_NAME, "")) if isinstance(annotations, dict) else "",
    )


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise Malformed(f"{key}: expected a list, got {value!r:.60}")
    return value


def _platform(document: Mapping[str, Any]) -> str:
    return "/".join(str(document[key]) for key in ("os", "architecture", "variant") if document.get(key))
