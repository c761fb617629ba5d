"""Which series of patches a kernel gets: what --patches and `patches:` of versions.yaml and variant.yaml may say.

Owns their spelling alone; the series themselves are osbuilder.kernel.patches' business.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from osbuilder.userpath import parse_path

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.+-]+")
NO_PATCHES: Final = "none"
"""What stands instead of a series where there is to be no patch."""


@dataclasses.dataclass(frozen=True, slots=True)
class SeriesNames:
    """Series in the order in which they are applied: folders of kernel/patches by name, others by path (with a slash).

    Written `none`, as one name, or as several with commas between them or as a list. None are no patches.
    """

    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> SeriesNames:
        """Return what a text with commas names. Raises ValueError."""
        return cls.of_texts(part.strip() for part in text.split(","))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> SeriesNames:
        """Return what a list names. Raises ValueError for what is neither a name nor a path, or stands twice."""
        names = tuple(texts)
        if names == (NO_PATCHES,):
            return cls(())
        if not names:
            raise ValueError(f"expected a series of patches, or {NO_PATCHES}")
        for number, name in enumerate(names):
            if name == NO_PATCHES:
                raise ValueError(f"{NO_PATCHES} does not go with other series")
            if not ("/" in name and "\0" not in name) and not _NAME.fullmatch(name):
                raise ValueError(f"malformed: {name!r}: expected a folder of kernel/patches, or a path (with a slash)")
            if name in names[:number]:
                raise ValueError(f"{name} stands there twice")
        return cls(names)

    def __str__(self) -> str:
        return ",".join(self.names) or NO_PATCHES

    def below(self, folder: Path) -> SeriesNames:
        """Return these with each path absolute; a relative one begins at `folder`, ~ is the user's home.

        Raises UsageError for a user without a home.
        """
        return SeriesNames(
            tuple(str(folder / parse_path(name, "patches")) if "/" in name else name for name in self.names)
        )
