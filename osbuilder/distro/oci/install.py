"""Any container image as a distribution: pulled or read, verified, its layers laid over each other.

Two steps. The first finds out which image is meant, for the guest's platform, and leaves its digest: that is what the
second one's key is made of, so the same image is never unpacked twice, whatever its name. A tag is resolved once,
recorded, and kept as long as the artifact is; a digest says for ever what is meant.

Everything is held against its digest: the manifest against the name (or the index that lists it), configuration and
layers against the manifest, and each layer's tar against the configuration. Only a tag is taken on trust, so it needs a
registry that is protected: https, or this very host.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from osbuilder.distro.indexes import from_first
from osbuilder.distro.oci.layers import apply_layer, open_layer
from osbuilder.distro.oci.layout import INDEX, SAVED, Layout, identity, pick, read_saved
from osbuilder.distro.oci.manifest import (
    Config,
    Descriptor,
    Manifest,
    choose_platform,
    kind_of,
    parse_config,
    parse_index,
    parse_json,
    parse_manifest,
    wrong_platform,
)
from osbuilder.distro.oci.reference import RESOLVED, LocalImage, Reference, is_loopback, parse_image, resolved
from osbuilder.distro.oci.registry import Registry, digest_of
from osbuilder.distro.order import refuse_packages
from osbuilder.errors import FetchError, UsageError
from osbuilder.fetch import shown
from osbuilder.step import NOT_IN_KEY
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
_ADDRESS: Final = re.compile(r"https?://[^\s/]+")


class Place(Protocol):
    """Where the parts of an image are."""

    def manifest(self, digest: str) -> bytes:
        """Return a manifest or index, verified."""

    def blob(self, blob: Descriptor) -> Path:
        """Return a blob's file, verified."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """An image as the user named it: of a registry, at the first of `addresses` that has it, or `local`.

    `name` is what it is called in messages. Of a local one `sha256` says which it is, not where it lies.
    """

    name: str
    reference: Reference | None = None
    addresses: tuple[str, ...] = dataclasses.field(default=(), metadata=NOT_IN_KEY)
    local: LocalImage | None = dataclasses.field(default=None, metadata=NOT_IN_KEY)
    sha256: str = ""

    def describe(self) -> tuple[str, ...]:
        """Return where it is looked for."""
        if self.reference is None:
            return (f"read {self.name} (sha256 {self.sha256})",)
        return tuple(f"ask {shown(address)} for {self.reference}" for address in self.addresses)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResolveImage:
    """Find out which image a name means for a platform: leaves image.json with its digest. Facts: the same."""

    origin: Origin
    platform: str

    @property
    def ONLINE(self) -> bool:  # noqa: N802 - as is_online knows it
        """Whether a registry is asked: an image in a file is there."""
        return self.origin.local is None

    def describe(self) -> tuple[str, ...]:
        return (*self.origin.describe(), f"choose what is for {self.platform}")

    def run(self, job: Job) -> Mapping[str, Json]:
        """Leave image.json. Raises FetchError, VerificationError, PlanError for another platform, UsageError."""
        origin = self.origin
        if origin.local:
            found = _resolve_local(origin.local, self.platform)
        else:
            found = from_first(origin.addresses, lambda address: self._ask(job, address))
        (job.out / RESOLVED).write_text(json.dumps({"digest": found["digest"], "kind": found["kind"]}), "utf-8")
        return {"image": origin.name, **found}

    def _ask(self, job: Job, address: str) -> dict[str, Json]:
        reference = self.origin.reference
        assert reference is not None  # noqa: S101 - without one the image is local
        registry = Registry(job, address, reference.repository)
        digest, index = ask_digest(registry, reference, self.platform)
        return {"kind": "manifest", "digest": digest, "index": index, "registry": registry.address}


def ask_digest(registry: Registry, reference: Reference, platform: str) -> tuple[str, str]:
    """Return the digest that a reference means for a platform, and that of the index that lists it, "" without one.

    Raises FetchError, VerificationError, PlanError for another platform.
    """
    data = registry.manifest(reference.manifest)
    document = parse_json(data, str(reference))
    if kind_of(document, str(reference)) != "index":
        return digest_of(data), ""
    return choose_platform(parse_index(document, str(reference)), platform, str(reference)).digest, digest_of(data)


def _resolve_local(image: LocalImage, platform: str) -> dict[str, Json]:
    layout = Layout(image.path)
    if INDEX not in layout.names():
        return {"kind": "saved", "digest": digest_of(layout.read(read_saved(layout.read(SAVED), image).config))}
    document = parse_json(layout.read(INDEX), f"{image.path}: {INDEX}")
    found = pick(parse_index(document, f"{image.path}: {INDEX}"), image)
    if len(found) == 1:
        chosen = found[0]
    elif any(each.platform for each in found):
        chosen = choose_platform(found, platform, str(image.path))
    else:
        names = [each.name for each in found if each.name]
        raise UsageError(
            f"{len(found)} images in {image.path}: which one?", hint=f"Name it, as PATH:NAME. Known: {', '.join(names)}"
        )
    # What index.json lists may be an index again, of platforms.
    nested = parse_json(layout.read(f"blobs/sha256/{chosen.sha256}"), f"{image.path}: {chosen.digest}")
    if kind_of(nested, f"{image.path}: {chosen.digest}") == "index":
        chosen = choose_platform(parse_index(nested, str(image.path)), platform, str(image.path))
    return {"kind": "manifest", "digest": chosen.digest}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnpackImage:
    """Unpack the image that the input `reference` names: leaves rootfs.tar. Facts: its digest, its layers."""

    origin: Origin = dataclasses.field(metadata=NOT_IN_KEY)
    platform: str
    epoch: int

    @property
    def ONLINE(self) -> bool:  # noqa: N802 - as is_online knows it
        """Whether a registry is asked: an image in a file is there."""
        return self.origin.local is None

    def describe(self) -> tuple[str, ...]:
        return ("fetch the image's layers, each by its digest", f"lay them over each other, write {ROOTFS_TAR}")

    def run(self, job: Job) -> Mapping[str, Json]:
        """Leave the tree. Raises FetchError, VerificationError, PlanError for another platform, TreeError."""
        image = resolved(job)
        origin = self.origin
        if origin.local:
            facts = self._unpack(job, _LocalPlace(origin.local, job.work), image)
        else:
            facts = from_first(origin.addresses, lambda address: self._pull(job, address, image))
        return {"packages": [], "digest": image["digest"], **facts}

    def _pull(self, job: Job, address: str, image: Mapping[str, str]) -> Mapping[str, Json]:
        assert self.origin.reference is not None  # noqa: S101 - without one the image is local
        registry = Registry(job, address, self.origin.reference.repository)
        return {**self._unpack(job, registry, image), "mirror": registry.address}

    def _unpack(self, job: Job, place: Place, image: Mapping[str, str]) -> Mapping[str, Json]:
        name = self.origin.name
        if image["kind"] != "saved":
            return unpack_image(job, place, image["digest"], name=name, platform=self.platform, epoch=self.epoch)
        assert isinstance(place, _LocalPlace)  # noqa: S101 - no registry has such images
        config, files = place.saved(image["digest"])
        check_config(config, config.diff_ids, name=name, platform=self.platform)
        lay_over(job, config, files, name=name, epoch=self.epoch)
        return {"layers": list(config.diff_ids)}


def unpack_image(job: Job, place: Place, digest: str, *, name: str, platform: str, epoch: int) -> Mapping[str, Json]:
    """Unpack the image with a digest: leaves rootfs.tar. Returns the fact `layers`; raises as UnpackImage."""
    manifest, config = read_image(place, digest, name=name, platform=platform)
    lay_over(job, config, (place.blob(layer) for layer in manifest.layers), name=name, epoch=epoch)
    return {"layers": [layer.digest for layer in manifest.layers]}


def read_image(place: Place, digest: str, *, name: str, platform: str) -> tuple[Manifest, Config]:
    """Return what an image's manifest and configuration say. Raises FetchError, PlanError for another platform."""
    document = parse_json(place.manifest(digest), name)
    if kind_of(document, name) != "manifest":
        raise FetchError(f"{name}: {digest} is an index inside of an index: expected an image")
    manifest = parse_manifest(document, name)
    config = parse_config(place.blob(manifest.config).read_bytes(), name)
    check_config(config, manifest.layers, name=name, platform=platform)
    return manifest, config


