"""Trees that a user brings: read the same whoever owns them, known by their content, refused when they change."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuilder.errors import TreeError, UsageError, VerificationError
from osbuilder.plan import Planner
from osbuilder.request import ImageRequest, InitrdRequest, RootfsRequest
from osbuilder.rootfs.provision import name_of, provide
from osbuilder.settings import load_settings
from osbuilder.step import key_of, parameters
from osbuilder.tree import Tree
from osbuilder.tree import folder as folder_module
from osbuilder.tree.folder import read_folder
from tests.jobs import RecordingJob, refuse

ROOT = Path(__file__).resolve().parents[2]
EPOCH = 1_700_000_000


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a folder with one of everything that an ordinary user can make."""
    top = tmp_path / "My Root"
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/tool").write_bytes(b"#!/bin/sh\n")
    (top / "usr/bin/tool").chmod(0o4755)
    (top / "usr/bin/again").hardlink_to(top / "usr/bin/tool")
    (top / "bin").symlink_to("usr/bin")
    (top / "usr/empty").touch()
    (top / "usr/naïve \udcff").write_bytes(b"x")
    os.mkfifo(top / "usr/pipe")
    for path in (top, *top.rglob("*")):
        os.utime(path, ns=(0, 1_600_000_000_987_654_321), follow_symlinks=False)
    return top


