"""Archives laid over a root filesystem (the agent alone) by `inv`: in order, checked, and never out of it."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
import zstandard

from osbuilder.tree import Tree
from tests.integration.test_kata_variables import ARCH, inv
from tests.unit.test_overlays import tar

SCRATCH = ("rootfs", "--distro", "scratch")


@pytest.mark.usefixtures("builders")
def test_overlays_of_any_compression_are_laid_over_a_root_in_order(tmp_path: Path) -> None:
    first = tar(tmp_path / "a.tar.gz", ("etc/hook", b"1"), ("etc/kept", b"kept"), pack=gzip.compress)
    second = tar(tmp_path / "b.tar.zst", ("etc/hook", b"2"), pack=zstandard.compress)
    digest = hashlib.sha256(second.read_bytes()).hexdigest()
    ran = inv(*SCRATCH, "--overlay", str(first), "--overlay", f"{second},sha256={digest}", build=tmp_path / "build")
    assert ran.returncode == 0, ran.stderr
    (made,) = (tmp_path / "build" / ARCH).glob("*.tar")
    tree = Tree.read(made)
    assert tree.read_bytes("etc/hook") == b"2"
    assert tree.read_bytes("etc/kept") == b"kept"


@pytest.mark.usefixtures("builders")
@pytest.mark.parametrize(
    ("name", "told"),
    [("../evil", "its name contains `..`"), ("/etc/evil", "its name is absolute")],
)
def test_an_overlay_that_would_leave_the_root_is_refused_and_nothing_is_built(
    tmp_path: Path, name: str, told: str
) -> None:
    evil = tar(tmp_path / "evil.tar", (name, b"x"))
    ran = inv(*SCRATCH, "--overlay", str(evil), build=tmp_path / "build")
    assert ran.returncode != 0
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "evil").exists()
    assert not list(tmp_path.rglob("build/**/*.tar"))


def test_an_overlay_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("etc/hook", b"1"))
    ran = inv(*SCRATCH, "--overlay", f"{path},sha256={'0' * 64}", build=tmp_path / "build")
    assert ran.returncode != 0
    assert hashlib.sha256(path.read_bytes()).hexdigest() in ran.stderr
    assert not list(tmp_path.rglob("build/**/*.tar"))