def check_config(config: Config, layers: Sequence[object], *, name: str, platform: str) -> None:
    """Raise FetchError unless a configuration is that of so many layers, PlanError when it is another platform's."""
    if len(config.diff_ids) != len(layers) or not layers:
        raise FetchError(
            f"{name}: its configuration names {len(config.diff_ids)} layers, its manifest {len(layers)}: expected "
            "as many, and at least one"
        )
    # Variants (arm64/v8) are smaller differences than an agent would notice.
    if "/".join(config.platform.split("/")[:2]) != platform:
        raise wrong_platform(platform, {config.platform}, name)


def lay_over(job: Job, config: Config, files: Iterable[Path], *, name: str, epoch: int) -> None:
    """Lay the layers in some files over each other, the lowest first: leaves rootfs.tar. Raises as `apply_layer`."""
    tree = Tree()
    for number, (path, diff_id) in enumerate(zip(files, config.diff_ids, strict=True), start=1):
        layer = open_layer(path, diff_id=diff_id, origin=name, scratch=job.work)
        apply_layer(tree, layer, label=f"{name}, layer {number} of {len(config.diff_ids)}")
        job.check_stopped()
    tree.write(job.out / ROOTFS_TAR, epoch=epoch)


class _LocalPlace:
    """The parts of an image of this host."""

    def __init__(self, image: LocalImage, work: Path) -> None:
        self._image = image
        self._layout = Layout(image.path)
        self._work = work

    def manifest(self, digest: str) -> bytes:
        return self.blob(Descriptor(digest=digest, size_bytes=0)).read_bytes()

    def blob(self, blob: Descriptor) -> Path:
        return self._layout.blob(blob, self._work / blob.sha256)

    def saved(self, digest: str) -> tuple[Config, tuple[Path, ...]]:
        """Return a saved image's configuration and its layers' tars, which the configuration vouches for."""
        saved = read_saved(self._layout.read(SAVED), self._image)
        data = self._layout.read(saved.config)
        if digest_of(data) != digest:
            raise FetchError(f"{self._image.path} changed during the build", hint="Try again.")
        files = []
        for number, name in enumerate(saved.layers):
            target = self._work / f"layer-{number}"
            with self._layout.open(name) as stream, target.open("wb") as copy:
                while block := stream.read(1 << 20):
                    copy.write(block)
            files.append(target)
        return parse_config(data, self._image.name or str(self._image.path)), tuple(files)


