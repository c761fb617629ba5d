"""Sources of every kind come through real tools: as an archive that is safe, whole and the same each time."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import zstandard

from osbuilder.api import Workbench, open_workbench
from osbuilder.errors import FetchError, SourceError, ToolMissing, VerificationError
from osbuilder.kernel import debian, tarball
from osbuilder.kernel.debian import DebianPackage
from osbuilder.kernel.git import Git
from osbuilder.kernel.localtree import LocalTree
from osbuilder.kernel.signature import PublicKeys, Signature
from osbuilder.kernel.tarball import Tarball
from tests.kernel_bench import Compiler, Outcome
from tests.kernel_sources import EPOCH, FILES, member, members, pack, write_tree
from tests.mirrors.apt import Repository
from tests.mirrors.kernel import SourcePackage, with_mirror
from tests.openpgp import Key
from tests.prerequisites import program
from tests.servers import FaultyServer, Reply, closed_url

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compiler(bench: Workbench, tmp_path: Path) -> Compiler:
    return Compiler(bench, tmp_path / "compiler")


def names(archive: Path) -> list[str]:
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(archive.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return tar.getnames()


# --- tarballs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, zstandard.compress], ids=["xz", "gzip", "zstd"])
def test_a_tarball_comes_from_the_first_mirror_that_has_it(
    compiler: Compiler, compress: Callable[[bytes], bytes]
) -> None:
    data = compress(pack(members()))
    with FaultyServer() as server:
        gone = server.serve("/gone/linux.tar", Reply(status=404))
        there = server.serve("/linux.tar", Reply(body=data))
        source = Tarball(urls=(gone, there), sha256=hashlib.sha256(data).hexdigest())
        outcome = compiler.run(source)
    assert outcome.facts["version"] == "6.12.57"
    assert outcome.facts["epoch"] == EPOCH
    assert names(outcome.folder / "source.tar.zst") == names_of(members())


def names_of(contents: list[tuple[tarfile.TarInfo, bytes]]) -> list[str]:
    return [info.name for info, _ in contents]


def test_a_tarball_with_a_member_that_leads_out_delivers_nothing(compiler: Compiler) -> None:
    data = gzip.compress(pack([*members(), member("linux-6.12.57/../../evil", "x")]))
    with FaultyServer() as server:
        url = server.serve("/linux.tar.gz", Reply(body=data))
        with pytest.raises(SourceError, match=r"linux\.tar\.gz: unsafe member 'linux-6\.12\.57/\.\./\.\./evil'"):
            compiler.run(Tarball(urls=(url,), sha256=hashlib.sha256(data).hexdigest()))


def test_other_bytes_than_the_pinned_ones_are_refused(compiler: Compiler) -> None:
    with FaultyServer() as server:
        evil = gzip.compress(b"evil")
        url = server.serve("/linux.tar.gz", Reply(body=evil))
        with pytest.raises(VerificationError) as caught:
            compiler.run(Tarball(urls=(url,), sha256="5" * 64))
    assert "5" * 64 in caught.value.message
    assert hashlib.sha256(evil).hexdigest() in caught.value.message
    assert url in caught.value.message


def test_a_web_page_whose_checksum_was_pinned_is_no_tarball(compiler: Compiler) -> None:
    data = b"<html>moved</html>"
    with FaultyServer() as server:
        url = server.serve("/linux.tar.gz", Reply(body=data))
        with pytest.raises(SourceError, match="expected a tarball in xz, gzip or zstd"):
            compiler.run(Tarball(urls=(url,), sha256=hashlib.sha256(data).hexdigest()))


def test_a_mirror_where_nobody_listens_is_named(compiler: Compiler) -> None:
    with pytest.raises(FetchError, match="cannot connect"):
        compiler.run(Tarball(urls=(closed_url("/linux.tar.xz"),), sha256="5" * 64))


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, zstandard.compress], ids=["xz", "gzip", "zstd"])
def test_a_bomb_is_stopped_before_it_fills_anything(
    compiler: Compiler, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "UNPACKED_MAX_BYTES", 1 << 20)
    data = compress(pack([*members(), member("linux-6.12.57/zeros", "\0" * (64 << 20))]))
    with FaultyServer() as server:
        url = server.serve("/linux.tar", Reply(body=data))
        with pytest.raises(SourceError, match=r"linux\.tar: unpacks to more than 8 GiB"):
            compiler.run(Tarball(urls=(url,), sha256=hashlib.sha256(data).hexdigest()))


# --- signatures ----------------------------------------------------------------------------------------------------

RELEASER, STRANGER = Key.of_seed(1, "Releaser <releaser@example.org>"), Key.of_seed(2, "Stranger <s@example.org>")
TAR = pack(members())
BOTH = (RELEASER.public(), STRANGER.public())


def run_signed(
    compiler: Compiler, reply: Reply, *, keys: tuple[bytes, ...] = BOTH, signed_by: tuple[str, ...] = ()
) -> Outcome:
    """Fetch a tarball whose signature the server has as `reply`; the releaser's key is the pinned one."""
    data = lzma.compress(TAR)
    with FaultyServer() as server:
        signature = Signature(
            urls=(server.serve("/gone", Reply(status=404)), server.serve("/linux.tar.sign", reply)),
            signed_by=signed_by or (RELEASER.fingerprint,),
            keys=PublicKeys(files=keys, sha256="0" * 64),
        )
        url = server.serve("/linux.tar.xz", Reply(body=data))
        return compiler.run(Tarball(urls=(url,), sha256=hashlib.sha256(data).hexdigest(), signature=signature))


