"""The program that `./inv` is: Invoke, but a command line that makes no sense is told as every other error is.

Started by its path, so it imports nothing of its own package.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from invoke.exceptions import Exit, ParseError
from invoke.parser.context import ParserContext
from invoke.parser.parser import Parser
from invoke.program import Program
from invoke.vendor.lexicon import Lexicon

from osbuilder import __version__
from osbuilder.errors import UsageError, render_error, suggest
from osbuilder.kata.table import Script, options_of

_UNKNOWN: Final = re.compile(r"No idea what '(?P<word>.*)' is!", re.DOTALL)
_VALUELESS: Final = re.compile(r"Flag <Argument: (?P<name>[\w-]+).* needed value and was not given one!")
_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_NO_NUMBER: Final = re.compile(r"invalid literal for int\(\) with base 10: (?P<value>.*)", re.DOTALL)

# Invoke has more flags of its own (--config, --echo, -c, -r, ...), and takes them wherever they stand: none of them
# would do anything for a command of ours, and some have a meaning in the scripts that people come from.
_PROGRAMS_OWN: Final = ("complete", "help", "list", "list-depth", "list-format", "print-completion-script", "version")


class Inv(Program):
    """Invoke's program. Exit status 2, and a message that says what to do, for a command line that makes no sense."""

    _commands: Parser | None = None

    @property
    def initial_context(self) -> ParserContext:
        """The flags that may stand before a command."""
        return ParserContext(args=[flag for flag in self.core_args() if flag.name in _PROGRAMS_OWN])

    @property
    def args(self) -> Any:
        """Invoke's flags: those that may be given as they were given, the others as if nobody had."""
        usual = [*self.core_args(), *self.task_args()]
        flags = cast(Any, Lexicon)({str(flag.name): flag for flag in usual})
        flags["search-root"].default = str(_CHECKOUT)
        flags.update(self.core[0].args)
        return flags

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:  # noqa: A002 - Invoke's name of it
        """Run a command line (default: this process's). Who reads the output may stop when they have seen enough.

        Where it exits, an exception that nobody thought of becomes a line, and its traceback a file that it names.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names of files may be any bytes: what is no text is shown escaped, as standard error shows it.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                super().run(argv, exit=exit)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # Nothing is written any more, not even when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if not exit:
                raise
            print(_bug(error), file=sys.stderr)
            sys.exit(1)

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse Invoke's own flags."""
        with self._told():
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        """Parse the command and its flags, and refuse what Invoke would drop without a word."""
        with self._told():
            self._check_once()
            super().parse_tasks()
            if self.core.remainder and not self.args["complete"].value:
                raise UsageError(f"nothing is expected after --, got {self.core.remainder}", hint="Leave the -- out.")
            if len(self.tasks) > 1:
                names = ", ".join(str(context.name) for context in self.tasks)
                raise UsageError(
                    f"expected one command, got {names}", hint="Each has flags of its own: run inv for each."
                )
            for context in self.tasks:
                self._check_values(context)

    def _make_parser(self) -> Parser:
        """Return what parses a command: of Invoke's own flags, only --help may follow it."""
        if self._commands is None:
            # Once: a task gives its help away with its first context.
            self._commands = super()._make_parser()
            self._commands.initial = ParserContext(args=[flag for flag in self.core_args() if flag.name == "help"])
        return self._commands

    def _check_once(self) -> None:
        """Refuse a flag that is given twice, and a switch that is turned both on and off."""
        contexts = self._make_parser().contexts
        words = [*self.core.unparsed]
        if not words or words[0] not in contexts:
            return
        context = contexts[words.pop(0)]
        given: dict[str, str] = {}
        while words:
            word, equals, _ = words.pop(0).partition("=")
            if word in contexts and not context.positional_args:
                return
            name = context.inverse_flags.get(word, word)
            if name not in context.flags:
                continue
            takes_value, several = context.flags[name].takes_value, context.flags[name].kind is list
            if name in given and takes_value and not several:
                raise UsageError(f"{word} is given twice", hint="Leave one of them out.")
            if given.setdefault(name, word) != word:
                raise UsageError(f"{given[name]} and {word} exclude each other", hint="Give one.")
            if takes_value and not equals and words and words[0] not in context.flags:
                words.pop(0)

    def _check_values(self, context: ParserContext) -> None:
        """Refuse a flag without a value, and one whose value is an empty text, as an unset variable leaves it."""
        for word, following in zip(self.argv, [*self.argv[1:], None], strict=True):
            flag = context.flags.get(word)
            if flag is not None and flag.kind is list and (following is None or following in context.flags):
                raise UsageError(f"{word}: expected a value, got none")
        for flag in context.args.values():
            values = flag.value if flag.kind is list else [flag.value] if flag.got_value else []
            if any(isinstance(value, str) and not value.strip() for value in values) and flag.default != "":
                name = str(flag.name).replace("_", "-")
                raise UsageError(
                    f"{name.upper() if flag.positional else f'--{name}'}: expected a value, got an empty text",
                    hint="Is a variable unset? Leave the flag out for its default.",
                )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what is wrong with a command line into an end with a message."""
        try:
            yield
        except ParseError as error:
            raise _end(self._usage(error)) from None
        except UsageError as error:
            raise _end(error) from None
        except ValueError as error:
            found = _NO_NUMBER.fullmatch(str(error))
            if found is None:
                raise
            raise _end(
                UsageError(f"{self._flag_of(found['value'])}: expected a whole number, got {found['value']}")
            ) from None

    def _usage(self, error: ParseError) -> UsageError:
        context = error.context
        if found := _UNKNOWN.fullmatch(str(error)):
            return self._unknown(found["word"], context)
        if found := _VALUELESS.fullmatch(str(error)):
            return UsageError(f"--{found['name'].replace('_', '-')}: expected a value, got none")
        return UsageError(str(error), hint=f"inv {context.name} --help" if context is not None and context.name else "")

    def _unknown(self, word: str, context: ParserContext | None) -> UsageError:
        """Return what is wrong with a word that means nothing where it stands (`context`: after this command)."""
        if context is not None and context.name:
            kata = _of_kata(word, context)
            if word.startswith("-"):
                known = [*context.flags, *context.inverse_flags]
                return UsageError(
                    f"unknown flag {word} of inv {self._called(context)}", hint=kata or suggest(word, known)
                )
            return UsageError(f"unknown command {word!r}", hint=kata or suggest(word, self.collection.task_names))
        if not word.startswith("-"):
            return UsageError(f"unknown command {word!r}", hint=suggest(word, self.collection.task_names))
        having = [
            name
            for each in self._make_parser().contexts.values()
            if word in each.flags
            for name in (*each.aliases, str(each.name))
        ]
        if not having:
            return UsageError(f"unknown flag {word}", hint=suggest(word, self.initial_context.flags))
        name = next((name for name in ("image", "kernel") if name in having), having[0])
        return UsageError(f"{word} stands before the command", hint=f"A command's flags follow it: inv {name} {word}")

    def _called(self, context: ParserContext) -> str:
        """Return what a command was called: inv kernel is kernel.build."""
        return next((word for word in self.core.unparsed[:1] if word in context.aliases), str(context.name))

    def _flag_of(self, literal: str) -> str:
        """Return the flag whose value was that literal (as Python writes it)."""
        for word, following in zip(self.argv, [*self.argv[1:], ""], strict=True):
            if word.startswith("-") and repr(following) == literal:
                return word
            flag, equals, value = word.partition("=")
            if equals and repr(value) == literal:
                return flag
        return "a flag"


def _of_kata(word: str, context: ParserContext) -> str:
    """Return what a word was to the Kata scripts that a command stands for, and is here; "" for any other word."""
    if word == "--config" and "--fragment" in context.flags:
        return _same_here("-c", options_of("kernel")["-c"])
    found = options_of(str(context.name).partition(".")[0]).get(word)
    return _same_here(word, found) if found else ""


def _same_here(word: str, ours: Mapping[Script, str]) -> str:
    return "\n  ".join(f"{script.value} {word} is here: {text}" for script, text in ours.items())


def _bug(error: Exception) -> str:
    """Return the line that tells of an error in osbuilder itself, after writing its traceback to a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="osbuilder-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        traceback.print_exception(error, file=file)
    said = " ".join(str(error).split())
    return f"error: this is a bug of osbuilder: {type(error).__name__}: {said} (traceback: {file.name})"


def _end(error: UsageError) -> Exit:
    return Exit(render_error(error), error.exit_code)


program: Any = Inv(name="osbuilder", binary="inv", binary_names=["inv"], version=__version__)

if __name__ == "__main__":
    program.run()
