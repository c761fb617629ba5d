"""Text files of this package: data in files/, rendered with Jinja2. A name that a template uses must be given."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jinja2

FILES: Final = Path(__file__).resolve().parent / "files"

_ENVIRONMENT: Final = jinja2.Environment(
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - unit files, not HTML
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def read_file(name: str) -> str:
    """Return the text of a file of files/."""
    return (FILES / name).read_text("utf-8")


def render(template: str, **values: object) -> str:
    """Return a template's text with its names filled in. Raises jinja2.UndefinedError for one that is missing."""
    return _ENVIRONMENT.from_string(template).render(values)
