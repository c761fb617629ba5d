"""One symbol of a kernel's configuration, for a person: who asked for it, what it is, and why it is so.

Pure: reads a Kconfig tree against a resolved .config. The reasons of what is missing are osbuilder.kernel.reasons's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from osbuilder.errors import UsageError
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.exemptions import Life
from osbuilder.kernel.expression import YES, Expr, enabling, evaluate, symbols_of
from osbuilder.kernel.fragments import Request
from osbuilder.kernel.kconfig import Definition, Tree
from osbuilder.kernel.placement import CONFIGS
from osbuilder.kernel.reasons import Reasons
from osbuilder.kernel.selection import Selection

_SHOWN_MAX: Final = 8
_INDENT: Final = "                "


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Explains symbols of one kernel. `kernel` names it in messages: version, architecture, variant.

    `history` is that of symbols (see exemptions.Life). `broken` are the problems of the kernel's contract, where that
    does not hold: then `values` are what came out nevertheless.
    """

    tree: Tree
    values: Mapping[str, str]
    selection: Selection
    kernel: str
    version: KernelVersion
    history: Mapping[str, Life] = dataclasses.field(default_factory=dict)
    broken: tuple[str, ...] = ()

    def of(self, symbol: str) -> str:
        """Return a paragraph about a symbol, under the name that this kernel has for it.

        Raises UsageError, with candidates, for one that neither the source nor history.yaml has, nor anybody asks for.
        """
        if symbol in self.tree.symbols or symbol in self._requests:
            return self._paragraph(symbol)
        life = self.history.get(symbol)
        if life is None or self.version in life.kernel:
            raise UsageError(f"no such symbol in {self.kernel}: {symbol}{self._reasons.candidates(symbol)}")
        told = f"kernels {life.kernel} have {symbol} ({CONFIGS}/history.yaml)"
        if life.otherwise in self.tree.symbols:
            return self._paragraph(str(life.otherwise), note=told)
        asking = [each for each in self.selection.absent if each.symbol == symbol]
        rows = [("", f"no {symbol} in {self.kernel}: {told}")]
        rows += [("asked for", f"not here; of those kernels in {each.where}{self._for(symbol)}") for each in asking]
        return _text([*rows, *self._contract()])

    def _paragraph(self, symbol: str, *, note: str = "") -> str:
        rows = [("", f"{symbol}={self.value(symbol)}   in {self.kernel}{note and f'; {note}'}")]
        rows += self._asked(symbol)
        for definition in self.tree.symbols.get(symbol, ()):
            rows += self._definition(definition)
        rows += [("because", self.cause(symbol))]
        rows += self._users(symbol)
        rows += self._contract()
        return _text(rows)

    def value(self, symbol: str) -> str:
        """Return a symbol's resolved value, as .config spells it; n where it is absent."""
        return self.values.get(symbol, "n")

    def cause(self, symbol: str, seen: frozenset[str] = frozenset()) -> str:
        """Say in one sentence why a symbol has its value, up to a line of a fragment or down to what is missing."""
        request = self._requests.get(symbol)
        value = self.value(symbol)
        if request is not None and request.value == value:
            return f"{request.where} asks for it{self._for(symbol)}"
        if request is not None:
            return self._reasons.loss(request)
        if value == "n":
            unmet = self._reasons.unmet(symbol)
            if unmet:
                return f"nobody asks for it; a request would be dropped: {unmet}"
            return f"nobody asks for it{self._chosen(symbol)}"
        selectors = [
            name
            for name, condition in self.tree.selectors.get(symbol, ())
            if self.value(name) != "n" and evaluate(condition, self.values) and name not in seen
        ]
        if selectors:
            asked = [name for name in selectors if name in self._requests]
            nearest = (asked or selectors)[0]
            others = f" (and {len(selectors) - 1} more)" if len(selectors) > 1 else ""
            return f"selected by {nearest}{others}: {self.cause(nearest, seen | {symbol})}"
        return self._default(symbol)

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def _requests(self) -> Mapping[str, Request]:
        return {request.symbol: request for request in self.selection.requests}

    @property
    def _reasons(self) -> Reasons:
        return Reasons(tree=self.tree, values=self.values, requests=self._requests, kernel=self.kernel)

    def _asked(self, symbol: str) -> Iterator[tuple[str, str]]:
        request = self._requests.get(symbol)
        if request is None:
            yield "asked for", "nowhere"
        else:
            yield "asked for", f"{request} in {request.where}{self._for(symbol)}"
        if symbol in self.selection.replaced:
            old, override = self.selection.replaced[symbol]
            yield "overrides", f"{old} in {old.where}: {override.reason}"

    def _for(self, symbol: str) -> str:
        """Say which capability a request is for; one of the user's own fragments is for none."""
        owner = self.selection.owners.get(symbol)
        return f" (capability {owner})" if owner else ""

    def _definition(self, definition: Definition) -> Iterator[tuple[str, str]]:
        prompt = f'"{definition.prompt}"' if definition.prompt else "no prompt: selected, or by default"
        yield "defined", f"{definition.where}: {definition.kind or 'as above'}, {prompt}"
        if definition.choice:
            members = ", ".join(definition.choice.members)
            yield "one of", f'"{definition.choice.title}" ({definition.choice.where}): {members}'
        if definition.depends != YES:
            yield "depends on", f"{definition.depends} ({self._verdict(definition.depends)})"
            for name in dict.fromkeys(symbols_of(definition.depends)):
                yield " ", f"  {name}={self.value(name)}{self._where(name)}"
        for target, condition in definition.selects:
            yield "selects", f"{target}{self._if(condition)}"
        for value, condition in definition.defaults:
            yield "default", f"{value}{self._if(condition)}"
        for low, high, condition in definition.ranges:
            yield "range", f"{low} to {high}{self._if(condition)}"

    def _users(self, symbol: str) -> Iterator[tuple[str, str]]:
        """Yield who selects it, and which requests could not be held without it."""
        selectors = self.tree.selectors.get(symbol, ())
        active = [name for name, condition in selectors if self.value(name) != "n" and evaluate(condition, self.values)]
        if active:
            yield "selected by", _listed(list(dict.fromkeys(active)))
        dependents = [
            f"{name} ({request.where})"
            for name, request in self._requests.items()
            if any(self._needs(definition.depends, symbol) for definition in self.tree.symbols.get(name, ()))
        ]
        if dependents:
            yield "needed by", _listed(dependents)

    def _chosen(self, symbol: str) -> str:
        """Say which other member a symbol's choice fell on, and why; empty for a symbol that is in none."""
        for choice in (each.choice for each in self.tree.symbols[symbol] if each.choice):
            for member in choice.members:
                if self.value(member) == "y":
                    return f'; the choice "{choice.title}" ({choice.where}) fell on {member}: {self.cause(member)}'
        return ""

    def _contract(self) -> Iterator[tuple[str, str]]:
        """Yield what is lost where the contract does not hold: this kernel would not be built."""
        for number, problem in enumerate(self.broken[:_SHOWN_MAX]):
            yield " " if number else "contract", problem if number else f"does not hold: {problem}"
        if len(self.broken) > _SHOWN_MAX:
            yield " ", f"and {len(self.broken) - _SHOWN_MAX} more: inv kernel.config lists them"

    def _needs(self, condition: Expr, symbol: str) -> bool:
        """Say whether a condition cannot hold, as everything else is, without a symbol."""
        if symbol not in enabling(condition):
            return False
        return not evaluate(condition, {name: value for name, value in self.values.items() if name != symbol})

    def _default(self, symbol: str) -> str:
        for definition in self.tree.symbols[symbol]:
            if definition.choice and not any(member in self._requests for member in definition.choice.members):
                return f'it is what the choice "{definition.choice.title}" falls on when nobody asks'
            for value, condition in definition.defaults:
                if evaluate(condition, self.values) and evaluate(definition.depends, self.values):
                    return f"its default: {value}{self._if(condition)} ({definition.where})"
        implied = [name for name, condition in self._implying(symbol) if evaluate(condition, self.values)]
        return f"implied by {_listed(implied)}" if implied else "its default decides"

    def _implying(self, symbol: str) -> Iterator[tuple[str, Expr]]:
        for name, definitions in self.tree.symbols.items():
            for definition in definitions:
                if self.value(name) != "n":
                    yield from ((name, condition) for target, condition in definition.implies if target == symbol)

    def _where(self, symbol: str) -> str:
        request = self._requests.get(symbol)
        return f" ({request.where})" if request else ""

    def _if(self, condition: Expr) -> str:
        return "" if condition == YES else f" if {condition} ({self._verdict(condition)})"

    def _verdict(self, condition: Expr) -> str:
        return "holds" if evaluate(condition, self.values) else "does not hold"


def _text(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<{len(_INDENT)}}{text}" if name else text for name, text in rows)


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return ", ".join(names[:_SHOWN_MAX]) + more
