"""Container images become guests: from Debian's docker-registry on loopback, from layouts, from docker save's files."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osbuilder.api import Workbench
from osbuilder.errors import FetchError, OsbuilderError, PlanError, TreeError, UsageError, VerificationError
from osbuilder.request import ImageRequest, RootfsRequest
from osbuilder.step import Step
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from tests.integration.engines import workbench_under
from tests.mirrors.images import (
    NAME_AND_PASSWORD,
    Image,
    digest,
    guest,
    index,
    layer,
    pack,
    push,
    registry,
    save,
    write_layout,
)
from tests.servers import FaultyServer, Reply, closed_url

ROOT = Path(__file__).resolve().parents[2]
AMD64 = guest()
ARM64 = dataclasses.replace(AMD64, architecture="arm64", layers=(*AMD64.layers, layer({"etc/arm64": b""})))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench without mirrors: what a reference says is what is asked."""
    return workbench_under("sandbox", tmp_path_factory.mktemp("build"), "attempts=1", "read_timeout_s=2")


@pytest.fixture(scope="module")
def url(oci_registry: str) -> str:
    """The registry's address, with an image for two platforms, and that of one alone."""
    push(oci_registry, "team/toy", "1", AMD64, ARM64)
    push(oci_registry, "team/toy", "one", AMD64)
    return oci_registry


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def _request(name: str, arch: str = "x86_64") -> RootfsRequest:
    return RootfsRequest(distro="oci", release=name, arch=arch)


def _unpack(bench: Workbench, name: str, arch: str = "x86_64") -> Artifact:
    """Return the artifact of an image's layers."""
    step = next(each for each in bench.planner.plan(_request(name, arch)).walk() if each.name == "packages")
    return bench.executor.run(step)


def _tree(bench: Workbench, name: str, arch: str = "x86_64") -> Tree:
    return Tree.read(_unpack(bench, name, arch).path("rootfs.tar"))


def _fresh(folder: Path, *settings: str) -> Workbench:
    """Return a workbench whose store is empty, so that everything is asked for."""
    return workbench_under("sandbox", folder, f"store={folder}/store", "attempts=1", "read_timeout_s=2", *settings)


def _host(url: str) -> str:
    return url.removeprefix("http://")


def serve_image(server: FaultyServer, image: Image = AMD64, name: str = "toy", tag: str = "1") -> None:
    """Serve an image as a registry does."""
    for reference in (tag, digest(image.manifest)):
        server.serve(f"/v2/{name}/manifests/{reference}", Reply(body=image.manifest))
    for blob in image.blobs:
        server.serve(f"/v2/{name}/blobs/{digest(blob)}", Reply(body=blob))


# --- from a registry


