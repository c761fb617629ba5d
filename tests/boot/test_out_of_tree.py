"""A module that is not of the kernel's source: built with the packed headers, signed, loaded where signatures rule.

Its kernel is compiled for it, with a key, so these run only when asked for (`inv test --matrix`).
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import BootError
from osbuilder.guest.spec import RootKind
from osbuilder.kernel.packageformat import PackageFormat
from osbuilder.request import BootRequest, HeadersRequest, KernelRequest
from osbuilder.store import Artifact
from tests.jobs import artifact
from tests.kernel_bench import Compiler
from tests.prerequisites import program

if TYPE_CHECKING:
    from osbuilder.step import Job

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).resolve().parents[2]
VARIANT = "nvidia-gpu"
SOURCE = """\
#include <linux/module.h>

static int __init hello(void)
{
	return 0;
}

static void __exit bye(void)
{
}

module_init(hello);
module_exit(bye);
MODULE_LICENSE("GPL");
"""
# As a user would on a machine that has the package, but for where it is unpacked.
BUILD = """\
case {{ format }} in
  deb) dpkg-deb --extract /in/headers /work/root ;;
  rpm) mkdir /work/root && cd /work/root && rpm2cpio /in/headers | cpio --extract --quiet --make-directories ;;
esac
headers=$(find /work/root/usr/src -maxdepth 3 -name .config -printf '%h\\n')
mkdir /work/hello
cp /in/source /work/hello/hello.c
echo 'obj-m := hello.o' > /work/hello/Makefile
make -C "$headers" M=/work/hello modules
place=lib/modules/$1
mkdir -p "/work/plain/$place/extra" "/work/signed/$place/extra"
for tree in plain signed; do
  cp /work/hello/hello.ko "/work/$tree/$place/extra"
  echo 'extra/hello.ko:' > "/work/$tree/$place/modules.dep"
done
"$headers/scripts/sign-file" sha512 /in/key /in/key "/work/signed/$place/extra/hello.ko"
for tree in plain signed; do
  tar --create --directory="/work/$tree" --file="/out/$tree.tar" lib
done
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuildModule:
    """Makes plain.tar and signed.tar, /lib/modules with one module, of the input `headers`."""

    format: PackageFormat
    source: Path
    key: Path

    def describe(self) -> tuple[str, ...]:
        return lines(BUILD)

    def run(self, job: Job) -> Mapping[str, Any]:
        headers = job.inputs["headers"]
        inputs = {"headers": headers.path("headers"), "source": self.source, "key": self.key}
        run_script(job, render(BUILD, format=self.format.value), str(headers.facts["release"]), inputs=inputs)
        return {}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("key")
    command = [
        program("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-sha512",
        "-nodes",
        "-days",
        "36500",
        "-subj",
        "/CN=t",
    ]
    subprocess.run([*command, "-keyout", "key", "-out", "certificate"], cwd=folder, check=True, capture_output=True)
    both = folder / "modules.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    both.chmod(0o600)
    return both


@pytest.fixture(scope="module")
def signing(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    settings = (f"build={tmp_path_factory.mktemp('build')}", "engine=sandbox", "qemu=builder")
    return open_workbench((*settings, f"module_signing_key={key}"), stream=sys.stderr, root=ROOT)


def built(signing: Workbench, key: Path, folder: Path, format_: PackageFormat) -> Path:
    """Return the folder with the tars of a module that was built with packed headers."""
    request = HeadersRequest(kernel=KernelRequest(arch="x86_64", variant=VARIANT), format=format_)
    headers: Artifact = signing.build(request).artifact
    source = folder / "hello.c"
    source.write_text(SOURCE)
    tools = signing.planner.builder("compiler", tools=("cpio", "rpm"))
    action = BuildModule(format=format_, source=source, key=key)
    return Compiler(signing, folder, tools).run(action, headers=artifact(headers.folder, headers.facts)).folder


def boot(signing: Workbench, modules: Path) -> str:
    """Return what a guest that wants signatures says of its one module. Raises BootError if it does not load it."""
    outcome = signing.boot(
        BootRequest(
            distro="scratch",
            arch="x86_64",
            variant=VARIANT,
            modules=modules,
            root=RootKind.INITRD,
            append=("module.sig_enforce=1",),
        )
    )
    outcome.check()
    return next(probe.detail for probe in outcome.boot.report.probes if probe.name == "modules")


@pytest.mark.parametrize("format_", [PackageFormat.DEB, PackageFormat.RPM])
def test_a_module_built_with_the_headers_loads_if_it_is_signed_and_not_otherwise(
    signing: Workbench, key: Path, tmp_path: Path, format_: PackageFormat
) -> None:
    tars = built(signing, key, tmp_path, format_)
    assert boot(signing, tars / "signed.tar") == "hello was loaded and unloaded"
    with pytest.raises(BootError, match="1 of its probes failed: modules"):
        boot(signing, tars / "plain.tar")
