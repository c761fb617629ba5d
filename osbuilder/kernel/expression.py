"""Kconfig's expressions: what `depends on`, `if` and `default` say, as values that can be evaluated and shown again.

Nothing is executed: a macro such as `$(cc-option,-mharden-sls=all)` stays text, because only the builder's toolchain
can answer it.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from osbuilder.errors import SourceError

# --- values --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Sym:
    """A symbol, by its name without CONFIG_."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Const:
    """A quoted string, a number, or one of the words y, m, n."""

    text: str

    def __str__(self) -> str:
        return self.text if re.fullmatch(r"[\w.-]+", self.text) else f'"{self.text}"'


@dataclasses.dataclass(frozen=True, slots=True)
class Macro:
    """A question to the toolchain (or the shell) that only the builder could answer."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, slots=True)
class Not:
    """`!expr`."""

    expr: Expr

    def __str__(self) -> str:
        return f"!{self.expr}" if isinstance(self.expr, Sym | Const | Macro) else f"!({self.expr})"


@dataclasses.dataclass(frozen=True, slots=True)
class And:
    """`left && right`."""

    left: Expr
    right: Expr

    def __str__(self) -> str:
        sides = (f"({side})" if isinstance(side, Or) else str(side) for side in (self.left, self.right))
        return " && ".join(sides)


@dataclasses.dataclass(frozen=True, slots=True)
class Or:
    """`left || right`."""

    left: Expr
    right: Expr

    def __str__(self) -> str:
        return f"{self.left} || {self.right}"


@dataclasses.dataclass(frozen=True, slots=True)
class Compare:
    """`left = right`, and !=, <, <=, >, >=."""

    operator: str
    left: Operand
    right: Operand

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right}"


Operand: TypeAlias = Sym | Const | Macro
Expr: TypeAlias = Operand | Not | And | Or | Compare

YES: Final[Expr] = Const("y")

_LEVELS: Final[Mapping[str, int]] = {"n": 0, "m": 1, "y": 2}
_ORDERS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def both(left: Expr, right: Expr) -> Expr:
    """`left && right`, without the trivial sides."""
    if left == YES:
        return right
    return left if right == YES else And(left, right)


def either(left: Expr, right: Expr) -> Expr:
    """`left || right`, without the trivial sides."""
    return YES if YES in (left, right) else Or(left, right)


def is_n(expr: Expr) -> Expr:
    """Return `expr = n`, which is y or n and never m (expr_trans_compare of scripts/kconfig/expr.c)."""
    match expr:
        case Sym():
            return Compare("=", expr, Const("n"))
        case And(left, right):
            return Or(is_n(left), is_n(right))
        case Or(left, right):
            return And(is_n(left), is_n(right))
    return Not(expr)


def evaluate(expr: Expr, values: Mapping[str, str]) -> int:
    """Return 0, 1 or 2 (n, m, y). `values` are the resolved ones by name; a symbol that is not there is n.

    A macro counts as y: what the toolchain lacks shows in the symbols that ask for it.
    """
    match expr:
        case Macro():
            return 2
        case Sym(name) | Const(name):
            return _LEVELS.get(values.get(name, "n") if isinstance(expr, Sym) else name, 0)
        case Not(inner):
            return 2 - evaluate(inner, values)
        case And(left, right):
            return min(evaluate(left, values), evaluate(right, values))
        case Or(left, right):
            return max(evaluate(left, values), evaluate(right, values))
        case Compare(sign, left, right):
            return 2 if _compare(sign, text_of(left, values), text_of(right, values)) else 0


def text_of(operand: Operand, values: Mapping[str, str]) -> str:
    """Return the value of an operand as text; a symbol without a value is the empty text, as in Kconfig."""
    return values.get(operand.name, "") if isinstance(operand, Sym) else operand.text


def _compare(sign: str, left: str, right: str) -> bool:
    order = _ORDERS[sign]
    a, b = _number(left), _number(right)
    if a is not None and b is not None:
        return order(a, b)
    # A bool that has no value is n; as texts "" and "n" would differ.
    if {left, right} <= {"", "n", "m", "y"}:
        left, right = left or "n", right or "n"
    return order((left > right) - (left < right), 0)


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def symbols_of(expr: Expr) -> Iterator[str]:
    """Yield the names of the symbols in an expression, in the order that it names them."""
    match expr:
        case Sym(name):
            yield name
        case Not(inner):
            yield from symbols_of(inner)
        case And(left, right) | Or(left, right) | Compare(_, left, right):
            yield from symbols_of(left)
            yield from symbols_of(right)


def enabling(expr: Expr) -> Iterator[str]:
    """Yield the names of the symbols that an expression may hold because of: not those that it wants to be n."""
    match expr:
        case Not(Not(inner)):
            yield from enabling(inner)
        case Not(And(left, right) | Or(left, right)):
            yield from enabling(Not(left))
            yield from enabling(Not(right))
        case Not(Compare("=", left, right)):
            yield from enabling(Compare("!=", left, right))
        case Not(Compare("!=", left, right)):
            yield from enabling(Compare("=", left, right))
        case Not() | Compare("=", _, Const("n")) | Compare("!=", _, Const("y" | "m")):
            return
        case And(left, right) | Or(left, right):
            yield from enabling(left)
            yield from enabling(right)
        case _:
            yield from symbols_of(expr)


# --- reading -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Where:
    """A place in a Kconfig file, relative to the root of the source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Token: TypeAlias = tuple[str, str]
