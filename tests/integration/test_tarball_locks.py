"""Locks of what comes as it is: Gentoo's tarball of a mirror on loopback, container images of a registry there."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.errors import LockMoved, PlanError, UsageError
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from tests.integration.engines import lend
from tests.integration.test_locks import checkout
from tests.integration.test_oci import serve_image
from tests.mirrors.alpine import BUSYBOX
from tests.mirrors.images import NAME_AND_PASSWORD, digest, guest, layer, pack, push, registry, write_layout
from tests.mirrors.stage3 import KEY, gentoo, stage3, tarball_name
from tests.servers import FaultyServer, Reply

NEWER = "20261108T170000Z"
IMAGE = guest()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    if not BUSYBOX.is_file():
        pytest.skip("the mirrors are made of the package busybox-static, which is not installed")
    with FaultyServer() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path / "checkout")


def _bench(root: Path, *settings: str, store: str = "store") -> Workbench:
    """Return a workbench on a store of the test's."""
    given = ("engine=sandbox", "attempts=1", f"build={root}/build", f"store={root}/{store}", *settings)
    return open_workbench(given, stream=sys.stderr, root=root)


def _step(bench: Workbench, request: RootfsRequest, name: str) -> Step:
    return next(step for step in bench.planner.plan(request).walk() if step.name == name)


# --- a tarball


def _gentoo(*, locked: bool = True) -> RootfsRequest:
    return RootfsRequest(distro="gentoo", arch="x86_64", agent=str(BUSYBOX), locked=locked)


@pytest.fixture
def gentoo_bench(bench: Workbench, root: Path, server: FaultyServer) -> Workbench:
    """A workbench in whose checkout Gentoo is locked; its store has the builder, and nothing of Gentoo."""
    keyring = root / "gentoo.gpg"
    keyring.write_bytes(KEY.public())
    for name, content in gentoo().items():
        server.serve(f"/{name}", Reply(body=content))
    settings = (f"mirrors=gentoo={server.url}", f"keyrings=gentoo={keyring}")
    for store in ("store", "other"):
        lend(bench, root / store, bench.planner.builder("rootfs"))
    _bench(root, *settings, store="other").locks.write(_gentoo())
    return _bench(root, *settings)


def test_a_locked_tarball_makes_the_bytes_of_one_that_is_not_locked(gentoo_bench: Workbench) -> None:
    (path,) = (gentoo_bench.root / "distros" / "gentoo" / "lock").iterdir()
    first = path.read_bytes()
    _, lock = gentoo_bench.locks.write(_gentoo())
    assert path.read_bytes() == first
    assert b"127.0.0.1" not in first
    assert gentoo_bench.locks.difference(_gentoo()).text() == "nothing would change"
    (package,) = lock.packages
    assert (package.name, package.version, package.arch) == ("stage3-amd64-openrc", "20261101T170000Z", "x86_64")
    expected = gentoo_bench.executor.run(_step(gentoo_bench, _gentoo(locked=False), "packages"))
    step = _step(gentoo_bench, _gentoo(), "packages")
    came = gentoo_bench.executor.run(step)
    assert step.builder is None
    assert came.sha256("rootfs.tar") == expected.sha256("rootfs.tar")
    assert came.facts["packages"] == expected.facts["packages"]


def test_a_newer_tarball_is_shown_and_one_that_is_gone_is_named(gentoo_bench: Workbench, server: FaultyServer) -> None:
    url = server.serve(f"/{tarball_name()}", Reply(status=404))
    for name, content in gentoo(stamp=NEWER).items():
        server.serve(f"/{name}", Reply(body=content))
    with pytest.raises(LockMoved) as caught:
        gentoo_bench.build(_gentoo())
    assert caught.value.message.splitlines() == [
        "the mirror no longer has what the lock of gentoo openrc for x86_64 says:",
        f"  stage3-amd64-openrc 20261101T170000Z ({tarball_name()}): gone: {url}: HTTP 404 Not Found",
        f"  stage3-amd64-openrc is {NEWER} there now",
    ]
    text = gentoo_bench.locks.difference(_gentoo()).text()
    assert text.startswith(f"~ stage3-amd64-openrc 20261101T170000Z -> {NEWER} (")


def test_a_tarball_with_other_bytes_is_refused(gentoo_bench: Workbench, server: FaultyServer) -> None:
    content = bytearray(stage3())
    content[5000] ^= 1
    server.serve(f"/{tarball_name()}", Reply(body=bytes(content)))
    with pytest.raises(LockMoved, match=r"stage3-amd64-openrc .*: other bytes: .*expected sha256 [0-9a-f]{64}, got"):
        gentoo_bench.build(_gentoo())


def test_packages_cannot_be_locked_beside_a_tarball(gentoo_bench: Workbench) -> None:
    wanted = dataclasses.replace(_gentoo(), packages=("strace",))
    with pytest.raises(UsageError, match="gentoo installs no packages: got strace"):
        gentoo_bench.locks.write(wanted)
    with pytest.raises(PlanError, match="is stale: it was made for other packages: strace is not in it"):
        gentoo_bench.planner.plan(wanted)


def test_a_lock_of_a_tarball_is_stale_when_its_recipe_says_something_else(gentoo_bench: Workbench) -> None:
    recipe = gentoo_bench.root / "distros" / "gentoo" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace('released: "2026-01-01"', 'released: "2026-01-02"'))
    bench = _bench(gentoo_bench.root)
    with pytest.raises(PlanError, match="is stale: the recipe changed since it was made"):
        bench.planner.plan(_gentoo())