def test_an_image_becomes_a_guest_with_the_agent_as_init(bench: Workbench, url: str) -> None:
    tree = Tree.read(bench.build(_request(f"{_host(url)}/team/toy:1")).artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"
    assert tree.read_bytes("etc/issue") == b"new \n"
    assert (tree.get("etc/issue").mode, tree.get("opt/app").mode) == (0o600, 0o700)
    assert not tree.exists("etc/motd")
    assert tree.children("opt/app") == ("new",)
    assert tree.links("usr/bin/tool") == ("usr/bin/tool", "usr/bin/tool-link")
    assert tree.links("usr/bin/busybox") == ("usr/bin/box", "usr/bin/busybox")
    assert tree.exists("usr/bin/fixed")
    assert b"docker.io" not in tree.read_bytes("var/lib/osbuilder/osbuilder.yaml")


def test_what_a_tag_meant_is_recorded(bench: Workbench, url: str) -> None:
    name = f"{_host(url)}/team/toy:1"
    step = next(each for each in bench.planner.plan(_request(name)).walk() if each.name == "packages")
    ((_, before),) = step.inputs
    resolved = bench.executor.run(before).facts
    assert resolved["digest"] == digest(AMD64.manifest)
    assert resolved["registry"] == url
    assert resolved["image"] == name
    facts = bench.executor.run(step).facts
    assert facts["digest"] == digest(AMD64.manifest)
    assert facts["layers"] == [digest(each.data) for each in AMD64.layers]


def test_the_same_image_by_another_name_is_not_unpacked_again(bench: Workbench, url: str) -> None:
    first = _unpack(bench, f"{_host(url)}/team/toy:1")
    assert _unpack(bench, f"{_host(url)}/team/toy:one").key == first.key
    assert _unpack(bench, f"{_host(url)}/team/toy@{digest(AMD64.manifest)}").key == first.key


def test_each_platform_of_an_index_is_its_own_image(bench: Workbench, url: str) -> None:
    assert not _tree(bench, f"{_host(url)}/team/toy:1").exists("etc/arm64")
    assert _tree(bench, f"{_host(url)}/team/toy:1", "aarch64").exists("etc/arm64")


def test_a_platform_that_is_not_there_is_told_with_those_that_are(bench: Workbench, url: str) -> None:
    with pytest.raises(PlanError, match=r"team/toy:1 is not for linux/s390x: .*, got linux/amd64, linux/arm64"):
        _unpack(bench, f"{_host(url)}/team/toy:1", "s390x")


def test_a_lone_image_for_another_platform_is_refused(bench: Workbench, url: str) -> None:
    with pytest.raises(PlanError, match=r"team/toy:one is not for linux/s390x: .*, got linux/amd64"):
        _unpack(bench, f"{_host(url)}/team/toy:one", "s390x")


@pytest.mark.parametrize("name", ["team/toy:2", "team/none:1", f"team/toy@sha256:{'0' * 64}"])
def test_an_image_that_is_not_there_is_told(bench: Workbench, url: str, name: str) -> None:
    with pytest.raises(FetchError, match=rf"{url} has no manifests/.* of team/\w+: .*HTTP 404") as caught:
        _unpack(bench, f"{_host(url)}/{name}")
    assert "Check the image's name" in caught.value.hint


def test_a_private_registry_wants_a_name_and_password(tmp_path: Path) -> None:
    with registry(tmp_path / "private", private=True) as address:
        push(address, "team/toy", "1", AMD64, auth=NAME_AND_PASSWORD)
        name = f"{_host(address)}/team/toy:1"
        with pytest.raises(FetchError, match=f"{address} wants to know who asks for team/toy") as caught:
            _unpack(_fresh(tmp_path), name)
        assert "NAME:PASSWORD@HOST" in caught.value.hint

        wrong = f"mirrors=oci={address.replace('//', '//somebody:wrong@')}"
        with pytest.raises(FetchError, match=r"refuses .* to the name that was given: .*HTTP 401") as caught:
            _unpack(_fresh(tmp_path, wrong), name)
        assert "wrong@" not in str(caught.value)

        right = f"mirrors=oci={address.replace('//', '//{}:{}@'.format(*NAME_AND_PASSWORD))}"
        artifact = _unpack(_fresh(tmp_path, right), name)
        assert artifact.facts["digest"] == digest(AMD64.manifest)
        assert NAME_AND_PASSWORD[1] not in json.dumps(artifact.manifest)


@pytest.mark.parametrize("engine", ["docker", "sandbox"])
def test_an_image_has_the_same_bytes_under_every_engine(
    bench: Workbench, url: str, tmp_path: Path, engine: str
) -> None:
    request = ImageRequest(rootfs=_request(f"{_host(url)}/team/toy:1"))
    expected = bench.build(request).artifact
    shutil.rmtree(_unpack(bench, f"{_host(url)}/team/toy:1").folder)
    shutil.rmtree(expected.folder)
    assert workbench_under(engine, tmp_path).build(request).artifact.digest == expected.digest


# --- from other registries than the reference says


def test_mirrors_are_asked_in_the_place_of_the_references_registry(url: str, tmp_path: Path) -> None:
    dead = closed_url("").rstrip("/")
    bench = _fresh(tmp_path, f"mirrors=oci={dead},{url}")
    push(url, "library/toy", "mirrored", guest(mark="mirrored"))
    assert _unpack(bench, "toy:mirrored").facts["mirror"] == url


def test_a_tag_is_not_trusted_over_plain_http_from_another_host(tmp_path: Path) -> None:
    bench = workbench_under("sandbox", tmp_path, "mirrors=oci=http://registry.example.org")
    with pytest.raises(UsageError, match="does not protect what the tag 'latest' of library/toy means"):
        bench.planner.plan(_request("toy"))
    bench.planner.plan(_request(f"toy@{digest(AMD64.manifest)}"))


def test_what_is_no_registry_is_refused(tmp_path: Path) -> None:
    bench = workbench_under("sandbox", tmp_path, "mirrors=oci=ftp://registry.example.org")
    with pytest.raises(UsageError, match=r"not a registry: 'ftp://registry\.example\.org'"):
        bench.planner.plan(_request("toy"))


def test_packages_cannot_be_added_to_an_image(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="oci installs no packages: got strace"):
        bench.planner.plan(RootfsRequest(distro="oci", packages=("strace",)))


def test_a_token_is_asked_for_where_the_registry_says_and_goes_to_that_host_only(
    tmp_path: Path, server: FaultyServer
) -> None:
    """A registry that wants a bearer token and keeps its blobs elsewhere, as the large public ones do."""
    image = guest(mark="token")
    challenge = {"WWW-Authenticate": f'Bearer realm="{server.url}/token",service="toys",scope="repository:toy:pull"'}
    query = "/token?service=toys&scope=repository%3Atoy%3Apull"
    server.serve(query, Reply(body=b'{"token": "let-me-in"}'))
    with FaultyServer() as elsewhere:
        serve_image(server, image)
        manifest = f"/v2/toy/manifests/{digest(image.manifest)}"
        for path in ("/v2/toy/manifests/1", manifest):
            server.serve(path, Reply(status=401, headers=challenge), Reply(body=image.manifest))
        for blob in image.blobs:
            place = elsewhere.serve(f"/{digest(blob)}", Reply(body=blob))
            server.serve(f"/v2/toy/blobs/{digest(blob)}", Reply(status=307, headers={"Location": place}))
        _unpack(_fresh(tmp_path), f"{_host(server.url)}/toy:1")
        sent = [seen.headers.get("Authorization") for seen in server.seen("/v2/toy/manifests/1")]
        assert sent == [None, "Bearer let-me-in"]
        blobs = [each for blob in image.blobs for each in server.seen(f"/v2/toy/blobs/{digest(blob)}")]
        assert {each.headers.get("Authorization") for each in blobs} == {"Bearer let-me-in"}
        kept = [each for blob in image.blobs for each in elsewhere.seen(f"/{digest(blob)}")]
        assert {each.headers.get("Authorization") for each in kept} == {None}


@pytest.mark.parametrize(
    ("challenge", "token", "message"),
    [
        ('Bearer realm="{url}/token"', Reply(status=403), "its token service refuses toy to a stranger: .*HTTP 403"),
        ('Bearer realm="{url}/token"', Reply(body=b"{}"), "its token service .* answered without a token"),
        ('Bearer realm="{url}/token"', Reply(body=b"<html>"), "its token service .* answered without a token"),
        ('Bearer realm="ftp://x/token"', Reply(), "names a token service that is not protected: 'ftp://x/token'"),
        (
            'Bearer realm="https://[x/token"',
            Reply(),
            r"names a token service whose address is none: 'https://\[x/token'",
        ),
        ('Bearer realm="https://x:port/token"', Reply(), "names a token service whose address is none"),
        ("Negotiate", Reply(), "wants to be told who asks in a way that is not known: 'Negotiate'"),
        ("", Reply(), "refuses manifests/1 of toy to a stranger: .*HTTP 401"),
    ],
)
def test_a_registry_that_does_not_let_us_in_is_told(
    bench: Workbench, server: FaultyServer, challenge: str, token: Reply, message: str
) -> None:
    headers = {"WWW-Authenticate": challenge.format(url=server.url)} if challenge else {}
    server.serve("/v2/toy/manifests/1", Reply(status=401, headers=headers))
    server.serve("/token?scope=repository%3Atoy%3Apull", token)
    with pytest.raises(FetchError, match=message):
        _unpack(bench, f"{_host(server.url)}/toy:1")


# --- registries that fail

_LAYER = f"/v2/toy/blobs/{digest(AMD64.layers[1].data)}"
_CONFIG = f"/v2/toy/blobs/{digest(AMD64.config)}"
_TAG = "/v2/toy/manifests/1"
_DIGEST = f"/v2/toy/manifests/{digest(AMD64.manifest)}"


@pytest.mark.parametrize(
    ("path", "reply", "kind", "message"),
    [
        (_TAG, Reply(status=503), FetchError, "HTTP 503"),
        (_TAG, Reply(hang_before_headers=True), FetchError, "no answer within 2 s"),
        (_TAG, Reply(body=b"<html>Log in</html>"), FetchError, "expected JSON, got b'<html>Log"),
        (_TAG, Reply(body=b'{"schemaVersion": 1}'), FetchError, "manifest of schema 1"),
        (_DIGEST, Reply(body=b"{}"), VerificationError, f"expected sha256 {digest(AMD64.manifest)[7:]}, got "),
        (_CONFIG, Reply(body=AMD64.config + b" "), FetchError, r"expected \d+ bytes, \d+ are announced"),
        (_CONFIG, Reply(body=AMD64.config[:-1] + b" "), VerificationError, "expected sha256 "),
        (_LAYER, Reply(status=404), FetchError, f"has no blob {digest(AMD64.layers[1].data)} of toy: .*HTTP 404"),
        (_LAYER, Reply(body=AMD64.layers[1].data[:-9]), FetchError, r"expected \d+ bytes, \d+ are announced"),
        (_LAYER, Reply(body=AMD64.layers[1].data, send_bytes=9), FetchError, "the connection ended early, at 9 of"),
        (_LAYER, Reply(body=bytes(len(AMD64.layers[1].data))), VerificationError, "expected sha256 "),
    ],
)
def test_a_registrys_fault_is_told(
    tmp_path: Path, server: FaultyServer, path: str, reply: Reply, kind: type[OsbuilderError], message: str
) -> None:
    serve_image(server)
    server.serve(path, reply)
    with pytest.raises(kind, match=message) as caught:
        _unpack(_fresh(tmp_path), f"{_host(server.url)}/toy:1")
    assert server.url in str(caught.value) or _host(server.url) in str(caught.value)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (Image(layers=(layer({"a": b""}),), config_changes={"rootfs": {"diff_ids": []}}), FetchError, "names 0 layers"),
        (
            Image(layers=(layer({"a": b""}),), config_changes={"rootfs": {"diff_ids": [digest(b"")]}}),
            VerificationError,
            "does not unpack to what its image says",
        ),
        (Image(layers=(layer({"../a": b""}),)), TreeError, "contains `..`"),
        (Image(layers=(layer({}),), changes={"layers": []}), FetchError, "its manifest 0: expected as many, and at"),
        (Image(layers=(layer({}),), changes={"mediaType": "application/wasm"}), FetchError, "got 'application/wasm'"),
    ],
)
def test_an_image_that_is_not_in_order_is_refused(
    bench: Workbench, server: FaultyServer, image: Image, kind: type[OsbuilderError], message: str
) -> None:
    serve_image(server, image)
    with pytest.raises(kind, match=message):
        _unpack(bench, f"{_host(server.url)}/toy:1")


