"""The contract: every request of the fragments is held by the resolved .config, or it is a loss with its reason.

Pure functions over text and the source's Kconfig files. The kernel's own `conf` resolved the configuration in the
builder and drops what it cannot give without a word; this module finds each of those and says why.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from osbuilder.arch import Arch
from osbuilder.errors import ContractError
from osbuilder.kernel import kconfig
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.exemptions import Waiver
from osbuilder.kernel.fragments import Request
from osbuilder.kernel.placement import CONFIGS
from osbuilder.kernel.reasons import Reasons

_MANY: Final = 4  # losses with one cause, from which it is told once

_SET: Final = re.compile(r"CONFIG_(\w+)=(.*)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A request that the resolved configuration does not hold. `got` is its value there (n when it is absent).

    `fault` is the symbol that is n and that it lacks in the end; "" where it is not one alone.
    """

    request: Request
    got: str
    reason: str
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.request.where}: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContractReport:
    """A contract that holds: what was asked for and is there, what was excused, and the number of options =y and =m."""

    held: tuple[Request, ...]
    waived: tuple[tuple[Loss, Waiver], ...]
    builtin_count: int
    module_count: int


def parse_config(text: str) -> Mapping[str, str]:
    """Return the values of a .config by symbol (without CONFIG_), as spelt there. What is not set is absent."""
    found = (_SET.fullmatch(line) for line in text.splitlines())
    return {each[1]: each[2] for each in found if each}


def check(
    *,
    requests: tuple[Request, ...],
    resolved: str,
    texts: Mapping[str, str],
    arch: Arch,
    version: KernelVersion,
    waivers: tuple[Waiver, ...] = (),
    absent: tuple[Request, ...] = (),
) -> ContractReport:
    """Compare each request with `resolved`, the text of the .config that the kernel's conf made of them.

    `texts` are the Kconfig files of the (patched) source, by their paths in it. `waivers` are those meant for this
    kernel, `absent` the requests whose symbols it does not have as history.yaml says. Raises ContractError listing
    every loss with its reason, every waiver without a loss and every symbol that is there nevertheless, and
    SourceError for Kconfig files that cannot be read.
    """
    values = parse_config(resolved)
    tree = load_tree(texts, arch)
    explain = Reasons(tree=tree, values=values, requests={r.symbol: r for r in requests}, kernel=f"{version}")
    losses = tuple(
        Loss(
            request=request,
            got=values.get(request.symbol, "n"),
            reason=explain.loss(request),
            fault=explain.fault(request),
        )
        for request in requests
        if request.symbol not in tree.symbols or not _holds(request, values)
    )
    excuses = {waiver.symbol: waiver for waiver in waivers}
    problems = _told([loss for loss in losses if loss.request.symbol not in excuses], explain)
    lost = {loss.request.symbol for loss in losses}
    asked = {request.symbol for request in requests}
    problems += [
        f"{CONFIGS}/waivers.yaml: {_idle(waiver.symbol, asked)} in {version} on {arch.name}: "
        "remove or narrow its waiver"
        for waiver in waivers
        if waiver.symbol not in lost
    ]
    problems += [
        f"{CONFIGS}/history.yaml: {request.symbol} exists in {version} (asked for in {request.where}): widen its range"
        for request in absent
        if request.symbol in tree.symbols
    ]
    if problems:
        raise ContractError(
            f"the configuration of {version} for {arch.name} does not hold what was requested:\n" + "\n".join(problems),
            problems=tuple(problems),
            hint="Request what is missing or correct the line. In kernel/configs, history.yaml knows a symbol's other "
            "names and when it came; waivers.yaml excuses what a kernel cannot hold.",
        )
    return ContractReport(
        held=tuple(request for request in requests if request.symbol not in lost),
        waived=tuple((loss, excuses[loss.request.symbol]) for loss in losses),
        builtin_count=sum(value == "y" for value in values.values()),
        module_count=sum(value == "m" for value in values.values()),
    )


def _told(losses: Sequence[Loss], explain: Reasons) -> list[str]:
    """Return what is lost: together, below what they lack, where that is one symbol for many; else a line each."""
    by_fault: dict[str, list[Loss]] = {}
    for loss in losses:
        by_fault.setdefault(loss.fault, []).append(loss)
    many = {fault: each for fault, each in by_fault.items() if fault and len(each) >= _MANY}
    told = []
    for fault, each in many.items():
        told.append(f"{explain.at_fault(fault)}, and {len(each)} requests depend on it:")
        told += [f"  {loss.request.where}: {loss.request}" for loss in each]
    return told + [str(loss) for loss in losses if loss.fault not in many]


def load_tree(texts: Mapping[str, str], arch: Arch) -> kconfig.Tree:
    """Read Kconfig files, by their paths in the source, as an architecture sees them. Raises SourceError."""
    # What Kconfig files name in `source` lines and comparisons. On x86, ARCH=x86_64 is what forces 64BIT.
    return kconfig.load(texts, {"SRCARCH": arch.kernel, "ARCH": arch.kernel, "HEADER_ARCH": arch.kernel})


def _idle(symbol: str, asked: Collection[str]) -> str:
    """Say why a waiver excuses nothing."""
    return f"{symbol} is not lost" if symbol in asked else f"nobody asks for {symbol}"


def _holds(request: Request, values: Mapping[str, str]) -> bool:
    got = values.get(request.symbol, "n")
    return got == request.value or _as_number(got) == _as_number(request.value) is not None


def _as_number(value: str) -> int | None:
    """64 and 0x40 are the same int or hex value; texts and y, m, n are none."""
    try:
        return int(value, 0)
    except ValueError:
        return None
