"""Files that appear whole: what a killed process left beside them goes, what another one writes stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from osbuilder.errors import ImageError
from osbuilder.outfile import appearing, replacing


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_text("old")

    def write() -> None:
        with replacing(path, ImageError) as descriptor:
            os.write(descriptor, b"new")
            raise OSError(28, "the disk is full")

    with pytest.raises(ImageError, match=r"cannot write \(.*/image\): the disk is full"):
        write()
    assert (path.read_text(), [each.name for each in tmp_path.iterdir()]) == ("old", ["image"])


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "image", ImageError) as descriptor:
            os.write(descriptor, b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_process_left_goes_once_nobody_can_be_writing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    # Its own, a file and a link; another file's, and one that only looks like it.
    left = [".image.0123456789abcdef", ".image.fedcba9876543210"]
    others = [".image.manifest.json.0123456789abcdef", ".image.swp"]
    for name in (left[0], *others):
        (tmp_path / name).touch()
    (tmp_path / left[1]).symlink_to("nowhere")

    def write() -> set[str]:
        with appearing(path) as temporary:
            temporary.write_text("new")
        return {each.name for each in tmp_path.iterdir()}

    assert write() == {"image", *left, *others}
    now = time.time()
    monkeypatch.setattr("osbuilder.outfile.time.time", lambda: now + 7200)
    assert write() == {"image", *others}
