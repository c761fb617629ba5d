"""Results appear under the names that other programs read, whole, with a manifest, and copies stay sparse."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from osbuilder import __version__
from osbuilder.errors import StoreError, UsageError
from osbuilder.publish import Name, check_folder, check_output, copy_out, image_names, publish
from osbuilder.store import Artifact, Store
from tests.unit.test_store import an_ordinary_user

KEY = "1" * 64
HOLE_BYTES = 8 << 20


def made(store: Store, content: bytes = b"image") -> Artifact:
    body = {
        "facts": {"packages": [["bash", "5.2", "amd64"]]},
        "input_keys": {},
        "wall_s": 1.5,
        "ingredients": {"action": "tea.Pour", "parameters": {"cups": 1}},
    }
    with store.lock(KEY), store.workspace(KEY, "tea/image") as space:
        with (space.out / "image").open("wb") as stream:
            stream.write(content)
            stream.truncate(HOLE_BYTES)
        return store.publish(space, key=KEY, ident="tea/image", body=body)


def test_a_result_has_its_name_its_link_and_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = made(store)
    names = (Name(file="image", published="kata-tea.image", link="kata-containers.img"),)
    (path,) = publish(store, artifact, names, tmp_path / "build")
    assert path.name == "kata-tea.image"
    assert (tmp_path / "build" / "kata-containers.img").readlink() == Path("kata-tea.image")
    manifest = json.loads((tmp_path / "build" / "kata-tea.image.manifest.json").read_text())
    assert manifest["sha256"] == artifact.sha256("image")
    assert (manifest["key"], manifest["size_bytes"]) == (KEY, HOLE_BYTES)
    assert manifest["disk_bytes"] < HOLE_BYTES
    assert (manifest["schema"], manifest["osbuilder"], manifest["file"]) == (1, __version__, "kata-tea.image")
    assert manifest["steps"][0]["facts"]["packages"] == [["bash", "5.2", "amd64"]]
    assert manifest["steps"][0]["inputs"] == {}
    assert manifest["steps"][0]["wall_s"] == 1.5


@pytest.mark.parametrize(
    ("variants", "measured", "names"),
    [
        ((), False, [("image", "kata-tea-1.image", "kata-containers.img")]),
        (("extension",), False, [("image", "kata-tea-1-extension.image", "kata-containers-extension.img")]),
        (
            ("extension", "confidential"),
            True,
            [
                ("image", "kata-tea-1-extension-confidential.image", "kata-containers-extension-confidential.img"),
                (
                    "root_hash",
                    "kata-tea-1-extension-confidential.image.root_hash.txt",
                    "root_hash_extension-confidential.txt",
                ),
            ],
        ),
    ],
)
def test_an_image_and_its_root_hash_have_the_names_that_kata_looks_for(
    variants: tuple[str, ...], measured: bool, names: list[tuple[str, str, str]]
) -> None:
    found = image_names("tea-1", variants, measured=measured)
    assert [(name.file, name.published, name.link) for name in found] == names


def test_an_older_result_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    names = (Name(file="image", published="kata-tea.image", link="kata-containers.img"),)
    publish(store, made(store, b"old"), names, tmp_path / "build")
    (path,) = publish(store, made(store, b"new"), names, tmp_path / "build")
    assert path.read_bytes().startswith(b"new")
    assert sorted(each.name for each in (tmp_path / "build").iterdir()) == [
        "kata-containers.img",
        "kata-tea.image",
        "kata-tea.image.manifest.json",
    ]


NAMES = (
    Name(file="image", published="kata-tea.image", link="kata-containers.img"),
    Name(file="root_hash", published="kata-tea.image.root_hash.txt"),
)


def made_measured(store: Store, key: str) -> Artifact:
    with store.lock(key), store.workspace(key, "tea/image") as space:
        for file in ("image", "root_hash"):
            (space.out / file).write_text(key)
        body = {"facts": {}, "input_keys": {}, "wall_s": 1.5, "ingredients": {"action": "tea.Pour", "parameters": {}}}
        return store.publish(space, key=key, ident="tea/image", body=body)


def test_what_two_builds_publish_under_the_same_names_is_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    first, second = (made_measured(store, digit * 64) for digit in "12")
    half = threading.Event()
    replace = Path.replace

    def slowly(path: Path, target: Path) -> Path:
        if threading.current_thread() is not threading.main_thread():
            half.set()
            time.sleep(0.05)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", slowly)
    other = threading.Thread(target=publish, args=(store, first, NAMES, tmp_path / "build"))
    other.start()
    assert half.wait(timeout=10)
    publish(store, second, NAMES, tmp_path / "build")
    other.join()
    texts = [(tmp_path / "build" / name.published).read_text() for name in NAMES]
    manifest = json.loads((tmp_path / "build" / "kata-tea.image.manifest.json").read_text())
    assert [*texts, manifest["key"]] == [second.key] * 3


def test_a_copy_is_independent_and_as_sparse_as_the_original(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = made(store)
    copy = copy_out(artifact, "image", tmp_path / "copy.img", store=store)
    manifest = json.loads((tmp_path / "copy.img.manifest.json").read_text())
    assert (manifest["file"], manifest["sha256"]) == ("copy.img", artifact.sha256("image"))
    assert copy.read_bytes() == artifact.path("image").read_bytes()
    assert copy.stat().st_ino != artifact.path("image").stat().st_ino
    assert copy.stat().st_blocks <= artifact.path("image").stat().st_blocks
    assert copy.stat().st_mode & 0o200


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for a copy, and no other way than a copy."""

    def fail(error: int) -> NoReturn:
        raise OSError(error, "no")

    monkeypatch.setattr("osbuilder.publish.copy_data", lambda source, target: fail(errno.ENOSPC))
    monkeypatch.setattr(Path, "hardlink_to", lambda path, target: fail(errno.EXDEV))


