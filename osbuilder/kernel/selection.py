"""What one kernel is asked for: the catalogue under one architecture, version and variant.

Pure but for reading the fragments' files. Layers, the general one first: common and arch/<arch> hold the base's
capabilities, variant/<name>/common and variant/<name>/arch/<arch> those that the variant has of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from osbuilder.arch import Arch
from osbuilder.errors import FragmentError, PlanError
from osbuilder.kernel.catalogue import BASE, Capability, Catalogue, Exclusion, Override, Requirement, Variant
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.exemptions import Waiver
from osbuilder.kernel.fragments import Request, clash, load_fragment, merge
from osbuilder.kernel.placement import declaration, shown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one kernel is asked for: its capabilities by name, the merged requests, the waivers meant for it.

    `owners` maps each symbol that fragments name to its capability. `absent` are those that, as history.yaml has it,
    kernels of this version do not have under that name. `replaced` are, by symbol, the requests of the base, or of what
    a variant extends, that the variant's override, each with the override.
    """

    capabilities: Mapping[str, Capability]
    requests: tuple[Request, ...]
    waivers: tuple[Waiver, ...]
    owners: Mapping[str, str]
    absent: tuple[Request, ...]
    replaced: Mapping[str, tuple[Request, Override]] = dataclasses.field(default_factory=dict)


def select(
    catalogue: Catalogue, arch: Arch, version: KernelVersion, variant: str = BASE, *, instead: Sequence[str] = ()
) -> Selection:
    """Read and merge the fragments of every capability that such a kernel has.

    `instead` are kernel lines that the variant is known to be for, for who named one that it is not for.

    Raises UsageError for a variant that is not for this architecture, PlanError for one that is not for this version,
    FragmentError for a malformed fragment, a duplicate, a contradiction, a capability without fragments, an override
    without effect, or a variant that lacks what one of its consumers needs.
    """
    chosen = catalogue.variant(variant, arch)
    if excluded := chosen.why_not(arch, version):
        raise misfit(variant, arch, version, excluded, instead)
    there = {name: each for name, each in catalogue.capabilities_of(variant).items() if each.applies(arch, version)}
    _check_consumers(catalogue, chosen, arch, version, variant)
    reader = _Reader(catalogue=catalogue, arch=arch, version=version, there=frozenset(there))
    requests = reader.read(
        {name: each for name, each in there.items() if name not in chosen.capabilities}, catalogue.root
    )
    replaced: dict[str, tuple[Request, Override]] = {}
    for name in catalogue.lineage(variant):
        written = catalogue.written[name]
        own = reader.read(written.capabilities, catalogue.root / "variant" / name)
        overrides = {each.symbol: each for each in written.overrides if each.applies(arch, version)}
        below = f"kernel variant {written.extends}" if written.extends else "the base"
        left = _override(overrides.values(), requests, own, name, below)
        replaced |= {old.symbol: (old, overrides[old.symbol]) for old in requests if old.symbol in overrides}
        requests = _together(left, own, declaration(name), below)
    return Selection(
        capabilities=there,
        requests=requests,
        waivers=_waivers(catalogue, reader, requests),
        owners={request.symbol: reader.owners[request.where] for request in (*reader.absent, *requests)},
        absent=tuple(reader.absent),
        replaced=replaced,
    )


def misfit(
    variant: str, arch: Arch, version: KernelVersion, excluded: Exclusion, instead: Sequence[str] = ()
) -> PlanError:
    """Return what is said of a kernel that its variant is not for; `instead` as in `select`."""
    flag = " ".join(part for part in ("--kernel", " or ".join(instead)) if part)
    return PlanError(
        f"there is no kernel variant {variant} of {version} for {arch.name}: {excluded.reason}",
        hint=f"It is not for kernels {excluded.kernel}: name another line ({flag}).",
    )