def signed(text: str) -> Reply:
    return Reply(body=text.encode())


def test_a_signature_of_the_tar_by_a_pinned_key_is_good_and_recorded(compiler: Compiler, tmp_path: Path) -> None:
    outcome = run_signed(compiler, signed(RELEASER.sign(TAR)))
    assert outcome.facts["signed_by"] == RELEASER.fingerprint
    assert outcome.facts["version"] == "6.12.57"
    path = tmp_path / "keys"
    path.mkdir()
    for name, key in (("a.gpg", RELEASER), ("b.gpg", STRANGER)):
        (path / name).write_bytes(key.public())
    again = run_signed(compiler, signed(RELEASER.sign(TAR)), keys=PublicKeys.of_path(path).files)
    assert (again.folder / "source.tar.zst").read_bytes() == (outcome.folder / "source.tar.zst").read_bytes()


def test_keys_that_gpg_exported_as_text_are_read(compiler: Compiler, tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = [program("gpg"), "--batch", "--no-options", "--no-autostart", "--homedir", str(home)]
    subprocess.run([*gpg, "--import"], input=RELEASER.public(), check=True, capture_output=True)
    text = subprocess.run([*gpg, "--export", "--armor"], check=True, capture_output=True).stdout
    assert text.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
    outcome = run_signed(compiler, signed(RELEASER.sign(TAR)), keys=(text,))
    assert outcome.facts["signed_by"] == RELEASER.fingerprint


@pytest.mark.parametrize(
    ("signature", "keys", "said"),
    [
        (RELEASER.sign(TAR + b"x"), BOTH, "bad signature: this is not what was signed"),
        (STRANGER.sign(TAR), BOTH, "signed by a key that is not among the pinned ones, or is missing from kernel_keys"),
        (RELEASER.sign(TAR), (STRANGER.public(),), "or is missing from kernel_keys"),
        (RELEASER.sign(TAR), (b"no key at all",), "or is missing from kernel_keys"),
        (RELEASER.sign(TAR), (RELEASER.public(valid_s=86400),), "signed by a key that has expired"),
        ("<html>not found</html>", BOTH, "what came as its signature is no OpenPGP signature"),
        ("", BOTH, "what came as its signature is no OpenPGP signature"),
    ],
    ids=["other content", "another key", "key missing", "no keys", "expired key", "web page", "empty"],
)
def test_a_tarball_without_a_good_signature_is_refused_though_its_sha256_is_right(
    compiler: Compiler, signature: str, keys: tuple[bytes, ...], said: str
) -> None:
    with pytest.raises(VerificationError) as caught:
        run_signed(compiler, signed(signature), keys=keys)
    assert said in caught.value.message
    assert f"expected a good signature by {RELEASER.fingerprint}" in caught.value.message


def test_a_signature_that_no_mirror_has_is_a_failed_download_that_names_it(compiler: Compiler) -> None:
    with pytest.raises(FetchError, match=r"cannot download linux\.tar\.xz\.sign:\n.*gone: HTTP 404"):
        run_signed(compiler, Reply(status=404))


# --- a Debian package ----------------------------------------------------------------------------------------------


def test_a_package_that_the_suite_does_not_have_is_named(compiler: Compiler) -> None:
    with pytest.raises(SourceError, match=r"no package linux-source-0\.1 in Debian trixie"):
        compiler.run(DebianPackage(package="linux-source-0.1", suite="trixie"))


def test_a_pinned_version_that_the_suite_does_not_have_is_told_with_what_it_has(compiler: Compiler) -> None:
    with pytest.raises(SourceError, match=r"Debian trixie has no linux-source-6\.12 6\.12\.1-1: it has 6\.12\."):
        compiler.run(DebianPackage(package="linux-source-6.12", suite="trixie", version="6.12.1-1"))


ARCHIVE = Repository(key=RELEASER, packages=(SourcePackage(name="linux-source-6.12", version="6.12.57-1"),), date=EPOCH)
NEWER = dataclasses.replace(
    ARCHIVE, packages=(SourcePackage(name="linux-source-6.12", version="6.12.60-1"),), date=EPOCH + 30 * 86400
)


def run_package(near: Compiler, patch: pytest.MonkeyPatch, server: FaultyServer, files: Mapping[str, bytes]) -> Outcome:
    """Get the package from a mirror with these files, of trixie and of its security archive."""
    for name, content in files.items():
        server.serve(f"/{name}", Reply(body=content))
    suites = sorted({name.split("/")[1] for name in files if name.startswith("dists/")})
    with patch.context() as patched:
        script = with_mirror(debian._DEBIAN, RELEASER, server.url, *suites)
        patched.setattr(debian, "_DEBIAN", script)
        return near.run(DebianPackage(package="linux-source-6.12", suite="trixie"))


def test_a_package_comes_from_the_newest_of_a_suite_and_its_security_archive(
    near: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    security = dataclasses.replace(NEWER, suite="trixie-security")
    with FaultyServer() as server:
        outcome = run_package(near, monkeypatch, server, {**ARCHIVE.files(), **security.files()})
    assert outcome.facts["package_version"] == "6.12.60-1"


def test_an_index_of_another_suite_does_not_pass_for_the_security_archives(
    near: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is validly signed and apt only warns: the kernel would be without its security fixes."""
    files = ARCHIVE.files()
    replayed = {name.replace("dists/trixie/", "dists/trixie-security/"): content for name, content in files.items()}
    with (
        FaultyServer() as server,
        pytest.raises(VerificationError, match="expected Suite or Codename trixie-security, got Suite stable"),
    ):
        run_package(near, monkeypatch, server, {**files, **replayed})


def test_an_old_state_of_the_archive_that_is_served_again_is_refused(
    near: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer() as server:
        run_package(near, monkeypatch, server, NEWER.files())
        with pytest.raises(VerificationError, match="an old state that is served again: its date is of") as caught:
            run_package(near, monkeypatch, server, ARCHIVE.files())
    assert "dists/trixie/InRelease" in caught.value.message
    assert caught.value.hint


# --- git -----------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@a.example", "GIT_AUTHOR_DATE": f"{EPOCH} +0000"}
    identity |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in identity.items()}
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder), **identity}
    argv = [program("git"), "-C", str(folder), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout.strip()


@contextlib.contextmanager
def served(base: Path) -> Iterator[str]:
    """Serve the repositories below a folder with git's own daemon; yields the URL of the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--export-all", f"--base-path={base}", "--listen=127.0.0.1", f"--port={port}"]
    argv = [program("git"), "daemon", *options, str(base)]
    # The daemon serves from a child of its own: both are one session, so that both can be ended.
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True) as daemon:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield f"git://127.0.0.1:{port}"
        finally:
            os.killpg(daemon.pid, 15)


@pytest.fixture
def near(tmp_path: Path) -> Compiler:
    """A compiler in the sandbox: the one engine whose network is this host's, loopback included."""
    bench = open_workbench(("engine=sandbox",), stream=sys.stderr, root=ROOT)
    try:
        _ = bench.executor.engine
    except ToolMissing as error:
        pytest.skip(error.message)
    return Compiler(bench, tmp_path / "near")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A repository with the tag v6.12 on its first commit and a second one on main."""
    folder = write_tree(tmp_path / "served" / "linux", FILES)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "-a", "v6.12", "-m", "a release")
    (folder / "kernel" / "fork.c").write_text("int spoon;\n")
    git(folder, "commit", "--quiet", "--all", "-m", "two")
    with served(tmp_path / "served") as url:
        yield f"{url}/linux", folder


def test_branches_tags_and_commits_are_resolved_and_recorded(near: Compiler, repository: tuple[str, Path]) -> None:
    url, folder = repository
    first, second = git(folder, "rev-parse", "v6.12^{commit}"), git(folder, "rev-parse", "main")
    found = {ref: near.run(Git(url=url, ref=ref)) for ref in ("v6.12", "main", first)}
    assert {ref: outcome.facts["commit"] for ref, outcome in found.items()} == {
        "v6.12": first,
        "main": second,
        first: first,
    }
    assert all(outcome.facts["epoch"] == EPOCH for outcome in found.values())
    archives = {ref: (outcome.folder / "source.tar.zst").read_bytes() for ref, outcome in found.items()}
    assert archives["v6.12"] == archives[first] != archives["main"]


@pytest.mark.parametrize("ref", ["v9.99", "0123456789abcdef0123456789abcdef01234567"])
def test_a_ref_that_the_repository_lacks_is_named(near: Compiler, repository: tuple[str, Path], ref: str) -> None:
    url, _ = repository
    with pytest.raises(SourceError, match=f"{url} has no branch, tag or commit '{ref}'"):
        near.run(Git(url=url, ref=ref))


def test_a_repository_that_is_not_there_is_a_failed_fetch(near: Compiler, repository: tuple[str, Path]) -> None:
    url, _ = repository
    with pytest.raises(FetchError, match="cannot get main from"):
        near.run(Git(url=f"{url}-gone", ref="main"))


# --- a tree of the user's ------------------------------------------------------------------------------------------


def test_two_checkouts_of_the_same_files_give_the_same_archive(compiler: Compiler, tmp_path: Path) -> None:
    one = write_tree(tmp_path / "one", {**FILES, ".git/HEAD": "ref: refs/heads/main\n"})
    two = write_tree(tmp_path / "elsewhere" / "two", FILES)
    for path in two.rglob("*"):
        os.utime(path, (EPOCH, EPOCH))
        path.chmod(0o700 if path.is_dir() else 0o600)
    outcomes = [compiler.run(LocalTree.of_path(tree)) for tree in (one, two)]
    archives = [(outcome.folder / "source.tar.zst").read_bytes() for outcome in outcomes]
    assert archives[0] == archives[1]
    assert outcomes[0].facts == {"version": "6.12.57", "epoch": 315532800, "origin": "the tree one"}
    assert {*names(outcomes[0].folder / "source.tar.zst")} >= {"linux/Makefile", "linux/kernel/fork.c"}
    assert not any(".git" in name for name in names(outcomes[0].folder / "source.tar.zst"))


def test_what_git_ignores_stays_out_and_is_told(compiler: Compiler, tmp_path: Path) -> None:
    plain = write_tree(tmp_path / "plain", {**FILES, ".gitignore": "*.o\n/out/\n"})
    tree = write_tree(tmp_path / "linux", {**FILES, ".gitignore": "*.o\n/out/\n"})
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "one")
    write_tree(tree, {"kernel/fork.o": "x", "out/a": "x", "out/b": "x"})
    outcomes = [compiler.run(LocalTree.of_path(folder)) for folder in (tree, plain)]
    assert outcomes[0].facts["left_out"] == "what git ignores: kernel/fork.o, out"
    archives = [(outcome.folder / "source.tar.zst").read_bytes() for outcome in outcomes]
    assert archives[0] == archives[1]


def test_a_change_that_is_not_committed_is_in_and_a_file_that_git_does_not_know_is_refused(
    compiler: Compiler, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "linux")
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "one")
    write_tree(tree, {"kernel/fork.c": "int spoon;\n"})
    (tree / "Kconfig").rename(tree / "Kconfig.old")
    with pytest.raises(SourceError, match=r"git does not know Kconfig\.old") as caught:
        compiler.run(LocalTree.of_path(tree))
    assert "git add" in caught.value.hint
    (tree / "Kconfig.old").rename(tree / "Kconfig")
    outcome = compiler.run(LocalTree.of_path(tree))
    packed = (outcome.folder / "source.tar.zst").read_bytes()
    assert b"int spoon;" in zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()


def test_a_link_out_of_a_tree_is_refused_by_name(compiler: Compiler, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "linux")
    (tree / "include").symlink_to("/usr/include")
    with pytest.raises(SourceError, match=r"unsafe member 'linux/include': its link to '/usr/include' leads out"):
        compiler.run(LocalTree.of_path(tree))
