"""Reads a kernel's Kconfig files into symbols with their conditions.

Owns the language (Documentation/kbuild/kconfig-language.rst of the kernel), except for expressions, which are
osbuilder.kernel.expression's. It resolves nothing: the kernel's own `conf` does that in the builder.

kconfiglib 14.1 was not taken: it stops at the `modules` keyword of 6.12, answers macros by running a shell, reads
os.environ, and forgets which condition came from which macro.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Final

from osbuilder.errors import SourceError
from osbuilder.kernel.expression import YES, Expr, Operand, Token, Where, atom, both, either, is_n, parse, tokenize

# --- symbols -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True, kw_only=True)
class Choice:
    """A `choice`: exactly one of its members is y while `visible` holds. Filled while its block is read."""

    where: Where
    title: str = ""
    depends: Expr = YES
    visible: Expr = YES
    members: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, kw_only=True)
class Definition:
    """One `config NAME` block. Filled while the block is read; read only afterwards.

    `depends` holds its own dependencies and those of the menus, ifs and the choice around it. `defaults`, `selects`
    and `implies` are (value or target, condition).
    """

    where: Where
    choice: Choice | None
    kind: str = ""
    depends: Expr = YES
    prompt: str | None = None
    prompt_if: Expr = YES
    defaults: list[tuple[Expr, Expr]] = dataclasses.field(default_factory=list)
    selects: list[tuple[str, Expr]] = dataclasses.field(default_factory=list)
    implies: list[tuple[str, Expr]] = dataclasses.field(default_factory=list)
    ranges: list[tuple[Operand, Operand, Expr]] = dataclasses.field(default_factory=list)

    @property
    def visible(self) -> Expr | None:
        """When a request for the symbol is heard: its prompt's condition and its dependencies. None: never."""
        if self.prompt is None:
            return None
        around = self.choice.visible if self.choice else YES
        return both(both(self.depends, around), self.prompt_if)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """All symbols of a kernel source for one architecture, and who selects them.

    `selectors` maps a symbol to (the selecting symbol, the condition under which it selects).
    """

    symbols: Mapping[str, tuple[Definition, ...]]
    selectors: Mapping[str, tuple[tuple[str, Expr], ...]]


def load(texts: Mapping[str, str], variables: Mapping[str, str], top: str = "Kconfig") -> Tree:
    """Read `top` and what it sources, all of them in `texts` by their paths in the source.

    `variables` are SRCARCH, ARCH and the like (`source` paths use them).

    Raises SourceError naming file:line for a missing file or a line that the language does not have.
    """
    reader = _Reader(texts=texts, variables=variables)
    reader.read(top, _Scope())
    selectors: dict[str, list[tuple[str, Expr]]] = {}
    for name, definitions in reader.symbols.items():
        for definition in definitions:
            for target, condition in definition.selects:
                selectors.setdefault(target, []).append((name, both(condition, definition.depends)))
    return Tree(
        symbols={name: tuple(definitions) for name, definitions in reader.symbols.items()},
        selectors={name: tuple(sources) for name, sources in selectors.items()},
    )


# --- reading -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True, kw_only=True)
class _Scope:
    """What a menu, an `if`, a choice or a file adds to the symbols in it."""

    end: str | None = None
    depends: Expr = YES
    prompts_if: Expr = YES
    choice: Choice | None = None


_ASSIGNMENT: Final = re.compile(r"[A-Za-z0-9_-]+\s*(?::=|\+=|=)")
_WITHOUT_EFFECT: Final = frozenset({"mainmenu", "modules", "optional", "option", "transitional"})


