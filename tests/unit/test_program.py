"""What `./inv` says to command lines that make no sense: nothing that a person wrote is dropped without a word."""

from __future__ import annotations

import pytest

import tasks
from tasks.program import Inv

WRONG = [
    ("imag", "unknown command 'imag'", "Did you mean image?"),
    ("image --releas trixie", "unknown flag --releas of inv image", "Did you mean --release?"),
    ("image --free-space-mib abc", "--free-space-mib: expected a whole number, got 'abc'", ""),
    ("boot --memory-mib=1.5", "--memory-mib: expected a whole number, got '1.5'", ""),
    ("kernel --kernel", "--kernel: expected a value, got none", ""),
    ("image --setting", "--setting: expected a value, got none", ""),
    ("image --package --dry", "--package: expected a value, got none", ""),
    ("kernel --tree= --dry", "--tree: expected a value, got an empty text", "Is a variable unset?"),
    ("image --package= --dry", "--package: expected a value, got an empty text", "Is a variable unset?"),
    ("image --provision= --dry", "--provision: expected a value, got an empty text", "Is a variable unset?"),
    ("image -- --dry", "nothing is expected after --, got --dry", "Leave the -- out."),
    ("image rootfs --dry", "expected one command, got image, rootfs", "run inv for each"),
    ("inspect", "'inspect' did not receive required positional arguments: 'file'", "inv inspect --help"),
    ("--dry image", "--dry stands before the command", "A command's flags follow it: inv image --dry"),
    ("kernel.size --dry", "unknown flag --dry of inv kernel.size", "--setting"),
    ("test --dry --strict", "unknown flag --dry of inv test", "Known: --jobs"),
    ("image -R", "unknown flag -R of inv image", "--setting"),
    ("test -eR", "unknown flag --dry of inv test", "Known: --jobs"),
    ("--distro alpine image", "--distro stands before the command", "inv image --distro"),
    ("image -s", "unknown flag -s of inv image", "--setting"),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG)
def test_a_command_line_that_makes_no_sense_is_refused_before_anything_runs(
    line: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        Inv(namespace=tasks.namespace, binary="inv").run(["inv", *line.split()])
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert told.err.splitlines()[0] == f"error: {message}"
    assert hint in told.err
    assert told.out == ""


@pytest.mark.parametrize("name", ["distros", "settings", "versions", "kernel.capabilities"])
def test_a_command_that_only_looks_says_the_same_with_dry(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for flags in ([], ["--dry"]):
        Inv(namespace=tasks.namespace).run(["inv", name, *flags], exit=False)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_every_command_of_the_main_road_has_dry() -> None:
    looking = ("inspect", "why", "settings", "distros", "versions")
    acting = ("rootfs", "image", "initrd", "kernel.build", "agent", "boot", "doctor", "clean", "cache", "quickstart")
    assert [name for name in (*looking, *acting) if "--dry" not in _flags(name)] == []


def test_an_empty_text_is_a_value_where_that_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Inv(namespace=tasks.namespace).run(["inv", "boot", "--append=", "--vcpus", "0"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --vcpus: expected 1 or more, got 0\n"


def test_blanks_are_no_value_either(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Inv(namespace=tasks.namespace).run(["inv", "image", "--modules", " ", "--dry"])
    assert capsys.readouterr().err.startswith("error: --modules: expected a value, got an empty text\n")


def test_no_flag_is_one_letter_whose_meaning_depends_on_the_command() -> None:
    flags = {flag for name in tasks.namespace.task_names for flag in _flags(name)}
    assert {"--setting", "--dry", "--no-dax"} <= flags
    assert [flag for flag in flags if len(flag) == 2] == []


def _flags(name: str) -> list[str]:
    context = next(each for each in tasks.namespace.to_contexts() if each.name == name)
    return [*context.flags, *context.inverse_flags]