@pytest.mark.usefixtures("builders")
def test_an_image_without_a_filesystem_in_it_is_refused(bench: Workbench, server: FaultyServer) -> None:
    serve_image(server, Image(layers=(layer({"hello": b""}),)))
    with pytest.raises(OsbuilderError, match="this is no root filesystem: expected usr/bin or bin in it, got hello"):
        bench.build(_request(f"{_host(server.url)}/toy:1"))


# --- from this host


def test_a_layout_is_the_same_image_as_in_a_registry(bench: Workbench, url: str, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", {"toy": AMD64})
    expected = _unpack(bench, f"{_host(url)}/team/toy:1").key
    assert _unpack(bench, str(folder)).key == expected
    assert _unpack(bench, str(pack(folder, tmp_path / "layout.tar"))).key == expected


def test_an_image_of_a_layout_is_chosen_by_name_or_by_platform(bench: Workbench, tmp_path: Path) -> None:
    named = write_layout(tmp_path / "named", {"a": AMD64, "b": guest(mark="b")})
    assert _tree(bench, f"{named}:b").read_bytes("etc/issue") == b"new b\n"
    with pytest.raises(UsageError, match="no image 'c' in ") as caught:
        _unpack(bench, f"{named}:c")
    assert "Known: a, b." in caught.value.hint
    listed = write_layout(tmp_path / "listed", {"a": AMD64, "b": ARM64}, listed=True)
    assert _tree(bench, str(listed), "aarch64").exists("etc/arm64")


def test_what_docker_save_wrote_is_an_image_too(bench: Workbench, tmp_path: Path) -> None:
    path = save(tmp_path / "saved.tar", {"toy:1": AMD64, "toy:2": guest(mark="2")})
    assert _tree(bench, f"{path}:toy:2").read_bytes("etc/issue") == b"new 2\n"
    with pytest.raises(UsageError, match=r"2 images in .*: which one"):
        _unpack(bench, str(path))
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "saved", filter="data")
    assert _tree(bench, f"{tmp_path / 'saved'}:toy:2").read_bytes("etc/issue") == b"new 2\n"


