"""What is compiled again after a change of the configuration, tried with the real kernel, its fixdep and ccache."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osbuilder.api import Workbench
from osbuilder.engine.script import lines, render, run_script
from osbuilder.kernel import objectcache
from osbuilder.request import KernelRequest
from tests.jobs import artifact
from tests.kernel_bench import Compiler

if TYPE_CHECKING:
    from osbuilder.step import Job

# lib/sort.c names no symbol that is changed, kernel/kcmp.c names SYSVIPC; rmpiggy.S takes another file's bytes in.
OBJECTS = ("lib/sort.o", "kernel/kcmp.o", "arch/x86/realmode/rmpiggy.o")
BUILDS = {
    "first": "",
    "same": "",
    "unrelated": "CONFIG_MINIX_FS=y\n",
    "related": "# CONFIG_SYSVIPC is not set\n",
    "plain": "# CONFIG_SYSVIPC is not set\n",
}
SCRIPT = """\
mkdir /work/linux
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1
{% for name, change in builds.items() %}
rm -rf /work/build /work/symbols
mkdir /work/build
{ cat /in/config; printf %s {{ change | sh }}; } > /work/build/.config
kmake() {
  make --silent --no-print-directory -C /work/linux O=/work/build ARCH=x86_64 \\
    CC={{ (("" if name == "plain" else "ccache ") ~ "gcc") | sh }} HOSTCC='ccache gcc' "$@"
}
kmake olddefconfig
{{ set_up }}
kmake {{ objects | sh }}
cp "$CCACHE_STATSLOG" /out/{{ name }}.log
(cd /work/build; sha256sum {{ objects | sh }}) > /out/{{ name }}.sums
unset CCACHE_PREFIX
{% endfor %}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compilations:
    """Compiles a few files of a kernel in each of several configurations, one after the other."""

    def describe(self) -> tuple[str, ...]:
        return lines(self.script())

    def script(self) -> str:
        return render(SCRIPT, builds=BUILDS, objects=OBJECTS, set_up=objectcache.SET_UP)

    def run(self, job: Job) -> Mapping[str, Any]:
        run_script(
            job,
            self.script(),
            inputs={name: job.inputs["of"].path(name) for name in ("source", "config")},
            env=objectcache.ENVIRONMENT,
            caches=(objectcache.CACHE,),
        )
        return {}


def compiled(log: Path) -> set[str]:
    """Which of OBJECTS had to be compiled, by ccache's log: a line `# SOURCE`, then what happened."""
    chunks = re.split(r"^# (.*)\n", log.read_text(), flags=re.MULTILINE)[1:]
    events = dict(zip(chunks[::2], chunks[1::2], strict=True))
    missed = {source.removeprefix("/work/linux/")[:-2] for source, what in events.items() if "cache_miss" in what}
    return {name for name in OBJECTS if name[:-2] in missed}


def test_a_changed_symbol_compiles_what_names_it_and_nothing_else(bench: Workbench, tmp_path: Path) -> None:
    kernel = next(step for step in bench.planner.plan(KernelRequest()).walk() if step.name == "kernel")
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name, file in (("source", "source.tar.zst"), ("config", "config")):
        (folder / name).symlink_to(bench.executor.run(dict(kernel.inputs)[name]).path(file))
    outcome = Compiler(bench, tmp_path / "compiler").run(Compilations(), of=artifact(folder, {}))

    sort, kcmp, piggy = OBJECTS
    assert {name: compiled(outcome.folder / f"{name}.log") for name in ("first", "same", "unrelated", "related")} == {
        "first": {sort, kcmp, piggy},
        "same": {piggy},
        "unrelated": {piggy},
        "related": {kcmp, piggy},
    }
    sums = {name: (outcome.folder / f"{name}.sums").read_text() for name in BUILDS}
    assert sums["first"] == sums["same"] == sums["unrelated"] != sums["related"] == sums["plain"]
