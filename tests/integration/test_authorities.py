"""The setting ca_bundle reaches whatever asks the network: real tools, and https servers of a private authority."""

from __future__ import annotations

import dataclasses
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.distro import dnf, pacman
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import CommandFailed, FetchError, ToolMissing
from osbuilder.kernel import debian
from osbuilder.kernel.debian import DebianPackage
from osbuilder.kernel.git import Git
from osbuilder.step import Action, Step
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from tests.integration import test_dnf_faults, test_pacman
from tests.integration.test_kernel_source import git
from tests.kernel_bench import Compiler
from tests.kernel_sources import FILES, write_tree
from tests.mirrors import pacman as mirror
from tests.mirrors import rpm
from tests.mirrors.apt import Repository
from tests.mirrors.kernel import SourcePackage, with_mirror
from tests.openpgp import Key
from tests.servers import FaultyServer, Reply, make_authority

GIT = shutil.which("git") or "/usr/bin/git"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The certificate of the authority, and what its server needs."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benches:
    """Two workbenches in the sandbox, whose network is this host's: one trusts the authority, the other does not."""

    trusting: Workbench
    other: Workbench


@pytest.fixture(scope="module")
def benches(authority: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Benches:
    build = tmp_path_factory.mktemp("build")
    bench = open_workbench(("engine=sandbox", f"build={build}", "attempts=1"), stream=sys.stderr, root=ROOT)
    try:
        _ = bench.executor.engine
    except ToolMissing as error:
        pytest.skip(error.message)

    def trusting(bundle: Path | None) -> Workbench:
        settings = dataclasses.replace(bench.settings, ca_bundle=bundle)
        return Workbench(settings, root=bench.root, reporter=bench.executor.reporter)

    return Benches(trusting=trusting(authority[0]), other=trusting(None))


# --- git


class _GitHandler(BaseHTTPRequestHandler):
    """git http-backend, which is a CGI program (git-http-backend(1))."""

    folder: Path
    seen: list[str]

    def do_GET(self) -> None:  # the name that http.server calls
        self._serve(b"")

    def do_POST(self) -> None:  # the name that http.server calls
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    def _serve(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        self.seen.append(path)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run((GIT, "http-backend"), input=body, env=environment, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server calls
        """Keep the test's output clean."""


@pytest.fixture
def repository(authority: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a repository behind https, and the paths that it was asked for."""
    folder = write_tree(tmp_path / "served" / "linux", FILES)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority[1])
    seen: list[str] = []
    handler = type("Handler", (_GitHandler,), {"folder": folder.parent, "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}/linux", seen
        finally:
            server.shutdown()
            thread.join()


def test_git_trusts_the_authorities_of_the_setting_alone(
    benches: Benches, repository: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, seen = repository
    source = Git(url=url, ref="main")
    with pytest.raises(FetchError, match="cannot get main from"):
        Compiler(benches.other, tmp_path / "other").run(source)
    assert seen == []
    outcome = Compiler(benches.trusting, tmp_path / "trusting").run(source)
    assert outcome.facts["version"] == "6.12.57"
    assert "/linux/git-upload-pack" in seen


# --- apt as an ordinary user, for a kernel's source


def test_apt_trusts_them_when_it_gets_a_kernels_source(
    benches: Benches, authority: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key.of_seed(7)
    package = SourcePackage(name="linux-source-6.12", version="6.12.57-1")
    source = DebianPackage(package=package.name, suite="trixie")
    with FaultyServer(certificate=authority[1]) as server:
        for name, content in Repository(key=key, packages=(package,)).files().items():
            server.serve(f"/{name}", Reply(body=content))
        monkeypatch.setattr(debian, "_DEBIAN", with_mirror(debian._DEBIAN, key, server.url, "trixie"))
        with pytest.raises(FetchError, match=r"cannot get the package linux-source-6\.12 of Debian trixie") as caught:
            Compiler(benches.other, tmp_path / "other").run(source)
        assert isinstance(caught.value.__cause__, CommandFailed)
        assert "certificate verify failed" in caught.value.__cause__.tail
        assert server.seen("/dists/trixie/InRelease") == []
        outcome = Compiler(benches.trusting, tmp_path / "trusting").run(source)
    assert outcome.facts["package_version"] == "6.12.57-1"
    assert outcome.facts["version"] == "6.12.57"


# --- dnf and pacman, which are root in their builders


def test_dnf_trusts_them(benches: Benches, authority: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "keyring").write_bytes(rpm.KEY.public())
    contents = rpm.files(benches.other, rpm.repository_step(benches.other, "good", test_dnf_faults.SPECS))
    with FaultyServer(certificate=authority[1]) as server:
        for name, content in contents.items():
            server.serve(f"/os/{name}", Reply(body=content))
        action = dnf.Install(
            subject="fedora 44",
            version="44",
            repositories=(dnf.Index(name="fedora", path="os", signed=True),),
            packages=("toy",),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            database="/usr/lib/sysimage/rpm",
            epoch=rpm.EPOCH,
            mirrors=(server.url,),
            timeout_s=2,
            attempts=1,
        )
        _installs_with_trust_alone(benches, server, action, builder="rpm", index=f"/os/{test_dnf_faults.REPOMD}")


def test_pacman_trusts_them(benches: Benches, authority: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "keyring").write_bytes(mirror.KEY.public())
    with FaultyServer(certificate=authority[1]) as server:
        for name, content in mirror.repository(test_pacman.PACKAGES).items():
            server.serve(f"/{name}", Reply(body=content))
        action = pacman.Install(
            subject="archlinux 2026/11/01",
            arch="x86_64",
            repositories=(("core", "core/os/x86_64"),),
            packages=("toy",),
            keyring=Keyring.of_file(tmp_path / "keyring"),
            epoch=mirror.BUILT,
            mirrors=(server.url,),
        )
        _installs_with_trust_alone(benches, server, action, builder="pacman", index=f"/{test_pacman.CORE}")


def _installs_with_trust_alone(
    benches: Benches, server: FaultyServer, action: Action, *, builder: str, index: str
) -> None:
    """Check that the package toy comes from a server whose authority is trusted, and nothing from another."""

    def run(bench: Workbench) -> Artifact:
        tools = bench.planner.builder(builder)
        return bench.executor.run(Step(name="packages", subject="test-authorities", action=action, builder=tools))

    with pytest.raises(FetchError, match=f"the mirror {server.url} has a certificate that is not trusted") as caught:
        run(benches.other)
    assert "setting ca_bundle" in caught.value.hint
    assert server.seen(index) == []
    tree = Tree.read(run(benches.trusting).path("rootfs.tar"))
    assert tree.exists("usr/share/toy")
    assert server.seen(index)
