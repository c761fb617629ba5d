"""What a person sees while a build runs: a live line on a terminal, else plain lines. Implements execute.Reporter."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from osbuilder.engine.base import log_tail
from osbuilder.fetch import Progress
from osbuilder.progress import progress_for
from osbuilder.step import notes_of

if TYPE_CHECKING:
    from osbuilder.step import Json, Step


def reporter_for(stream: TextIO) -> LineReporter:
    """Return the reporter that fits a stream: live on a terminal, lines elsewhere."""
    return TerminalReporter(stream) if stream.isatty() else LineReporter(stream)


class LineReporter:
    """One line when a step starts and one when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._mutex = threading.Lock()
        self._began = time.monotonic()

    @property
    def downloads(self) -> Progress:
        """Where downloads report to."""
        return progress_for(self._stream)

    def waiting(self, step: Step) -> None:
        """Say that another build makes what a step would."""
        self._say(step, "waiting for another build, which makes the same")

    def kept_out(self) -> None:
        """Say that somebody has the store alone."""
        self._write(f"{self._stamp()} waiting for `inv cache`, which has the store to itself while it tidies")

    def started(self, step: Step, log: Path) -> None:
        """Say that a step starts and where its log is."""
        self._say(step, f"started, log: {log}")

    def finished(self, step: Step, facts: Mapping[str, Json], *, seconds: float | None) -> None:
        """Say how long a step took, or that nothing had to be done, and what there is to know of its result."""
        self._say(step, "in the store" if seconds is None else f"done in {seconds:.1f} s")
        for note in notes_of(step.action, facts):
            self._say(step, f"note: {note}")

    def failed(self, step: Step) -> None:
        """Say that a step failed; the error itself is told by the caller."""
        self._say(step, "FAILED")

    def left(self, folder: Path, engine: str) -> None:
        """Say that what a killed build left stays, and until when."""
        what = f"{folder} stays: a killed build left it, {engine} may run its commands still and does not answer"
        self._write(f"{self._stamp()} {what}; start {engine} (`inv doctor`), or remove the folder if it is gone")

    def _say(self, step: Step, what: str) -> None:
        self._write(f"{self._stamp()} {step.name:<10} {step.subject}: {what}")

    def _stamp(self) -> str:
        return f"[{time.monotonic() - self._began:6.1f} s]"

    def _write(self, line: str) -> None:
        with self._mutex:
            self._stream.write(f"{line}\n")
            self._stream.flush()


class TerminalReporter(LineReporter):
    """Lines for what is done, and under them a live one: what runs, for how long, and the last line of its log."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._running: dict[str, tuple[float, Path]] = {}
        self._shown: threading.Thread | None = None

    def started(self, step: Step, log: Path) -> None:
        """Show a step as running."""
        with self._mutex:
            self._running[step.ident] = (time.monotonic(), log)
            if self._shown is None:
                self._shown = threading.Thread(target=self._show, daemon=True, name="progress")
                self._shown.start()

    def finished(self, step: Step, facts: Mapping[str, Json], *, seconds: float | None) -> None:
        """Take a step off the live line and say how long it took."""
        with self._mutex:
            self._running.pop(step.ident, None)
        super().finished(step, facts, seconds=seconds)

    def failed(self, step: Step) -> None:
        """Take a step off the live line and say that it failed."""
        with self._mutex:
            self._running.pop(step.ident, None)
        super().failed(step)

    def _write(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=self._stream)

    def _show(self) -> None:
        from tqdm import tqdm

        with tqdm(bar_format="{desc}", file=self._stream, leave=False, dynamic_ncols=True) as bar:
            while True:
                time.sleep(0.5)
                with self._mutex:
                    running = sorted(self._running.items())
                    if not running:
                        self._shown = None
                        return
                bar.set_description_str("  ".join(_live(ident, *entry) for ident, entry in running))


def _live(ident: str, began: float, log: Path) -> str:
    last = log_tail(log, lines=1, limit_bytes=512).strip()[:60]
    return f"{ident} {time.monotonic() - began:.0f} s {last}"
