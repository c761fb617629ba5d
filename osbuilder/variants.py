"""The tables of kernel variants: what each is for, and which VMMs and runtimes can boot or use one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from osbuilder.arch import ARCHES, Arch
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.selection import missing
from osbuilder.show import wrapped

if TYPE_CHECKING:
    from osbuilder.kernel.catalogue import Catalogue

_NOTES: Final = (
    "DECLARED: the variant names it, so that a kernel that lacks what it needs is refused.\n"
    "-: it does not run there, or there is no such kernel."
)


def variants_text(catalogue: Catalogue) -> str:
    """Return each variant with its purpose, architectures and declared consumers."""
    rows = [
        (
            name,
            variant.purpose,
            " ".join(arch.name for arch in ARCHES.values() if variant.on(arch)),
            " ".join(variant.consumers),
        )
        for name, variant in catalogue.variants.items()
    ]
    return wrapped(("VARIANT", "PURPOSE", "ARCHITECTURES", "CONSUMERS"), rows, (20, 46, 24, 30))


def consumers_text(catalogue: Catalogue, variant: str, kernels: Mapping[Arch, KernelVersion]) -> str:
    """Return which consumers can boot or use a variant's kernels, which are of these versions, or what they lack.

    All consumers are in it, declared or not.
    """
    declared = catalogue.variants[variant]
    rows = [
        (
            name,
            "yes" if name in declared.consumers else "no",
            *(_answer(catalogue, variant, name, arch, version) for arch, version in kernels.items()),
        )
        for name in catalogue.consumers
    ]
    widths = (20, 8, *(max(16, 76 // len(kernels)) for _ in kernels))
    table = wrapped(("CONSUMER", "DECLARED", *(arch.name for arch in kernels)), rows, widths)
    return "\n".join([table, "", _NOTES, *_excluded(catalogue, variant, kernels.items())])


def _answer(catalogue: Catalogue, variant: str, consumer: str, arch: Arch, version: KernelVersion) -> str:
    there = catalogue.variants[variant].why_not(arch, version) is None
    if not (there and catalogue.consumers[consumer].applies(arch, version)):
        return "-"
    lacking = dict.fromkeys(each.capability for each in missing(catalogue, variant, consumer, arch, version))
    return f"lacks {' '.join(lacking)}" if lacking else "ok"


def _excluded(catalogue: Catalogue, variant: str, kernels: Iterable[tuple[Arch, KernelVersion]]) -> list[str]:
    found = [(arch, catalogue.variants[variant].why_not(arch, version)) for arch, version in kernels]
    return [
        f"no {variant} for {arch.name} {excluded.kernel}: {excluded.reason}" for arch, excluded in found if excluded
    ]
