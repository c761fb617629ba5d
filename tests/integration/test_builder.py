"""Builders: bootstrapped by anybody, anywhere, they are the same bytes; and an image from a registry can make them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests
from docker.api.client import APIClient

from osbuilder.arch import host_arch
from osbuilder.engine import builder as builders
from osbuilder.engine import images
from osbuilder.engine.base import Builder
from osbuilder.engine.builder import BootstrapBuilder, bootstrap_in_image, bootstrap_on_host, normalise
from osbuilder.engine.daemon import Endpoint
from osbuilder.engine.docker import DockerEngine
from osbuilder.errors import EngineError, FetchError, Interrupted, UsageError, VerificationError
from tests.integration.engines import Stranger
from tests.mirrors.apt import Repository, Toy
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply, make_authority

SMALL = BootstrapBuilder(suite="trixie", packages=("zstd",), architecture=host_arch().debian, epoch=1700000000)


def _needs_mmdebstrap() -> None:
    if not shutil.which("mmdebstrap") or not builders.KEYRING.exists():
        pytest.skip("mmdebstrap or Debian's archive keyring is not installed")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """The sha256 of the small builder as this process bootstraps it, and its packages."""
    _needs_mmdebstrap()
    folder = tmp_path_factory.mktemp("builder")
    bootstrap_on_host(SMALL, folder / "raw.tar", mirror=None, log=folder / "log", proxies={}, check=lambda: None)
    packages = normalise(folder / "raw.tar", folder / "builder.tar", epoch=SMALL.epoch)
    return _sha256(folder / "builder.tar"), packages


def test_a_builder_names_its_packages(bootstrapped: tuple[str, tuple[tuple[str, str, str], ...]]) -> None:
    names = {name for name, _, _ in bootstrapped[1]}
    assert {"zstd", "apt", "dpkg", "libc6", "debian-archive-keyring"} <= names


_AS_STRANGER = """
import sys
from pathlib import Path
from osbuilder.engine.builder import BootstrapBuilder, bootstrap_on_host
folder = Path(sys.argv[1])
spec = BootstrapBuilder(suite="trixie", packages=("zstd",), architecture=sys.argv[2], epoch=1700000000)
bootstrap_on_host(spec, folder / "raw.tar", mirror=None, log=folder / "log", proxies={}, check=lambda: None)
"""


def test_an_ordinary_user_bootstraps_the_same_bytes_as_root(
    bootstrapped: tuple[str, tuple[tuple[str, str, str], ...]], stranger: Stranger, ground: Path
) -> None:
    folder = ground / "bootstrap"
    folder.mkdir(mode=0o700)
    os.chown(folder, stranger.uid, stranger.gid)
    process = stranger.start("-c", _AS_STRANGER, str(folder), SMALL.architecture)
    process.communicate(timeout=600)
    assert process.returncode == 0
    normalise(folder / "raw.tar", folder / "builder.tar", epoch=SMALL.epoch)
    assert _sha256(folder / "builder.tar") == bootstrapped[0]


def test_a_bootstrap_that_is_stopped_leaves_no_process_and_no_mount(tmp_path: Path) -> None:
    _needs_mmdebstrap()
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 12:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        bootstrap_on_host(SMALL, tmp_path / "raw.tar", mirror=None, log=tmp_path / "log", proxies={}, check=check)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            assert str(tmp_path).encode() not in path.read_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """As much of a job as a bootstrap on the host uses."""

    work: Path
    out: Path
    log: Path
    proxies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ca_bundle: Path | None = None

    def check_stopped(self) -> None:
        pass

    def cache(self, name: str) -> Path:
        folder = self.work / "cache" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def test_a_builder_of_an_older_state_than_was_seen_before_is_refused(tmp_path: Path) -> None:
    _needs_mmdebstrap()
    job = _Job(work=tmp_path / "work", out=tmp_path / "out", log=tmp_path / "log")
    for folder in (job.work, job.out):
        folder.mkdir()
    SMALL.run(job)  # type: ignore[arg-type]
    memories = {path: json.loads(path.read_text()) for path in (job.work / "cache").rglob("*.json")}
    (memory,) = (path for path, seen in memories.items() if seen["url"].endswith("/dists/trixie/InRelease"))
    memory.write_text(json.dumps({**memories[memory], "newest": memories[memory]["newest"] + 30 * 24 * 3600}))
    with pytest.raises(FetchError, match=r"/trixie/InRelease is out of date, or an old state that is served again"):
        SMALL.run(job)  # type: ignore[arg-type]


def test_mirrors_are_tried_in_order_and_each_refusal_is_told(tmp_path: Path) -> None:
    _needs_mmdebstrap()
    mirrors = ("http://127.0.0.1:9/debian", "http://127.0.0.1:10/debian")
    spec = dataclasses.replace(SMALL, mirrors=mirrors)
    job = _Job(work=tmp_path, out=tmp_path, log=tmp_path / "log")
    with pytest.raises(FetchError) as caught:
        spec.run(job)  # type: ignore[arg-type]
    assert caught.value.message == "; ".join(f"the mirror {mirror} refuses connections" for mirror in mirrors)


def test_a_mirror_with_https_is_trusted_by_the_setting_alone(tmp_path: Path) -> None:
    _needs_mmdebstrap()
    authority, certificate = make_authority(tmp_path)
    files = Repository(key=Key.of_seed(1), packages=(Toy(name="base-files", fields={"Essential": "yes"}),)).files()
    with FaultyServer(certificate=certificate) as server:
        for name, content in files.items():
            server.serve(f"/{name}", Reply(body=content))
        spec = dataclasses.replace(SMALL, mirrors=(server.url,))
        job = _Job(work=tmp_path, out=tmp_path / "out", log=tmp_path / "log")
        job.out.mkdir()
        with pytest.raises(FetchError, match=f"the mirror {server.url} has a certificate that is not trusted"):
            spec.run(job)  # type: ignore[arg-type]
        assert server.seen("/dists/trixie/InRelease") == []
        # Whom it trusts with the connection says nothing about whose packages it takes.
        with pytest.raises(VerificationError, match="that none of the trusted keys has signed"):
            spec.run(dataclasses.replace(job, ca_bundle=authority))  # type: ignore[arg-type]
        assert server.seen("/dists/trixie/InRelease")
        with pytest.raises(UsageError, match=r"ca_bundle: cannot read .*none\.pem: No such file"):
            spec.run(dataclasses.replace(job, ca_bundle=tmp_path / "none.pem"))  # type: ignore[arg-type]


# In an image from a registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of an empty registry on this machine; Docker trusts loopback without TLS."""
    tmp_path = tmp_path_factory.mktemp("registry")
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "tests"},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [program, "serve", str(tmp_path / "registry.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}/v2/", timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def base_image(registry: str, docker_url: str, engine_builder: Builder) -> Iterator[str]:
    """A Debian image with its digest that is only in the registry: a builder, as any Debian image has apt."""
    client = APIClient(base_url=docker_url, version="auto", timeout=300)
    repository = f"{registry}/debian"
    images.import_builder(client, engine_builder)
    client.tag(images.name_of(engine_builder), repository, "trixie")
    answer = client.push(repository, tag="trixie")
    digest = next(line for line in answer.splitlines() if "sha256:" in line and "digest" in line)
    digest = "sha256:" + digest.partition("digest: sha256:")[2][:64]
    client.remove_image(f"{repository}:trixie", force=True)
    yield f"{repository}@{digest}"
    client.remove_image(f"{repository}@{digest}", force=True)
    client.close()


def test_an_image_from_a_registry_bootstraps_a_builder_and_no_container_is_left(
    base_image: str, docker_url: str, bootstrapped: tuple[str, tuple[tuple[str, str, str], ...]], tmp_path: Path
) -> None:
    engine = DockerEngine(Endpoint(url=docker_url), store_id="builder-tests")
    bootstrap_in_image(
        SMALL,
        tmp_path / "raw.tar",
        mirror=None,
        image=base_image,
        engine=engine,
        label="t",
        log=tmp_path / "log",
        proxies={},
    )
    packages = normalise(tmp_path / "raw.tar", tmp_path / "builder.tar", epoch=SMALL.epoch)
    assert packages == bootstrapped[1]
    client = APIClient(base_url=docker_url, version="auto")
    left = client.containers(all=True, filters={"label": "osbuilder.store=builder-tests"})
    client.close()
    assert left == []


def test_an_image_that_the_registry_does_not_have_is_told(registry: str, docker_url: str, tmp_path: Path) -> None:
    engine = DockerEngine(Endpoint(url=docker_url), store_id="builder-tests")
    image = f"{registry}/debian@sha256:{'0' * 64}"
    with pytest.raises(EngineError, match=r"working in image .* failed: the engine says"):
        bootstrap_in_image(
            SMALL,
            tmp_path / "raw.tar",
            mirror=None,
            image=image,
            engine=engine,
            label="t",
            log=tmp_path / "log",
            proxies={},
        )


def test_work_in_an_image_is_stopped(base_image: str, docker_url: str, tmp_path: Path) -> None:
    engine = DockerEngine(Endpoint(url=docker_url), store_id="builder-tests")
    timer = threading.Timer(4, engine.stop)
    timer.start()
    with pytest.raises(Interrupted):
        engine.run_in_image(
            base_image,
            (("sleep", "300"),),
            output=tmp_path,
            log=tmp_path / "log",
            label="stopped",
            env={},
        )
    timer.join()
