"""Patterns of names in a tree: `*` and `?` stay in one part of a name, `**` spans parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

_SPECIAL: Final[Mapping[str, str]] = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matcher(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Return what tells whether a name matches any of the patterns; without one no name does."""
    return re.compile("|".join(map(_regex, patterns)) or r"(?!)", re.DOTALL).fullmatch


def _regex(pattern: str) -> str:
    return re.sub(
        r"\*\*/|\*\*|.",
        lambda found: _SPECIAL.get(found[0]) or re.escape(found[0]),
        pattern.lstrip("/"),
        flags=re.DOTALL,
    )
