"""Compiles a kernel that has modules: what compile.Compile makes, the modules as a tar, and what others are built with.

An action of its own, so that kernels without modules are not compiled again when something changes here. It makes
everything in one build, because modules are made from the same objects as the kernel that loads them.

No key is here: modules leave unsigned, and signing.SignModules signs them. What the kernel itself takes is the
certificate that their signatures are checked against, which is public.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import render
from osbuilder.kernel.compile import Compile

if TYPE_CHECKING:
    from osbuilder.step import Job

MODULES: Final = "modules.tar.zst"
"""lib/modules/<release>/: modules without debug info, and the lists of depmod(8) that they are found by."""
HEADERS: Final = "headers.tar.zst"
"""usr/src/linux-headers-<release>/: what a module for this kernel is built with (scripts/package/install-extmod-build).

Host programs in it (modpost, objtool) run on the machine that compiled the kernel.
"""

TRUSTED: Final = "/work/trusted.pem"
"""What CONFIG_SYSTEM_TRUSTED_KEYS has to name for a kernel that gets a certificate."""

PACK: Final = """\
pack() {  # folder, member, output
  tar --create --format=gnu --sort=name --mtime="$KBUILD_BUILD_TIMESTAMP" --owner=0 --group=0 --numeric-owner \\
    --mode=u=rwX,go=rX --directory="$1" "$2" | zstd --quiet -9 --single-thread -o "$3"
}
"""
"""A function that makes a tar whose bytes depend on nothing but names, modes and contents."""

_TRUST: Final = """\
cat > {{ path }} <<'END'
{{ certificate }}
END
"""

# install-extmod-build is kbuild's own list of what is needed, and what its Debian and RPM packages are made with. It
# compiles host programs again where the two compilers differ, for the guest's architecture: left out, for they are to
# run where the kernel was compiled. The configuration is where older build files look for it.
_MODULES: Final = """\
kmake -j"$1" modules
release=$(cat /work/build/include/config/kernel.release)
kmake INSTALL_MOD_PATH=/work/installed INSTALL_MOD_STRIP=1 modules_install
rm -f "/work/installed/lib/modules/$release/build" "/work/installed/lib/modules/$release/source"
test -s "/work/installed/lib/modules/$release/modules.dep"
headers=/work/headers/usr/src/linux-headers-$release
mkdir -p "$headers"
(
  cd /work/build
  srctree=/work/linux SRCARCH={{ arch | sh }} CC=gcc HOSTCC=gcc MAKE=make \\
    sh /work/linux/scripts/package/install-extmod-build "$headers"
  cp .config "$headers/.config"
)
pack /work/installed lib/modules /out/{{ modules }}
pack /work/headers usr/src /out/{{ headers }}
(cd "/work/installed/lib/modules/$release"; find . -name '*.ko' -printf '%P %s\\n' | sort) > /out/facts/modules
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompileWithModules(Compile):
    """Makes what Compile makes, and modules.tar.zst and headers.tar.zst, from the inputs `source` and `config`.

    `certificate` (PEM) is what signatures of modules are checked against; with one, CONFIG_SYSTEM_TRUSTED_KEYS of the
    configuration has to be TRUSTED.
    """

    certificate: str | None = None

    @classmethod
    def of_kernel(cls, kernel: Compile, *, certificate: str | None) -> CompileWithModules:
        """Return the action that makes modules beside what `kernel` makes."""
        plain = {field.name: getattr(kernel, field.name) for field in dataclasses.fields(kernel)}
        return cls(**plain, certificate=certificate)

    def run(self, job: Job) -> Mapping[str, Any]:
        facts = Compile.run(self, job)
        # Where Compile has the script leave its results.
        built = job.work / "built"
        for name in (MODULES, HEADERS):
            (built / name).rename(job.out / name)
        sizes = (line.rsplit(" ", 1) for line in (built / "facts" / "modules").read_text("utf-8").splitlines())
        return {**facts, "modules_bytes": {name: int(size) for name, size in sizes}}

    def _script(self) -> str:
        trust = render(_TRUST, path=TRUSTED, certificate=self.certificate) if self.certificate else ""
        modules = render(_MODULES, arch=self.kernel_arch, modules=MODULES, headers=HEADERS)
        return trust + Compile._script(self) + PACK + modules