def test_a_lock_without_its_tarball_is_refused(gentoo_bench: Workbench) -> None:
    _edit(gentoo_bench, "gentoo", lambda packages: packages.clear())
    with pytest.raises(PlanError, match="the lock of gentoo openrc for x86_64: expected one tarball, got 0"):
        gentoo_bench.planner.plan(_gentoo())


def _edit(bench: Workbench, distro: str, change: Callable[[list[Any]], object]) -> None:
    """Change the packages of a distribution's lock by hand."""
    (path,) = (bench.root / "distros" / distro / "lock").iterdir()
    data = json.loads(path.read_text())
    change(data["packages"])
    path.write_text(json.dumps(data))


# --- an image


def _image(name: str, *, locked: bool = True) -> RootfsRequest:
    return RootfsRequest(distro="oci", release=name, arch="x86_64", agent=str(BUSYBOX), locked=locked)


def test_a_locked_image_is_what_its_tag_meant_with_the_same_bytes(root: Path, server: FaultyServer) -> None:
    serve_image(server, IMAGE)
    name = f"{server.url.removeprefix('http://')}/toy:1"
    bench = _bench(root)
    path, lock = bench.locks.write(_image(name))
    assert path.name == f"{name.replace(':', '-').replace('/', '-')}.x86_64.json"
    assert [each.name for each in lock.packages] == ["config", "layer-01", "layer-02", "layer-03", "manifest"]
    assert lock.packages[4].path == f"v2/toy/manifests/{digest(IMAGE.manifest)}"
    expected = bench.executor.run(_step(bench, _image(name, locked=False), "packages"))
    assert bench.locks.difference(_image(name)).text() == "nothing would change"

    serve_image(server, dataclasses.replace(IMAGE, layers=(*IMAGE.layers, layer({"etc/more": b""}))))
    came = bench.executor.run(_step(bench, _image(name), "packages"))
    assert came.sha256("rootfs.tar") == expected.sha256("rootfs.tar")
    assert came.facts["digest"] == digest(IMAGE.manifest)
    assert came.facts["layers"] == expected.facts["layers"]
    lines = bench.locks.difference(_image(name)).text().splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["~", "config"], ["+", "layer-04"], ["~", "manifest"]]


def test_a_layer_that_is_gone_or_has_other_bytes_is_named(root: Path, server: FaultyServer) -> None:
    serve_image(server, IMAGE)
    name = f"{server.url.removeprefix('http://')}/toy:1"
    _bench(root, store="other").locks.write(_image(name))
    first, second, _ = IMAGE.layers
    server.serve(f"/v2/toy/blobs/{digest(first.data)}", Reply(status=404))
    server.serve(f"/v2/toy/blobs/{digest(second.data)}", Reply(body=second.data[:-1] + b"x"))
    with pytest.raises(LockMoved) as caught:
        _bench(root).build(_image(name))
    _, gone, other = caught.value.message.splitlines()[:3]
    assert gone.startswith(f"  layer-01 {digest(first.data)[7:19]} (v2/toy/blobs/{digest(first.data)}): gone: ")
    assert gone.endswith("HTTP 404 Not Found")
    assert other.startswith("  layer-02 ")
    assert f"other bytes: {server.url}/v2/toy/blobs/{digest(second.data)}: expected sha256" in other


def test_a_private_image_is_fetched_with_the_name_that_the_mirror_has(root: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", private=True) as url:
        push(url, "team/toy", "1", IMAGE, auth=NAME_AND_PASSWORD)
        private = url.replace("http://", f"http://{':'.join(NAME_AND_PASSWORD)}@")
        name = f"{url.removeprefix('http://')}/team/toy:1"
        path, _ = _bench(root, f"mirrors=oci={private}", store="other").locks.write(_image(name))
        assert NAME_AND_PASSWORD[1] not in path.read_text()
        bench = _bench(root, f"mirrors=oci={private}")
        assert bench.executor.run(_step(bench, _image(name), "locked")).facts["packages"] == 5


def test_a_lock_of_an_image_whose_digests_do_not_fit_is_refused(root: Path, server: FaultyServer) -> None:
    serve_image(server, IMAGE)
    request = _image(f"{server.url.removeprefix('http://')}/toy:1")
    bench = _bench(root)
    bench.locks.write(request)
    _edit(bench, "oci", lambda packages: packages[1].update(sha256="0" * 64))
    with pytest.raises(PlanError, match=r"layer-01: expected a path that ends with its sha256, got v2/toy/"):
        bench.planner.plan(request)
    _edit(bench, "oci", lambda packages: packages.pop())
    with pytest.raises(PlanError, match="expected one manifest, got 0"):
        bench.planner.plan(request)


def test_an_image_in_a_file_has_nothing_to_lock(root: Path, tmp_path: Path, server: FaultyServer) -> None:
    layout = pack(write_layout(tmp_path / "layout", {"1": IMAGE}), tmp_path / "toy.tar")
    with pytest.raises(PlanError, match=r"toy\.tar is a file: there is nothing to lock") as caught:
        _bench(root).locks.write(_image(str(layout)))
    assert caught.value.hint == "Build it without --locked."


def test_an_image_for_another_platform_is_not_locked(root: Path, server: FaultyServer) -> None:
    serve_image(server, IMAGE)
    wanted = dataclasses.replace(_image(f"{server.url.removeprefix('http://')}/toy:1"), arch="s390x")
    with pytest.raises(PlanError, match=r"is not for linux/s390x: .*, got linux/amd64"):
        _bench(root).locks.write(wanted)
