"""The contract: every request of the fragments is held by the resolved .config, or it is a loss with its reason.

Pure functions over text and the source's Kconfig files. The kernel's own `conf` resolved the configuration in the
builder and drops what it cannot give without a word; this module finds each of those and says why.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from osbuilder.arch import Arch
from osbuilder.errors import ContractError
from osbuilder.kernel import kconfig
from osbuilder.kernel.expression import And, Compare, Expr, Macro, Not, Or, Sym, evaluate, symbols_of, text_of
from osbuilder.kernel.fragments import KernelVersion, Request, Waiver
from osbuilder.kernel.kconfig import Tree

_SET: Final = re.compile(r"CONFIG_(\w+)=(.*)", re.ASCII)
_CANDIDATES_MAX: Final = 3
_ALIKE: Final = 0.4  # the share of common words, weighted by rarity, from which a name may be the new one
_SETTERS_MAX: Final = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A request that the resolved configuration does not hold. `got` is its value there (n when it is absent)."""

    request: Request
    got: str
    reason: str

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
    kconfig_root: Path,
    arch: Arch,
    version: KernelVersion,
    waivers: tuple[Waiver, ...] = (),
) -> ContractReport:
    """Compare each request with `resolved`, the text of the .config that the kernel's conf made of them.

    `kconfig_root` is the (patched) source, or a folder with all its Kconfig* files at their places. `waivers` are those
    meant for this kernel. Raises ContractError listing every loss with its reason and every waiver without a loss, and
    SourceError for Kconfig files that cannot be read.
    """
    values = parse_config(resolved)
    tree = kconfig.load(kconfig_root, _variables(arch))
    explain = _Explainer(tree=tree, values=values, requests={r.symbol: r for r in requests}, kernel=f"{version}")
    losses = tuple(
        Loss(request=request, got=values.get(request.symbol, "n"), reason=explain.loss(request))
        for request in requests
        if request.symbol not in tree.symbols or not _holds(request, values)
    )
    excuses = {waiver.symbol: waiver for waiver in waivers}
    problems = [str(loss) for loss in losses if loss.request.symbol not in excuses]
    lost = {loss.request.symbol for loss in losses}
    problems += [
        f"waivers.yaml: {waiver.symbol} is not lost in {version} on {arch.name}: remove or narrow its waiver"
        for waiver in waivers
        if waiver.symbol not in lost
    ]
    if problems:
        raise ContractError(
            f"the configuration of {version} for {arch.name} does not hold what was requested:\n" + "\n".join(problems),
            hint="Request what is missing, correct the line, or excuse it in kernel/configs/waivers.yaml.",
        )
    return ContractReport(
        held=tuple(request for request in requests if request.symbol not in lost),
        waived=tuple((loss, excuses[loss.request.symbol]) for loss in losses),
        builtin_count=sum(value == "y" for value in values.values()),
        module_count=sum(value == "m" for value in values.values()),
    )


def _variables(arch: Arch) -> Mapping[str, str]:
    """What Kconfig files name in `source` lines and comparisons. On x86, ARCH=x86_64 is what forces 64BIT."""
    return {"SRCARCH": arch.kernel, "ARCH": arch.kernel, "HEADER_ARCH": arch.kernel}


def _holds(request: Request, values: Mapping[str, str]) -> bool:
    got = values.get(request.symbol, "n")
    return got == request.value or _as_number(got) == _as_number(request.value) is not None


def _as_number(value: str) -> int | None:
    """64 and 0x40 are the same int or hex value; texts and y, m, n are none."""
    try:
        return int(value, 0)
    except ValueError:
        return None


