"""Alpine's version numbers: their order, and the operators that dependencies compare them with.

A version is `digits{.digits}[letter]{_suffix[digits]}[~commit][-rdigits]`; alpha, beta, pre and rc stand before the
bare version, cvs, svn, git, hg and p after it. Digits after a dot that begin with a zero compare as a fraction would:
1.05 is less than 1.5. Source: apk-package(5), the Gentoo PMS section 3.2 that the order comes from, apk-tools 2.14.
"""

from __future__ import annotations

import enum
import functools
import re
from typing import Final

_SUFFIXES: Final = {
    **{name: rank for rank, name in enumerate(("alpha", "beta", "pre", "rc"), -4)},
    **{name: rank for rank, name in enumerate(("cvs", "svn", "git", "hg", "p"))},
}


class _Kind(enum.IntEnum):
    """What a part of a version is. Where two versions part in kind, the one with the later kind is the lesser."""

    FRACTION = 0
    DIGITS = 1
    LETTER = 2
    SUFFIX = 3
    SUFFIX_NUMBER = 4
    COMMIT = 5
    REVISION = 6
    END = 7
    ALIEN = 8


_TOKEN: Final = re.compile(
    r"\.(?P<zeros>0+)(?P<rest>\d*)|\.(?P<digits>\d+)|(?P<letter>[a-z])(?![a-z])"
    r"|_(?P<suffix>alpha|beta|pre|rc|cvs|svn|git|hg|p)(?P<number>\d*)|~(?P<commit>[0-9a-f]+)|-r(?P<revision>\d+)"
)

Token = tuple[_Kind, int | str]


@functools.lru_cache(maxsize=4096)
def _tokens(version: str) -> tuple[Token, ...]:
    """Return a version's parts; what does not follow the grammar is one ALIEN part at the end."""
    first = re.match(r"\d+", version)
    if not first:
        return ((_Kind.ALIEN, version),)
    found: list[Token] = [(_Kind.DIGITS, int(first[0]))]
    at = first.end()
    while at < len(version):
        token = _TOKEN.match(version, at)
        if not token:
            return (*found, (_Kind.ALIEN, version[at:]))
        found += _parts(token)
        at = token.end()
    return (*found, (_Kind.END, 0))


def _parts(token: re.Match[str]) -> list[Token]:
    if token["zeros"]:
        rest: list[Token] = [(_Kind.DIGITS, int(token["rest"]))] if token["rest"] else []
        return [(_Kind.FRACTION, -len(token["zeros"])), *rest]
    if token["digits"]:
        return [(_Kind.FRACTION, int(token["digits"]))]
    if token["letter"]:
        return [(_Kind.LETTER, token["letter"])]
    if token["suffix"]:
        number: list[Token] = [(_Kind.SUFFIX_NUMBER, int(token["number"]))] if token["number"] else []
        return [(_Kind.SUFFIX, _SUFFIXES[token["suffix"]]), *number]
    if token["commit"]:
        return [(_Kind.COMMIT, token["commit"])]
    return [(_Kind.REVISION, int(token["revision"]))]


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 as `left` is less than, equal to or greater than `right`."""
    for (kind, value), (other_kind, other) in zip(_tokens(left), _tokens(right), strict=False):
        if kind is not other_kind:
            return _compare_kinds(kind, value, other_kind, other)
        if value != other:
            return -1 if (str(value) < str(other) if isinstance(value, str) else value < other) else 1  # type: ignore[operator]
    return 0


def _compare_kinds(kind: _Kind, value: int | str, other_kind: _Kind, other: int | str) -> int:
    """Decide where one version goes on otherwise than the other: what goes on is greater, but not by a pre-release."""
    if kind is _Kind.SUFFIX and int(value) < 0:
        return -1
    if other_kind is _Kind.SUFFIX and int(other) < 0:
        return 1
    return -1 if kind > other_kind else 1


def matches(version: str, operator: str, wanted: str) -> bool:
    """Whether a version is what `operator wanted` asks for; an operator is any of < > = ~ in a row.

    `~` asks for a version that begins with `wanted`: ~1.2 takes 1.2, 1.2.7 and 1.2-r3, not 1.20.
    """
    if "~" in operator and _begins(version, wanted):
        return True
    order = compare(version, wanted)
    return ("<" in operator and order < 0) or (">" in operator and order > 0) or ("=" in operator and order == 0)


def _begins(version: str, wanted: str) -> bool:
    wanted_tokens = _tokens(wanted)[:-1]
    return _tokens(version)[: len(wanted_tokens)] == wanted_tokens
