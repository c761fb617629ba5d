"""Modules signed by the kernel's own sign-file in a real builder, and headers packed with the real package tools."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import host_arch, parse_arch
from osbuilder.distro.deb import read_control
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed
from osbuilder.kernel.headers import TOOLS, PackHeaders
from osbuilder.kernel.packageformat import PackageFormat
from osbuilder.kernel.signing import SigningKey, SignModules
from osbuilder.store import Artifact
from osbuilder.tree import Tree
from tests.jobs import artifact
from tests.kernel_bench import Compiler

if TYPE_CHECKING:
    from osbuilder.step import Job

RELEASE = "6.12.57-gpu"
FACTS = {"release": RELEASE, "version": "6.12.57", "epoch": 1_700_000_000}
MODULE = f"lib/modules/{RELEASE}/kernel/a.ko"
MAGIC = b"~Module signature appended~\n"
PIN = "s3cret-pin"

# What a kernel's build leaves, as far as signing and packing look at it: a module, and sign-file of the real source.
BUILD = """\
tar --extract --zstd --file=/in/source --directory=/work --strip-components=1 --wildcards \\
  '*/scripts/sign-file.c' '*/scripts/ssl-common.h' '*/include/uapi/linux/module_signature.h' || true
headers=/work/headers/usr/src/linux-headers-$1
mkdir -p "$headers/scripts" "/work/installed/lib/modules/$1/kernel" /out/kernel /out/keys
gcc -I/work/scripts -o "$headers/scripts/sign-file" /work/scripts/sign-file.c -lcrypto
echo 'all:' > "$headers/Makefile"
echo 'a module' > "/work/installed/lib/modules/$1/kernel/a.ko"
echo 'kernel/a.ko:' > "/work/installed/lib/modules/$1/modules.dep"
tar --create --zstd --directory=/work/installed --file=/out/kernel/modules.tar.zst lib/modules
tar --create --zstd --directory=/work/headers --file=/out/kernel/headers.tar.zst usr/src
echo 'CONFIG_MODULE_SIG_HASH="sha512"' > /out/kernel/config
echo kernel > /out/kernel/vmlinux
openssl req -x509 -newkey rsa:2048 -sha512 -nodes -days 36500 -subj /CN=test -keyout /work/key \\
  -out /out/keys/certificate
