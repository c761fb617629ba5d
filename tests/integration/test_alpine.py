"""Alpine from a mirror on loopback: what the guest is, what other programs say of the formats, both engines."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.errors import PlanError, RootfsError
from osbuilder.pid1 import Init
from osbuilder.request import ImageRequest, InitrdRequest, RootfsRequest
from osbuilder.tree import Tree
from tests.integration.engines import workbench_under
from tests.mirrors import apk
from tests.mirrors.alpine import alpine as mirror
from tests.mirrors.apk import File, Package, Repository, SigningKey
from tests.prerequisites import program
from tests.servers import FaultyServer, Reply

ROOT = Path(__file__).resolve().parents[2]
ALPINE = RootfsRequest(distro="alpine", arch="x86_64")


@pytest.fixture(scope="module")
def alpine(alpine_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    build = tmp_path_factory.mktemp("build")
    return open_workbench((*alpine_settings, f"build={build}"), stream=sys.stderr, root=ROOT)


@pytest.fixture(scope="module")
def tree(alpine: Workbench) -> Tree:
    return Tree.read(alpine.build(ALPINE).artifact.path("rootfs.tar"))


def test_the_guest_has_a_shell_a_libc_and_the_agent_as_init(tree: Tree) -> None:
    assert tree.get("bin/sh").target == "/bin/busybox"
    assert tree.get("bin/ls").target == "/bin/busybox"
    assert tree.read_bytes("lib/libc.musl-x86_64.so.1").startswith(b"\x7fELF")
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"
    assert b"ID=alpine" in tree.read_bytes("etc/os-release")


def test_each_stable_branch_is_installed_from_its_own_folder(alpine: Workbench, tmp_path: Path) -> None:
    key = SigningKey.named()
    (tmp_path / "key").write_bytes(key.public)
    for release in alpine.planner.choice(ALPINE).recipe.releases:
        with FaultyServer() as server:
            for name, content in mirror(key, release=release).items():
                server.serve(f"/{name}", Reply(body=content))
            settings = (f"mirrors=alpine={server.url}", f"keyrings=alpine={tmp_path / 'key'}", f"build={tmp_path}")
            bench = open_workbench(settings, stream=io.StringIO(), root=ROOT)
            request = dataclasses.replace(ALPINE, release=release)
            tree = Tree.read(bench.build(request).artifact.path("rootfs.tar"))
        assert tree.read_bytes("etc/alpine-release") == f"{release}.0\n".encode()


def test_what_scripts_would_have_done_is_done_with_none_of_them_run(alpine: Workbench, tree: Tree) -> None:
    owner = tree.get("var/lib/chrony")
    assert (owner.uid, owner.gid, owner.mode) == (100, 101, 0o750)
    assert tree.get("etc/shadow").gid == 42
    packages = next(step for step in alpine.planner.plan(ALPINE).walk() if step.name == "packages")
    artifact = alpine.executor.run(packages)
    assert artifact.facts["scripts"] == [
        ["chrony", "pre-install"],
        ["busybox", "post-install"],
        ["alpine-baselayout", "post-install"],
        ["busybox", "trigger"],
    ]


def test_a_programs_file_comes_from_its_package_not_from_busybox(tree: Tree) -> None:
    assert tree.read_bytes("bin/mount") == b"#!/bin/sh\n"


def test_packages_come_by_install_if_only_when_all_of_it_is_there(alpine: Workbench, tree: Tree) -> None:
    assert "P:busybox-doc" not in tree.read_bytes("lib/apk/db/installed").decode()
    artifact = alpine.build(RootfsRequest(distro="alpine", arch="x86_64", packages=("docs",))).artifact
    assert ["busybox-doc", "1.0-r0", "x86_64"] in artifact.facts["packages"]


def test_every_file_of_the_database_is_in_the_tree_with_that_content(alpine: Workbench) -> None:
    """Reads the database as apk does, and nothing of what wrote it."""
    packages = next(step for step in alpine.planner.plan(ALPINE).walk() if step.name == "packages")
    tar = alpine.executor.run(packages).path("rootfs.tar")
    with tarfile.open(tar) as archive:
        text = _content(archive, "./lib/apk/db/installed").decode()
        changed = {"etc/passwd", "etc/group", "etc/shadow"}  # accounts were added, as apk's scripts would
        seen = 0
        for folder, name, access, digest in _entries(text):
            member = archive.getmember(f"./{folder}/{name}")
            assert f"{member.uid}:{member.gid}:{member.mode:o}" == access or f"{folder}/{name}" in changed
            content = member.linkname.encode() if member.issym() else _content(archive, member.name)
            if f"{folder}/{name}" not in changed:
                assert apk.checksum(content) == digest
            seen += 1
    assert seen > 30


def _entries(text: str) -> list[tuple[str, str, str, str]]:
    found = []
    for folder, rest in re.findall(r"^F:(.*)\n((?:[MRaZ]:.*\n)*)", text, re.MULTILINE):
        for name, access, digest in re.findall(r"R:(.*)\n(?:a:(.*)\n)?(?:Z:(.*)\n)?", rest):
            found.append((folder, name, access or "0:0:644", digest))
    return found


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


@pytest.mark.parametrize("engine", ["docker", "sandbox"])
def test_an_image_has_the_same_bytes_under_every_engine(
    alpine: Workbench, alpine_settings: tuple[str, ...], tmp_path: Path, engine: str
) -> None:
    expected = alpine.build(ImageRequest(rootfs=ALPINE)).artifact
    digest = expected.digest
    shutil.rmtree(expected.folder)
    bench = workbench_under(engine, tmp_path, *alpine_settings)
    assert bench.build(ImageRequest(rootfs=ALPINE)).artifact.digest == digest


def test_an_initrd_needs_no_engine_after_the_agent(alpine: Workbench) -> None:
    assert alpine.build(InitrdRequest(rootfs=ALPINE)).files[0].stat().st_size > 1_000_000


def test_an_init_that_alpine_lacks_is_refused(alpine: Workbench) -> None:
    with pytest.raises(PlanError, match="alpine has no init 'systemd'"):
        alpine.planner.plan(RootfsRequest(distro="alpine", arch="x86_64", init=Init.SYSTEMD))


def test_a_package_with_a_script_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    key = SigningKey.named()
    odd = Package(name="odd", scripts={"post-install": "#!/bin/sh\nrc-update add odd\n"})
    (tmp_path / "key").write_bytes(key.public)
    empty = Repository(key=key, packages=(Package(name="none"),), path="v3.24/community/x86_64")
    with FaultyServer() as server:
        main = Repository(key=key, packages=(*_base(), odd), path="v3.24/main/x86_64")
        for name, content in {**main.files(), **empty.files()}.items():
            server.serve(f"/{name}", Reply(body=content))
        settings = (f"mirrors=alpine={server.url}", f"keyrings=alpine={tmp_path / 'key'}", f"build={tmp_path}")
        bench = open_workbench(settings, stream=io.StringIO(), root=ROOT)
        step = bench.planner.plan(RootfsRequest(distro="alpine", arch="x86_64", packages=("odd",)))
        packages = next(each for each in step.walk() if each.name == "packages")
        with pytest.raises(RootfsError, match=r"the post-install script of odd is not known: .*: rc-update add odd"):
            bench.executor.run(packages)


def _base() -> tuple[Package, ...]:
    recipe = open_workbench((), stream=io.StringIO(), root=ROOT).planner.choice(ALPINE).recipe
    return tuple(Package(name=name, files=(File(f"usr/share/{name}"),)) for name in recipe.packages.always)


# --- the mirror itself, judged by programs that are not ours


def _streams(tmp_path: Path) -> tuple[SigningKey, list[bytes]]:
    key = SigningKey.named()
    content, _ = Package(name="toy", files=(File("usr/bin/toy", b"x" * 5000, 0o755),)).apk(key)
    (tmp_path / "toy.apk").write_bytes(content)
    return key, apk.streams(content)


def test_openssl_verifies_what_our_mirrors_sign(tmp_path: Path) -> None:
    key, (signature, control, _) = _streams(tmp_path)
    (tmp_path / "key").write_bytes(key.public)
    (tmp_path / "control").write_bytes(control)
    listed = subprocess.run(["/bin/tar", "-xzO"], input=signature, capture_output=True, check=True)
    (tmp_path / "signature").write_bytes(listed.stdout)
    argv = [program("openssl"), "dgst", "-sha1", "-verify", "key", "-signature", "signature", "control"]
    verdict = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert verdict.stdout == "Verified OK\n"


def test_tar_reads_a_whole_package_as_one_archive(tmp_path: Path) -> None:
    _streams(tmp_path)
    listed = subprocess.run(
        ["/bin/tar", "-tzf", str(tmp_path / "toy.apk")], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
    )
    assert listed.stdout.split() == [
        ".SIGN.RSA.builder@example.org-0000.rsa.pub",
        ".PKGINFO",
        "usr/",
        "usr/bin/",
        "usr/bin/toy",
    ]


def test_the_command_line_writes_a_mirror_that_can_be_built_from(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.mirrors", "apk", str(tmp_path)]
    settings = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("--setting ")
    bench = open_workbench(
        (*(each.strip() for each in settings[1:]), f"build={tmp_path}/build"), stream=io.StringIO(), root=ROOT
    )
    step = next(each for each in bench.planner.plan(ALPINE).walk() if each.name == "packages")
    assert bench.executor.run(step).facts["mirror"] == f"file://{tmp_path}/alpine"
