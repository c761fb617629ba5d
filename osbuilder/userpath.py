"""Paths as a person writes them: `~` and `~USER` mean home folders, also where no shell has seen them."""

from __future__ import annotations

from pathlib import Path

from osbuilder.errors import UsageError


def parse_path(text: str, what: str) -> Path:
    """Return the path that a text means; it may begin with ~ or ~USER, as for a shell. `what` names it in errors.

    Raises UsageError for a user without a home folder.
    """
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        raise UsageError(
            f"{what}: there is no home folder {text.partition('/')[0]}", hint="Write the path out."
        ) from None
