"""Commands name tables of flags, and Invoke sees each flag as if it had been written out."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.context import Context
from invoke.program import Program

from osbuilder.guest.hotplug import Plug
from osbuilder.guest.spec import USUAL_DEVICES, Device, RootKind
from osbuilder.image.initrd import Compression
from osbuilder.request import Filesystem
from tasks.flags import BOOT, Flag, command

SHARED = {"word": Flag("a word", several=True), "size_mib": Flag("a size", 4), "deep": Flag("deeply", True)}


def test_flags_of_a_table_arrive_as_if_they_were_parameters() -> None:
    seen: dict[str, Any] = {}

    @command(SHARED, flags={"own": "its own"}, positional=["first"])
    def run(_: Context, first: str, own: str = "x", **given: Any) -> None:
        """Run."""
        seen.update(given, first=first, own=own)

    program = Program(namespace=Collection(run))
    program.run(["inv", "run", "here", "--word", "one", "--word", "two", "--no-deep"], exit=False)
    assert seen == {"first": "here", "own": "x", "word": ["one", "two"], "size_mib": 4, "deep": False}
    program.run(["inv", "run", "here", "--size-mib", "7", "--own", "y"], exit=False)
    assert seen == {"first": "here", "own": "y", "word": [], "size_mib": 7, "deep": True}


def test_a_parameter_that_is_written_out_has_its_help_from_the_table() -> None:
    @command(SHARED)
    def run(_: Context, size_mib: int = 9) -> None:
        """Run."""

    (argument,) = [each for each in run.get_arguments() if "size-mib" in each.names]
    assert (argument.help, argument.default) == ("a size", 9)


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        ("device", [device for device in Device if device not in USUAL_DEVICES]),
        ("plug", Plug),
        ("root", RootKind),
        ("fs", Filesystem),
        ("compression", Compression),
    ],
)
def test_help_that_is_there_before_anything_is_loaded_names_every_choice(
    flag: str, choices: Iterable[enum.Enum]
) -> None:
    words = BOOT[flag].help.replace(",", " ").replace(";", " ").split()
    assert [choice.value for choice in choices if choice.value not in words] == []
