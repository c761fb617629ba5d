"""What an agent is linked with: packages of the guest's architecture, unpacked, never installed; and musl's std.

Debian has Rust's standard library compiled for glibc. For musl it has the source only (rust-web-src, with all that it
depends on), so that one is compiled here, once for an architecture, with a feature that Rust keeps for its own build
(RUSTC_BOOTSTRAP). Its crates lie as rustup lays them out, with musl's own start files beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from osbuilder.agents.pin import Libc
from osbuilder.agents.source import pack
from osbuilder.arch import ARCHES
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed, FetchError

if TYPE_CHECKING:
    from osbuilder.step import Job

LIBRARIES: Final = "libraries.tar.zst"
STD: Final = "std.tar.zst"
LIBRARIES_AT: Final = "/work/libraries"
STD_AT: Final = "/work/std"

_DOWNLOAD: Final = """\
mkdir -p /work/apt/state/lists/partial /work/apt/cache/archives/partial /work/tree /work/debs
cat > /work/apt/conf <<'END'
Dir::State "/work/apt/state";
Dir::State::status "/dev/null";
Dir::Cache "/work/apt/cache";
APT::Architectures { "{{ native }}"; "{{ debian }}"; };
Acquire::Languages "none";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
END
export APT_CONFIG=/work/apt/conf
cd /work/debs
apt-get --quiet update
apt-get --quiet download {{ packages | sh }}
for package in ./*.deb; do
  dpkg-deb --extract "$package" /work/tree
  dpkg-deb --show --showformat='${Package} ${Version} ${Architecture}\\n' "$package"
done | sort > /out/packages
{{ pack }}
"""

# Without Cargo.lock: it names crates for other systems, and for tests, that Debian leaves out; what is there is all
# that there can be. The start files are those that rustc asks for when it links a static program for musl.
_STD: Final = """\
mkdir -p /work/cargo /work/rust {{ libraries }} {{ tree }}/self-contained
zstd --quiet --decompress --stdout /in/libraries | tar --extract --directory={{ libraries }}
cp -r /usr/lib/rustlib/src/rust/library /work/rust/library
rm /work/rust/library/Cargo.lock
cat > /work/cargo/config.toml <<'END'
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "/work/rust/library/vendor"
END
export CARGO_HOME=/work/cargo CARGO_INCREMENTAL=0 RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zforce-unstable-if-unmarked -Cembed-bitcode=yes --remap-path-prefix=/work/rust=/rustc"
cargo build --quiet --release --offline -Zavoid-dev-deps --manifest-path=/work/rust/library/std/Cargo.toml \\
  --features=panic-unwind,backtrace --target={{ target }} --target-dir=/work/target
cp /work/target/{{ target }}/release/deps/*.rlib {{ tree }}/
gcc={{ gcc | sh }}
for name in crtbegin.o crtbeginS.o crtend.o crtendS.o; do
  cp "$($gcc -print-file-name=$name)" {{ tree }}/self-contained/
done
cp "$($gcc -print-file-name=libgcc_eh.a)" {{ tree }}/self-contained/libunwind.a
cp {{ libraries }}/usr/lib/{{ musl }}/*crt*.o {{ libraries }}/usr/lib/{{ musl }}/libc.a {{ tree }}/self-contained/
cat > /work/std/cc <<END
#!/bin/sh
exec $gcc -nostdinc -isystem {{ libraries }}/usr/include/{{ musl }} -isystem $($gcc -print-file-name=include) \\
  -U_FORTIFY_SOURCE "\\$@"
END
chmod +x /work/std/cc
mkdir /work/std/seccomp
cp {{ libraries }}/usr/lib/{{ gnu }}/libseccomp.a /work/std/seccomp/
cat > /work/glibc.c <<'END'
/* What Debian's static libraries take from glibc and musl does not have. */
#define _GNU_SOURCE
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* For libseccomp: fprintf as _FORTIFY_SOURCE calls it. */
int __fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  int count = vfprintf(stream, format, arguments);
  va_end(arguments);
  (void)flag;
  return count;
}

/* For gcc's unwinder: where the table for an address is. The struct is dl_find_object of glibc's manual. */
struct found {
  unsigned long long flags;
  void *start, *end, *map, *table;
  unsigned long long reserved[7];
};
struct search { uintptr_t address; struct found *found; };

static int look(struct dl_phdr_info *info, size_t size, void *data)
{
  struct search *search = data;
  void *table = NULL;
  int inside = 0;
  (void)size;
  for (int at = 0; at < info->dlpi_phnum; at++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[at];
    uintptr_t start = info->dlpi_addr + header->p_vaddr;
    if (header->p_type == PT_GNU_EH_FRAME)
      table = (void *)start;
    if (header->p_type == PT_LOAD && search->address >= start && search->address - start < header->p_memsz) {
      search->found->start = (void *)start;
      search->found->end = (void *)(start + header->p_memsz);
      inside = 1;
    }
  }
  search->found->table = table;
  return inside && table;
}

int _dl_find_object(void *address, struct found *found)
{
  struct search search = { (uintptr_t)address, found };
  memset(found, 0, sizeof *found);
  return dl_iterate_phdr(look, &search) ? 0 : -1;
}
END
/work/std/cc -Os -c -o /work/glibc.o /work/glibc.c
{{ gnu }}-ar rD /work/std/seccomp/libseccomp.a /work/glibc.o
{{ gnu }}-ar rD {{ tree }}/self-contained/libunwind.a /work/glibc.o
{{ pack }}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestLibraries:
    """Download packages of an architecture that Debian's keys sign, and unpack them: none of them is run here.

    `native` is Debian's name of the builder's architecture. Facts: `packages`, which name, version and architecture.
    """

    arch: str
    native: str
    packages: tuple[str, ...]
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "libraries"
        output.mkdir()
        try:
            run_script(job, self._script(), output=output, network=True)
        except CommandFailed as error:
            raise FetchError(f"cannot get {', '.join(self._wanted)}: {error}") from error
        (output / LIBRARIES).rename(job.out / LIBRARIES)
        return {"packages": (output / "packages").read_text(encoding="utf-8").splitlines()}

    @property
    def _wanted(self) -> tuple[str, ...]:
        return tuple(f"{package}:{ARCHES[self.arch].debian}" for package in self.packages)

    def _script(self) -> str:
        return render(
            _DOWNLOAD,
            native=self.native,
            debian=ARCHES[self.arch].debian,
            packages=self._wanted,
            pack=pack("/work/tree", LIBRARIES),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MuslStd:
    """Compile Rust's standard library for musl, from the builder's own source, without a network."""

    arch: str

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        run_script(job, self._script(), inputs={"libraries": job.inputs["libraries"].path(LIBRARIES)})
        return {}

    def _script(self) -> str:
        arch = ARCHES[self.arch]
        target = arch.rust_triple(Libc.MUSL.value)
        return render(
            _STD,
            target=target,
            tree=f"{STD_AT}/lib/rustlib/{target}/lib",
            libraries=LIBRARIES_AT,
            gcc=f"{arch.triplet}-gcc",
            gnu=arch.triplet,
            musl=arch.triplet.replace("-gnu", "-musl"),
            pack=pack(STD_AT, STD),
        )