def test_a_path_of_this_host_is_in_no_result(bench: Workbench, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", {"toy": AMD64})
    step = bench.planner.plan(_request(str(folder)))
    assert str(tmp_path) not in json.dumps([each.ingredients(_digests(each)) for each in step.walk()])
    built = bench.build(_request(str(folder)))
    assert str(tmp_path) not in json.dumps(built.artifact.manifest)
    assert built.files[0].name == "kata-oci-layout.rootfs.tar"


def _digests(step: Step) -> dict[str, str]:
    return {name: "" for name, _ in step.dependencies()}


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        ("gone", FetchError, "is not whole: it names blobs/sha256/"),
        ("changed", VerificationError, "a blob is not what its name says: expected sha256:"),
    ],
)
def test_a_layout_that_is_damaged_is_told(
    bench: Workbench, tmp_path: Path, damage: str, kind: type[OsbuilderError], message: str
) -> None:
    image = guest(mark=damage)
    folder = write_layout(tmp_path / "layout", {"toy": image})
    blob = folder / "blobs" / "sha256" / digest(image.layers[1].data)[7:]
    blob.unlink() if damage == "gone" else blob.write_bytes(b"other")
    with pytest.raises(kind, match=message):
        _unpack(bench, str(folder))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot read the image in .*: No such file"),
        (lambda path: path.write_bytes(b"no tar at all"), "cannot read the image in "),
        (lambda path: path.mkdir(), "no image in .*: expected index.json"),
    ],
)
def test_what_is_no_image_is_refused(bench: Workbench, tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(UsageError, match=message):
        _unpack(bench, str(path))


def test_a_tar_without_an_image_is_refused(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "thing.tar").write_bytes(layer({"a": b""}, "none").data)
    with pytest.raises(UsageError, match=r"no image in .*: expected index.json \(an OCI layout\) or manifest.json"):
        _unpack(bench, str(tmp_path / "thing.tar"))


def test_a_nested_index_of_attestations_is_passed_over(bench: Workbench, server: FaultyServer) -> None:
    image = guest(mark="nested")
    serve_image(server, image)
    server.serve("/v2/toy/manifests/all", Reply(body=index(image)))
    assert _unpack(bench, f"{_host(server.url)}/toy:all").facts["digest"] == digest(image.manifest)


def test_the_command_line_fills_a_registry_that_can_be_built_from(bench: Workbench, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.mirrors", "oci", str(tmp_path), "--serve"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline().split()
        try:
            assert printed[0] == "--release"
            assert _tree(bench, printed[1]).exists("opt/app/new")
        finally:
            process.terminate()
