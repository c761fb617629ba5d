"""What comes back from the menus: a fragment of what a person changed, and no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import UsageError
from osbuilder.kernel.contract import load_tree, parse_config
from osbuilder.kernel.menuconfig import changes, commented, menus
from osbuilder.terminal import terminal_size
from tests.kernel_sources import read_tree

KCONFIG = """\
config DEVICE
	bool "Device memory"
	select HELPER
config HELPER
	bool
config LEVEL
	int "Level"
config OLD
	bool "Old"
choice
	prompt "Speed"
config SLOW
	bool "Slow"
config FAST
	bool "Fast"
endchoice
"""


def changed(tmp_path: Path, before: str, after: str) -> str:
    (tmp_path / "Kconfig").write_text(KCONFIG)
    tree = load_tree(read_tree(tmp_path), parse_arch("x86_64"))
    return changes(tree, parse_config(before), parse_config(after))


def test_a_change_is_what_a_request_can_reach_not_what_follows_from_it(tmp_path: Path) -> None:
    before = "CONFIG_LEVEL=4\nCONFIG_OLD=y\n"
    after = "CONFIG_LEVEL=8\nCONFIG_DEVICE=y\nCONFIG_HELPER=y\n"
    assert changed(tmp_path, before, after) == "CONFIG_DEVICE=y\nCONFIG_LEVEL=8\nCONFIG_OLD=n\n"


def test_a_choice_is_told_by_what_it_fell_on(tmp_path: Path) -> None:
    assert changed(tmp_path, "CONFIG_SLOW=y\n", "CONFIG_FAST=y\n") == "CONFIG_FAST=y\n"


def test_nothing_changed_is_an_empty_fragment(tmp_path: Path) -> None:
    assert changed(tmp_path, "CONFIG_LEVEL=4\n", "CONFIG_LEVEL=4\n") == ""
    assert list(commented("")) == []


def test_a_fragment_asks_for_the_comments_that_it_has_to_have() -> None:
    assert "".join(commented("CONFIG_A=y\nCONFIG_B=n\n")) == ("# What for?\nCONFIG_A=y\n# Why not?\nCONFIG_B=n\n")


def test_the_menus_are_told_how_large_the_terminal_is() -> None:
    script = menus(arch="x86", cross_compile="x86_64-linux-gnu-", shape=os.terminal_size((120, 40)))
    assert "stty rows 40 cols 120\n" in script
    assert "< /cache/terminal/keys > /cache/terminal/screen" in script


def test_without_a_terminal_there_are_no_menus(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream, pytest.raises(UsageError, match="needs a terminal"):
        terminal_size(stream.fileno())