# --- reasons -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Explainer:
    """Finds the reason of a loss in the Kconfig tree, down to the symbol at fault."""

    tree: Tree
    values: Mapping[str, str]
    requests: Mapping[str, Request]
    kernel: str

    def loss(self, request: Request) -> str:
        """Say in one line why the request did not survive."""
        if request.symbol not in self.tree.symbols:
            return f"{request}: no such symbol in {self.kernel}{self._candidates(request.symbol)}"
        if request.value == "n":
            return f"{request} overridden: {self._forced(request.symbol)}"
        if request.value in ("y", "m"):
            return f"{request} dropped: {self._unset(request)}"
        return f"{request} became {self.values.get(request.symbol, 'unset')}: {self._valued(request)}"

    def _candidates(self, symbol: str) -> str:
        """Renames keep their telling words (RETPOLINE is MITIGATION_RETPOLINE now), typing errors most letters."""
        known = sorted(self.tree.symbols)
        counts = collections.Counter(word for name in known for word in set(name.split("_")))

        def weight(words: set[str]) -> float:
            return math.fsum(1 / math.log2(2 + counts[word]) for word in words)

        asked = set(symbol.split("_"))
        words = {name: set(name.split("_")) for name in known}
        scores = {name: weight(asked & words[name]) / weight(asked | words[name]) for name in known}
        least = max(_ALIKE, 0.75 * max(scores.values(), default=0.0))
        renamed = sorted((name for name in known if scores[name] >= least), key=lambda name: -scores[name])
        misspelt = difflib.get_close_matches(symbol, known, n=_CANDIDATES_MAX, cutoff=0.85)
        names = list(dict.fromkeys(misspelt + renamed))[:_CANDIDATES_MAX]
        return f"; renamed? candidates: {', '.join(names)}" if names else ", nor one with a similar name"

    # A request for y or m that is n (or m) now.

    def _unset(self, request: Request) -> str:
        definitions = self.tree.symbols[request.symbol]
        visible = [each.visible for each in definitions if each.visible is not None]
        if not visible:
            return self._promptless(request.symbol)
        wanted = 2 if request.value == "y" else 1
        if all(evaluate(each, self.values) < wanted for each in visible):
            return "; or ".join(self._unmet(each, frozenset({request.symbol}), wanted) for each in visible)
        for choice in (each.choice for each in definitions if each.choice):
            for member in choice.members:
                if member != request.symbol and self.values.get(member) == "y":
                    return f'the choice "{choice.title}" ({choice.where}) fell on {member}{self._requested(member)}'
        if request.value == "m":
            kinds = {each.kind for each in definitions}
            return "it is a bool, never a module" if kinds == {"bool"} else "MODULES is n: what is built in is =y"
        macros = [str(macro) for each in visible for macro in _macros(each)]
        if macros:
            return f"the builder's toolchain says no to {' and '.join(macros)}"
        return "no condition in its Kconfig forbids it: was this .config resolved from these fragments?"

    def _promptless(self, symbol: str) -> str:
        return f"it has no prompt, so that no request reaches it: {self._setters(symbol)}"

    def _setters(self, symbol: str) -> str:
        """Say what sets a symbol that has no prompt."""
        names = list(dict.fromkeys(name for name, _ in self.tree.selectors.get(symbol, ())))
        if not names:
            return "its default decides"
        more = ", ..." if len(names) > _SETTERS_MAX else ""
        return f"request what selects it: {', '.join(names[:_SETTERS_MAX])}{more}"

    def _unmet(self, expr: Expr, seen: frozenset[str], wanted: int = 2) -> str:
        """Say which parts of a condition fail: `depends on FS_DAX, which is n because ZONE_DEVICE is n`."""
        parts = [self._failed(part, seen) for part in _parts(expr) if evaluate(part, self.values) < wanted]
        return f"depends on {' and on '.join(dict.fromkeys(parts))}"

    def _failed(self, expr: Expr, seen: frozenset[str]) -> str:
        match expr:
            case Sym(name):
                return f"{name}, which is {self.values.get(name, 'n')}{self._because(name, seen)}"
            case Not(Sym(name)):
                return f"{expr}, but {name} is {self.values.get(name, 'n')}{self._requested(name)}"
            case Compare(_, left, _):
                return f"{expr}, but {left} is {text_of(left, self.values) or 'n'}"
            case Or():
                nearest = next(symbols_of(expr), "")
                return f"{expr}: none holds{self._because(nearest, seen)}" if nearest else f"{expr}"
        return f"{expr}, which does not hold"

    def _because(self, symbol: str, seen: frozenset[str]) -> str:
        """Follow a symbol that is n down to the one at fault: ` because B is n because C is n (not requested)`."""
        if symbol in seen or self.values.get(symbol) == "m":
            return ""
        definitions = self.tree.symbols.get(symbol)
        if not definitions:
            return f" because {self.kernel} has no {symbol}"
        for definition in definitions:
            condition = definition.depends if definition.visible is None else definition.visible
            for part in _parts(condition):
                if evaluate(part, self.values):
                    continue
                if isinstance(part, Sym):
                    deeper = self._because(part.name, seen | {symbol})
                    return f" because {part.name} is n{deeper}"
                return f" because it depends on {self._failed(part, seen | {symbol})}"
        if all(each.visible is None for each in definitions):
            return f" ({self._setters(symbol)})"
        return self._requested(symbol) or " (not requested)"

    def _requested(self, symbol: str) -> str:
        request = self.requests.get(symbol)
        return f" ({request} is requested in {request.where})" if request else ""

    # A request for n that is y or m now.

    def _forced(self, symbol: str) -> str:
        by = [
            f"{name}{self._requested(name)}"
            for name, condition in self.tree.selectors.get(symbol, ())
            if self.values.get(name, "n") != "n" and evaluate(condition, self.values)
        ]
        if by:
            return f"selected by {', '.join(dict.fromkeys(by))}"
        definitions = self.tree.symbols[symbol]
        for choice in (each.choice for each in definitions if each.choice):
            return f'it is what the choice "{choice.title}" ({choice.where}) falls on: request another of its members'
        return self._default_wins(symbol)

    # A number or a text that came out otherwise.

    def _valued(self, request: Request) -> str:
        definitions = self.tree.symbols[request.symbol]
        kinds = {each.kind for each in definitions if each.kind}
        spelt = "string" if request.value.startswith('"') else "int"
        if kinds and spelt not in {kind.replace("hex", "int") for kind in kinds}:
            return f"it is of type {' or '.join(sorted(kinds))}"
        visible = [each.visible for each in definitions if each.visible is not None]
        if visible and not any(evaluate(each, self.values) for each in visible):
            return "; or ".join(self._unmet(each, frozenset({request.symbol})) for each in visible)
        for definition in definitions:
            for low, high, condition in definition.ranges:
                if evaluate(condition, self.values):
                    ends = [text_of(end, self.values) for end in (low, high)]
                    return f"its range is {ends[0]} to {ends[1]} ({definition.where})"
        return self._default_wins(request.symbol)

    def _default_wins(self, symbol: str) -> str:
        definitions = self.tree.symbols[symbol]
        visible = [each.visible for each in definitions if each.visible is not None]
        if not visible:
            return f"it has no prompt, so that no request reaches it: its default decides ({definitions[0].where})"
        if not any(evaluate(each, self.values) for each in visible):
            needs = self._unmet(visible[0], frozenset({symbol}))
            return f"its default wins, because its prompt {needs}"
        return "no condition in its Kconfig demands it: was this .config resolved from these fragments?"


def _parts(expr: Expr) -> Iterable[Expr]:
    """Yield the sides of all the && at the top of a condition."""
    if isinstance(expr, And):
        yield from _parts(expr.left)
        yield from _parts(expr.right)
    else:
        yield expr


def _macros(expr: Expr) -> Iterable[Macro]:
    match expr:
        case Macro():
            yield expr
        case Not(inner):
            yield from _macros(inner)
        case And(left, right) | Or(left, right) | Compare(_, left, right):
            yield from _macros(left)
            yield from _macros(right)
