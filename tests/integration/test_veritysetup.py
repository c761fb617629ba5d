"""Hash trees are, to the byte, those of the real veritysetup; and it takes the images that are built, and no others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.engine.base import Command, Mounts
from osbuilder.errors import CommandFailed
from osbuilder.image import verity
from osbuilder.image.inspect import inspect
from osbuilder.image.mbr import decode_mbr
from osbuilder.image.verity import root_hash_file
from osbuilder.request import ImageRequest, RootfsRequest
from tests.unit.test_verity import SALT, blocks

Veritysetup = Callable[..., str]


@pytest.fixture(scope="module")
def veritysetup(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Veritysetup:
    """Return what runs veritysetup in a builder: with these words, on these files (/in/NAME); what it says."""
    step = bench.planner.builder("rootfs", tools=("cryptsetup-bin",))
    engine, builder = bench.executor.ready(step.subject, bench.executor.run(step))

    def run(*words: str, output: Path, **inputs: Path) -> str:
        folder = tmp_path_factory.mktemp("veritysetup")
        output.chmod(0o777)
        engine.run(
            builder,
            Command(argv=("veritysetup", *words)),
            Mounts(inputs=inputs, output=output, work=folder),
            log=folder / "log",
            label="test-veritysetup",
        )
        return (folder / "log").read_text()

    return run


# One block of hashes has 128; with 129 blocks there is a second level, with 16385 a third.
@pytest.mark.parametrize("count", [2, 127, 128, 129, 300, 128 * 128, 128 * 128 + 1])
def test_a_tree_is_the_one_that_veritysetup_makes(veritysetup: Veritysetup, tmp_path: Path, count: int) -> None:
    data = blocks(count)
    (tmp_path / "data").write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    said = veritysetup(
        *("format", "--no-superblock", f"--salt={SALT.hex()}", "/in/data", "/out/tree"),
        output=out,
        data=tmp_path / "data",
    )
    leaves = verity.hash_data(lambda at, length: data[at : at + length], data_blocks=count, salt=SALT)
    tree, root_hash = verity.build_tree(leaves, salt=SALT)
    assert (out / "tree").read_bytes() == tree
    assert len(tree) == verity.tree_bytes(count)
    assert root_hash in said


@pytest.fixture(scope="module")
def images(bench: Workbench) -> dict[bool, Path]:
    """Measured images, with a DAX header and without."""
    rootfs = RootfsRequest(distro="scratch")
    return {
        dax: bench.build(ImageRequest(rootfs=rootfs, measured=True, dax=dax, build_variant=f"dax-{dax}")).files[0]
        for dax in (True, False)
    }


def cut(image: Path, folder: Path) -> dict[str, Path]:
    """Cut the partitions out of an image."""
    content = image.read_bytes()
    folder.mkdir(exist_ok=True)
    files = {}
    for name, part in zip(("data", "hashes"), decode_mbr(content) or (), strict=True):
        files[name] = folder / name
        files[name].write_bytes(content[part.offset_bytes : part.offset_bytes + part.size_bytes])
    return files


@pytest.mark.parametrize("dax", [True, False])
def test_veritysetup_verifies_the_partitions_of_an_image_and_refuses_a_changed_one(
    veritysetup: Veritysetup, images: dict[bool, Path], tmp_path: Path, dax: bool
) -> None:
    found = verity.read_root_hash(root_hash_file(images[dax]))
    files = cut(images[dax], tmp_path / "parts")
    options = ("--no-superblock", f"--salt={found.salt}", f"--data-blocks={found.data_blocks}")
    words = ("verify", *options, "/in/data", "/in/hashes", found.root_hash)
    (tmp_path / "out").mkdir()
    veritysetup(*words, output=tmp_path / "out", **files)
    with files["data"].open("r+b") as stream:
        os.pwrite(stream.fileno(), b"X", files["data"].stat().st_size - 1)
    with pytest.raises(CommandFailed) as caught:
        veritysetup(*words, output=tmp_path / "out", **files)
    assert "Verification of data area failed" in caught.value.tail


def test_a_header_for_dax_changes_nothing_that_is_measured(images: dict[bool, Path]) -> None:
    assert root_hash_file(images[True]).read_bytes() == root_hash_file(images[False]).read_bytes()
    assert {dict(inspect(image).facts)["root hash"] for image in images.values()} == {
        verity.read_root_hash(root_hash_file(images[True])).root_hash
    }


def test_a_measured_image_has_the_names_of_kata_and_says_in_its_manifest_how_to_start_it(
    bench: Workbench, images: dict[bool, Path]
) -> None:
    image = images[True]
    assert image.name == "kata-scratch-1-dax-True.image"
    folder = image.parent
    assert (folder / "kata-containers-dax-True.img").resolve() == image
    assert (folder / "root_hash_dax-True.txt").resolve() == root_hash_file(image)
    found = verity.read_root_hash(folder / "root_hash_dax-True.txt")
    facts = json.loads((folder / f"{image.name}.manifest.json").read_text())["steps"][-1]["facts"]["verity"]
    assert (facts["root_hash"], facts["salt"], facts["data_blocks"]) == (found.root_hash, found.salt, found.data_blocks)
    assert facts["kernel_parameters"].startswith('dm-mod.create="root,,,ro,0 ')
    assert facts["kernel_parameters"].endswith(" root=/dev/dm-0")
    assert bench.build(ImageRequest(rootfs=RootfsRequest(distro="scratch"), build_variant="plain")).files[1:] == ()


def test_a_copy_of_a_measured_image_has_its_root_hash_beside_it(bench: Workbench, tmp_path: Path) -> None:
    request = ImageRequest(rootfs=RootfsRequest(distro="scratch"), measured=True)
    built = bench.build(request, output=tmp_path / "copy.img")
    assert built.files[1].name == "kata-scratch-1-measured.image"
    assert (tmp_path / "copy.img.root_hash.txt").read_text() == built.files[2].read_text()
    assert dict(inspect(tmp_path / "copy.img").facts)["data blocks"]


def test_another_layout_that_is_built_anew_has_the_same_root_hash(bench: Workbench, images: dict[bool, Path]) -> None:
    rootfs = RootfsRequest(distro="scratch")
    image = bench.build(ImageRequest(rootfs=rootfs, measured=True, align_mib=4, build_variant="small")).files[0]
    assert root_hash_file(image).read_bytes() == root_hash_file(images[True]).read_bytes()
    assert image.stat().st_size < images[True].stat().st_size
