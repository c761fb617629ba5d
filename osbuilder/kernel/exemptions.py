"""Where kernels are not what the fragments are written for: history.yaml (names and lives of symbols), waivers.yaml.

Owns what the two files may say. Neither may hold a line that no kernel needs.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from osbuilder import decode
from osbuilder.errors import FragmentError
from osbuilder.kernel.conditions import ArchName
from osbuilder.kernel.placement import is_leftover, shown
from osbuilder.kernel.ranges import Limited, SomeRange, overlap

# What a fragment's line names; whether it is well-formed is osbuilder.kernel.fragments's to say.
_NAMED: Final = re.compile(rb"^(?:# )?CONFIG_(\w+)(?:=| is not set)", re.ASCII | re.MULTILINE)


def check_symbol(symbol: str) -> None:
    """Raise ValueError for what is no symbol's name."""
    if not re.fullmatch(r"(?!CONFIG_)\w+", symbol, re.ASCII):
        raise ValueError(f"expected a symbol without CONFIG_, got {symbol!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiver(Limited):
    """Excuses the loss of one symbol on exact terms. One that excuses nothing is an error of the contract."""

    symbol: str
    kernel: SomeRange
    arches: tuple[ArchName, ...]
    reason: str

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        if not self.arches or not self.reason:
            raise ValueError("expected at least one architecture and a reason")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """In which kernels a symbol exists under its name, and what it is called in the others (None: it is not there)."""

    kernel: SomeRange
    otherwise: str | None = None

    def __post_init__(self) -> None:
        if not self.kernel.bounds:
            raise ValueError("expected a kernel range")
        if self.otherwise is not None:
            check_symbol(self.otherwise)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _HistoryFile:
    symbols: Mapping[str, Life]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _WaiversFile:
    waivers: tuple[Waiver, ...]

    def __post_init__(self) -> None:
        for (at, one), (other_at, other) in itertools.combinations(enumerate(self.waivers), 2):
            both = [name for name in one.arches if name in other.arches]
            if one.symbol == other.symbol and both and overlap(one.kernel, other.kernel):
                raise ValueError(
                    f"waivers[{at}] and waivers[{other_at}] excuse {one.symbol} of the same kernels "
                    f"({one.kernel} and {other.kernel}, {both[0]}): expected one of them"
                )


def load_history(root: Path) -> Mapping[str, Life]:
    """Return the lives of symbols. Raises DecodeError, and FragmentError for a symbol that no fragment names."""
    path = root / "history.yaml"
    symbols = decode.load(path, _HistoryFile).symbols
    fragments = (each for each in root.rglob("*.conf") if not is_leftover(each.name) and each.is_file())
    named = {found.decode() for each in fragments for found in _NAMED.findall(each.read_bytes())}
    for symbol in symbols:
        if symbol not in named:
            raise FragmentError(
                f"{shown(root, path)}: {symbol}: no fragment names it",
                hint="It says what other kernels call what the fragments ask for: remove or correct the line.",
            )
    return symbols


def load_waivers(root: Path) -> tuple[Waiver, ...]:
    """Return what is excused. Raises DecodeError."""
    return decode.load(root / "waivers.yaml", _WaiversFile).waivers
