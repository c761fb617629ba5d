"""Whether a builder has the programs that a kernel is compiled with: looked for first, and told by their names.

Without this it would be the kernel's makefiles that fail: late, in the middle of a log, and in words that name neither
the builder nor the file that says what is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from osbuilder.errors import ToolMissing
from osbuilder.template import render as template_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from osbuilder.step import Job

HOST_TOOLS: Final = ("bc", "bison", "ccache", "flex", "gcc", "make")
"""What compiles for the builder itself, and drives the rest. Debian's packages have the same names."""

_MISSING: Final = "missing-tools"

_LOOK: Final = """\
for tool in {{ tools | sh }}; do
  command -v "$tool" > /dev/null || echo "$tool" >> /out/{{ missing }}
done
if [ -e /out/{{ missing }} ]; then
  exit 0
fi
"""


def look_for(tools: Iterable[str]) -> str:
    """Return the lines with which a script begins that needs programs; it ends there if one of them is missing."""
    return template_text(_LOOK, tools=tuple(tools), missing=_MISSING)


def check(job: Job, *, what_for: str, hint: str) -> None:
    """Raise ToolMissing, with the builder's name, if the script that ran for a job did not find what it looked for.

    `what_for` ends "lacks TOOLS, without which"; in `hint` {tools} stands for the names of what is missing.
    """
    missing = job.out / _MISSING
    if not missing.exists():
        return
    names = ", ".join(missing.read_text(encoding="utf-8").split())
    builder = str(job.inputs["builder"].manifest["ident"]).removesuffix("/builder")
    raise ToolMissing(f"builder {builder} lacks {names}, without which {what_for}", hint=hint.format(tools=names))
