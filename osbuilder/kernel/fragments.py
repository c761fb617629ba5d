"""Kernel configuration fragments: what a guest kernel is asked for, as data that knows the line it came from.

Fragments are parsed, never concatenated, and merged here: a symbol has one home, so a second request is refused whether
it agrees or not. Which fragments a kernel gets is osbuilder.kernel.catalogue's business; what the kernel makes of the
requests is osbuilder.kernel.contract's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from osbuilder.errors import FragmentError

_SYMBOL: Final = r"CONFIG_(\w+)"
_VALUE: Final = re.compile(r'[ymn]|-?(?:0|[1-9]\d*)|0x[0-9a-fA-F]+|"(?:[^"\\]|\\["\\])*"', re.ASCII)
_ASSIGNMENT: Final = re.compile(rf"{_SYMBOL}=(.*)", re.ASCII)
_UNSET: Final = re.compile(rf"# {_SYMBOL} is not set", re.ASCII)
_NEARLY_UNSET: Final = re.compile(rf"#\s*{_SYMBOL}\s*(?:is\s+not\s+set|=n\b)", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of a fragment: CONFIG_<symbol>=<value>, with the value as .config spells it (strings with quotes).

    `line` is None for a request that is in no file.
    """

    symbol: str
    value: str
    file: str
    line: int | None

    @property
    def where(self) -> str:
        """What asks: a line, as file:line."""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.symbol}={self.value}"


def parse(text: str, file: str) -> tuple[Request, ...]:
    """Parse a fragment; `file` is its name in messages. A last line without a newline is a line.

    Raises FragmentError naming file:line of each that is no assignment, `# CONFIG_X is not set`, comment or blank.
    """
    requests = []
    wrong: list[FragmentError] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        try:
            if request := _parse_line(raw.rstrip(), file, number):
                requests.append(request)
        except FragmentError as error:
            wrong.append(error)
    if wrong:
        hints = dict.fromkeys(error.hint for error in wrong if error.hint)
        raise FragmentError("\n".join(error.message for error in wrong), hint=" ".join(hints))
    return tuple(requests)


def _parse_line(line: str, file: str, number: int) -> Request | None:
    if found := _UNSET.fullmatch(line):
        return Request(symbol=found[1], value="n", file=file, line=number)
    if _NEARLY_UNSET.match(line):
        raise FragmentError(
            f"{file}:{number}: expected `# CONFIG_X is not set` to the letter, or a comment, got {line!r}",
            hint="Write CONFIG_X=n: it cannot be taken for a comment.",
        )
    return _parse_assignment(line, file, number) if line and not line.startswith("#") else None


def _parse_assignment(line: str, file: str, number: int) -> Request:
    found = _ASSIGNMENT.fullmatch(line)
    if not found:
        hint = ""
        if re.match(r"\s+(CONFIG_|#)", line):
            hint = "Start it in the first column."
        elif re.match(r"[A-Z0-9_]+\s*=", line):
            hint = "Write the name with CONFIG_ and no blanks around =."
        raise FragmentError(f"{file}:{number}: expected CONFIG_NAME=value or a # comment, got {line!r}", hint=hint)
    symbol, value = found.groups()
    if not _VALUE.fullmatch(value):
        raise FragmentError(
            f"{file}:{number}: CONFIG_{symbol}: expected y, m, n, a number or a text in double quotes, got {value!r}",
            hint="A comment needs a line of its own." if "#" in value else "",
        )
    return Request(symbol=symbol, value=value, file=file, line=number)


def load_fragment(path: Path, name: str) -> tuple[Request, ...]:
    """Read and parse the fragment at `path`; `name` stands for it in messages. Raises FragmentError."""
    try:
        return parse(path.read_bytes().decode("utf-8"), name)
    except OSError as err:
        raise FragmentError(f"{name}: cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise FragmentError(f"{name}: expected UTF-8 text, got the byte 0x{err.object[err.start]:02x}") from None


def merge(requests: Iterable[Request]) -> tuple[Request, ...]:
    """Return the requests sorted by symbol. Raises FragmentError listing every symbol that is asked for twice."""
    merged: dict[str, Request] = {}
    problems = []
    for request in requests:
        first = merged.setdefault(request.symbol, request)
        if first is not request:
            problems.append(clash(first, request))
    if problems:
        raise FragmentError("\n".join(problems), hint="Each symbol has one home: remove one of the two lines.")
    return tuple(merged[symbol] for symbol in sorted(merged))


def clash(first: Request, second: Request) -> str:
    """Say in one line that a symbol is asked for twice, and whether the requests agree."""
    if first.value == second.value:
        return f"duplicate: CONFIG_{second} in {first.where} and again in {second.where}"
    return f"contradiction: CONFIG_{first} in {first.where}, but CONFIG_{second} in {second.where}"


def extend(requests: Iterable[Request], further: Iterable[Request]) -> tuple[Request, ...]:
    """Return merged requests with those of the user's own fragments; what is asked for already, and alike, is fine.

    Raises FragmentError for what `further` asks for twice, and for what it asks for otherwise than `requests`.
    """
    there = {request.symbol: request for request in requests}
    merged = merge(further)
    problems = [
        clash(there[request.symbol], request)
        for request in merged
        if request.symbol in there and there[request.symbol].value != request.value
    ]
    if problems:
        raise FragmentError(
            "\n".join(problems),
            hint="A fragment of yours adds. What there is, a variant changes: `drops` or `overrides` of a variant.yaml "
            "(docs/kernel.md, Variants).",
        )
    return tuple(sorted({**{each.symbol: each for each in merged}, **there}.values(), key=lambda each: each.symbol))


def render(requests: Iterable[Request]) -> str:
    """Make the text that KCONFIG_ALLCONFIG names: one assignment a line, in the order given."""
    return "".join(f"CONFIG_{request.symbol}={request.value}\n" for request in requests)