openssl rsa -in /work/key -aes256 -passout pass:{{ pin | sh }} -out /work/closed
cat /work/key /out/keys/certificate > /out/keys/open.pem
cat /out/keys/certificate /work/closed > /out/keys/closed.pem
"""
# The signature lies between content and a descriptor of 12 bytes (include/uapi/linux/module_signature.h).
VERIFY = """\
cd /work
total=$(stat -c %s /in/module)
length=$((16#$(tail -c 32 /in/module | head -c 4 | od -An -tx1 | tr -d ' ')))
head -c $((total - 40 - length)) /in/module > content
tail -c $((40 + length)) /in/module | head -c "$length" > signature
openssl cms -verify -binary -inform DER -in signature -content content -certfile /in/certificate -nointern -noverify \\
  -out /out/content
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Runs a script with the files of its inputs."""

    text: str
    inputs: tuple[tuple[str, str, str], ...]

    def describe(self) -> tuple[str, ...]:
        return lines(self.text)

    def run(self, job: Job) -> Mapping[str, Any]:
        paths = {name: job.inputs[step].path(file) for name, step, file in self.inputs}
        run_script(job, self.text, RELEASE, inputs=paths)
        return {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    compiler: Compiler
    kernel: Artifact
    keys: Path


@pytest.fixture(scope="module")
def room(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Room:
    """A builder with what the kernel's signing tools are compiled with, and what a kernel with modules leaves."""
    base = tmp_path_factory.mktemp("signing")
    variant = bench.planner.builder("compiler", host_arch(), ("kmod", "libssl-dev"))
    compiler = Compiler(bench, base / "compiler", variant)
    source = bench.executor.run(bench.planner.kernel_source("debian-6.12"))
    made = compiler.run(Script(text=render(BUILD, pin=PIN), inputs=(("source", "of", "source.tar.zst"),)), of=source)
    return Room(compiler=compiler, kernel=artifact(made.folder / "kernel", FACTS), keys=made.folder / "keys")


def sign(room: Room, name: str, *, pin: str | None = None) -> Path:
    """Return the tar of the modules, signed with a key."""
    key = SigningKey.of_path(room.keys / name, pin=pin)
    return room.compiler.run(SignModules(key=key), kernel=room.kernel).folder / "modules.tar.zst"


def test_a_signed_module_is_what_the_certificate_says_and_the_same_each_time(room: Room, tmp_path: Path) -> None:
    first = sign(room, "open.pem")
    module = Tree.read(first).read_bytes(MODULE)
    assert module.startswith(b"a module\n")
    assert module.endswith(MAGIC)
    (tmp_path / "module").write_bytes(module)
    (tmp_path / "certificate").write_bytes((room.keys / "certificate").read_bytes())
    inputs = (("module", "of", "module"), ("certificate", "of", "certificate"))
    verified = room.compiler.run(Script(text=render(VERIFY), inputs=inputs), of=artifact(tmp_path, {}))
    assert (verified.folder / "content").read_bytes() == b"a module\n"
    assert sign(room, "open.pem").read_bytes() == first.read_bytes()
    assert sign(room, "closed.pem", pin=PIN).read_bytes() == first.read_bytes()


def test_neither_key_nor_pin_is_left_anywhere(room: Room) -> None:
    outcome = sign(room, "closed.pem", pin=PIN).parent.parent
    secret = next(line for line in (room.keys / "open.pem").read_text().splitlines() if len(line) == 64)
    with pytest.raises(CommandFailed) as caught:
        sign(room, "closed.pem", pin=f"{PIN}-wrong")
    told = f"{caught.value.message}{caught.value.tail}{room.compiler.last_log.read_text()}"
    for path in (path for folder in (outcome, room.compiler.last_log.parent) for path in folder.rglob("*")):
        if path.is_file():
            told += path.read_bytes().decode("latin-1")
    assert secret not in told
    assert PIN not in told


@pytest.mark.parametrize("format_", [PackageFormat.DEB, PackageFormat.RPM])
def test_headers_are_packed_the_same_each_time(
    bench: Workbench, room: Room, tmp_path: Path, format_: PackageFormat
) -> None:
    builder = bench.planner.builder("compiler", tools=TOOLS.get(format_, ()))
    compiler = Compiler(bench, tmp_path, builder)
    action = PackHeaders.for_arch(format_, parse_arch("x86_64"))
    found = [compiler.run(action, kernel=room.kernel).folder / "headers" for _ in range(2)]
    assert found[0].read_bytes() == found[1].read_bytes()
    if format_ is PackageFormat.DEB:
        assert f"Package: linux-headers-{RELEASE}\nVersion: 6.12.57-1\nArchitecture: amd64\n" in read_control(found[0])
        argv = ["dpkg-deb", "--contents", str(found[0])]
        listing = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        assert f"./lib/modules/{RELEASE}/build -> /usr/src/linux-headers-{RELEASE}" in listing
        assert f"./usr/src/linux-headers-{RELEASE}/scripts/sign-file" in listing
        assert {line.split()[1] for line in listing.splitlines()} == {"root/root"}
    else:
        query = "rpm --query --package --queryformat '[%{FILENAMES} %{FILEUSERNAME}\\n]' /in/package > /out/files"
        (tmp_path / "rpm").mkdir()
        (tmp_path / "rpm/package").write_bytes(found[0].read_bytes())
        script = Script(text=query, inputs=(("package", "of", "package"),))
        files = (compiler.run(script, of=artifact(tmp_path / "rpm", {})).folder / "files").read_text()
        assert f"/lib/modules/{RELEASE}/build root\n" in files
        assert f"/usr/src/kernels/{RELEASE}/scripts/sign-file root\n" in files
