from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from osbuilder.engine import builder
from osbuilder.engine.builder import BootstrapBuilder
from osbuilder.errors import EngineError, ToolMissing
from osbuilder.tree import Tree

SPEC = BootstrapBuilder(suite="trixie", packages=("e2fsprogs", "zstd"), architecture="amd64", epoch=1700000000)

STATUS = b"""Package: zstd
Status: install ok installed
Architecture: amd64
Version: 1.5.7+dfsg-1

Package: apt
Status: install ok installed
Architecture: amd64
Version: 3.0.3

"""


def _raw(path: Path, *, noise: bytes) -> Path:
    tree = Tree()
    for name in ("etc", "var/lib/dpkg", "var/log/apt", "usr/share/doc/zstd", "usr/lib/python3/__pycache__", "run/lock"):
        tree.add_dir(name, parents_mode=0o755, replace=True)
    tree.add_file("etc/hostname", noise)
    tree.add_file("etc/resolv.conf", noise)
    tree.add_file("etc/machine-id", noise)
    tree.add_file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
    tree.add_file("etc/passwd-", noise)
    tree.add_file("var/log/apt/term.log", noise)
    tree.add_file("usr/share/doc/zstd/copyright", noise)
    tree.add_file("usr/lib/python3/__pycache__/x.pyc", noise)
    tree.add_file("var/lib/dpkg/status", STATUS)
    tree.write(path, epoch=1700000000)
    return path


def test_what_varies_between_hosts_is_not_in_a_builder(tmp_path: Path) -> None:
    digests = set()
    for noise in (b"one", b"another"):
        packages = builder.normalise(_raw(tmp_path / "raw.tar", noise=noise), tmp_path / "b.tar", epoch=1700000000)
        digests.add(hashlib.sha256((tmp_path / "b.tar").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert packages == (("apt", "3.0.3", "amd64"), ("zstd", "1.5.7+dfsg-1", "amd64"))
    tree = Tree.read(tmp_path / "b.tar")
    assert tree.exists("etc/passwd")
    assert not tree.exists("etc/passwd-")
    assert not tree.exists("usr/lib/python3/__pycache__")
    assert tree.read_bytes("etc/hostname") == b"builder\n"


def test_a_builder_has_the_folders_that_engines_mount_on(tmp_path: Path) -> None:
    builder.normalise(_raw(tmp_path / "raw.tar", noise=b""), tmp_path / "b.tar", epoch=1700000000)
    tree = Tree.read(tmp_path / "b.tar")
    for name in ("in", "out", "cache", "work"):
        assert tree.get(name).mode == 0o755
    for name in ("run", "tmp", "var/tmp"):
        assert tree.get(name).mode == 0o1777
        assert tree.children(name) == ()


def test_a_builder_is_bootstrapped_from_signed_packages_only() -> None:
    argv = builder.mmdebstrap_argv(SPEC, "/work/builder.tar", None, mode="unshare")
    assert argv[0] == "mmdebstrap"
    assert "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg" in argv
    assert "--include=e2fsprogs,zstd" in argv
    assert "--mode=unshare" in argv
    assert argv[-2:] == ("trixie", "/work/builder.tar")
    assert not any("allow" in word.lower() or "insecure" in word.lower() for word in argv)


def test_a_mirror_is_given_as_it_is() -> None:
    assert builder.mmdebstrap_argv(SPEC, "/b.tar", "http://mirror.invalid/debian")[-1] == "http://mirror.invalid/debian"


def test_a_dry_run_shows_a_command_for_each_mirror() -> None:
    spec = BootstrapBuilder(
        suite="trixie", packages=(), architecture="amd64", epoch=0, mirrors=("http://a.invalid", "http://b.invalid")
    )
    first, second = spec.describe()
    assert first.endswith("trixie '<work>/builder.tar' http://a.invalid")
    assert second.endswith("http://b.invalid")
    assert "--include" not in first


def test_a_host_without_mmdebstrap_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_PATH", str(tmp_path))
    monkeypatch.setattr(builder, "KEYRING", tmp_path / "none.gpg")
    with pytest.raises(ToolMissing, match="mmdebstrap, debian-archive-keyring") as caught:
        builder.bootstrap_on_host(
            SPEC, tmp_path / "b.tar", mirror=None, log=tmp_path / "log", proxies={}, check=lambda: None
        )
    assert caught.value.hint.startswith("sudo apt-get install mmdebstrap debian-archive-keyring")


class _ImageEngine:
    def run_in_image(self, image: str, commands: object, **more: object) -> None:
        raise AssertionError("nothing is to run")


def _in_image(tmp_path: Path, image: str, engine: object) -> None:
    builder.bootstrap_in_image(
        SPEC, tmp_path / "b.tar", mirror=None, image=image, engine=engine, label="t", log=tmp_path / "log", proxies={}
    )


def test_an_image_without_a_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="expected NAME@sha256:DIGEST, got debian:trixie"):
        _in_image(tmp_path, "debian:trixie", _ImageEngine())


def test_the_sandbox_has_no_images(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="expected Docker or Podman, got the sandbox"):
        _in_image(tmp_path, "debian@sha256:" + "0" * 64, object())
