"""How large kernels may be: their sizes by subsystem, held against what was saved in kernel/budget.yaml.

Owns the file and the verdict. The sizes come from the compilation (compile.subsystem_sizes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from osbuilder import decode
from osbuilder.errors import BudgetError

# A compiler's patch release moves a few bytes: a subsystem may grow by so much before it is told.
_SLACK_BYTES: Final = 4096
_HEAD: Final = """\
# How large kernels may be, in bytes: the files, and each subsystem in memory. Saved by `inv kernel.size --save`, which
# also checks; a size may be exceeded by so many percent (a subsystem at least by 4 KiB) before that fails.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A kernel's sizes in bytes: its two files, and what each subsystem takes in memory."""

    vmlinux_bytes: int
    vmlinuz_bytes: int
    subsystems_bytes: Mapping[str, int]

    def rows(self) -> Iterator[tuple[str, int]]:
        """Yield each name with its size: the files, then the subsystems, the largest first."""
        yield "vmlinux", self.vmlinux_bytes
        yield "vmlinuz", self.vmlinuz_bytes
        yield from sorted(self.subsystems_bytes.items(), key=lambda item: (-item[1], item[0]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """All of kernel/budget.yaml; `kernels` are named like their build: <line>-<arch>[-<variant>]."""

    allowance_percent: int
    kernels: Mapping[str, Sizes]

    def check(self, name: str, sizes: Sizes) -> None:
        """Hold a kernel against its budget; one without any may be as large as it likes. Raises BudgetError."""
        budget = self.kernels.get(name)
        allowed = dict(budget.rows()) if budget else {}
        over = [
            f"{what}: {size} bytes, {size - allowed.get(what, 0)} more than its {allowed.get(what, 0)}"
            for what, size in sizes.rows()
            if budget and size > self._most(allowed.get(what, 0))
        ]
        if over:
            raise BudgetError(
                "\n".join([f"{name} is larger than its budget (kernel/budget.yaml):", *over]),
                hint="Find what it is with kernel.diff and kernel.explain, or accept it: inv kernel.size --save.",
            )

    def _most(self, size_bytes: int) -> int:
        return size_bytes + max(_SLACK_BYTES, size_bytes * self.allowance_percent // 100)


def load_budgets(path: Path) -> Budgets:
    """Read kernel/budget.yaml. Raises DecodeError."""
    return decode.load(path, Budgets)


def render_budgets(budgets: Budgets) -> str:
    """Return the text of the file: names sorted, so that a saved change is all that a diff shows."""
    lines = [f"allowance_percent: {budgets.allowance_percent}", "kernels:" if budgets.kernels else "kernels: {}"]
    for name, sizes in sorted(budgets.kernels.items()):
        lines += [
            f"  {name}:",
            f"    vmlinux_bytes: {sizes.vmlinux_bytes}",
            f"    vmlinuz_bytes: {sizes.vmlinuz_bytes}",
        ]
        lines += ["    subsystems_bytes:"]
        lines += [f'      "{what}": {size}' for what, size in sorted(sizes.subsystems_bytes.items())]
    return _HEAD + "\n".join(lines) + "\n"


def render_sizes(name: str, sizes: Sizes, budgets: Budgets) -> str:
    """Return a kernel's sizes beside its budget, the largest subsystem first."""
    budget = budgets.kernels.get(name)
    allowed = dict(budget.rows()) if budget else {}
    total = sum(sizes.subsystems_bytes.values())
    lines = [f"{name}, in bytes: the files, then what each subsystem takes in memory ({total} together)", ""]
    lines += [f"{'':<24}{'size':>10}{'budget':>10}"]
    lines += [f"{what:<24}{size:>10}{allowed.get(what, '-'):>10}" for what, size in sizes.rows()]
    return "\n".join(lines)
