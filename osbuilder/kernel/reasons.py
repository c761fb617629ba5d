"""Why a symbol has the value that it has: the Kconfig tree, read against a resolved .config.

Owns the sentences; which requests are losses is osbuilder.kernel.contract's to say.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from osbuilder.kernel.expression import And, Compare, Expr, Macro, Not, Or, Sym, evaluate, symbols_of, text_of
from osbuilder.kernel.fragments import Request
from osbuilder.kernel.kconfig import Tree

_CANDIDATES_MAX: Final = 3
_ALIKE: Final = 0.4  # the share of common words, weighted by rarity, from which a name may be the new one
_SETTERS_MAX: Final = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reasons:
    """Finds the reason of a loss in the Kconfig tree, down to the symbol at fault.

    `values` are those of the resolved .config, `requests` what was asked for by symbol, `kernel` its version.
    """

    tree: Tree
    values: Mapping[str, str]
    requests: Mapping[str, Request]
    kernel: str

    def loss(self, request: Request) -> str:
        """Say in one line why the request did not survive."""
        if request.symbol not in self.tree.symbols:
            return f"{request}: no such symbol in {self.kernel}{self.candidates(request.symbol)}"
        if request.value == "n":
            return f"{request} overridden: {self._forced(request.symbol)}"
        if request.value in ("y", "m"):
            return f"{request} dropped: {self._unset(request)}"
        return f"{request} became {self.values.get(request.symbol, 'unset')}: {self._valued(request)}"

    def fault(self, request: Request) -> str:
        """Return the one symbol that is n, and that all go back to that a lost =y or =m lacks; "" if it is not that."""
        if request.value not in ("y", "m") or request.symbol not in self.tree.symbols:
            return ""
        visible = [each.visible for each in self.tree.symbols[request.symbol] if each.visible is not None]
        failed = [part for each in visible for part in _parts(each) if not evaluate(part, self.values)]
        ends = {end for part in failed for end in self._ends(part)}
        return ends.pop() if len(ends) == 1 else ""

    def at_fault(self, symbol: str) -> str:
        """Say of a symbol that others lack what it is, and who asks for it."""
        if symbol not in self.tree.symbols:
            return f"{self.kernel} has no {symbol}"
        return f"{symbol} is {self.values.get(symbol, 'n')}{self._requested(symbol) or ' (not requested)'}"

    def candidates(self, symbol: str) -> str:
        """Return `; renamed? candidates: ...` for a name that this kernel does not have.

        Renames keep their telling words (RETPOLINE is MITIGATION_RETPOLINE now), typing errors most letters; nobody
        means another symbol by writing small letters.
        """
        spelt: dict[str, list[str]] = {}
        for name in sorted(self.tree.symbols):
            spelt.setdefault(name.upper(), []).append(name)
        near = self._near(symbol.upper(), sorted(spelt))
        names = [name for each in near for name in spelt[each]][:_CANDIDATES_MAX]
        return f"; renamed? candidates: {', '.join(names)}" if names else ", nor one with a similar name"

    def _near(self, symbol: str, known: Sequence[str]) -> list[str]:
        """Return the names that are the symbol's, or are like it, the nearest first."""
        if symbol in known:
            return [symbol]
        counts = collections.Counter(word for name in known for word in set(name.split("_")))

        def weight(words: set[str]) -> float:
            return math.fsum(1 / math.log2(2 + counts[word]) for word in words)

        asked = set(symbol.split("_"))
        words = {name: set(name.split("_")) for name in known}
        scores = {name: weight(asked & words[name]) / weight(asked | words[name]) for name in known}
        least = max(_ALIKE, 0.75 * max(scores.values(), default=0.0))
        renamed = sorted((name for name in known if scores[name] >= least), key=lambda name: -scores[name])
        misspelt = difflib.get_close_matches(symbol, known, n=_CANDIDATES_MAX, cutoff=0.85)
        return list(dict.fromkeys(misspelt + renamed))

    def unmet(self, symbol: str) -> str:
        """Say why a request for y would not be heard; empty when nothing forbids it."""
        visible = [each.visible for each in self.tree.symbols[symbol] if each.visible is not None]
        if not visible:
            return self._promptless(symbol)
        if any(evaluate(each, self.values) for each in visible):
            return ""
        return "; or ".join(self._unmet(each, frozenset({symbol})) for each in visible)

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
        part = self._cause(symbol)
        if isinstance(part, Sym):
            return f" because {part.name} is n{self._because(part.name, seen | {symbol})}"
        if part is not None:
            return f" because it depends on {self._failed(part, seen | {symbol})}"
        if all(each.visible is None for each in definitions):
            return f" ({self._setters(symbol)})"
        return self._requested(symbol) or " (not requested)"

    def _cause(self, symbol: str) -> Expr | None:
        """Return the first part of a symbol's conditions that does not hold; None: all do."""
        for definition in self.tree.symbols.get(symbol, ()):
            condition = definition.depends if definition.visible is None else definition.visible
            for part in _parts(condition):
                if not evaluate(part, self.values):
                    return part
        return None

    def _ends(self, part: Expr, seen: frozenset[str] = frozenset()) -> set[str]:
        """Follow a condition that fails down to the symbols at fault, as `_because` does; "" for what is no symbol."""
        match part:
            case Sym(name):
                deeper = None if name in seen else self._cause(name)
                return {name} if deeper is None else self._ends(deeper, seen | {name})
            case Or(left, right):
                return self._ends(left, seen) | self._ends(right, seen)
        return {""}

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
