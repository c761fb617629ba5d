"""Container images: what their names mean, what their JSON may say, and layers laid over each other."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osbuilder.distro.oci.layers import apply_layer, open_layer
from osbuilder.distro.oci.layout import identity
from osbuilder.distro.oci.manifest import (
    choose_platform,
    kind_of,
    parse_config,
    parse_index,
    parse_json,
    parse_manifest,
)
from osbuilder.distro.oci.reference import LocalImage, Reference, parse_image, parse_reference
from osbuilder.errors import FetchError, OsbuilderError, PlanError, TreeError, UsageError, VerificationError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from tests.mirrors.images import Content, Image, Link, index, layer, save

DIGEST = "sha256:" + "ab" * 32


# --- names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.24", "docker.io/library/alpine:3.24"),
        ("kata/agent", "docker.io/kata/agent:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("localhost/toy", "localhost/toy:latest"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"),
        ("ghcr.io/o/p@" + DIGEST, "ghcr.io/o/p@" + DIGEST),
        ("ghcr.io/o/p:1.0@" + DIGEST, "ghcr.io/o/p:1.0@" + DIGEST),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
    ],
)
def test_a_reference_means_what_it_means_elsewhere(text: str, expected: str) -> None:
    assert str(parse_reference(text)) == expected


@pytest.mark.parametrize("text", ["", "Alpine", "a//b", "a:", "http://x/y", "a b", "x/y:../z", "-h/x", "a@b"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"not the name of a container image|the digest of an image"):
        parse_reference(text)


def test_a_digest_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(UsageError, match="expected sha256: and 64 hex digits, got 'md5:00'"):
        parse_reference("alpine@md5:00")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("alpine", "https://registry-1.docker.io"),
        ("ghcr.io/a", "https://ghcr.io"),
        ("localhost:5000/a", "http://localhost:5000"),
        ("127.0.0.1:5000/a", "http://127.0.0.1:5000"),
        ("localhost.example.org/a", "https://localhost.example.org"),
    ],
)
def test_a_registry_is_asked_over_https_unless_it_is_this_host(text: str, address: str) -> None:
    assert parse_reference(text).api == address


def test_a_path_is_told_from_a_reference_and_may_name_an_image(tmp_path: Path) -> None:
    assert parse_image(f"{tmp_path}") == LocalImage(path=tmp_path)
    assert parse_image(f"{tmp_path}:two") == LocalImage(path=tmp_path, name="two")
    assert parse_image(f"{tmp_path}:toy:2") == LocalImage(path=tmp_path, name="toy:2")
    (tmp_path / "odd:name").mkdir()
    assert parse_image(f"{tmp_path}/odd:name") == LocalImage(path=tmp_path / "odd:name")
    assert isinstance(parse_image("tmp/odd"), Reference)


# --- JSON


def test_the_image_for_a_platform_is_chosen_whatever_its_variant() -> None:
    images = [Image(layers=(), architecture="amd64"), Image(layers=(), architecture="arm64", variant="v8")]
    found = parse_index(json.loads(index(*images)), "toy")
    assert choose_platform(found, "linux/arm64", "toy") == found[2]
    with pytest.raises(PlanError, match="toy is not for linux/s390x: expected that platform, got linux/amd64, linux/a"):
        choose_platform(found, "linux/s390x", "toy")


GOOD: dict[str, Any] = json.loads(Image(layers=(layer({}),)).manifest)


@pytest.mark.parametrize(
    ("parse", "document", "message"),
    [
        (parse_manifest, {}, "toy: config: expected a descriptor, got None"),
        (parse_manifest, {**GOOD, "layers": 1}, "toy: layers: expected a list, got 1"),
        (
            parse_manifest,
            {**GOOD, "config": {"digest": "sha256:1", "size": 1}},
            "config.digest: expected sha256: and 64 hex digits, got 'sha256:1'",
        ),
        (
            parse_manifest,
            {**GOOD, "config": {"digest": DIGEST, "size": -1}},
            "config.size: expected a number of bytes, got -1",
        ),
        (
            parse_manifest,
            {**GOOD, "layers": [{"digest": DIGEST, "size": 1, "mediaType": "application/wasm"}]},
            "toy has a layer of type application/wasm: expected a tar",
        ),
        (parse_index, {"manifests": [5]}, r"toy: manifests\[0\]: expected a descriptor, got 5"),
        (kind_of, {"schemaVersion": 1}, "toy is an image manifest of schema 1: expected schema 2 or OCI"),
        (kind_of, {"mediaType": "text/html"}, "toy: expected an image or an index of images, got 'text/html'"),
    ],
)
def test_json_that_is_no_images_is_refused(
    parse: Callable[[dict[str, Any], str], object], document: dict[str, Any], message: str
) -> None:
    with pytest.raises(FetchError, match=message):
        parse(document, "toy")


@pytest.mark.parametrize("data", [b"<html>", b"[]", b""])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(FetchError, match="toy: expected "):
        parse_json(data, "toy")


def test_a_configuration_without_digests_is_refused() -> None:
    with pytest.raises(FetchError, match=r"the configuration of toy: rootfs.diff_ids: expected a list"):
        parse_config(b'{"os": "linux"}', "toy")


# --- images in folders


def test_a_saved_image_in_a_folder_is_known_by_its_list_and_its_configuration(tmp_path: Path) -> None:
    image, other = Image(layers=(layer({"a": b"1"}),)), Image(layers=(layer({"a": b"2"}),))
    with tarfile.open(save(tmp_path / "saved.tar", {"toy:1": image, "toy:2": other})) as archive:
        archive.extractall(tmp_path / "saved", filter="data")
    one, two = (identity(LocalImage(path=tmp_path / "saved", name=name)) for name in ("toy:1", "toy:2"))
    assert one != two
    config = tmp_path / "saved" / f"{hashlib.sha256(image.config).hexdigest()}.json"
    config.write_bytes(other.config)
    assert identity(LocalImage(path=tmp_path / "saved", name="toy:1")) != one
    config.unlink()
    with pytest.raises(FetchError, match=r"is not whole: it names .*\.json, which is not in it"):
        identity(LocalImage(path=tmp_path / "saved", name="toy:1"))


# --- layers

Members = dict[str, Content]


def _laid(tmp_path: Path, *layers: Members, compression: str = "none") -> Tree:
    tree = Tree()
    for number, members in enumerate(layers):
        made = layer(members, compression)
        path = tmp_path / str(number)
        path.write_bytes(made.data)
        apply_layer(tree, open_layer(path, diff_id=made.diff_id, origin="toy"), label=f"layer {number}")
    return tree


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_later_layers_replace_and_whiteouts_take_away(tmp_path: Path, compression: str) -> None:
    lower: Members = {"etc": None, "etc/a": b"1", "etc/b": b"1", "d": None, "d/x": b"1", "d/y/z": b"1"}
    upper: Members = {"etc/a": b"2", "etc/.wh.b": b"", "d/.wh.y": b"", "etc/c": b"2"}
    tree = _laid(tmp_path, lower, upper, compression=compression)
    assert [name for name in tree.names() if name] == ["d", "d/x", "etc", "etc/a", "etc/c"]
    assert tree.read_bytes("etc/a") == b"2"


def test_an_opaque_folder_starts_anew_wherever_its_mark_stands_in_the_layer(tmp_path: Path) -> None:
    upper: Members = {"d/new": b"", "d/.wh..wh..opq": b"", "d": None}
    tree = _laid(tmp_path, {"d/old": b"", "d/sub/old": b"", "e": b""}, upper)
    assert [name for name in tree.names() if name] == ["d", "d/new", "e"]


def test_a_whiteout_takes_nothing_from_its_own_layer(tmp_path: Path) -> None:
    tree = _laid(tmp_path, {"a": b"1"}, {"a": b"2", ".wh.a": b""})
    assert tree.read_bytes("a") == b"2"


def test_a_whiteout_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert _laid(tmp_path, {"a": b""}, {".wh.b": b"", "no/.wh.c": b"", "a2/.wh..wh..opq": b""}).exists("a")


def test_a_file_takes_a_folders_place_and_the_other_way_round(tmp_path: Path) -> None:
    tree = _laid(tmp_path, {"a/b": b"", "c": b"", "l": Link("c")}, {"a": b"file", "c": None, "c/d": b"", "l": None})
    assert (tree.get("a").kind, tree.get("c").kind, tree.get("l").kind) == (Kind.FILE, Kind.DIR, Kind.DIR)
    assert not tree.exists("c/b")


def test_a_folder_that_comes_again_keeps_what_is_in_it_and_gets_new_attributes(tmp_path: Path) -> None:
    made = layer([("d", None, 0o700)], "none")
    tree = _laid(tmp_path, {"d": None, "d/x": b""})
    (tmp_path / "l").write_bytes(made.data)
    apply_layer(tree, open_layer(tmp_path / "l", diff_id=made.diff_id, origin="toy"), label="l")
    assert tree.get("d").mode == 0o700
    assert tree.exists("d/x")


def test_a_folder_behind_a_link_is_looked_up_as_in_the_guest(tmp_path: Path) -> None:
    tree = _laid(
        tmp_path,
        {"usr/bin/a": b"", "bin": Link("usr/bin"), "out": Link("/../../usr")},
        {"bin/b": b"", "bin/.wh.a": b"", "out/c": b""},
    )
    assert tree.children("usr/bin") == ("b",)
    assert tree.exists("usr/c")


def test_a_leading_slash_is_the_root_of_the_image(tmp_path: Path) -> None:
    tree = _laid(tmp_path, {"/": None, "/etc/a": b"1", "//etc/b": Link("/etc/a", hard=True)}, {"/etc/.wh.a": b""})
    assert [name for name in tree.names() if name] == ["etc", "etc/b"]
    assert tree.read_bytes("etc/b") == b"1"


@pytest.mark.parametrize("target", ["/run/deep", "../run/deep", "/../../run/deep"])
def test_a_folder_that_a_link_lacks_is_made_inside_the_image(tmp_path: Path, target: str) -> None:
    upper: Members = {"var/run/x": b"1", "var/run/sub/y": b"", "var/run/z": Link("var/run/x", hard=True)}
    tree = _laid(tmp_path, {"var/run": Link(target)}, upper)
    assert tree.get("var/run").target == target
    assert tree.get("run/deep").kind is Kind.DIR
    assert tree.links("run/deep/x") == ("run/deep/x", "run/deep/z")
    assert tree.exists("run/deep/sub/y")


def test_hard_links_hold_within_a_layer_and_to_one_below(tmp_path: Path) -> None:
    upper: Members = {"new": b"2", "again": Link("new", hard=True), "low2": Link("low", hard=True)}
    tree = _laid(tmp_path, {"low": b"1"}, upper)
    assert tree.links("new") == ("again", "new")
    assert tree.links("low") == ("low", "low2")


def test_a_replaced_file_leaves_its_other_names_alone(tmp_path: Path) -> None:
    tree = _laid(tmp_path, {"a": b"1", "b": Link("a", hard=True)}, {"a": b"2"})
    assert (tree.read_bytes("a"), tree.read_bytes("b")) == (b"2", b"1")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../etc/passwd": b""}, r"contains `..`"),
        ({"/../etc/passwd": b""}, r"contains `..`"),
        ({"f": b"", "l": Link("/../etc/passwd", hard=True)}, r"links to contains `..`"),
        ({"f": b"", "l": Link("f"), "l/x": b""}, r"bad layer \(layer 0\): member 'l/x'"),
        ({"x": Link("gone", hard=True)}, r"bad layer \(layer 0\): member 'x': no such name"),
        ({"f": b"", "f/x": b""}, r"bad layer \(layer 0\): member 'f/x'"),
    ],
)
def test_a_layer_that_escapes_or_is_malformed_is_refused(tmp_path: Path, members: Members, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        _laid(tmp_path, members)


def test_a_layer_that_unpacks_to_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(layer({"a": b""}).data)
    with pytest.raises(VerificationError, match=f"does not unpack to .*: expected {DIGEST}, got sha256:"):
        open_layer(tmp_path / "layer", diff_id=DIGEST, origin="toy")


def test_a_damaged_layer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(layer({"a": b"x" * 5000}).data[:-20])
    with pytest.raises(OsbuilderError, match="gzip data is truncated or corrupt"):
        open_layer(tmp_path / "layer", diff_id=DIGEST, origin="toy")
