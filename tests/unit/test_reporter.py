"""A build tells what it does, a line a step."""

from __future__ import annotations

import io
from pathlib import Path

from osbuilder.reporter import LineReporter, TerminalReporter, reporter_for
from osbuilder.step import Step
from tests.unit.test_execute import Write

STEP = Step(name="image", subject="debian", action=Write(text=""))


def test_each_step_has_a_line_when_it_starts_and_one_when_it_ends() -> None:
    stream = io.StringIO()
    reporter = LineReporter(stream)
    reporter.waiting(STEP)
    reporter.started(STEP, Path("/logs/image.log"))
    reporter.finished(STEP, {}, seconds=2.04)
    reporter.finished(STEP, {}, seconds=None)
    reporter.failed(STEP)
    reporter.kept_out()
    told = [line.split("] ")[1] for line in stream.getvalue().splitlines()]
    assert told == [
        "image      debian: waiting for another build, which makes the same",
        "image      debian: started, log: /logs/image.log",
        "image      debian: done in 2.0 s",
        "image      debian: in the store",
        "image      debian: FAILED",
        "waiting for `inv cache`, which has the store to itself while it tidies",
    ]


def test_a_folder_that_stays_is_named_with_what_to_do_about_it() -> None:
    stream = io.StringIO()
    LineReporter(stream).left(Path("/store/tmp/a"), "docker")
    told = stream.getvalue()
    assert "/store/tmp/a stays: a killed build left it, docker may run its commands still and does not answer" in told
    assert "start docker (`inv doctor`), or remove the folder" in told


def test_a_terminal_is_live_and_a_file_is_not() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(reporter_for(Terminal()), TerminalReporter)
    assert not isinstance(reporter_for(io.StringIO()), TerminalReporter)


def test_a_terminal_keeps_the_lines_of_what_is_done(tmp_path: Path) -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    log = tmp_path / "log"
    log.write_text("CC mm/slub.o\n")
    reporter.started(STEP, log)
    reporter.finished(STEP, {}, seconds=1.0)
    assert "image      debian: done in 1.0 s" in stream.getvalue()
