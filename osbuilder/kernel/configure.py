"""Resolves what the fragments request into a .config, with the kernel's own `conf`, and holds it to the contract.

The resolution starts from allnoconfig: what nobody requests, selects or needs is off. It asks the compiler that will
compile, so both steps name it the same way. Resolving and holding are two steps, so that a configuration that does not
hold its contract can still be looked at; nothing is compiled of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.arch import parse_arch
from osbuilder.engine.script import lines, render, run_script
from osbuilder.kernel import contract, fragments
from osbuilder.kernel.answers import FILES
from osbuilder.kernel.catalogue import BASE, Catalogue, load_usable
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.fragments import Request
from osbuilder.kernel.modulecheck import check_requests, check_tools
from osbuilder.kernel.placement import is_leftover, variant_folders
from osbuilder.kernel.resolver import RESOLVER, read_kconfig
from osbuilder.kernel.selection import Selection, select
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.kernel.source import KernelLine
    from osbuilder.step import Job

CONFIG: Final = "config"

# What make would do, and no more: run conf at the place and in the environment that make gives it. Thousands of small
# files are a burden to a disk and none to memory.
_RESOLVE = """\
tar --extract --file=/in/resolver --directory=/tmp
ln -s /tmp/linux /tmp/build /work
mapfile -d '' environment < /in/environment
cd /work/build
env -i "${environment[@]}" KCONFIG_ALLCONFIG=/in/requests LD_PRELOAD=/in/answers.so ANSWERS=/in/answers \\
  scripts/kconfig/conf --allnoconfig Kconfig
cp .config /out/config
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """Holds the input `resolved` (see Resolve) to the contract: the same bytes are its artifact, or it fails.

    It reads the Kconfig files in the input `resolver` (see resolver.MakeResolver). Make one with `of_catalogue`.

    `arch` is the name of a row of osbuilder.arch; `fragments` are the names and sha256s of the files of kernel/configs
    that can matter for it. Which of them a kernel gets depends on its version, which only the source tells; `elsewhere`
    are those of other variants that ask for what waivers excuse. `besides` is what is asked for besides them, as
    SYMBOL=value; see `asking`. `instead` as in selection.select.
    """

    arch: str
    variant: str
    fragments: tuple[tuple[str, str], ...]
    besides: tuple[str, ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = ()
    catalogue: Catalogue = dataclasses.field(repr=False, metadata=NOT_IN_KEY)
    requests: tuple[Request, ...] = dataclasses.field(default=(), repr=False, metadata=NOT_IN_KEY)
    instead: tuple[str, ...] = dataclasses.field(default=(), repr=False, metadata=NOT_IN_KEY)

    @classmethod
    def of_catalogue(
        cls, root: Path, arch: Arch, variant: str = BASE, *, lines: Mapping[str, KernelLine] | None = None
    ) -> Configure:
        """Read kernel/configs at `root`; `lines` are those of versions.yaml.

        Raises DecodeError, FragmentError; UsageError for an unknown variant.
        """
        catalogue = load_usable(root)
        declared = catalogue.variant(variant, arch)
        check_tools(variant, declared)
        lineage = [root / "variant" / each for each in catalogue.lineage(variant)]
        own = [path for folder in (root, *lineage) for path in _files(folder, arch)]
        waived = {waiver.symbol for waiver in catalogue.waivers}
        others = [_files(folder, arch) for folder in variant_folders(root) if folder not in lineage]
        asking = [path for paths in others if not waived.isdisjoint(_named(paths)) for path in paths]
        return cls(
            arch=arch.name,
            variant=variant,
            fragments=_digests(root, own),
            elsewhere=_digests(root, asking),
            catalogue=catalogue,
            instead=tuple(name for name, line in (lines or {}).items() if declared.fits(arch, line.span)),
        )

    def asking(self, requests: Iterable[Request]) -> Configure:
        """Return this with requests that are in no fragment of kernel/configs. Raises FragmentError for one twice."""
        merged = fragments.merge((*self.requests, *requests))
        return dataclasses.replace(self, requests=merged, besides=tuple(map(str, merged)))

    def selection(self, version: KernelVersion) -> Selection:
        """Return what a kernel of this version is asked for.

        Raises as selection.select, fragments.extend and modulecheck.check_requests.
        """
        arch = parse_arch(self.arch)
        selected = select(self.catalogue, arch, version, self.variant, instead=self.instead)
        # What excuses our request does not excuse the user's own.
        own = {request.symbol for request in self.requests}
        excused = {waiver.symbol for waiver in selected.waivers} & own
        ours = [request for request in selected.requests if request.symbol not in excused]
        requests = fragments.extend(ours, self.requests)
        check_requests(self.variant, self.catalogue.variants[self.variant], requests)
        waivers = tuple(waiver for waiver in selected.waivers if waiver.symbol not in own)
        return dataclasses.replace(selected, requests=requests, waivers=waivers)

    def describe(self) -> tuple[str, ...]:
        return (f"hold {CONFIG} to what was requested",)

    def run(self, job: Job) -> Mapping[str, Any]:
        """Check. Raises FragmentError, or ContractError with every loss at once."""
        resolved, resolver = job.inputs["resolved"], job.inputs["resolver"]
        version = KernelVersion.parse(str(resolver.facts["version"]))
        selection = self.selection(version)
        report = contract.check(
            requests=selection.requests,
            resolved=resolved.path(CONFIG).read_text(encoding="utf-8"),
            texts=read_kconfig(resolver),
            arch=parse_arch(self.arch),
            version=version,
            waivers=selection.waivers,
            absent=selection.absent,
        )
        shutil.copyfile(resolved.path(CONFIG), job.out / CONFIG)
        return {
            "version": resolver.facts["version"],
            "variant": self.variant,
            "capabilities": {name: list(each.probes) for name, each in selection.capabilities.items()},
            "requests": len(selection.requests),
            "waived": [f"{loss} ({waiver.reason})" for loss, waiver in report.waived],
            "options_y": report.builtin_count,
            "options_m": report.module_count,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Makes the artifact `config`, what the kernel makes of all that `configure` asks for, of `resolver` and `answers`.

    Whether it holds that is not asked here.
    """

    configure: Configure

    def describe(self) -> tuple[str, ...]:
        return lines(render(_RESOLVE))

    def run(self, job: Job) -> Mapping[str, Any]:
        """Resolve. Raises FragmentError before."""
        resolver = job.inputs["resolver"]
        selection = self.configure.selection(KernelVersion.parse(str(resolver.facts["version"])))
        requests = job.work / "requests"
        requests.write_text(fragments.render(selection.requests), encoding="utf-8")
        answers = {name: job.inputs["answers"].path(name) for name in FILES}
        inputs = {"resolver": resolver.path(RESOLVER), "requests": requests, **answers}
        run_script(job, render(_RESOLVE), inputs=inputs)
        return {"version": resolver.facts["version"]}


def _files(folder: Path, arch: Arch) -> list[Path]:
    """Return the files of kernel/configs or of a variant's folder that can matter for an architecture."""
    patterns = ("*.yaml", "common/*.conf", f"arch/{arch.name}/*.conf")
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return [path for path in found if not is_leftover(path.name)]


def _named(paths: Iterable[Path]) -> set[str]:
    """Return the symbols that files name."""
    text = b"\n".join(path.read_bytes() for path in paths).decode("utf-8", "replace")
    return set(re.findall(r"\bCONFIG_(\w+)", text))


def _digests(root: Path, paths: Iterable[Path]) -> tuple[tuple[str, str], ...]:
    digests = {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return tuple(sorted(digests.items()))
