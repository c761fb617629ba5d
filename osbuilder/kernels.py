"""What can be asked about guest kernels beside building one: their configuration, its reasons, and comparisons."""

from __future__ import annotations

import dataclasses
import functools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osbuilder import show
from osbuilder.arch import Arch, parse_arch
from osbuilder.errors import ContractError, OsbuilderError, PlanError, StoreError, UsageError, suggest
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.kernel.budget import Sizes, load_budgets, render_budgets, render_sizes
from osbuilder.kernel.build import compiled
from osbuilder.kernel.catalogue import BASE, Catalogue, load_catalogue, matrix
from osbuilder.kernel.compile import VMLINUX, VMLINUZ
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.configure import CONFIG, Configure
from osbuilder.kernel.contract import load_tree, parse_config
from osbuilder.kernel.difference import Side, render_difference
from osbuilder.kernel.explain import Explanation
from osbuilder.kernel.menuconfig import TERMINAL, TOOLS, changes, commented, menus, menus_command, menus_mounts
from osbuilder.kernel.resolver import unpack_kconfig
from osbuilder.kernel.selection import select
from osbuilder.kernelplan import usual_line
from osbuilder.publish import check_output, copy_out
from osbuilder.request import KernelRequest
from osbuilder.store import Artifact
from osbuilder.terminal import lend, terminal_size

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Step


