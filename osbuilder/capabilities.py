"""The table of what guest kernels can do: in which of them, what proves it, and who needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from osbuilder.arch import host_arch, parse_arch
from osbuilder.guest.lacking import LACKING
from osbuilder.kernel.catalogue import Capability, Catalogue, matrix
from osbuilder.show import wrapped

_HEAD: Final = ("CAPABILITY", "PURPOSE", "IN", "PROBES", "NEEDED BY")
_WIDTHS: Final = (20, 30, 18, 28, 16)
_NOTES: Final = (
    "CAPABILITY: its fragment has its name, unless others stand behind a colon. IN: of the kernels that there are."
)

Pair = tuple[str, str]


def capabilities_text(catalogue: Catalogue, *, variant: str | None = None, arch: str | None = None) -> str:
    """Return what guest kernels can do, of all variants and architectures or of one.

    Raises UsageError for a variant that there is not, or not for the architecture.
    """
    kernels = kernels_of(catalogue, variant=variant, arch=arch)
    having: dict[str, tuple[Capability, list[Pair]]] = {}
    for name, on in kernels:
        for capability, each in catalogue.capabilities_of(name).items():
            if not each.arches or on in each.arches:
                having.setdefault(capability, (each, []))[1].append((name, on))
    order = {name: number for number, name in enumerate(catalogue.capabilities)}
    rows = [
        (
            _with_fragments(name, each),
            each.purpose,
            " ".join(part for part in (place(pairs, kernels), str(each.kernel)) if part),
            _proof(each, {on for _, on in pairs}),
            " ".join(catalogue.needed_by(name)) or "-",
        )
        for name, (each, pairs) in sorted(having.items(), key=lambda item: order.get(item[0], len(order)))
    ]
    return f"{wrapped(_HEAD, rows, _WIDTHS)}\n\n{_NOTES}"


def kernels_of(catalogue: Catalogue, *, variant: str | None = None, arch: str | None = None) -> list[Pair]:
    """Return the pairs (variant, architecture) that there are kernels for, all or those of a variant, an architecture.

    Raises UsageError for a variant that there is not, or not for the architecture.
    """
    if variant is not None:
        there = (each for name, each in matrix(catalogue) if name == variant)
        catalogue.variant(variant, parse_arch(arch or next(there, host_arch().name)))
    return [pair for pair in matrix(catalogue) if variant in (None, pair[0]) and arch in (None, pair[1])]


def exclusions(catalogue: Catalogue, *, variant: str | None = None, arch: str | None = None) -> Iterator[str]:
    """Yield a line for all that variants (or one) are not for: architectures (or one), versions, and why."""
    for name, declared in catalogue.variants.items():
        for each in declared.excluded if variant in (None, name) else ():
            if arch and each.arches and arch not in each.arches:
                continue
            where = " ".join(part for part in (", ".join(each.arches), str(each.kernel)) if part)
            yield f"no {name} for {where}: {each.reason}"


def place(pairs: Collection[Pair], kernels: Collection[Pair]) -> str:
    """Return in words which (variant, architecture) of `kernels` a capability is in, which is in `pairs`.

    A capability is in some variants and on some architectures, wherever there is such a kernel.
    """
    variants, arches = ({pair[part] for pair in pairs} for part in (0, 1))
    there = list(dict.fromkeys(name for name, on in kernels if on in arches))
    named = list(dict.fromkeys(on for name, on in kernels if name in variants))
    lacking = [name for name in there if name not in variants]
    having = [name for name in there if name in variants]
    words = [] if not lacking else [f"all but {' '.join(lacking)}"] if len(lacking) < len(having) else having
    return " ".join([*words, *([] if arches == set(named) else [on for on in named if on in arches])]) or "all"


def _with_fragments(name: str, capability: Capability) -> str:
    fragments = list(capability.parts(name))
    return name if fragments == [name] else f"{name}: {' '.join(fragments)}"


def _proof(capability: Capability, arches: set[str]) -> str:
    """Return the probes, and why one cannot pass in the guests of this project; or why there is none."""
    if not capability.probes:
        return f"none: {capability.unproven}"
    reasons = []
    for lack in LACKING:
        if lack.probe in capability.probes and (not lack.arches or arches & set(lack.arches)):
            where = [f"on {', '.join(lack.arches)}"] if lack.arches else []
            where += [f"under {lack.accel.value}"] if lack.accel else ["here"] if not where else []
            where += [f"of kernels {lack.kernel}"] if lack.kernel else []
            where += ["without our patch"] if lack.unless_patched else []
            reasons.append(f"({lack.probe} cannot pass {' '.join(where)}: {lack.why})")
    return " ".join([*capability.probes, *reasons])
