"""Kernel ranges that some kernel is in, and what is limited to one: an empty range would make its entry a dead line."""

from __future__ import annotations

import dataclasses
from typing import Final

from osbuilder.errors import FragmentError
from osbuilder.kernel.conditions import Condition, KernelRange


class SomeRange(KernelRange):
    """A kernel range that is not empty."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> SomeRange:
        """Parse `>=6.12,<6.18`. Raises FragmentError for what is no range, and for one that no version is in."""
        found = cls(super().parse(text).bounds)
        if not overlap(found, KernelRange()):
            raise FragmentError(
                f"expected a range that some kernel is in, got {text!r}", hint="Is it the wrong way round?"
            )
        return found


_EVERY: Final = SomeRange()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limited(Condition):
    """A condition of a data file: its range is not empty."""

    kernel: SomeRange = _EVERY


def overlap(one: KernelRange, other: KernelRange) -> bool:
    """Say whether a version can be in both ranges."""
    bounds = (*one.bounds, *other.bounds)
    lowest = [bound for sign, bound in bounds if sign == ">="]
    limits = [bound for sign, bound in bounds if sign == "<"]
    return not lowest or not limits or max(lowest) < min(limits)
