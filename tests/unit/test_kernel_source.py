"""A kernel line names exactly one source; each kind gets it in its own way and says clearly why it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuilder import decode
from osbuilder.errors import CommandFailed, DecodeError, FetchError, SourceError, StoreError, UsageError
from osbuilder.kernel.debian import DebianPackage
from osbuilder.kernel.git import Git
from osbuilder.kernel.localtree import LocalTree
from osbuilder.kernel.source import KernelLine
from osbuilder.kernel.tarball import Tarball
from osbuilder.step import parameters
from tests.jobs import Ran, RecordingJob
from tests.kernel_sources import EPOCH, FILES, members, pack, write_archive, write_tree

SHA256 = "5" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DEBIAN = DebianPackage(package="linux-source-6.12", suite="trixie")


def line(text: str) -> KernelLine:
    return decode.loads(text, KernelLine, where="versions.yaml")


def fails(tail: str) -> Callable[[Ran], None]:
    def act(ran: Ran) -> None:
        raise CommandFailed("bash failed with status 100", status=100, tail=tail)

    return act


def write_releases(output: Path) -> None:
    (output / "releases").mkdir()
    (output / "releases" / "m_debian_dists_trixie_InRelease").write_text("Suite: stable\nCodename: trixie\n")


# --- versions.yaml -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("{package: linux-source-6.12, suite: trixie}", DEBIAN),
        (
            '{package: linux-source-6.12, suite: trixie, version: "6.12.57-1"}',
            DebianPackage(package="linux-source-6.12", suite="trixie", version="6.12.57-1"),
        ),
        (
            f'{{urls: ["https://a.example/linux-6.12.tar.xz"], sha256: "{SHA256}"}}',
            Tarball(urls=("https://a.example/linux-6.12.tar.xz",), sha256=SHA256),
        ),
        ("{git: 'https://a.example/linux.git', ref: v6.12}", Git(url="https://a.example/linux.git", ref="v6.12")),
    ],
)
def test_a_kernel_line_becomes_the_source_that_it_names(text: str, source: object) -> None:
    assert line(text).source(Path("/nowhere")) == source


def test_a_tree_is_looked_up_from_the_checkout(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "linux")
    found = line("{tree: linux}").source(tmp_path)
    assert isinstance(found, LocalTree)
    assert found.path == tree


def test_a_tree_may_be_below_the_home_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tree = write_tree(tmp_path / "home" / "linux")
    found = line("{tree: ~/linux, patches: ~/mine}")
    source = found.source(tmp_path / "checkout")
    assert isinstance(source, LocalTree)
    assert source.path == tree
    assert found.patches is not None
    assert found.patches.below(tmp_path / "checkout").names == (str(tmp_path / "home" / "mine"),)


def test_a_user_without_a_home_is_no_place_of_a_tree(tmp_path: Path) -> None:
    named = line("{tree: ~nosuchuser/linux, patches: ~nosuchuser/mine}")
    with pytest.raises(UsageError, match=r"tree: there is no home folder ~nosuchuser"):
        named.source(tmp_path)
    assert named.patches is not None
    with pytest.raises(UsageError, match=r"patches: there is no home folder ~nosuchuser"):
        named.patches.below(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{patches: mine}", "expected exactly one of package, urls, git, tree, got none of them"),
        (
            "{package: linux-source-6.12, suite: trixie, tree: x}",
            "expected exactly one of package, urls, git, tree, got package and tree",
        ),
        ("{package: linux-source-6.12}", "package needs suite beside it"),
        ("{urls: ['https://a.example/l.tar']}", "urls needs sha256 beside it"),
        ("{git: 'https://a.example/l.git'}", "git needs ref beside it"),
        ("{tree: x, ref: master}", "ref does not go with tree"),
        ("{package: Linux, suite: trixie}", "package: malformed: 'Linux'"),
        ("{package: linux-source-6.12, suite: trixie, version: --now}", "version: malformed: '--now'"),
        ("{tree: x, patches: -x}", "patches: malformed: '-x'"),
        ("{tree: x, patches: [a-series, a-series]}", "patches: a-series stands there twice"),
        ("{tree: x, patches: []}", "patches: expected a series of patches, or none"),
        ("{urls: ['https://a.example/l.tar'], sha256: abc}", "expected 64 lower-case hexadecimal digits, got 'abc'"),
        ("{urls: [], sha256: abc}", "sha256"),
        (
            f"{{urls: ['https://a.example/l.tar'], sha256: '{SHA256}', signature: ['https://a.example/l.tar.sign']}}",
            "signature and signed-by go together",
        ),
        (
            f"{{urls: ['https://a.example/l'], sha256: '{SHA256}', signature: [l.sign], signed-by: ['{'A' * 40}']}}",
            "urls of the signature: expected https, http or file, got 'l.sign'",
        ),
        (
            f"{{urls: ['https://a.example/l'], sha256: '{SHA256}', signature: [l.sign], signed-by: [Greg]}}",
            'expected a fingerprint of 40 hex digits, got "Greg"',
        ),
        ("{tree: x, signed-by: []}", "signed-by does not go with tree"),
        ("{git: '/srv/linux.git', ref: v6.12}", "expected a https, http or git URL, got '/srv/linux.git'"),
        ("{git: '--upload-pack=x', ref: v6.12}", "expected a https, http or git URL"),
        ("{git: 'https://a.example/l.git', ref: '--all'}", "expected a branch, a tag or a full commit id, got '--all'"),
        ("{git: 'http://a.example/l.git', ref: v6.12}", "http does not protect what 'v6.12' means"),
        (
            "{git: 'https://me:secret@a.example/l.git', ref: v6.12}",
            "expected a URL without a name and password, got https://...@a.example/l.git: they would stand in keys",
        ),
        ("{git: 'https://[a.example/l.git', ref: v6.12}", "expected a https, http or git URL, got what is none"),
    ],
)
def test_a_kernel_line_that_cannot_be_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        line(f"\n\n{text}")
    assert str(caught.value).startswith("versions.yaml:3: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("url", "ref"),
    [("http://a.example/l.git", COMMIT), ("git://127.0.0.1:9418/l.git", "v6.12"), ("https://a.example/l.git", "a/b-1")],
)
def test_what_protects_itself_may_come_over_any_transport(url: str, ref: str) -> None:
    assert Git(url=url, ref=ref).ref == ref


def test_the_mirrors_of_a_pinned_tarball_are_not_part_of_what_it_is() -> None:
    one, two = (Tarball(urls=(f"https://{host}.example/l.tar.xz",), sha256=SHA256) for host in "ab")
    assert parameters(one) == parameters(two) == {"sha256": SHA256, "signature": None}


# --- a Debian package ----------------------------------------------------------------------------------------------


def test_apt_writes_nothing_outside_work_and_verifies_everything() -> None:
    script = "\n".join(DEBIAN.describe())
    assert 'Dir::State "/work/apt/state";' in script
    assert 'Dir::Cache "/work/apt/cache";' in script
    assert 'APT::Update::Error-Mode "any";' in script
    assert "apt-get --quiet download linux-source-6.12\n" in script
    assert "unauthenticated" not in script.lower()
    assert "trusted=yes" not in script


def test_a_package_of_one_version_is_asked_for_by_it() -> None:
    pinned = DebianPackage(package="linux-source-6.12", suite="trixie", version="6.12.57-1")
    assert "apt-get --quiet download linux-source-6.12=6.12.57-1" in pinned.describe()


def test_the_package_is_delivered_with_its_versions(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        assert ran.command.network
        assert not ran.command.root
        assert ran.command.argv == ("bash", "/in/script")
        write_archive(ran.output / "source.tar.zst", pack(members()))
        (ran.output / "package_version").write_text("6.12.57-1\n")
        write_releases(ran.output)

    job = RecordingJob(tmp_path, act)
    assert DEBIAN.run(job) == {
        "version": "6.12.57",
        "epoch": EPOCH,
        "origin": "linux-source-6.12 6.12.57-1",
        "package_version": "6.12.57-1",
    }
    assert [path.name for path in job.out.iterdir()] == ["source.tar.zst"]


def test_a_package_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no package linux-source-6\.12 in Debian trixie"):
        DEBIAN.run(RecordingJob(tmp_path, fails("E: Unable to locate package linux-source-6.12")))


def test_a_pinned_version_that_the_archive_does_not_have_is_told_with_what_it_has(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        (ran.output / "available").write_text(" 6.12.117-1 \n 6.12.111-1 \n")
        fails("E: Version '6.12.57-1' for 'linux-source-6.12' was not found")(ran)

    pinned = DebianPackage(package="linux-source-6.12", suite="trixie", version="6.12.57-1")
    with pytest.raises(SourceError) as caught:
        pinned.run(RecordingJob(tmp_path, act))
    assert caught.value.message == ("Debian trixie has no linux-source-6.12 6.12.57-1: it has 6.12.117-1, 6.12.111-1")
    assert "Pin what it has in versions.yaml" in caught.value.hint


def test_a_mirror_that_does_not_answer_is_a_failed_fetch(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot get the package linux-source-6\.12 of Debian trixie: bash failed"):
        DEBIAN.run(RecordingJob(tmp_path, fails("E: Failed to fetch InRelease  Could not connect")))


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the disk is full") as caught:
        DEBIAN.run(RecordingJob(tmp_path, fails("zstd: error 70 : Write error : No space left on device")))
    assert "OSBUILDER_STORE" in caught.value.hint


def test_nothing_is_delivered_of_an_archive_that_is_refused(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        write_archive(ran.output / "source.tar.zst", pack(members({"README": "no kernel"})))
        (ran.output / "package_version").write_text("1\n")
        write_releases(ran.output)

    job = RecordingJob(tmp_path, act)
    with pytest.raises(SourceError, match=r"linux-source-6\.12 1: not a kernel source"):
        DEBIAN.run(job)
    assert list(job.out.iterdir()) == []


# --- git -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail",
    [
        "fatal: couldn't find remote ref v9",
        "fatal: remote error: upload-pack: not our ref 0123",
        "error: Server does not allow request for unadvertised object 0123",
    ],
)
def test_an_unknown_ref_is_named_with_what_lists_the_known_ones(tmp_path: Path, tail: str) -> None:
    with pytest.raises(SourceError, match=r"https://a.example/l.git has no branch, tag or commit 'v9'") as caught:
        Git(url="https://a.example/l.git", ref="v9").run(RecordingJob(tmp_path, fails(tail)))
    assert "git ls-remote https://a.example/l.git" in caught.value.hint


def test_a_repository_that_cannot_be_reached_is_a_failed_fetch(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot get v9 from https://a.example/l.git"):
        Git(url="https://a.example/l.git", ref="v9").run(RecordingJob(tmp_path, fails("fatal: Could not resolve host")))


@pytest.mark.parametrize("ref", ["v6.12", COMMIT])
def test_the_commit_that_a_ref_meant_is_recorded(tmp_path: Path, ref: str) -> None:
    def act(ran: Ran) -> None:
        write_archive(ran.output / "source.tar.zst", pack(members()))
        (ran.output / "commit").write_text(COMMIT + "\n")

    facts = Git(url="https://a.example/l.git", ref=ref).run(RecordingJob(tmp_path, act))
    assert facts["commit"] == COMMIT


def test_another_commit_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        (ran.output / "commit").write_text("f" * 40)

    with pytest.raises(SourceError, match="expected that very commit"):
        Git(url="https://a.example/l.git", ref=COMMIT).run(RecordingJob(tmp_path, act))


# --- a tree of the user's ------------------------------------------------------------------------------------------


def test_an_untouched_tree_keeps_its_fingerprint_and_its_path_is_not_in_the_key(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "linux")
    assert LocalTree.of_path(tree) == LocalTree.of_path(tree)
    assert set(parameters(LocalTree.of_path(tree))) == {"fingerprint", "tracked"}


def _edit(tree: Path) -> None:
    (tree / "kernel/fork.c").write_text("int spoon;")


def _edit_behind_the_clock(tree: Path) -> None:
    before = (tree / "kernel/fork.c").stat()
    (tree / "kernel/fork.c").write_text("int f0rk;\n")
    os.utime(tree / "kernel/fork.c", ns=(before.st_atime_ns, before.st_mtime_ns))


def _add(tree: Path) -> None:
    (tree / "kernel/new.c").touch()


def _rename(tree: Path) -> None:
    (tree / "kernel/fork.c").rename(tree / "kernel/knife.c")


def _make_executable(tree: Path) -> None:
    (tree / "kernel/fork.c").chmod(0o755)


@pytest.mark.parametrize("change", [_edit, _edit_behind_the_clock, _add, _rename, _make_executable])
def test_every_change_of_a_tree_changes_its_fingerprint(tmp_path: Path, change: Callable[[Path], None]) -> None:
    tree = write_tree(tmp_path / "linux")
    before = LocalTree.of_path(tree)
    change(tree)
    assert LocalTree.of_path(tree) != before


def test_what_git_does_in_its_own_folder_is_no_change_of_the_tree(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "linux")
    before = LocalTree.of_path(tree)
    write_tree(tree, {".git/HEAD": "ref: refs/heads/main\n"})
    assert LocalTree.of_path(tree) == before


@pytest.mark.parametrize("product", [".config", "include/config/auto.conf", "arch/x86/include/generated/asm/x.h"])
def test_a_tree_that_was_built_in_is_refused_with_the_command_that_cleans_it(tmp_path: Path, product: str) -> None:
    tree = write_tree(tmp_path / "linux", {**FILES, product: "x"})
    with pytest.raises(SourceError, match="was built in before") as caught:
        LocalTree.of_path(tree)
    assert f"make -C {tree} mrproper" in caught.value.hint


def test_a_folder_that_is_no_kernel_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        LocalTree.of_path(tmp_path / "missing")
    with pytest.raises(SourceError, match="it has no Makefile"):
        LocalTree.of_path(tmp_path)
    (tmp_path / "Makefile").write_text("all:\n")
    with pytest.raises(SourceError, match="no kernel version in its Makefile"):
        LocalTree.of_path(tmp_path)


@pytest.mark.parametrize("product", ["kernel/fork.o", "drivers/a.ko", "kernel/.fork.o.cmd"])
def test_what_a_build_left_beside_a_file_is_found_too(tmp_path: Path, product: str) -> None:
    tree = write_tree(tmp_path / "linux", {**FILES, product: "x"})
    with pytest.raises(SourceError, match=f"was built in before: {product} exists"):
        LocalTree.of_path(tree)


def test_git_is_asked_again_when_it_looks_after_other_files(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "linux", {**FILES, ".git/index": "one", "kernel/ignored.o": "x"})
    before = LocalTree.of_path(tree)
    assert before.tracked
    write_tree(tree, {".git/index": "two"})
    assert LocalTree.of_path(tree).fingerprint != before.fingerprint


def test_a_tree_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "linux")

    def act(ran: Ran) -> None:
        write_archive(ran.output / "source.tar.zst", pack(members()))
        for name in ("untracked", "ignored"):
            (ran.output / name).touch()
        _edit(tree)

    with pytest.raises(SourceError, match="changed while it was read"):
        LocalTree.of_path(tree).run(RecordingJob(tmp_path / "job", act))
