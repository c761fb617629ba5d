"""What resolving a configuration takes of a kernel's source, made once for all architectures and variants.

The whole source is 1.5 GB in 85,000 files, of which a resolution reads 14 MB in 3,000: Kconfig files, makefiles, and
the scripts that Kconfig files run. Unpacking the rest is what it would spend its time on.
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.kernel import toolchain
from osbuilder.kernel.archive import ARCHIVE

if TYPE_CHECKING:
    from osbuilder.step import Job
    from osbuilder.store import Artifact

RESOLVER: Final = "resolver.tar"

# What is not even unpacked: most of the source, by the folders that hold it.
_LEFT: Final = ("arch", "block", "crypto", "drivers", "fs", "kernel", "lib", "mm", "net", "security", "sound")

# A first resolution, whatever it is of, compiles conf. Its paths are those of the later ones, and all files get the
# same time, so that make finds nothing to do again. Should a Kconfig file look at more than is kept here, the compiling
# step notices: it resolves again, in the whole source.
_SHRINK: Final = """\
{{ look_for_tools }}
mkdir /work/linux /work/build
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1 --anchored --wildcards \\
{% for folder in left %}
  --exclude='*/{{ folder }}/*.[chS]' \\
{% endfor %}
  --exclude='*/arch/*.dts*' --exclude='*/Documentation/*/*' --no-wildcards-match-slash \\
  --exclude='*/include' --exclude='*/tools'
# conf finds expressions by the low bits of what this makes of addresses, and allocated ones are all alike there: by the
# high bits it takes a fifth of the time. What is found is the same.
hash=/work/linux/scripts/include/hash.h
if [ -f $hash ]; then
  sed -i 's/return 0x61C88647 \\* val;/return 0x61C88647 * val >> 16;/' $hash
fi
make -C /work/linux O=/work/build KCONFIG_ALLCONFIG=/dev/null allnoconfig
rm -rf /work/build/.config* /work/build/include
cd /work
find linux build ! -type d \\( -name 'Kconfig*' -o -path linux/Makefile -o -path 'linux/scripts/*' \\
  -o -path 'linux/arch/*/Makefile*' -o -path 'linux/arch/*/tools/*' -o -path 'build/*' \\) | sort |
  tar --create --file=/out/{{ resolver }} --no-recursion --files-from=- --format=gnu \\
    --owner=0 --group=0 --numeric-owner --mtime={{ ("@" ~ epoch) | sh }}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeResolver:
    """Makes resolver.tar from the input `source`: a small source, and beside it the kernel's own `conf`, compiled."""

    def describe(self) -> tuple[str, ...]:
        return lines(self._script("<epoch of the source>"))

    def run(self, job: Job) -> Mapping[str, Any]:
        source = job.inputs["source"]
        script = self._script(str(int(source.facts["epoch"])))
        run_script(job, script, inputs={"source": source.path(ARCHIVE)})
        toolchain.check(
            job,
            what_for="no kernel is compiled, for whatever architecture",
            hint="Add {tools} to the packages of builders.compiler in versions.yaml.",
        )
        return {"version": source.facts["version"]}

    def _script(self, epoch: str) -> str:
        return render(
            _SHRINK,
            look_for_tools=toolchain.look_for(toolchain.HOST_TOOLS),
            left=_LEFT,
            resolver=RESOLVER,
            epoch=epoch,
        )


def read_kconfig(resolver: Artifact) -> Mapping[str, str]:
    """Return the text of each of the source's Kconfig files, by its path there."""
    texts: dict[str, str] = {}
    with tarfile.open(resolver.path(RESOLVER)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isreg() or path.parts[0] != "linux" or not path.name.startswith("Kconfig"):
                continue
            if content := archive.extractfile(member):
                texts[str(path.relative_to("linux"))] = content.read().decode(errors="replace")
    return texts
