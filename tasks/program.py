"""The program that `./inv` is: Invoke, but a command line that makes no sense is told as every other error is.

Started by its path, so it imports nothing of its own package.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Any, Final

from invoke.exceptions import Exit, ParseError
from invoke.parser.context import ParserContext
from invoke.program import Program

from osbuilder import __version__
from osbuilder.errors import UsageError, render_error, suggest

_UNKNOWN: Final = re.compile(r"No idea what '(?P<word>.*)' is!", re.DOTALL)
_VALUELESS: Final = re.compile(r"Flag <Argument: (?P<name>[\w-]+).* needed value and was not given one!")
_NO_NUMBER: Final = re.compile(r"invalid literal for int\(\) with base 10: (?P<value>.*)", re.DOTALL)


class Inv(Program):
    """Invoke's program. Exit status 2, and a message that says what to do, for a command line that makes no sense."""

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:  # noqa: A002 - Invoke's name of it
        """Run a command line (default: this process's). Who reads the output may stop when they have seen enough.

        Where it exits, an exception that nobody thought of becomes a line, and its traceback a file that it names.
        """
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
            super().parse_tasks()
            if self.args.dry.value:
                raise self._not_its_dry()
            if self.core.remainder:
                raise UsageError(f"nothing is expected after --, got {self.core.remainder}", hint="Leave the -- out.")
            if len(self.tasks) > 1:
                names = ", ".join(str(context.name) for context in self.tasks)
                raise UsageError(
                    f"expected one command, got {names}", hint="Each has flags of its own: run inv for each."
                )
            for context in self.tasks:
                self._check_values(context)

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
            word = found["word"]
            if word.startswith("-") and context is not None and context.name:
                return UsageError(f"unknown flag {word} of inv {context.name}", hint=suggest(word, _flags(context)))
            if word.startswith("-"):
                return _misplaced(word)
            return UsageError(f"unknown command {word!r}", hint=suggest(word, self.collection.task_names))
        if found := _VALUELESS.fullmatch(str(error)):
            return UsageError(f"--{found['name'].replace('_', '-')}: expected a value, got none")
        return UsageError(str(error), hint=f"inv {context.name} --help" if context is not None and context.name else "")

    def _not_its_dry(self) -> UsageError:
        """Return what is wrong with a --dry that Invoke took for a flag of its own, wherever it stands."""
        word = next((word for word in self.argv if word in ("--dry", "-R")), "--dry")
        if not self.core_via_tasks.args.dry.value or not self.tasks:
            return _misplaced("--dry")
        context = self.tasks[0]
        return UsageError(f"unknown flag {word} of inv {context.name}", hint=suggest(word, _flags(context)))

    def _flag_of(self, literal: str) -> str:
        """Return the flag whose value was that literal (as Python writes it)."""
        for word, following in zip(self.argv, [*self.argv[1:], ""], strict=True):
            if word.startswith("-") and repr(following) == literal:
                return word
            flag, equals, value = word.partition("=")
            if equals and repr(value) == literal:
                return flag
        return "a flag"


def _misplaced(flag: str) -> UsageError:
    return UsageError(f"{flag} stands before the command", hint=f"A command's flags follow it: inv image {flag}")


def _flags(context: ParserContext) -> list[str]:
    return [*context.flags, *context.inverse_flags]


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
