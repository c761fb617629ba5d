"""Compiles a kernel: the same source, configuration and builder give the same bytes, wherever and whenever.

What a kernel records of its build (kernel.org, Documentation/kbuild/reproducible-builds.rst) is fixed: user, host and
build number by name, the time from the source. Paths do not differ, because every engine shows the same ones. Compiled
objects are kept in a ccache between builds, so a build that was stopped goes on where it was.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import ContractError
from osbuilder.kernel import objectcache
from osbuilder.kernel.archive import ARCHIVE

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.step import Job

VMLINUX: Final = "vmlinux"
VMLINUZ: Final = "vmlinuz"
CONFIG: Final = "config"
SYSTEM_MAP: Final = "System.map"
DEBUG: Final = "vmlinux.debug"
"""vmlinux with its debug info, where a variant keeps it."""
GDB_SCRIPTS: Final = "gdb-scripts.tar"
"""What gdb loads beside vmlinux.debug: vmlinux-gdb.py and the package `linux` (Documentation: gdb-kernel-debugging)."""

_WHO: Final = "osbuilder"
_CHANGED: Final = "config.changed"

_ENVIRONMENT: Final[Mapping[str, str]] = {
    "KBUILD_BUILD_USER": _WHO,
    "KBUILD_BUILD_HOST": _WHO,
    "KBUILD_BUILD_VERSION": "1",
    # Set, though empty: no `+` or `-dirty` is made up from a repository around the source.
    "LOCALVERSION": "",
    **objectcache.ENVIRONMENT,
}

# Resolving again in the whole source is the last word on the configuration: were a line different now, the contract
# would have been checked against another kernel. strip leaves what is loaded, the PVH note of x86 included.
_COMPILE = """\
mkdir /work/linux /work/build
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1
cp /in/config /work/build/.config
kmake() {
  make --no-print-directory -C /work/linux O=/work/build ARCH={{ arch | sh }} CROSS_COMPILE={{ cross_compile | sh }} \\
    CC={{ ("ccache " ~ cross_compile ~ "gcc") | sh }} HOSTCC='ccache gcc' "$@"
}
kmake olddefconfig
if ! diff /in/config /work/build/.config > /out/{{ changed }}; then
  exit 0