def layers(arch: Arch) -> tuple[str, ...]:
    """The folders that fragments come from, the general one first."""
    return ("common", f"arch/{arch.name}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads fragments for one kernel, under the names that it has for their symbols."""

    catalogue: Catalogue
    arch: Arch
    version: KernelVersion
    there: frozenset[str]
    owners: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: list[Request] = dataclasses.field(default_factory=list)

    def read(self, capabilities: Mapping[str, Capability], folder: Path) -> tuple[Request, ...]:
        """Return what those of `capabilities` that the kernel has ask for, in the layers below `folder`."""
        requests: list[Request] = []
        for name, capability in capabilities.items():
            if name in self.there:
                for path in self._paths(name, capability, folder):
                    for request in load_fragment(path, shown(self.catalogue.root, path)):
                        self.owners[request.where] = name
                        requests.extend(self._now(request))
        return tuple(requests)

    def _paths(self, name: str, capability: Capability, folder: Path) -> list[Path]:
        stems = [
            stem
            for stem, part in capability.parts(name).items()
            if part.applies(self.arch, self.version) and self.there.issuperset(part.needs)
        ]
        candidates = [folder / layer / f"{stem}.conf" for stem in stems for layer in layers(self.arch)]
        paths = [path for path in candidates if path.is_file()]
        if not paths:
            where = ", ".join(f"{layer}/" for layer in layers(self.arch))
            raise FragmentError(
                f"capability {name} has no fragment for {self.arch.name}: expected one of its .conf files in {where}",
                hint=f"Write it, or name the arches of {name} where it is declared.",
            )
        return paths

    def _now(self, request: Request) -> tuple[Request, ...]:
        """Return a request under the name that this kernel has for its symbol; none where it has none."""
        life = self.catalogue.history.get(request.symbol)
        if life is None or self.version in life.kernel:
            return (request,)
        self.absent.append(request)
        return (dataclasses.replace(request, symbol=life.otherwise),) if life.otherwise else ()


def missing(
    catalogue: Catalogue, variant: str, consumer: str, arch: Arch, version: KernelVersion
) -> Iterator[Requirement]:
    """Yield what a consumer needs of a kernel and a variant's does not have; nothing where it does not run."""
    wanting = catalogue.consumers[consumer]
    there = catalogue.capabilities_of(variant)
    dropped = {each.capability for each in catalogue.variants[variant].drops}
    for requirement in wanting.requires if wanting.applies(arch, version) else ():
        name = requirement.capability
        capability = catalogue.capabilities.get(name)
        able = capability is None or capability.applies(arch, version)
        able = able and not (requirement.droppable and name in dropped)
        if able and requirement.applies(arch, version) and not (name in there and there[name].applies(arch, version)):
            yield requirement


def _check_consumers(catalogue: Catalogue, chosen: Variant, arch: Arch, version: KernelVersion, variant: str) -> None:
    problems = [
        f"{name} needs {each.capability} ({each.source})"
        for name in chosen.consumers
        for each in missing(catalogue, variant, name, arch, version)
    ]
    if problems:
        raise FragmentError(
            f"kernel variant {variant} of {version} for {arch.name} fails its consumers:\n" + "\n".join(problems),
            hint=f"Give it the capability, or take the consumer out of {declaration(variant)}.",
        )


def _override(
    overrides: Iterable[Override], base: tuple[Request, ...], own: tuple[Request, ...], variant: str, below: str
) -> tuple[Request, ...]:
    """Return the requests of what is below a variant without those that it makes otherwise, as its declaration says."""
    before = {request.symbol: request for request in base}
    after = {request.symbol: request for request in own}
    for override in overrides:
        old, new = before.get(override.symbol), after.get(override.symbol)
        if old is None or new is None or old.value == new.value:
            got = f"{below} does not ask for it" if old is None else "the variant does not ask for another value"
            raise FragmentError(
                f"{declaration(variant)}: the override of {override.symbol} has no effect: {got}",
                hint="Remove it, or narrow it with arches or kernel.",
            )
    replaced = {override.symbol for override in overrides}
    return tuple(request for request in base if request.symbol not in replaced)


def _together(base: tuple[Request, ...], own: tuple[Request, ...], declared: str, below: str) -> tuple[Request, ...]:
    """Return a variant's own requests and those of what is below it, the base or another variant, by symbol.

    Raises FragmentError for what each of them asks for twice, and for what both ask for.
    """
    there = {request.symbol: request for request in merge(base)}
    clashes = [(there[each.symbol], each) for each in merge(own) if each.symbol in there]
    if not clashes:
        return merge(base + own)
    twice = [new.where for old, new in clashes if old.value == new.value]
    changed = [new.symbol for old, new in clashes if old.value != new.value]
    hints = [f"{below[0].upper()}{below[1:]} asks for it already: drop {' and '.join(twice)}."] if twice else []
    if changed:
        lines = "\n".join(f"      - {{symbol: {symbol}, reason: why}}" for symbol in changed)
        hints.append(f"To have another value than {below}, add to {declared}:\n\n    overrides:\n{lines}")
    raise FragmentError("\n".join(clash(old, new) for old, new in clashes), hint="\n  ".join(hints))


def _waivers(catalogue: Catalogue, reader: _Reader, requests: tuple[Request, ...]) -> tuple[Waiver, ...]:
    """Return the waivers meant for this kernel; not those of symbols that only other variants' kernels ask for."""
    meant = [waiver for waiver in catalogue.waivers if waiver.applies(reader.arch, reader.version)]
    asked = {request.symbol for request in requests}
    if all(waiver.symbol in asked for waiver in meant):
        return tuple(meant)
    try:
        elsewhere = _asked_by_any(catalogue, reader)
    except FragmentError:
        # Another variant cannot be read, and might be who asks: whoever asks for its kernel, or for all, is told.
        return tuple(waiver for waiver in meant if waiver.symbol in asked)
    return tuple(waiver for waiver in meant if waiver.symbol in asked or waiver.symbol not in elsewhere)


def _asked_by_any(catalogue: Catalogue, reader: _Reader) -> set[str]:
    """Return what some variant's kernel of the same architecture and version asks for.

    Raises FragmentError where a variant is unfinished or its fragments cannot be read.
    """
    if catalogue.unfinished:
        raise FragmentError(f"unfinished: {', '.join(catalogue.unfinished)}")
    own = {
        name: catalogue.written[name].capabilities
        for name, variant in catalogue.variants.items()
        if variant.why_not(reader.arch, reader.version) is None
    }
    everything = [catalogue.capabilities, *own.values()]
    there = frozenset(
        name for each in everything for name, one in each.items() if one.applies(reader.arch, reader.version)
    )
    others = dataclasses.replace(reader, there=there, owners={}, absent=[])
    found = others.read(catalogue.capabilities, catalogue.root)
    for name, capabilities in own.items():
        found += others.read(capabilities, catalogue.root / "variant" / name)
    return {request.symbol for request in found}