@dataclasses.dataclass(slots=True, kw_only=True)
class _Reader:
    texts: Mapping[str, str]
    variables: Mapping[str, str]
    symbols: dict[str, list[Definition]] = dataclasses.field(default_factory=dict)
    # Most lines of a kernel's Kconfig files are the same as others.
    valued: dict[str, tuple[Expr, Expr]] = dataclasses.field(default_factory=dict)

    def read(self, name: str, scope: _Scope, sourced: Where | None = None) -> None:
        """Read one file into `symbols`, and what it sources."""
        text = self.texts.get(name)
        if text is None:
            place = f"{sourced}: " if sourced else ""
            raise SourceError(
                f"{place}cannot read {name}: there is no such file",
                hint="Is this a kernel source, with all its Kconfig files?",
            )
        lines = _Lines(name, text)
        self._block(lines, scope)

    def _block(self, lines: _Lines, scope: _Scope) -> None:
        """Read entries until the scope's end keyword (or the end of the file)."""
        for keyword, rest, where in lines:
            if keyword == scope.end:
                return
            match keyword:
                case "config" | "menuconfig":
                    self._config(lines, rest.strip(), where, scope)
                case "source":
                    self.read(self._path(rest, where), dataclasses.replace(scope, end=None), where)
                case "if":
                    condition = both(scope.depends, self._expr(rest, where))
                    self._block(lines, dataclasses.replace(scope, end="endif", depends=condition))
                case "menu":
                    self._menu(lines, scope)
                case "choice":
                    self._choice(lines, where, scope)
                case "comment" | "depends":
                    continue  # `depends on` below a comment hides the comment, no symbol
                case _:
                    raise SourceError(
                        f"{where}: unknown Kconfig keyword {keyword!r}",
                        hint="A newer language than osbuilder.kernel.kconfig knows? It has to learn this word.",
                    )
        if scope.end:
            raise SourceError(f"{lines.name}: expected {scope.end!r} before the end of the file")

    def _path(self, rest: str, where: Where) -> str:
        path = self._expand(rest.split("#")[0].strip().strip("\"'"))
        if "$(" in path:
            raise SourceError(f"{where}: cannot source {path}: unknown variable")
        return path

    def _menu(self, lines: _Lines, scope: _Scope) -> None:
        depends, visible = scope.depends, scope.prompts_if
        for keyword, rest, where in lines:
            if keyword == "depends":
                depends = both(depends, self._depends(rest, where))
            elif keyword == "visible":
                visible = both(visible, self._expr(rest.strip().removeprefix("if"), where))
            else:
                lines.push_back()
                break
        self._block(lines, dataclasses.replace(scope, end="endmenu", depends=depends, prompts_if=visible))

    def _choice(self, lines: _Lines, where: Where, scope: _Scope) -> None:
        choice = Choice(where=where, depends=scope.depends)
        holder = Definition(where=where, choice=None, depends=scope.depends)
        self._properties(lines, holder)
        choice.title = holder.prompt or ""
        choice.depends = holder.depends
        choice.visible = both(holder.depends, both(holder.prompt_if, scope.prompts_if))
        self._block(lines, dataclasses.replace(scope, end="endchoice", depends=holder.depends, choice=choice))

    def _config(self, lines: _Lines, name: str, where: Where, scope: _Scope) -> None:
        definition = Definition(where=where, choice=scope.choice, depends=scope.depends)
        self._properties(lines, definition)
        definition.prompt_if = both(definition.prompt_if, scope.prompts_if)
        self.symbols.setdefault(name, []).append(definition)
        if scope.choice:
            scope.choice.members.append(name)

    def _properties(self, lines: _Lines, to: Definition) -> None:
        """Read the lines below `config` or `choice` until one that is not a property."""
        for keyword, rest, where in lines:
            match keyword:
                case "bool" | "tristate" | "int" | "hex" | "string":
                    to.kind = keyword
                    self._prompt(rest, where, to)
                case "prompt":
                    self._prompt(rest, where, to)
                case "default" | "def_bool" | "def_tristate":
                    to.kind = to.kind if keyword == "default" else keyword.removeprefix("def_")
                    to.defaults.append(self._valued(rest, where))
                case "depends":
                    to.depends = both(to.depends, self._depends(rest, where))
                case "select" | "imply":
                    target, condition = self._valued(rest, where)
                    (to.selects if keyword == "select" else to.implies).append((str(target), condition))
                case "range":
                    tokens = self._tokens(rest, where)
                    low, high = (atom(token) for token in tokens[:2])
                    to.ranges.append((low, high, self._condition(tokens[2:], where)))
                case "help" | "---help---":
                    lines.skip_help()
                case _:
                    lines.push_back()
                    return

    def _depends(self, rest: str, where: Where) -> Expr:
        """Parse `on EXPRESSION [if CONDITION]` (the condition since 7.0): without the condition, nothing is asked."""
        expr, condition = self._valued(rest.strip().removeprefix("on"), where)
        return expr if condition == YES else either(expr, is_n(condition))

    def _prompt(self, rest: str, where: Where, to: Definition) -> None:
        tokens = self._tokens(rest, where)
        if tokens:
            to.prompt = tokens[0][1]
            to.prompt_if = self._condition(tokens[1:], where)

    def _valued(self, rest: str, where: Where) -> tuple[Expr, Expr]:
        """Parse `VALUE [if CONDITION]`, where the value may be an expression."""
        found = self.valued.get(rest)
        if found is None:
            tokens = self._tokens(rest, where)
            cut = tokens.index(("word", "if")) if ("word", "if") in tokens else len(tokens)
            found = self.valued[rest] = (parse(tokens[:cut], where), self._condition(tokens[cut:], where))
        return found

    def _condition(self, tokens: list[Token], where: Where) -> Expr:
        return parse(tokens[1:], where) if tokens else YES

    def _expr(self, rest: str, where: Where) -> Expr:
        return parse(self._tokens(rest, where), where)

    def _tokens(self, rest: str, where: Where) -> list[Token]:
        return tokenize(self._expand(rest), where)

    def _expand(self, text: str) -> str:
        if "$(" not in text:
            return text
        return re.sub(r"\$\((\w+)\)", lambda found: self.variables.get(found[1], found[0]), text)


class _Lines:
    """The entries of a file as (keyword, rest of the line, place); blanks, comments and assignments are passed over."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._lines = text.split("\n")
        self._next = 0
        self._entry_start = 0

    def __iter__(self) -> Iterator[tuple[str, str, Where]]:
        while self._next < len(self._lines):
            self._entry_start = self._next
            line = self._lines[self._next].strip()
            self._next += 1
            while line.endswith("\\") and self._next < len(self._lines):
                line = f"{line[:-1]} {self._lines[self._next].strip()}"
                self._next += 1
            if not line or line[0] in "#$" or ("=" in line and _ASSIGNMENT.match(line)):
                continue
            keyword = _KEYWORD.match(line)
            word = keyword[0] if keyword else line.split()[0]
            if word not in _WITHOUT_EFFECT:
                yield word, line[len(word) :], Where(self.name, self._entry_start + 1)

    def push_back(self) -> None:
        """Give the last entry out again."""
        self._next = self._entry_start

    def skip_help(self) -> None:
        """Pass over a help text: it ends at the first line that is indented less than its first one."""
        indent = None
        while self._next < len(self._lines):
            line = self._lines[self._next]
            text = line.lstrip()
            if text:
                width = len(line[: len(line) - len(text)].expandtabs())
                indent = width if indent is None else indent
                if width < indent or indent == 0:
                    return
            self._next += 1


_KEYWORD: Final = re.compile(r"---help---|[a-z_]+")