fi
rm /out/{{ changed }}
{{ set_up_cache }}
kmake -j"$1" {{ targets | sh }}
{% for name, path in products %}
{% if path in stripped %}
{{ cross_compile | sh }}strip --strip-all -o /out/{{ name }} {{ ("/work/build/" ~ path) | sh }}
{% else %}
cp {{ ("/work/build/" ~ path) | sh }} /out/{{ name }}
{% endif %}
{% endfor %}
{% if debug_info %}
kmake scripts_gdb
cp /work/build/vmlinux /out/{{ debug }}
tar --create --format=gnu --dereference --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \\
  --mode=u=rwX,go=rX --directory=/work/build --file=/out/{{ gdb_scripts }} vmlinux-gdb.py scripts/gdb
{% endif %}
cp /work/build/.config /out/config
cp /work/build/System.map /out/System.map
mkdir /out/facts
(cd /work/build; {{ cross_compile | sh }}size vmlinux.a) > /out/facts/sizes
cp /work/build/include/config/kernel.release /out/facts/release
{ {{ report_cache }}; } > /out/facts/ccache
times > /out/facts/times
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compile:
    """Makes vmlinux, vmlinuz, config and System.map from the inputs `source` and `config`. Make one with `for_arch`.

    With `debug_info`, vmlinux.debug and gdb-scripts.tar too. `epoch` is the build time that the kernel tells, in
    seconds; None means the newest timestamp of the source.
    """

    kernel_arch: str
    cross_compile: str
    targets: tuple[str, ...]
    vmlinux_path: str
    vmlinuz_path: str
    epoch: int | None = None
    debug_info: bool = False

    @classmethod
    def for_arch(cls, arch: Arch, *, epoch: int | None = None, debug_info: bool = False) -> Compile:
        """Take what compiling needs from an architecture's row; the rest of it cannot change a kernel."""
        return cls(
            kernel_arch=arch.kernel,
            cross_compile=f"{arch.triplet}-",
            targets=arch.kernel_targets,
            vmlinux_path=arch.vmlinux_path,
            vmlinuz_path=arch.vmlinuz_path,
            epoch=epoch,
            debug_info=debug_info,
        )

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        source, config = job.inputs["source"], job.inputs["config"]
        epoch = int(source.facts["epoch"]) if self.epoch is None else self.epoch
        output = job.work / "built"
        output.mkdir()
        run_script(
            job,
            self._script(),
            str(job.jobs),
            inputs={"source": source.path(ARCHIVE), "config": config.path(CONFIG)},
            env={**_ENVIRONMENT, "KBUILD_BUILD_TIMESTAMP": timestamp(epoch)},
            caches=(objectcache.CACHE,),
            output=output,
        )
        if (output / _CHANGED).exists():
            difference = (output / _CHANGED).read_text(encoding="utf-8").strip()
            raise ContractError(
                f"the configuration resolves differently in the whole source (>) than it did before (<):\n{difference}",
                hint="A Kconfig file looks at a file that the configuring step does not unpack: see configure.py.",
            )
        for name in (VMLINUX, VMLINUZ, CONFIG, SYSTEM_MAP, *((DEBUG, GDB_SCRIPTS) if self.debug_info else ())):
            (output / name).rename(job.out / name)
        return {
            "version": source.facts["version"],
            "origin": source.facts["origin"],
            "release": (output / "facts" / "release").read_text(encoding="utf-8").strip(),
            "epoch": epoch,
            "options_y": config.facts["options_y"],
            "options_m": config.facts["options_m"],
            "subsystems_bytes": subsystem_sizes((output / "facts" / "sizes").read_text(encoding="utf-8")),
            "cpu_s": cpu_seconds((output / "facts" / "times").read_text(encoding="utf-8")),
            "ccache": objectcache.read_results((output / "facts" / "ccache").read_text(encoding="utf-8")),
        }

    def _script(self) -> str:
        paths = {VMLINUX: self.vmlinux_path, VMLINUZ: self.vmlinuz_path}
        return render(
            _COMPILE,
            arch=self.kernel_arch,
            cross_compile=self.cross_compile,
            targets=self.targets,
            products=tuple(paths.items()),
            # Kbuild calls the ELF file so in every architecture; what has another name is no ELF file.
            stripped=[path for path in paths.values() if PurePosixPath(path).name == "vmlinux"],
            changed=_CHANGED,
            set_up_cache=objectcache.SET_UP,
            report_cache=objectcache.REPORT,
            debug_info=self.debug_info,
            debug=DEBUG,
            gdb_scripts=GDB_SCRIPTS,
        )


def timestamp(epoch: int) -> str:
    """Return a time as date(1) writes it in the C locale, which is what the kernel puts behind `#1`."""
    time = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    return f"{time:%a %b} {time.day:2d} {time:%H:%M:%S} UTC {time.year}"


def cpu_seconds(times: str) -> float:
    """Return what the children of a shell used, user and system, from what its `times` printed (POSIX, times)."""
    total = 0.0
    for word in times.splitlines()[1].split():
        minutes, _, seconds = word.removesuffix("s").partition("m")
        total += 60 * int(minutes) + float(seconds)
    return round(total, 2)


def subsystem_sizes(table: str) -> dict[str, int]:
    """Return what each subsystem adds to a kernel in memory, in bytes, from what size(1) printed of vmlinux.a.

    A subsystem is a folder of the source, two levels deep (fs/ext4, net/ipv4, kernel/bpf), or one (mm). Counted are
    code, data and what is zero at first, without what the linker adds. What is thrown away after boot is in it.
    """
    sizes: collections.Counter[str] = collections.Counter()
    for line in table.splitlines()[1:]:
        text, data, bss, _, _, name = line.split(maxsplit=5)
        folders = PurePosixPath(name.split(" (")[0]).parts[:-1]
        sizes["/".join(folders[:2]) or "."] += int(text) + int(data) + int(bss)
    return dict(sorted(sizes.items()))