def planner() -> Planner:
    return Planner(ROOT, load_settings({}, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent")))


def run(action: object, base: Path) -> Path:
    action.run(RecordingJob(base, refuse))  # type: ignore[attr-defined]
    return base / "out/rootfs.tar"


def test_a_folder_is_read_as_gnu_tar_reads_it(top: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "by-python.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(top, arcname=".", filter=lambda info: info.replace(uid=0, gid=0, uname="", gname="", deep=False))
    expected, got = tmp_path / "expected.tar", tmp_path / "got.tar"
    Tree.read(tmp_path / "by-python.tar").write(expected, epoch=EPOCH)
    read_folder(top).write(got, epoch=EPOCH)
    assert got.read_bytes() == expected.read_bytes()
    assert Tree.read(got).links("usr/bin/tool") == ("usr/bin/again", "usr/bin/tool")


def test_whoever_owns_the_top_is_root_and_others_keep_their_number(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def owned(numbers: dict[str, int]) -> dict[str, int]:
        real = folder_module._look

        def look(path: Path) -> os.stat_result:
            fields = list(real(path))
            fields[4] = fields[5] = numbers.get(path.name, numbers["My Root"])
            return os.stat_result(fields, {"st_mtime_ns": real(path).st_mtime_ns, "st_rdev": 0})

        with monkeypatch.context() as patch:
            patch.setattr(folder_module, "_look", look)
            return {name: entry.uid for name, entry in read_folder(top).items() if entry.uid}

    assert owned({"My Root": 1000}) == owned({"My Root": 1001}) == owned({"My Root": 0}) == {}
    assert owned({"My Root": 0, "empty": 101}) == owned({"My Root": 1000, "empty": 101}) == {"usr/empty": 101}
    with pytest.raises(TreeError, match=r"owner of a user namespace .*empty.*below 65536, got 100101") as error:
        owned({"My Root": 1000, "empty": 100101})
    assert "podman unshare" in (error.value.hint or "")


def test_a_folder_is_known_by_its_content_not_by_its_place_or_its_dates(top: Path, tmp_path: Path) -> None:
    first = provide(top, epoch=1_500_000_000)
    moved = top.rename(tmp_path / "elsewhere")
    os.utime(moved / "usr/empty")
    second = provide(moved, epoch=1_500_000_000)
    assert key_of({"parameters": parameters(first)}) == key_of({"parameters": parameters(second)})
    (moved / "usr/empty").write_bytes(b"no more")
    assert parameters(provide(moved, epoch=1_500_000_000)) != parameters(first)


def test_a_folder_or_a_tar_that_changed_since_the_plan_leaves_no_result(top: Path, tmp_path: Path) -> None:
    tar = tmp_path / "tree.tar"
    read_folder(top).write(tar, epoch=EPOCH)
    for path, change in ((top, top / "usr/bin/tool"), (tar, tar)):
        action = provide(path, epoch=EPOCH)
        change.write_bytes(change.read_bytes()[:-1] + b"!")
        with pytest.raises(VerificationError, match=r"changed during the build: expected sha256 \w{64}, got \w{64}"):
            run(action, tmp_path / f"run-{path.name}")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(top: Path, tmp_path: Path) -> None:
    tree = read_folder(top)
    (top / "usr/bin/tool").write_bytes(b"#!")
    with pytest.raises(TreeError, match="content ended early"):
        tree.write(tmp_path / "out.tar", epoch=EPOCH)
    assert not (tmp_path / "out.tar").exists()


def test_a_tar_and_the_folder_that_it_was_made_of_give_the_same_bytes(top: Path, tmp_path: Path) -> None:
    folder = run(provide(top, epoch=EPOCH), tmp_path / "one")
    again = run(provide(folder, epoch=EPOCH), tmp_path / "two")
    assert folder.read_bytes() == again.read_bytes()


def test_sockets_and_what_cannot_be_read_are_named(top: Path, tmp_path: Path) -> None:
    os.mknod(top / "gpg", 0o600 | stat.S_IFSOCK)
    with pytest.raises(TreeError, match=r"a socket in the tree \(.*gpg\)"):
        read_folder(top)
    (top / "gpg").unlink()
    if os.geteuid():  # root reads everything
        (top / "usr/bin").chmod(0)
        with pytest.raises(TreeError, match=r"cannot read the tree \(.*usr/bin\): Permission denied"):
            read_folder(top)
        (top / "usr/bin").chmod(0o755)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder with 1200 folders in it, each in the one before, which pytest could not remove."""
    folders = [tmp_path / "top"]
    folders += [folders[0].joinpath(*["d"] * depth) for depth in range(1, 1201)]
    for folder in folders:
        folder.mkdir()
    yield folders[0]
    for folder in reversed(folders):
        folder.rmdir()


def test_a_folder_may_be_deeper_than_pythons_stack(deep: Path) -> None:
    assert len(read_folder(deep)) == 1201
    assert provide(deep, epoch=0).sha256


def test_a_mounted_filesystem_is_not_walked_into(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = folder_module._look

    def look(path: Path) -> os.stat_result:
        return Path("/proc").lstat() if path.name == "empty" else real(path)

    monkeypatch.setattr(folder_module, "_look", look)
    with pytest.raises(TreeError, match=r"something is mounted in the tree \(.*empty\)") as error:
        read_folder(top)
    assert "umount" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/", "this is the root of this machine"),
        ("/usr/..", "this is the root of this machine"),
        ("empty", "the folder is empty"),
        ("missing", "expected a folder or a tar, got nothing"),
        ("/dev/null", "expected a folder or a tar, got something else"),
    ],
)
def test_what_is_no_tree_is_refused(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"--provision .*: {message}"):
        provide(tmp_path / path, epoch=EPOCH)


def test_a_link_to_the_root_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UsageError, match="this is the root of this machine"):
        provide(tmp_path / "link", epoch=EPOCH)


def test_the_same_steps_follow_as_after_packages(top: Path) -> None:
    def names(request: RootfsRequest) -> list[str]:
        return [step.name for step in planner().plan(ImageRequest(rootfs=request)).walk() if step.name != "builder"]

    provided = RootfsRequest(provision=top, arch="x86_64")
    assert [name.replace("provided", "packages") for name in names(provided)] == names(
        RootfsRequest(distro="debian", arch="x86_64")
    )
    assert planner().name(provided) == "my-root"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My Root", "my-root"), ("base.tar.zst", "base"), ("v1.2", "v1-2"), ("...", "tree")],
)
def test_a_tree_is_called_after_where_it_lies(name: str, expected: str) -> None:
    assert name_of(Path("/srv") / name) == expected


def test_what_only_packages_have_does_not_go_with_a_tree_of_the_user() -> None:
    for flags in ({"distro": "debian"}, {"release": "trixie"}, {"packages": ("bash",)}, {"features": ("debug",)}):
        with pytest.raises(UsageError, match=r"--provision and --(distro|release|package|feature) exclude each other"):
            RootfsRequest(provision=Path("/srv/tree"), **flags)


def test_an_extension_goes_with_no_init_no_agent_and_no_initrd() -> None:
    for flags in ({"agent": "probe"}, {"without_units": ("a.service",)}):
        with pytest.raises(UsageError, match=r"--extension and --(agent|without-unit) exclude each other"):
            RootfsRequest(extension=True, **flags)
    with pytest.raises(UsageError, match="an initrd is a whole guest"):
        InitrdRequest(rootfs=RootfsRequest(extension=True))


def test_an_extension_has_no_agent_to_build_and_no_packages_of_an_init() -> None:
    step = planner().plan(ImageRequest(rootfs=RootfsRequest(distro="debian", arch="x86_64", extension=True)))
    assert [each.ident for each in step.walk() if each.name != "builder"] == [
        "debian-trixie-x86_64-extension/packages",
        "debian-trixie-x86_64-extension/rootfs",
        "debian-trixie-x86_64-extension/image",
    ]
    packages = next(each for each in step.walk() if each.name == "packages")
    assert "systemd" not in " ".join(packages.action.describe()).replace("extension", "")


@pytest.mark.parametrize("unit", ["", "sysctl", "../x.service", "a b.service", "*.service"])
def test_what_is_no_name_of_a_unit_is_refused(unit: str) -> None:
    with pytest.raises(UsageError, match="--without-unit: expected the name of a unit"):
        RootfsRequest(without_units=(unit,))