"""(kind, text), where kind is word, text, macro or sign. A text has lost its quotes."""

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<word>[A-Za-z0-9_./-]+)|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<sign>&&|\|\||!=|<=|>=|[=<>!()])|(?P<macro>\$\()|(?P<comment>\#.*)|(?P<end>$))""",
    re.VERBOSE,
)


def tokenize(text: str, where: Where) -> list[Token]:
    """Split a line's tail into tokens, up to a comment. Raises SourceError naming `where`."""
    tokens: list[Token] = []
    at = 0
    while found := _TOKEN.match(text, at):
        kind, at = str(found.lastgroup), found.end()
        if kind in ("comment", "end"):
            return tokens
        if kind == "macro":
            at = _macro_end(text, at, where)
            tokens.append((kind, text[found.start(kind) : at]))
        else:
            word = found[kind]
            tokens.append((kind, word[1:-1] if kind == "text" else word))
    raise SourceError(f"{where}: cannot read {text[at:]!r} as Kconfig")


def _macro_end(text: str, at: int, where: Where) -> int:
    """Return the index behind the bracket that closes the macro whose `$(` ends at `at`."""
    depth = 1
    for found in re.compile(r"[()]").finditer(text, at):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    raise SourceError(f"{where}: macro without its closing bracket: {text}")


def atom(token: Token) -> Operand:
    """Make the operand that a word, a text or a macro stands for."""
    kind, text = token
    if kind == "macro":
        return Macro(text)
    if kind == "text":
        # The kernel knows one kind of value: "y" in quotes is y. A macro inside a text stays a question.
        return Macro(text) if "$(" in text else Const(text)
    return Const(text) if text in _LEVELS or not re.search(r"[A-Za-z_]", text) or text[:2] == "0x" else Sym(text)


def parse(tokens: list[Token], where: Where) -> Expr:
    """Parse a whole expression; || binds weakest, then &&, then ! and comparisons."""
    rest = list(reversed(tokens))
    expr = _parse_or(rest, where)
    if rest:
        raise SourceError(f"{where}: expected the end of the expression, got {rest[-1][1]!r}")
    return expr


def _parse_or(rest: list[Token], where: Where) -> Expr:
    expr = _parse_and(rest, where)
    while rest and rest[-1] == ("sign", "||"):
        rest.pop()
        expr = Or(expr, _parse_and(rest, where))
    return expr


def _parse_and(rest: list[Token], where: Where) -> Expr:
    expr = _parse_factor(rest, where)
    while rest and rest[-1] == ("sign", "&&"):
        rest.pop()
        expr = And(expr, _parse_factor(rest, where))
    return expr


def _parse_factor(rest: list[Token], where: Where) -> Expr:
    if not rest:
        raise SourceError(f"{where}: expected a symbol, got the end of the line")
    token = rest.pop()
    if token == ("sign", "!"):
        return Not(_parse_factor(rest, where))
    if token == ("sign", "("):
        expr = _parse_or(rest, where)
        if not rest or rest.pop() != ("sign", ")"):
            raise SourceError(f"{where}: expected a closing bracket")
        return expr
    if token[0] == "sign":
        raise SourceError(f"{where}: expected a symbol, got {token[1]!r}")
    left = atom(token)
    if rest and rest[-1][0] == "sign" and rest[-1][1] in _ORDERS:
        sign = rest.pop()[1]
        if not rest or rest[-1][0] == "sign":
            raise SourceError(f"{where}: expected a value after {sign!r}")
        return Compare(sign, left, atom(rest.pop()))
    return left
