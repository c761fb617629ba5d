"""Builders as images of a Docker-compatible daemon: imported, found, removed; and images pulled from a registry.

What these functions raise is what the client library raises (see daemon.translated), and EngineError.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Final

import docker.errors
from docker.api.client import APIClient

from osbuilder.engine.base import Builder, damaged
from osbuilder.errors import EngineError

_REPOSITORY: Final = "osbuilder/builder"
_SHA256_LABEL: Final = "osbuilder.sha256"
_CHUNK_BYTES: Final = 1 << 20


def name_of(builder: Builder) -> str:
    """Return the name and tag of a builder's image."""
    return f"{_repository(builder)}:{builder.sha256[:16]}"


def _repository(builder: Builder) -> str:
    # A builder is called by the packages that it has besides. Of what their names may have, + alone is refused here.
    return f"{_REPOSITORY}-{builder.name.replace('+', 'p')}"


def find(client: APIClient, builder: Builder) -> str | None:
    """Return the id of a builder's image, None if there is none that was made from this very tar."""
    try:
        facts = client.inspect_image(name_of(builder))  # type: ignore[no-untyped-call]
    except docker.errors.NotFound:
        return None
    labels = (facts.get("Config") or {}).get("Labels") or {}
    return str(facts["Id"]) if labels.get(_SHA256_LABEL) == builder.sha256 else None


def import_builder(client: APIClient, builder: Builder) -> None:
    """Import a builder's tar. The image gets its name only once what was sent is what was asked for."""
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        with builder.tar.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield chunk

    if not builder.tar.is_file():
        raise EngineError(f"builder {builder.name} is missing ({builder.tar})")
    answer = client.import_image_from_stream(chunks(), changes=[f"LABEL {_SHA256_LABEL}={builder.sha256}"])
    imported = str(_last(str(answer))["status"])
    if digest.hexdigest() != builder.sha256:
        client.remove_image(imported, force=True)
        raise damaged(builder, digest.hexdigest())
    if find(client, builder):
        client.remove_image(imported, force=True)  # another process was faster
    else:
        client.tag(imported, _repository(builder), builder.sha256[:16], force=True)


def any_builder(client: APIClient) -> str | None:
    """Return the id of some builder's image: each has what Debian calls essential. None if there is none."""
    return next((str(image["Id"]) for image in client.images(filters={"label": _SHA256_LABEL})), None)


def collect(client: APIClient, kept: Collection[str]) -> int:
    """Remove builders' images that were made from other tars than these (sha256) and that no container runs in.

    Returns the bytes freed. Images are the daemon's, not a store's: one that another store wants is imported again.
    """
    freed = 0
    for image in client.images(filters={"label": _SHA256_LABEL}):
        if image["Labels"][_SHA256_LABEL] not in kept:
            with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
                for name in image["RepoTags"] or [image["Id"]]:
                    client.remove_image(name)
                freed += image["Size"]
    return freed


def pull(client: APIClient, image: str) -> None:
    """Pull an image by its digest unless it is there."""
    with contextlib.suppress(docker.errors.NotFound):
        client.inspect_image(image)  # type: ignore[no-untyped-call]
        return
    repository, _, digest = image.partition("@")
    _last(client.pull(repository, tag=digest))


def _last(answer: str) -> dict[str, str]:
    """Return the last of the JSON objects, one a line, that a streamed answer consists of. Raises EngineError."""
    last: dict[str, str] = json.loads(answer.strip().splitlines()[-1])
    if "error" in last:
        raise EngineError(f"the engine refuses: {last['error']}")
    return last
