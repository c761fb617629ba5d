"""The connection to a Docker or Podman daemon: where it is, what it is, and what its failures mean for a person."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker.api.client import APIClient
from docker.tls import TLSConfig

from osbuilder.errors import EngineError, ToolMissing

_MINIMUM_API: Final = (1, 40)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an API answers: `url` as DOCKER_HOST spells it (unix, tcp, ssh), `certificates` the folder of a TLS client.

    The folder holds ca.pem, cert.pem and key.pem, as DOCKER_CERT_PATH does.
    """

    url: str
    certificates: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What a daemon says about itself.

    `rootless`: uid 0 inside is the user who runs the daemon. `remapped`: uid 0 inside is a user of its own
    (dockerd --userns-remap). `selinux`: bind mounts need their labels looked through.
    """

    podman: bool
    version: str
    rootless: bool
    remapped: bool
    selinux: bool


def connect(endpoint: Endpoint, *, timeout_s: int) -> APIClient:
    """Return a client that has spoken to the daemon. Raises EngineError, and ToolMissing for ssh without paramiko."""
    if endpoint.url.startswith("ssh:") and importlib.util.find_spec("paramiko") is None:
        raise ToolMissing(
            f"{endpoint.url}: the client library needs the Python package paramiko for ssh",
            hint=".venv/bin/pip install 'docker[ssh]'   (or forward the socket: ssh -L and a unix:// address)",
        )
    with translated("reaching the engine", endpoint):
        client = APIClient(
            base_url=endpoint.url,
            version="auto",
            timeout=timeout_s,
            tls=_tls(endpoint),
            use_ssh_client=endpoint.url.startswith("ssh:"),
        )
    # The environment of this process is no part of a build: no proxies and no credentials out of it.
    client.trust_env = False
    spoken = client.api_version
    if tuple(int(part) for part in spoken.split(".")) < _MINIMUM_API:
        raise EngineError(
            f"the engine at {endpoint.url} is too old: expected API 1.40 or later, got {spoken}",
            hint="Docker 19.03 and Podman 3.0 are the first that do.",
        )
    return client


def inspect_daemon(client: APIClient, endpoint: Endpoint) -> Daemon:
    """Ask a daemon what it is. Raises EngineError."""
    with translated("asking the engine what it is", endpoint):
        version: dict[str, Any] = client.version()
        info: dict[str, Any] = client.info()
        podman = any("Podman" in part.get("Name", "") for part in version.get("Components") or ())
        options = {option.split(",")[0] for option in info.get("SecurityOptions") or ()}
        rootless = _podman_is_rootless(client) if podman else "name=rootless" in options
    return Daemon(
        podman=podman,
        version=str(version.get("Version", "")),
        rootless=rootless,
        remapped="name=userns" in options,
        selinux="name=selinux" in options,
    )


def _podman_is_rootless(client: APIClient) -> bool:
    """Ask through Podman's own API: as Docker, Podman 4 does not tell."""
    answer = client.get(f"{client.base_url}/v3.0.0/libpod/info")
    answer.raise_for_status()
    return bool(answer.json()["host"]["security"]["rootless"])


def _tls(endpoint: Endpoint) -> TLSConfig | bool:
    if endpoint.certificates is None:
        return False
    folder = endpoint.certificates
    return TLSConfig(
        client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
        ca_cert=str(folder / "ca.pem"),
        verify=True,
    )


@contextlib.contextmanager
def translated(doing: str, endpoint: Endpoint) -> Iterator[None]:
    """Turn what the client library raises into EngineError that says what was being done, and what to do about it."""
    try:
        yield
    except docker.errors.APIError as error:
        raise _refused(doing, error) from error
    except docker.errors.DockerException as error:
        raise EngineError(f"{doing} failed ({endpoint.url}): {_root_of(error)}", hint=_REACH_HINT) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ConnectionError, EOFError) as error:
        raise EngineError(
            f"the engine went away while {doing} ({endpoint.url}): {_root_of(error)}",
            hint="Start it again and repeat the build: what is left over is removed then. "
            "`inv doctor` says which engines answer.",
        ) from error


_REACH_HINT: Final = "Is the daemon running, and may you use its socket? `inv doctor` says what is missing."


def _root_of(error: BaseException) -> str:
    """Return what the first error of a chain says: the client library wraps one refusal four times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error)


def _refused(doing: str, error: docker.errors.APIError) -> EngineError:
    reason = str(error.explanation or error)
    hint = ""
    if "no space left on device" in reason.lower():
        hint = "The engine's own disk is full: see `docker system df`; `docker system prune` frees what nobody uses."
    return EngineError(f"{doing} failed: the engine says: {reason}", hint=hint)
