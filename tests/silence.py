"""A download that shows nothing, for tests that look at something else (a kind of osbuilder.fetch.Progress)."""

from __future__ import annotations


class SilentProgress:
    """Shows nothing."""

    def start(self, name: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        """Show nothing."""

    def advance(self, count_bytes: int) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""
