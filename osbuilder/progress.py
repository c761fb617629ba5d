"""How a download shows: a tqdm bar on a terminal, plain lines elsewhere (the kinds of fetch.Progress).

Writes only to the stream that it is given. One object shows one download at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from osbuilder.fetch import Progress

_STEP_BYTES = 16 << 20  # a line this often where the total is not known


def progress_for(stream: TextIO) -> Progress:
    """Return the progress that suits `stream`: a bar on a terminal, else lines."""
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


class BarProgress:
    """A tqdm bar, for terminals. It vanishes when it is finished."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[Any] | None = None

    def start(self, name: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        """Open a bar."""
        self._bar = tqdm(
            desc=name,
            total=total_bytes,
            initial=done_bytes,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
        )

    def advance(self, count_bytes: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(count_bytes)

    def note(self, message: str) -> None:
        """Write a line above the bar."""
        tqdm.write(message, file=self._stream)

    def finish(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LineProgress:
    """Plain lines, for logs: at the start, then one every tenth of the total (or every 16 MiB)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name = ""
        self._total_bytes: int | None = None
        self._done_bytes = 0
        self._next_bytes = 0

    def start(self, name: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        """Write what begins, how large it is and how much of it is there."""
        self._name, self._total_bytes, self._done_bytes = name, total_bytes, done_bytes
        size = "size unknown" if total_bytes is None else _mib(total_bytes)
        self.note(f"{name}: {size}" + (f", {_mib(done_bytes)} there already" if done_bytes else ""))
        self._next_bytes = done_bytes + self._step_bytes()

    def advance(self, count_bytes: int) -> None:
        """Write a line when enough more has come."""
        self._done_bytes += count_bytes
        if self._done_bytes >= self._next_bytes:
            share = f" ({100 * self._done_bytes // self._total_bytes}%)" if self._total_bytes else ""
            self.note(f"{self._name}: {_mib(self._done_bytes)}{share}")
            self._next_bytes = self._done_bytes + self._step_bytes()

    def note(self, message: str) -> None:
        """Write a line."""
        self._stream.write(f"{message}\n")
        self._stream.flush()

    def finish(self) -> None:
        """Nothing: the lines stand."""

    def _step_bytes(self) -> int:
        return max(1 << 20, self._total_bytes // 10) if self._total_bytes else _STEP_BYTES


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"
