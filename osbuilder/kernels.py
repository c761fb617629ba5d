"""What can be asked about guest kernels beside building one: their configuration, its reasons, and comparisons."""

from __future__ import annotations

import dataclasses
import functools
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osbuilder import show
from osbuilder.arch import Arch, host_arch, parse_arch
from osbuilder.capabilities import capabilities_text, exclusions, kernels_of
from osbuilder.errors import ContractError, OsbuilderError, PlanError, StoreError, UsageError, suggest
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.kernel.budget import Sizes, load_budgets, render_budgets, render_sizes
from osbuilder.kernel.build import compiled
from osbuilder.kernel.catalogue import BASE, Catalogue, load_catalogue, load_usable
from osbuilder.kernel.compile import VMLINUX, VMLINUZ
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.configure import CONFIG, Configure
from osbuilder.kernel.contract import load_tree, parse_config
from osbuilder.kernel.difference import Side, render_difference
from osbuilder.kernel.explain import Explanation
from osbuilder.kernel.menuconfig import TERMINAL, TOOLS, changes, commented, menus, menus_command, menus_mounts
from osbuilder.kernel.patches import ApplyPatches
from osbuilder.kernel.resolver import read_kconfig
from osbuilder.kernel.selection import misfit
from osbuilder.kernelplan import newest_version, patches_left_out, usual_line
from osbuilder.offline import told_what_to_fetch
from osbuilder.publish import check_output, copy_out
from osbuilder.request import KernelRequest
from osbuilder.step import Step, with_shared
from osbuilder.store import Artifact, runs_in, write_atomic
from osbuilder.terminal import lend, terminal_size
from osbuilder.variants import consumers_text, variants_text

