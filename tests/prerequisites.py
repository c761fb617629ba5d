"""What a test needs of its machine, and how a lack of it is told: the test is skipped, with a reason."""

from __future__ import annotations

import shutil

import pytest

from osbuilder.errors import FetchError, OsbuilderError, ToolMissing

# What an executor adds to the errors of steps that make builders.
_OF_BUILDERS = "/builder"


def program(name: str) -> str:
    """Return the path of a program that a test runs; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def lacking(error: BaseException, *, in_setup: bool) -> str:
    """Return what the machine lacks, where a test ended for that reason; "" where it failed.

    A program may be missing whatever asks for it. A mirror that does not serve is the machine's lack while fixtures are
    set up or a builder is made: what a test downloads itself, it tests.
    """
    if isinstance(error, ToolMissing):
        return _on_one_line(error)
    notes = getattr(error, "__notes__", ())
    # What came altered (a subclass) is no lack.
    if type(error) is FetchError and (in_setup or any(note.endswith(_OF_BUILDERS) for note in notes)):
        return _on_one_line(error)
    return ""


def _on_one_line(error: OsbuilderError) -> str:
    parts = (" ".join(text.split()) for text in (error.message, error.hint))
    return ": ".join(part for part in parts if part)
