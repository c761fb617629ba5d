"""What a recipe may say of a distribution that comes as a tarball, and what its signed texts may."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.distro.archive import read_latest, read_packages, read_sha512, stamp_of
from osbuilder.distro.recipe import Recipe, load_recipe
from osbuilder.errors import DecodeError
from osbuilder.tree import Tree

SHA = "ab" * 32
TEXT = f"""\
name: mine
title: Mine
package-manager: archive
default-release: one
releases:
  one:
    version: "1"
    released: "2026-01-01"
    signed-by: [13EB BDBE DE7A 1277 5DFD B1BA BB57 2E0E 2D18 2910]
arches: [x86_64]
inits: [agent]
packages: {{always: []}}
archive:
  keys-url: https://mirror.example.org/keys.gpg
  tarballs:
    - {{arch: x86_64, latest: "a/latest-{{release}}.txt"}}
    - {{arch: aarch64, path: b/root.tar.xz, sha256: {SHA}}}
"""


def _recipe(folder: Path, text: str) -> Recipe:
    path = folder / "mine" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text(text)
    return load_recipe(path)


def test_a_recipe_says_for_each_architecture_where_its_tarball_is(tmp_path: Path) -> None:
    archive = _recipe(tmp_path, TEXT).archive
    assert archive is not None
    assert archive.tarball("x86_64").below("one") == "a/latest-one.txt"
    assert archive.tarball("aarch64").below("one") == "b/root.tar.xz"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('latest: "a/latest-{release}.txt"', 'latest: "../x"', "expected a path below a mirror"),
        ('latest: "a/latest-{release}.txt"', "path: a/b.tar.xz", "path and sha256 go together"),
        ('latest: "a/latest-{release}.txt"', "sha256: " + SHA, "expected latest, or path with sha256"),
        (SHA, '"12"', "sha256: expected 64 lower-case hex digits, got '12'"),
        ("arch: aarch64", "arch: x86_64", "tarballs: expected one for each architecture"),
        ("  keys-url: https://mirror.example.org/keys.gpg\n", "", "keys-url: expected where the keys are"),
        ("keys-url: https:", "keys-url: ftp:", "keys-url: expected an address"),
        ("arches: [x86_64]", "arches: [x86_64, s390x]", "archive.tarballs: none is for s390x"),
        ("    signed-by: [13EB BDBE DE7A 1277 5DFD B1BA BB57 2E0E 2D18 2910]\n", "", "releases.one.signed-by"),
        ("package-manager: archive", "package-manager: none", "archive: goes with package-manager archive"),
    ],
)
def test_a_malformed_one_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(DecodeError) as caught:
        _recipe(tmp_path, TEXT.replace(old, new, 1))
    assert message in caught.value.message


def test_the_text_that_names_the_newest_tarball_is_read() -> None:
    text = "# Latest as of now\n# ts=1\n\n20260101T000000Z/stage3-20260101T000000Z.tar.xz 12\n"
    assert read_latest(text, url="u") == ("20260101T000000Z/stage3-20260101T000000Z.tar.xz", 12)
    assert stamp_of("stage3-19700101T000102Z.tar.xz", url="u") == 62


def test_a_digest_of_another_kind_or_file_does_not_count() -> None:
    blake, sha, other = ("a" * 128, "b" * 128, "c" * 128)
    text = f"# BLAKE2B HASH\n{blake}  x.tar.xz\n# SHA512 HASH\n{sha}  x.tar.xz\n{other}  y.tar.xz\n"
    assert read_sha512(text, "x.tar.xz", url="u") == sha


def test_packages_are_read_from_the_names_of_the_database() -> None:
    tree = Tree()
    for name in ("sys-apps/util-linux-2.41.2-r1", "dev-lang/python-3.13.9_p1", "virtual/libc-1-r1"):
        tree.add_dir(f"var/db/pkg/{name}", parents_mode=0o755)
    assert read_packages(tree) == [
        ["dev-lang/python", "3.13.9_p1", ""],
        ["sys-apps/util-linux", "2.41.2-r1", ""],
        ["virtual/libc", "1-r1", ""],
    ]