if TYPE_CHECKING:
    from osbuilder.api import Workbench


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a kernel made of all that it is asked for, and what its contract says of that, where it does not hold."""

    resolved: Artifact
    broken: ContractError | None


class Kernels:
    """Answers questions about the kernels of one workbench; resolves a configuration where an answer needs it."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def config(self, request: KernelRequest, *, output: Path | None = None) -> str:
        """Return the text of a kernel's resolved .config; with `output` a copy is left there too.

        Raises ContractError where it does not hold what the fragments ask for; the copy is left there nevertheless.
        """
        if output is not None:
            check_output(output)
        outcome = self._outcome(request)
        if output is not None:
            copy_out(outcome.resolved, CONFIG, output)
        if outcome.broken is not None:
            came_out = f"{output} is" if output else "--output FILE writes"
            outcome.broken.add_note(f"contract: it does not hold; {came_out} the configuration that came out")
            raise outcome.broken
        return _config_of(outcome.resolved)

    def describe(self, request: KernelRequest) -> str:
        """Return the plan of a kernel; runs nothing. Raises PlanError if the variant is known not to be for it."""
        return self._described(request, self._bench.planner.plan(request))

    def describe_config(self, request: KernelRequest, *, output: Path | None = None) -> str:
        """Return the plan of a configuration. Raises as `describe`, and UsageError for a bad output path."""
        if output is not None:
            check_output(output)
        return self._described(request, self._config_step(request))

    def contract(self, line: str | None = None, *, variant: str | None = None, arch: str | None = None) -> str:
        """Return the table of all kernels of a line, variants by architectures, with the number of their options, and
        why there is none where there is none; of all, or of those of a variant and an architecture.

        No line is each kernel's usual one; those that are not of the default one are named below the table. Raises
        ContractError with the losses of all of them; else as `config` and `capabilities`.
        """
        catalogue = self._catalogue() if variant else self._whole_catalogue()
        on = parse_arch(arch).name if arch else None
        pairs = kernels_of(catalogue, variant=variant, arch=on)
        shared: dict[bytes, Step] = {}
        steps = [self._config_step(KernelRequest(arch=name, line=line, variant=each)) for each, name in pairs]
        steps = [with_shared(step, shared) for step in steps]
        results = self._bench.executor.run_each(steps)
        table = show.options_text(facts_of_all(dict(zip(pairs, results, strict=True))))
        elsewhere = () if line else self._of_other_lines(pairs)
        return "\n".join([table, "", *elsewhere, *exclusions(catalogue, variant=variant, arch=on)]).rstrip()

    def explain(self, request: KernelRequest, symbol: str) -> str:
        """Return why a symbol has the value that it has in a kernel, also where its contract does not hold.

        Raises UsageError for what is no symbol's name.
        """
        name = re.sub("^CONFIG_", "", symbol.strip(), flags=re.IGNORECASE)
        if not re.fullmatch(r"\w+", name, re.ASCII):
            raise UsageError(f"expected a configuration symbol such as FUSE_DAX, got {symbol!r}")
        step = self._config_step(request)
        outcome = self._outcome(request)
        action = _configure(step)
        arch = parse_arch(action.arch)
        version = KernelVersion.parse(outcome.resolved.facts["version"])
        explanation = Explanation(
            tree=load_tree(self._kconfig(request), arch),
            values=parse_config(_config_of(outcome.resolved)),
            selection=action.selection(version),
            kernel=f"{version} ({arch.name}, {action.variant})",
            version=version,
            history=action.catalogue.history,
            broken=outcome.broken.problems if outcome.broken else (),
        )
        return explanation.of(name)

    def diff(self, one: str, other: str, *, arch: str | None = None) -> str:
        """Return how two kernels differ, also where a contract does not hold; each is LINE, VARIANT or LINE/VARIANT.

        Raises UsageError for unknown names.
        """
        kernels = [(text, self._parse(text)) for text in (one, other)]
        requests = [(text, KernelRequest(arch=arch, line=line, variant=name)) for text, (line, name) in kernels]
        return render_difference(*(self._side(text, request) for text, request in requests))

    def menuconfig(self, request: KernelRequest, *, terminal: int, output: Path | None = None) -> str:
        """Show a kernel's menus on a terminal, and return what was changed as a fragment; empty if nothing was.

        They begin with the configuration that came out, whether it holds its contract or not: what is missing for that
        can be found in them. With `output` the fragment is written there too. Raises UsageError for a file descriptor
        that is no terminal and, before the menus are shown, for an output that cannot be.
        """
        if output is not None:
            check_output(output)
        shape = terminal_size(terminal)
        step = self._config_step(request)
        executor = self._bench.executor
        config = self._outcome(request).resolved
        source = self._run(request, self._input(request, "source"))
        action = _configure(step)
        arch = parse_arch(action.arch)
        # With the variant's own: what pahole and the like allow, Kconfig finds out again.
        declared = action.catalogue.variants[action.variant]
        tools = self._bench.planner.builder("compiler", arch, (*declared.tools, *TOOLS))
        engine, builder = executor.ready(tools.subject, executor.run(tools))
        name = f"menuconfig-{secrets.token_hex(8)}"
        script = menus(arch=arch.kernel, cross_compile=f"{arch.triplet}-", shape=shape)
        with self._bench.store.scratch(name) as folder:
            files = {"source": source.path(ARCHIVE), "config": config.path(CONFIG)}
            mounts = menus_mounts(folder, script, files)
            runs_in(engine.name, folder)
            run = functools.partial(engine.run, builder, menus_command(), mounts, log=folder / "log", label=name)
            lend(terminal, mounts.caches[TERMINAL], run, stop=engine.stop)
            after = parse_config((mounts.output / CONFIG).read_text(encoding="utf-8"))
            tree = load_tree(self._kconfig(request), arch)
        fragment = "".join(commented(changes(tree, parse_config(_config_of(config)), after)))
        if output is not None:
            write_atomic(output, fragment.encode())
        return fragment

    def size(self, request: KernelRequest, *, save: bool = False) -> str:
        """Return a kernel's sizes by subsystem beside its budget; builds it first if need be.

        With `save` they become its budget (kernel/budget.yaml). Raises BudgetError when they exceed it otherwise, and
        UsageError for a budget of a kernel that versions.yaml and the variants do not describe.
        """
        if save and (request.git or request.tree or request.patches or request.fragments):
            raise UsageError(
                "--save keeps the budget of a line of versions.yaml and a variant, "
                "not of --git, --tree, --patches or --fragment",
                hint="Write it into versions.yaml or a variant first (docs/kernel.md).",
            )
        step = self._bench.planner.plan(request)
        kernel = self._run(request, step)
        sizes = Sizes(
            vmlinux_bytes=kernel.path(VMLINUX).stat().st_size,
            vmlinuz_bytes=kernel.path(VMLINUZ).stat().st_size,
            subsystems_bytes=kernel.facts["subsystems_bytes"],
        )
        path = self._bench.root / "kernel" / "budget.yaml"
        budgets = load_budgets(path)
        if save:
            budgets = dataclasses.replace(budgets, kernels={**budgets.kernels, step.subject: sizes})
            write_atomic(path, render_budgets(budgets).encode())
        budgets.check(step.subject, sizes)
        return render_sizes(step.subject, sizes, budgets)

    def capabilities(self, *, variant: str | None = None, arch: str | None = None) -> str:
        """Return the table of capabilities, of all kernels or of those of a variant and an architecture.

        Raises UsageError for a variant that there is not, or not for the architecture.
        """
        catalogue = self._catalogue() if variant else self._whole_catalogue()
        return capabilities_text(catalogue, variant=variant, arch=parse_arch(arch).name if arch else None)

    def variants_text(self) -> str:
        """Return the table of variants: what each is for, where, and who can boot or use it."""
        return variants_text(self._whole_catalogue())

    def consumers(self, variant: str = BASE, *, line: str | None = None, arch: str | None = None) -> str:
        """Return the table of who can boot or use a variant's kernels of a line (None: the usual one), or why not.

        Raises UsageError for a variant that there is not, or not for the architecture, and for an unknown line.
        """
        planner, catalogue = self._bench.planner, self._catalogue()
        pairs = kernels_of(catalogue, variant=variant, arch=parse_arch(arch).name if arch else None)
        wanted = [parse_arch(name) for _, name in pairs]
        kernels = {each: newest_version(planner, variant, line, each) for each in wanted}
        return consumers_text(catalogue, variant, kernels)

    def capabilities_of(self, variant: str, arch: Arch) -> frozenset[str]:
        """Return the capabilities of a variant for an architecture. Raises UsageError for one that there is not."""
        catalogue = self._catalogue()
        catalogue.variant(variant, arch)
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

    def patches_left_out(self, request: KernelRequest) -> str:
        """Return what to say of the patches of a kernel's line that --patches leaves out; "" of none."""
        return patches_left_out(self._bench.planner, request)

    def patches(self, request: KernelRequest) -> tuple[str, ...]:
        """Return the names of the patches that a kernel is built with."""
        steps = self._bench.planner.plan(request).walk()
        series = (step.action for step in steps if isinstance(step.action, ApplyPatches))
        return tuple(patch.name for action in series for patch in action.patches)

    def probes(self) -> tuple[str, ...]:
        """Return the probes that any kernel's capabilities name, each once."""
        catalogue = self._catalogue()
        capabilities = (each for name in catalogue.variants for each in catalogue.capabilities_of(name).values())
        return tuple(dict.fromkeys(probe for capability in capabilities for probe in capability.probes))

    def variants(self, arch: Arch) -> tuple[str, ...]:
        """Return the names of the variants for an architecture."""
        return tuple(name for name, variant in self._catalogue().variants.items() if variant.on(arch))

    def check_variants(self) -> None:
        """Raise what is wrong with any variant; for who wants all of them."""
        self._whole_catalogue()

    def consumers_of(self, variant: str) -> tuple[str, ...]:
        """Return who can boot or use a variant, as it declares."""
        return self._catalogue().declared(variant).consumers

    def misfit(self, variant: str, line: str | None, arch: Arch, *, dry: bool = False) -> PlanError | None:
        """Return why a variant is not for an architecture's kernels of a line (None: its usual one); None where it is.

        The version is found in the line's source, which is fetched if need be; with `dry` it is not, and then nothing
        is said against the variant.
        """
        return self._misfit(KernelRequest(line=line, variant=variant, arch=arch.name), dry=dry)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _of_other_lines(self, pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Yield a line for each kernel, of a variant and an architecture, whose usual line is not the default one."""
        for variant, arch in pairs:
            line, _ = usual_line(self._bench.planner, variant, parse_arch(arch))
            if line != self._bench.planner.versions.defaults.kernel:
                yield f"{variant} for {arch} is of {line}"

    def _misfit(self, request: KernelRequest, *, dry: bool) -> PlanError | None:
        """Return what `misfit` does, for a kernel of any source."""
        version = self._version(request, dry=dry) if self._by_version(request.variant) else None
        if version is None:
            return None
        declared = self._catalogue().declared(request.variant)
        arch = parse_arch(request.arch) if request.arch else host_arch()
        excluded = declared.why_not(arch, version)
        instead = _configure(self._config_step(request)).instead
        return misfit(request.variant, arch, version, excluded, instead) if excluded else None

    def _by_version(self, variant: str) -> bool:
        """Say whether it depends on a kernel's version whether a variant is for it."""
        return any(each.kernel.bounds for each in self._catalogue().declared(variant).excluded)

    def _version(self, request: KernelRequest, *, dry: bool) -> KernelVersion | None:
        """Return the version of a kernel's source; with `dry` None where that is not in the store."""
        step = self._input(request, "source")
        source = self._bench.peek(step)[step.ident] if dry else self._run(request, step)
        return KernelVersion.parse(str(source.facts["version"])) if source else None

    def _described(self, request: KernelRequest, step: Step) -> str:
        if excluded := self._misfit(request, dry=True):
            raise excluded
        plan = show.plan_text(step.walk(), self._bench.peek(step))
        if self._by_version(request.variant) and self._version(request, dry=True) is None:
            plan += f"\nWhether the variant {request.variant} is for this kernel's version, its source will tell."
        return plan

    def _run(self, request: KernelRequest, step: Step) -> Artifact:
        """Return the artifact of a step of a kernel; offline, what it lacks is told with this kernel's flags."""
        with told_what_to_fetch(request):
            return self._bench.executor.run(step)

    def _config_step(self, request: KernelRequest) -> Step:
        return self._input(request, "config")

    def _outcome(self, request: KernelRequest) -> Outcome:
        """Resolve a configuration and hold it to its contract; raises what is no matter of the contract."""
        step = self._config_step(request)
        with told_what_to_fetch(request):
            resolved, held = self._bench.executor.run_each((dict(step.inputs)["resolved"], step))
            if isinstance(resolved, OsbuilderError):
                raise resolved
            if isinstance(held, OsbuilderError) and not isinstance(held, ContractError):
                raise held
        return Outcome(resolved=resolved, broken=held if isinstance(held, ContractError) else None)

    def _input(self, request: KernelRequest, name: str) -> Step:
        return dict(compiled(self._bench.planner.plan(request)).inputs)[name]

    def _kconfig(self, request: KernelRequest) -> Mapping[str, str]:
        """Return the text of each Kconfig file of a kernel's source."""
        return read_kconfig(self._run(request, dict(self._config_step(request).inputs)["resolver"]))

    def _side(self, text: str, request: KernelRequest) -> Side:
        outcome = self._outcome(request)
        kernel = self._bench.planner.plan(request)
        built = self._bench.peek(kernel)[kernel.ident]
        sizes = {name: built.path(name).stat().st_size for name in (VMLINUX, VMLINUZ)} if built else {}
        return Side(
            name=text,
            values=parse_config(_config_of(outcome.resolved)),
            sizes_bytes=sizes,
            broken=outcome.broken.problems if outcome.broken else (),
        )

    def _parse(self, text: str) -> tuple[str | None, str]:
        """Return the line (None: the variant's usual one) and the variant that a kernel's name in `diff` means."""
        lines, catalogue = self._bench.planner.versions.kernels, self._catalogue()
        variants = {**catalogue.variants, **catalogue.unfinished}  # these are refused when they are planned
        line, slash, variant = text.partition("/")
        if not slash and line in variants and line not in lines:
            return None, line
        variant = variant if slash else BASE
        if line not in lines:
            what = "kernel" if slash else "kernel or variant"
            raise UsageError(f"unknown {what} {line!r}", hint=suggest(line, lines if slash else {**lines, **variants}))
        if variant not in variants:
            raise UsageError(f"unknown kernel variant {variant!r}", hint=suggest(variant, variants))
        return line, variant

    def _catalogue(self) -> Catalogue:
        """Return what one kernel is planned from; see load_usable."""
        return load_usable(self._bench.root / "kernel" / "configs")

    def _whole_catalogue(self) -> Catalogue:
        """Return what all kernels are planned from: none of them may be unfinished."""
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
