"""All of kernel/configs/ as types: capabilities, variants and consumers here, history and waivers in exemptions.py.

Owns what these data files may say and how they refer to each other; every name in them is checked when they are read.
What one kernel gets of it is osbuilder.kernel.selection's business.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from osbuilder import decode
from osbuilder.arch import ARCHES, Arch
from osbuilder.errors import FragmentError, OsbuilderError, UsageError, suggest
from osbuilder.kernel.conditions import ArchName, KernelVersion
from osbuilder.kernel.exemptions import Life, Waiver, check_symbol, load_history, load_waivers
from osbuilder.kernel.extending import flattened, lineage
from osbuilder.kernel.placement import (
    CONFIGS,
    VARIANT_FILE,
    check_base,
    check_named,
    check_variant,
    declaration,
    variant_folders,
)
from osbuilder.kernel.ranges import Limited
from osbuilder.kernel.series import SeriesNames

BASE: Final = "base"
"""The variant that a kernel is when nobody says otherwise."""

_VARIANT_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part(Limited):
    """When a fragment is asked for: beside architecture and version, which other capabilities the kernel has."""

    needs: tuple[str, ...] = ()


_ALWAYS: Final = Part()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capability(Limited):
    """Something that a guest kernel can do. Its symbols are asked for in <layer>/<fragment>.conf.

    `fragments` (default: one of the capability's own name, always) are looked up in each layer; at least one must exist
    in one. `probes` are what the reference agent runs in the guest to prove it; without any, `unproven` says why none
    can. An `optional` one is only in the variants that name it.
    """

    purpose: str
    probes: tuple[str, ...] = ()
    unproven: str = ""
    fragments: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    optional: bool = False

    def __post_init__(self) -> None:
        if bool(self.probes) == bool(self.unproven):
            raise ValueError("expected either probes, or unproven: the reason why no probe can show it")

    def parts(self, name: str) -> Mapping[str, Part]:
        """Return its fragments; `name` is its own."""
        return self.fragments or {name: _ALWAYS}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Requirement(Limited):
    """A capability that a consumer cannot do without, and the source of that knowledge.

    A `droppable` one a variant may be without if it says why (Drop).
    """

    capability: str
    source: str
    droppable: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Consumer(Limited):
    """Somebody who boots or uses guest kernels: a VMM, a container runtime, an init."""

    purpose: str
    requires: tuple[Requirement, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Override(Limited):
    """A symbol that a variant asks for with another value than the base kernel does, and why."""

    symbol: str
    reason: str

    def __post_init__(self) -> None:
        check_symbol(self.symbol)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion(Limited):
    """Kernels that a variant is not for, and why: architectures (none named: all), versions (no range: all)."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason or not (self.arches or self.kernel.bounds):
            raise ValueError("expected a reason, and architectures, a kernel range, or both")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A capability of the base that a variant does without, and why."""

    capability: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UsualLine:
    """The kernel line of versions.yaml that a variant is built from when nobody names one, on `arches` (none: on all).

    `patches` are the series that it then has instead of the line's.
    """

    line: str
    arches: tuple[ArchName, ...] = ()
    patches: SeriesNames | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A kernel for a purpose: the base with more capabilities, or only some of the base's.

    It is for all architectures and versions but those that `excluded` names, each with its reason. One that `extends`
    another has all that the other one has (see extending).

    `brings` are optional capabilities of the base that it has too; `only`, where it names any, is all that it has
    of the base; `drops` are what it does without. `capabilities` are its own, with fragments in its own folder.
    `consumers` are those that can boot or use it; `tools` are Debian packages that building it takes besides. With
    `debug_info`, what a debugger wants is kept beside the kernel; with `modules`, its modules are, and what others
    are built against. `lines` are the kernel lines that it is built from when nobody names one: one at most for each
    architecture (none: the default line).
    """

    purpose: str
    extends: str | None = None
    consumers: tuple[str, ...] = ()
    excluded: tuple[Exclusion, ...] = ()
    brings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    capabilities: Mapping[str, Capability] = dataclasses.field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    tools: tuple[str, ...] = ()
    debug_info: bool = dataclasses.field(default=False, metadata={"key": "debug-info"})
    modules: bool = False
    lines: tuple[UsualLine, ...] = ()

    def __post_init__(self) -> None:
        if not self.consumers and self.extends is None:
            raise ValueError("expected at least one consumer: who can boot or use it")
        if self.only and self.drops:
            raise ValueError("drops do not go with only: leave it out there")
        self._check_lines()

    def on(self, arch: Arch) -> bool:
        """Say whether it is for an architecture, in one version at least."""
        return self.without(arch) is None

    def why_not(self, arch: Arch, version: KernelVersion) -> Exclusion | None:
        """Return what excludes a kernel from it; None: nothing does."""
        return next((each for each in self.excluded if each.applies(arch, version)), None)

    def fits(self, arch: Arch, versions: Sequence[KernelVersion]) -> bool:
        """Say whether it is known to be for an architecture's kernels of a line, which has these versions (see
        source.KernelLine.span)."""
        return bool(versions) and all(self.why_not(arch, each) is None for each in versions)

    def usual_line(self, arch: Arch) -> UsualLine | None:
        """Return what it is built from on an architecture when nobody names a line; None: the default line."""
        return next((each for each in self.lines if not each.arches or arch.name in each.arches), None)

    def without(self, arch: Arch) -> Exclusion | None:
        """Return what excludes an architecture in every version; None: nothing does."""
        return next((each for each in self.excluded if not each.kernel.bounds and arch.name in each.arches), None)

    def has(self, name: str, capability: Capability) -> bool:
        """Say whether it has a capability of the base."""
        if any(name == each.capability for each in self.drops):
            return False
        return name in self.brings or (name in self.only if self.only else not capability.optional)

    def _check_lines(self) -> None:
        """Refuse a second line for an architecture, and one for an architecture that the variant is not for."""
        there: dict[str, str] = {}
        for each in self.lines:
            for name in each.arches or ARCHES:
                if name in there:
                    raise ValueError(f"lines: expected one line for {name}, got {there[name]} and {each.line}")
                there[name] = each.line
            for name in each.arches:
                if self.without(ARCHES[name]):
                    raise ValueError(f"lines: {each.line} is named for {name}, which `excluded` leaves out")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All of kernel/configs, each in its file's order, and the folder of the layers.

    `variants` have what they extend; `written` are they as their files say. `unfinished` are variants that cannot be
    used, each with what is wrong with it or with what it extends.
    """

    root: Path
    capabilities: Mapping[str, Capability]
    written: Mapping[str, Variant]
    variants: Mapping[str, Variant]
    consumers: Mapping[str, Consumer]
    history: Mapping[str, Life]
    waivers: tuple[Waiver, ...]
    unfinished: Mapping[str, OsbuilderError] = dataclasses.field(default_factory=dict)

    def declared(self, name: str) -> Variant:
        """Return a variant. Raises UsageError for one that there is not, and what is wrong with an unfinished one."""
        if name in self.unfinished:
            raise self.unfinished[name]
        if name not in self.variants:
            raise UsageError(f"unknown kernel variant {name!r}", hint=suggest(name, self.variants))
        return self.variants[name]

    def variant(self, name: str, arch: Arch) -> Variant:
        """Return a variant for an architecture. Raises as `declared`, and UsageError for one that is not for it."""
        if excluded := self.declared(name).without(arch):
            there = [each for each, variant in self.variants.items() if variant.on(arch)]
            raise UsageError(
                f"kernel variant {name} is not for {arch.name}: {excluded.reason}",
                hint=f"Variants for {arch.name}: {', '.join(there) or 'none'}.",
            )
        return self.variants[name]

    def needed_by(self, capability: str) -> tuple[str, ...]:
        """Return the consumers that cannot do without a capability, on one architecture at least."""
        return tuple(
            name
            for name, consumer in self.consumers.items()
            if any(requirement.capability == capability for requirement in consumer.requires)
        )

    def lineage(self, variant: str) -> tuple[str, ...]:
        """Return a variant's name after those that it extends, the first of which extends none."""
        return lineage(self.written, variant)

    def capabilities_of(self, variant: str) -> Mapping[str, Capability]:
        """Return all that a variant has, whatever the architecture and the version."""
        chosen = self.variants[variant]
        base = {name: each for name, each in self.capabilities.items() if chosen.has(name, each)}
        return base | dict(chosen.capabilities)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _CapabilitiesFile:
    capabilities: Mapping[str, Capability]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _ConsumersFile:
    consumers: Mapping[str, Consumer]


def load_catalogue(root: Path) -> Catalogue:
    """Read kernel/configs at `root`, all of it, and check that every name in it leads somewhere.

    Raises DecodeError for the YAML files, FragmentError for a file that has no place, a fragment that nobody or more
    than one names and a name that leads nowhere, UsageError for a folder of an unknown architecture.
    """
    catalogue = load_usable(root)
    for error in catalogue.unfinished.values():
        raise error
    for name, consumer in catalogue.consumers.items():
        wanted = (requirement.capability for requirement in consumer.requires)
        _check_names(f"{CONFIGS}/consumers.yaml: {name}", wanted, _all_capabilities(catalogue), "capability")
    _check_use(catalogue)
    return catalogue


def load_usable(root: Path) -> Catalogue:
    """Read kernel/configs at `root` for who asks for one kernel: what is wrong with other variants is no matter then.

    Variants that cannot be used are `unfinished`. Raises as load_catalogue for what belongs to no variant.
    """
    catalogue = Catalogue(
        root=root,
        capabilities=decode.load(root / "capabilities.yaml", _CapabilitiesFile).capabilities,
        written={},
        variants={},
        consumers=decode.load(root / "consumers.yaml", _ConsumersFile).consumers,
        history=load_history(root),
        waivers=load_waivers(root),
    )
    check_base(root, _owners(catalogue.capabilities))
    check_named(root, root, _named(catalogue.capabilities), f"{CONFIGS}/capabilities.yaml")
    _check_needs(f"{CONFIGS}/capabilities.yaml", catalogue.capabilities, catalogue.capabilities)
    written: dict[str, Variant] = {}
    unfinished: dict[str, OsbuilderError] = {}
    for folder in variant_folders(root):
        try:
            written[folder.name] = _load_variant(folder, catalogue)
        except (FragmentError, UsageError) as error:
            unfinished[folder.name] = error
    variants, unfinished = flattened(written, unfinished, root)
    for name in tuple(variants):
        try:
            for each in lineage(written, name):
                known = {**catalogue.capabilities, **variants[each].capabilities}
                _check_needs(declaration(each), written[each].capabilities, known)
        except FragmentError as error:
            unfinished[name] = error
    variants = {name: variant for name, variant in variants.items() if name not in unfinished}
    if BASE not in variants:
        raise unfinished.get(BASE) or FragmentError(
            f"{declaration(BASE)}: no such file", hint="It says who can boot the base kernel."
        )
    written = {name: written[name] for name in variants}
    return dataclasses.replace(catalogue, written=written, variants=variants, unfinished=unfinished)


def _load_variant(folder: Path, catalogue: Catalogue) -> Variant:
    variant = decode.load(folder / VARIANT_FILE, Variant)
    check_variant(catalogue.root, folder, _owners(variant.capabilities))
    check_named(catalogue.root, folder, _named(variant.capabilities), declaration(folder.name))
    _check_variant(folder.name, variant, catalogue)
    return variant


def _owners(capabilities: Mapping[str, Capability]) -> Mapping[str, str]:
    """Return the capability of each fragment's name. Raises FragmentError for one of two."""
    owners: dict[str, str] = {}
    for name, capability in capabilities.items():
        for stem in capability.parts(name):
            if stem in owners:
                raise FragmentError(f"fragment {stem} belongs to two capabilities: {owners[stem]} and {name}")
            owners[stem] = name
    return owners


def _named(capabilities: Mapping[str, Capability]) -> list[str]:
    """Return the fragments that are named in so many words; those with their capability's name may be missing."""
    return [stem for capability in capabilities.values() for stem in capability.fragments]


def _check_needs(file: str, capabilities: Mapping[str, Capability], known: Mapping[str, Capability]) -> None:
    """Refuse a fragment that needs a capability which there is not. Raises FragmentError."""
    for name, capability in capabilities.items():
        for stem, part in capability.parts(name).items():
            _check_names(f"{file}: {name}.fragments.{stem}", part.needs, known, "capability")


def _check_variant(name: str, variant: Variant, catalogue: Catalogue) -> None:
    where = declaration(name)
    if not _VARIANT_NAME.fullmatch(name):
        raise FragmentError(f"{where}: expected a name of small letters, digits and hyphens, got {name!r}")
    dropped = (each.capability for each in variant.drops)
    _check_names(where, (*variant.brings, *variant.only, *dropped), catalogue.capabilities, "capability")
    _check_names(where, variant.consumers, catalogue.consumers, "consumer")
    if both := sorted(variant.capabilities.keys() & catalogue.capabilities.keys()):
        raise FragmentError(f"{where}: capability {both[0]} is one of capabilities.yaml", hint="Name it under brings.")
    for each in variant.brings:
        if not catalogue.capabilities[each].optional:
            raise FragmentError(
                f"{where}: brings {each}, which is not optional",
                hint="Every variant has it, unless `only` leaves it out.",
            )


def _check_use(catalogue: Catalogue) -> None:
    """Refuse an optional capability that no variant brings: nothing would ever try its fragments."""
    brought = {each for variant in catalogue.variants.values() for each in (*variant.brings, *variant.only)}
    for name, capability in catalogue.capabilities.items():
        if capability.optional and name not in brought:
            raise FragmentError(
                f"capability {name} is optional, and no variant brings it", hint="Name it in a variant."
            )


def _all_capabilities(catalogue: Catalogue) -> Mapping[str, Capability]:
    own = {name: each for variant in catalogue.variants.values() for name, each in variant.capabilities.items()}
    return {**catalogue.capabilities, **own}


def _check_names(where: str, names: Iterable[str], known: Mapping[str, object], what: str) -> None:
    for name in names:
        if name not in known:
            raise FragmentError(f"{where}: unknown {what} {name!r}", hint=suggest(name, known))


def matrix(catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """Yield every pair (variant, architecture) that there is a kernel for."""
    for name, variant in catalogue.variants.items():
        yield from ((name, arch.name) for arch in ARCHES.values() if variant.on(arch))