class Kernels:
    """Answers questions about the kernels of one workbench; resolves a configuration where an answer needs it."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def config(self, request: KernelRequest, *, output: Path | None = None) -> str:
        """Return the text of a kernel's resolved .config; with `output` a copy is left there too.

        Raises ContractError where it does not hold what the fragments ask for.
        """
        if output is not None:
            check_output(output)
        artifact = self._bench.executor.run(self._config_step(request))
        if output is not None:
            copy_out(artifact, CONFIG, output)
        return _config_of(artifact)

    def describe_config(self, request: KernelRequest) -> str:
        """Return the plan of a configuration; runs nothing."""
        step = self._config_step(request)
        return show.plan_text(step, self._bench.peek(step))

    def contract(self, line: str | None = None) -> str:
        """Return the table of all kernels of a line, variants by architectures, with the number of their options.

        None is the default line, also for variants that have a line of their own. Raises ContractError with the losses
        of all of them; else as `config`.
        """
        line = line or self._bench.planner.versions.defaults.kernel
        pairs = list(matrix(self._catalogue()))
        steps = [self._config_step(KernelRequest(arch=arch, line=line, variant=variant)) for variant, arch in pairs]
        # What is resolved in is the same for all of them: one step, that the others do not wait for each in a job slot.
        steps = [dataclasses.replace(step, inputs=steps[0].inputs) for step in steps]
        results = self._bench.executor.run_each(steps)
        return show.options_text(facts_of_all(dict(zip(pairs, results, strict=True))))

    def explain(self, request: KernelRequest, symbol: str) -> str:
        """Return why a symbol has the value that it has in a kernel. Raises UsageError for what is no symbol's name."""
        name = symbol.strip().removeprefix("CONFIG_")
        if not re.fullmatch(r"\w+", name, re.ASCII):
            raise UsageError(f"expected a configuration symbol such as FUSE_DAX, got {symbol!r}")
        step = self._config_step(request)
        config = self._bench.executor.run(step)
        action = _configure(step)
        arch = parse_arch(action.arch)
        version = KernelVersion.parse(config.facts["version"])
        with self._kconfig(request) as folder:
            explanation = Explanation(
                tree=load_tree(folder, arch),
                values=parse_config(_config_of(config)),
                selection=select(action.catalogue, arch, version, action.variant),
                kernel=f"{version} ({arch.name}, {action.variant})",
            )
        return explanation.of(name)

    def diff(self, one: str, other: str, *, arch: str | None = None) -> str:
        """Return how two kernels differ; each is LINE, VARIANT or LINE/VARIANT. Raises UsageError for unknown names."""
        kernels = [(text, self._parse(text)) for text in (one, other)]
        requests = [(text, KernelRequest(arch=arch, line=line, variant=name)) for text, (line, name) in kernels]
        return render_difference(*(self._side(text, request) for text, request in requests))

    def menuconfig(self, request: KernelRequest, *, terminal: int) -> str:
        """Show a kernel's menus on a terminal, and return what was changed as a fragment; empty if nothing was.

        Raises UsageError for a file descriptor that is no terminal.
        """
        shape = terminal_size(terminal)
        step = self._config_step(request)
        action = _configure(step)
        executor = self._bench.executor
        config = executor.run(step)
        source = executor.run(self._input(request, "source"))
        tools = self._bench.planner.builder("compiler", parse_arch(action.arch), TOOLS)
        engine, builder = executor.ready(tools.subject, executor.run(tools))
        name = f"menuconfig-{secrets.token_hex(8)}"
        script = menus(arch=action.kernel_arch, cross_compile=action.cross_compile, shape=shape)
        with self._bench.store.scratch(name) as folder, self._kconfig(request) as kconfig:
            files = {"source": source.path(ARCHIVE), "config": config.path(CONFIG)}
            mounts = menus_mounts(folder, script, files)
            run = functools.partial(engine.run, builder, menus_command(), mounts, log=folder / "log", label=name)
            lend(terminal, mounts.caches[TERMINAL], run, stop=engine.stop)
            after = parse_config((mounts.output / CONFIG).read_text(encoding="utf-8"))
            tree = load_tree(kconfig, parse_arch(action.arch))
        return "".join(commented(changes(tree, parse_config(_config_of(config)), after)))

    def size(self, request: KernelRequest, *, save: bool = False) -> str:
        """Return a kernel's sizes by subsystem beside its budget; builds it first if need be.

        With `save` they become its budget (kernel/budget.yaml). Raises BudgetError when they exceed it otherwise.
        """
        step = self._bench.planner.plan(request)
        kernel = self._bench.executor.run(step)
        sizes = Sizes(
            vmlinux_bytes=kernel.path(VMLINUX).stat().st_size,
            vmlinuz_bytes=kernel.path(VMLINUZ).stat().st_size,
            subsystems_bytes=kernel.facts["subsystems_bytes"],
        )
        path = self._bench.root / "kernel" / "budget.yaml"
        budgets = load_budgets(path)
        if save:
            budgets = dataclasses.replace(budgets, kernels={**budgets.kernels, step.subject: sizes})
            path.write_text(render_budgets(budgets), encoding="utf-8")
        budgets.check(step.subject, sizes)
        return render_sizes(step.subject, sizes, budgets)

    def capabilities(self, *, variant: str | None = None, arch: str | None = None) -> str:
        """Return the table of capabilities, of all kernels or of those of a variant and an architecture."""
        catalogue = self._catalogue()
        if variant is not None and variant not in catalogue.variants:
            raise UsageError(f"unknown kernel variant {variant!r}", hint=suggest(variant, catalogue.variants))
        return show.capabilities_text(catalogue, variant=variant, arch=parse_arch(arch).name if arch else None)

    def capabilities_of(self, variant: str, arch: Arch) -> frozenset[str]:
        """Return the capabilities of a variant for an architecture. Raises UsageError for one that there is not."""
        catalogue = self._catalogue()
        catalogue.variant(variant, arch.name)
        there = catalogue.capabilities_of(variant)
        return frozenset(name for name, each in there.items() if not each.arches or arch.name in each.arches)

    def promises(self, request: KernelRequest) -> Mapping[str, Sequence[str]]:
        """Return the capabilities of a kernel that was built, each with the probes that have to pass in its guests.

        Those of the configuration of today, not of the one that it was compiled from: probes may change and bytes not.
        Raises StoreError when the configuration is not in the store.
        """
        step = self._config_step(request)
        config = self._bench.executor.peek(step)[step.ident]
        if config is None:
            raise StoreError("the kernel's configuration left the store meanwhile", hint="Run it again.")
        capabilities: Mapping[str, Sequence[str]] = config.facts["capabilities"]
        return capabilities

    def variants(self, arch: Arch) -> tuple[str, ...]:
        """Return the names of the variants for an architecture."""
        return tuple(name for name, variant in self._catalogue().variants.items() if variant.on(arch.name))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _config_step(self, request: KernelRequest) -> Step:
        return self._input(request, "config")

    def _input(self, request: KernelRequest, name: str) -> Step:
        return dict(compiled(self._bench.planner.plan(request)).inputs)[name]

    @contextmanager
    def _kconfig(self, request: KernelRequest) -> Iterator[Path]:
        """Yield a folder with all the Kconfig files of a kernel's source, for as long as it is needed."""
        resolver = self._bench.executor.run(dict(self._config_step(request).inputs)["resolver"])
        with self._bench.store.scratch(f"kconfig-{secrets.token_hex(8)}") as folder:
            yield unpack_kconfig(resolver, folder)

    def _side(self, text: str, request: KernelRequest) -> Side:
        values = parse_config(self.config(request))
        kernel = self._bench.planner.plan(request)
        built = self._bench.peek(kernel)[kernel.ident]
        sizes = {name: built.path(name).stat().st_size for name in (VMLINUX, VMLINUZ)} if built else {}
        return Side(name=text, values=values, sizes_bytes=sizes)

    def _parse(self, text: str) -> tuple[str, str]:
        """Return line and variant that `debian-6.1`, `minimal` or `debian-6.1/minimal` name."""
        lines, variants = self._bench.planner.versions.kernels, self._catalogue().variants
        line, slash, variant = text.partition("/")
        if not slash and line in variants and line not in lines:
            return usual_line(self._bench.planner, line)[0], line
        variant = variant if slash else BASE
        if line not in lines:
            what = "kernel" if slash else "kernel or variant"
            raise UsageError(f"unknown {what} {line!r}", hint=suggest(line, lines if slash else {**lines, **variants}))
        if variant not in variants:
            raise UsageError(f"unknown kernel variant {variant!r}", hint=suggest(variant, variants))
        return line, variant

    def _catalogue(self) -> Catalogue:
        return load_catalogue(self._bench.root / "kernel" / "configs")


def facts_of_all(
    results: Mapping[tuple[str, str], Artifact | OsbuilderError],
) -> Mapping[tuple[str, str], Mapping[str, Any] | None]:
    """Return the facts of configurations by variant and architecture; None where a variant is not for that version.

    Raises ContractError with the losses of all kernels; another error, which tells nothing about a contract, as it is.
    """
    losses: dict[str, ContractError] = {}
    facts: dict[tuple[str, str], Mapping[str, Any] | None] = {}
    for (variant, arch), result in results.items():
        match result:
            case ContractError():
                losses[f"{variant} for {arch}: {result.message}"] = result
            case PlanError():
                facts[variant, arch] = None
            case OsbuilderError():
                raise result
            case Artifact():
                facts[variant, arch] = result.facts
    if losses:
        raise ContractError("\n\n".join(losses), hint=next(iter(losses.values())).hint)
    return facts


def _configure(step: Step) -> Configure:
    if not isinstance(step.action, Configure):
        raise TypeError(f"{step.ident} does not configure a kernel")
    return step.action


def _config_of(artifact: Artifact) -> str:
    return artifact.path(CONFIG).read_text(encoding="utf-8")
