"""Text from templates: unit files, configuration, scripts. Jinja2; a name that a template uses must be given."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    """Return a template's text with its names filled in. `{{ name | sh }}` quotes a word, or each word of a list.

    Raises jinja2.UndefinedError for a name that has no value: a programming error.
    """
    return _environment().from_string(template).render(values)


@functools.cache
def _environment() -> Environment:
    # Most commands render nothing: they do not wait for it.
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - that is for HTML; what a shell needs quoted passes through `sh`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sh"] = _quote
    return environment


def _quote(value: str | Iterable[str]) -> str:
    return shlex.quote(value) if isinstance(value, str) else shlex.join(value)
