"""What every adapter is asked for: a choice of recipe, release, architecture and init, its packages and its mirrors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from osbuilder.distro.recipe import Choice, Selection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Packages to install into an empty root filesystem.

    `mirrors` are tried in order; none means the package manager's own. `components` replaces the recipe's unless empty,
    `keyring` (a file of this host) the keys that the recipe pins. `epoch` (seconds since 1970) is the latest time that
    a file may bear. A mirror that sends nothing for `timeout_s` is given up after `attempts` tries.
    """

    choice: Choice
    packages: Selection
    epoch: int
    mirrors: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    keyring: Path | None = None
    timeout_s: int = 30
    attempts: int = 3
