"""Two kernels beside each other: the symbols that differ, and the sizes of what is built of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two kernels: its resolved values by symbol, and the sizes of its files where it is built.

    `broken` are the losses of a contract that does not hold.
    """

    name: str
    values: Mapping[str, str]
    sizes_bytes: Mapping[str, int]
    broken: tuple[str, ...] = ()


def render_difference(one: Side, other: Side) -> str:
    """Return the symbols that only one side has (-, +) or that differ, and the sizes, as text."""
    symbols = sorted(one.values.keys() | other.values.keys())
    differing = [name for name in symbols if one.values.get(name) != other.values.get(name)]
    lines = [f"--- {one.name}", f"+++ {other.name}"]
    for name in differing:
        lines += [
            f"{sign}{name}={side.values[name]}" for sign, side in (("-", one), ("+", other)) if name in side.values
        ]
    lines += ["", *_summary(one, other, len(differing))]
    return "\n".join(lines)


def _summary(one: Side, other: Side, count: int) -> Iterator[str]:
    options = [sum(value == "y" for value in side.values.values()) for side in (one, other)]
    yield f"{count} symbols differ; options =y: {options[0]} and {options[1]}"
    for file in sorted(one.sizes_bytes.keys() | other.sizes_bytes.keys()):
        sizes = [side.sizes_bytes.get(file) for side in (one, other)]
        if sizes[0] and sizes[1]:
            yield f"{file}: {sizes[0]} and {sizes[1]} bytes, {sizes[1] / sizes[0]:.2f} of it"
    for side in (one, other):
        if side.broken:
            yield f"the contract of {side.name} does not hold; this is the configuration that came out:"
            yield from (f"  {problem}" for problem in side.broken)
        elif not side.sizes_bytes:
            yield f"{side.name} is not built: no sizes of it"