@pytest.mark.usefixtures("full_disk")
def test_a_result_that_cannot_be_copied_leaves_nothing_in_the_build_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(StoreError, match="the disk is full") as caught:
        publish(store, made(store), (Name(file="image", published="kata-tea.image"),), tmp_path / "build")
    assert "OSBUILDER_BUILD" in caught.value.hint
    assert list((tmp_path / "build").iterdir()) == []


@pytest.mark.usefixtures("full_disk")
def test_a_copy_that_fails_leaves_nothing_and_names_the_file_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = made(store)
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match=r"copy\.img cannot be written: no") as caught:
        copy_out(artifact, "image", tmp_path / "there" / "copy.img", store=store)
    assert str(artifact.path("image")) in caught.value.hint
    assert "OSBUILDER_STORE" not in caught.value.hint
    assert list((tmp_path / "there").iterdir()) == []


def test_there_is_no_manifest_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    artifact = made(store)
    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == "copy.img":
            raise OSError(errno.EIO, "no")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError):
        copy_out(artifact, "image", tmp_path / "there" / "copy.img", store=store)
    assert list((tmp_path / "there").iterdir()) == []


def test_a_build_folder_that_cannot_be_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "to" / "be" / "made")
    for folder in (tmp_path / "file", tmp_path / "file" / "build"):
        with pytest.raises(StoreError, match=r"results cannot be put into the build folder \(.*/file\)") as caught:
            check_folder(folder)
        assert "OSBUILDER_BUILD" in caught.value.hint


def test_an_output_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match=f"{name}: expected a file, or nothing yet"):
            check_output(tmp_path / name)
    (tmp_path / "old").write_text("x")
    check_output(tmp_path / "old")


def test_an_output_that_cannot_become_a_file_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        check_output(tmp_path / "no" / "where.img")
    with an_ordinary_user() as folder:
        check_output(folder / "out.img")
        assert list(folder.iterdir()) == []
        folder.chmod(0o500)
        with pytest.raises(UsageError, match="nothing can be written in"):
            check_output(folder / "out.img")