def origin_of(order: Order) -> Origin:
    """Return the image that an order's release names. Raises UsageError."""
    origin = find_origin(order.choice.release_name, order.mirrors)
    if origin.local and order.mirrors:
        raise UsageError(f"{origin.local.path} is a file: no registry has it", hint="Leave out mirrors=oci=...")
    return origin


def find_origin(text: str, mirrors: tuple[str, ...]) -> Origin:
    """Return the image that a user names: of its own registry, or of `mirrors` if there are any. Raises UsageError."""
    named = parse_image(text)
    if isinstance(named, LocalImage):
        name = named.path.name + (f":{named.name}" if named.name else "")
        return Origin(name=name, local=named, sha256=identity(named))
    addresses = mirrors or (named.api,)
    for address in addresses:
        parts = urlsplit(address)
        if not _ADDRESS.fullmatch(address.rstrip("/")):
            raise UsageError(
                f"not a registry: {shown(address)!r}", hint="Expected https://HOST[:PORT] (mirrors=oci=...)."
            )
        if parts.scheme != "https" and not named.digest and not is_loopback(parts.hostname or ""):
            raise UsageError(
                f"{shown(address)} does not protect what the tag {named.tag!r} of {named.repository} means",
                hint="Name the image by its digest (NAME@sha256:...), or a registry with https.",
            )
    return Origin(name=str(named), reference=named, addresses=addresses)


def resolve(order: Order) -> ResolveImage:
    """Return the action that comes before `unpack`. Raises UsageError for a name that can be no image's."""
    return ResolveImage(origin=origin_of(order), platform=f"linux/{order.choice.arch.oci}")


def unpack(order: Order) -> UnpackImage:
    """Return the action for an order (the adapter of package manager oci). Raises UsageError for any package."""
    refuse_packages(order)
    return UnpackImage(origin=origin_of(order), platform=f"linux/{order.choice.arch.oci}", epoch=order.epoch)
