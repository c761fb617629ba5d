"""What `./inv` says to command lines that make no sense: nothing that a person wrote is dropped without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke.program import Program

import tasks
from osbuilder.kata.table import options_of
from osbuilder.tree import Tree
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
    ("test -eR", "unknown flag -e of inv test", "Known: --jobs"),
    ("--distro alpine image", "--distro stands before the command", "inv image --distro"),
    ("image -s", "unknown flag -s of inv image", "--setting"),
    ("kernel -c my.conf --dry", "unknown flag -c of inv kernel", "build-kernel.sh -c is here: `--fragment FILE`"),
    ("kernel -cmy.conf --dry", "unknown flag -c of inv kernel", "build-kernel.sh -c is here: `--fragment FILE`"),
    ("kernel -r v6.12", "unknown flag -r of inv kernel", "build-kernel.sh -r is here: `--git URL --ref REF`"),
    ("kernel -f", "unknown flag -f of inv kernel", "build-kernel.sh -f is here: not needed"),
    ("kernel.config -e", "unknown flag -e of inv kernel.config", "is here: `--variant experimental`"),
    ("kernel setup", "unknown command 'setup'", "build-kernel.sh setup is here: `inv kernel`, one command"),
    ("image -r 64", "unknown flag -r of inv image", "image_builder.sh -r is here: `--free-space-mib N`"),
    ("image -r 64", "unknown flag -r of inv image", "rootfs.sh -r is here: the result is a tar"),
    ("agent -a 3.1.0", "unknown flag -a of inv agent", "rootfs.sh -a is here: `--agent kata --agent-option"),
    ("kernel --config /tmp/x --dry", "unknown flag --config of inv kernel", "`--fragment FILE`"),
    ("boot --config=x", "unknown flag --config of inv boot", "`--fragment FILE`"),
    ("image --config x", "unknown flag --config of inv image", "Known: --agent"),
    ("kernel --prompt-for-sudo-password", "unknown flag --prompt-for-sudo-password of inv kernel", "Known"),
    ("--prompt-for-sudo-password kernel", "unknown flag --prompt-for-sudo-password", "--help"),
    ("--config /tmp/x kernel", "unknown flag --config", "--help"),
    ("-f x kernel", "unknown flag -f", "--help"),
    ("--kernel 6.12 kernel", "--kernel stands before the command", "follow it: inv kernel --kernel"),
    ("why kernel -w", "unknown flag -w of inv why", "Known"),
    ("kernel --kernel a --kernel b", "--kernel is given twice", "Leave one of them out."),
    ("kernel --kernel=a --kernel=a", "--kernel is given twice", "Leave one of them out."),
    ("why kernel --variant minimal --variant debug", "--variant is given twice", "Leave one of them out."),
    ("image --dax --no-dax", "--dax and --no-dax exclude each other", "Give one."),
]

INVOKES = [
    flag
    for argument in (*Program().core_args(), *Program().task_args())
    for flag in (f"-{name}" if len(name) == 1 else f"--{name}" for name in argument.names)
    if argument.name != "help" and flag not in ("--dry", "-l", "--list")
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


@pytest.mark.parametrize("command", ["kernel", "why kernel", "versions", "image --distro debian"])
@pytest.mark.parametrize("flag", [*INVOKES, "-l", "--list"])
def test_a_flag_of_invoke_is_none_of_a_command(flag: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ([], ["3"]):
        with pytest.raises(SystemExit) as caught:
            Inv(namespace=tasks.namespace, binary="inv").run(["inv", *command.split(), flag, *value])
        assert caught.value.code == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"error: unknown flag {flag} of inv {command.split()[0]}")
        assert told.out == ""


@pytest.mark.parametrize("flag", ["--version", "-V", "--help", "-h", "--list", "-l", "--help kernel", "kernel --help"])
def test_what_the_program_says_of_itself_it_still_says(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Inv(binary="inv", version="7").run(["inv", *flag.split()])
    told = capsys.readouterr()
    assert (caught.value.code, told.err) == (0, "")
    assert any(word in told.out for word in ("Inv 7\n", "Usage: inv", "Subcommands", "Available tasks"))
    assert "--search-root" not in told.out


def test_a_shell_completes_the_flags_of_a_command_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Inv(namespace=tasks.namespace, binary_names=["inv"]).run(["inv", "--complete", "--", "inv", "why", "--"])
    told = capsys.readouterr()
    assert (caught.value.code, told.err) == (0, "")
    assert {"--setting", "--dry"} <= {*told.out.split()}
    assert "--config" not in told.out


def test_a_flag_that_may_be_given_several_times_and_a_switch_may_be_given_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "image --package a --package b --package=b --dry --measured --measured --setting a=1 --setting nonesuch=1"
    with pytest.raises(SystemExit):
        Inv(namespace=tasks.namespace).run(["inv", *line.split()])
    assert capsys.readouterr().err.startswith("error: unknown setting a\n")


@pytest.mark.parametrize("name", ["distros", "settings", "versions", "kernel.capabilities", "kernel.variants"])
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


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = Tree()
    tree.add_file("caf\udce9/x", b"1", parents_mode=0o755)
    tree.write(tmp_path / "a.tar", epoch=0)
    Inv(namespace=tasks.namespace).run(["inv", "inspect", str(tmp_path / "a.tar")], exit=False)
    assert "caf\\udce9" in capsys.readouterr().out


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


@pytest.mark.parametrize("word", [*options_of("kernel")])
def test_every_option_of_the_script_that_built_kernels_is_answered_with_what_it_is_here(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"-c", "-e", "-r", "-H", "install"} <= {*options_of("kernel")}
    with pytest.raises(SystemExit) as caught:
        Inv(namespace=tasks.namespace).run(["inv", "kernel", word, "value"])
    assert caught.value.code == 2
    (ours,) = options_of("kernel")[word].values()
    assert capsys.readouterr().err.endswith(f"\n  build-kernel.sh {word} is here: {ours}\n")
