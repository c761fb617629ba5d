"""Editing a configuration by hand: the kernel's own menus in a builder, and what was changed as a fragment.

The menus run under script(1), which gives them a terminal of their own; its two ends are named pipes that the builder
and this host share (see osbuilder.terminal). So any engine can run them that shows this host's folders to a command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from osbuilder.engine.base import Command, Mounts
from osbuilder.engine.script import render
from osbuilder.kernel.expression import evaluate
from osbuilder.kernel.kconfig import Tree

TERMINAL: Final = "terminal"
"""The folder of the pipes, as a mount's name."""
TOOLS: Final = ("libncurses-dev",)
"""What the menus are compiled with, beside what a compiler's builder has."""

# Kconfig files, what they run, and the makefiles that get there. stty tells the menus how large the terminal is.
_MENUS: Final = """\
mkdir /work/linux /work/build
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1 --wildcards \\
  '*/Kconfig*' '*/Makefile*' '*/Kbuild*' '*/scripts/*'
cp /in/config /work/build/.config
cat > /work/menus <<'END'
stty rows {{ rows }} cols {{ columns }}
exec make --no-print-directory -C /work/linux O=/work/build ARCH={{ arch | sh }} \\
  CROSS_COMPILE={{ cross_compile | sh }} menuconfig
END
script --quiet --return --command 'bash /work/menus' /dev/null < /cache/terminal/keys > /cache/terminal/screen
cp /work/build/.config /out/config
"""


def menus(*, arch: str, cross_compile: str, shape: os.terminal_size) -> str:
    """Return the script that shows the menus; its inputs are `source` and `config`, its output is `config`."""
    return render(_MENUS, arch=arch, cross_compile=cross_compile, rows=shape.lines, columns=shape.columns)


def menus_mounts(folder: Path, script: str, files: Mapping[str, Path]) -> Mounts:
    """Make in `folder` what the script needs, and return what it sees: `files`, and the terminal's pipes."""
    parts = {part: folder / part for part in ("out", "work", TERMINAL)}
    for part in parts.values():
        part.mkdir()
    (folder / "script").write_text(script, encoding="utf-8")
    return Mounts(
        inputs={"script": folder / "script", **files},
        output=parts["out"],
        work=parts["work"],
        caches={TERMINAL: parts[TERMINAL]},
    )


def menus_command() -> Command:
    """Return the command that runs the script, whatever terminal is at the other end."""
    return Command(argv=("bash", "/in/script"), env=(("TERM", "xterm"),))


def changes(tree: Tree, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return the fragment that makes `after` of `before`; empty when nothing was changed.

    Only what a request can reach is in it: a symbol with a visible prompt. What is selected follows from those, and
    what a choice fell off is said by what it fell on.
    """
    lines = []
    for symbol in sorted(before.keys() | after.keys()):
        value = after.get(symbol, "n")
        if value != before.get(symbol, "n") and _reachable(tree, symbol, value, after):
            lines.append(f"CONFIG_{symbol}={value}\n")
    return "".join(lines)


def _reachable(tree: Tree, symbol: str, value: str, values: Mapping[str, str]) -> bool:
    for definition in tree.symbols.get(symbol, ()):
        if definition.visible is None or not evaluate(definition.visible, values):
            continue
        if value != "n" or definition.choice is None:
            return True
        return not any(values.get(other) == "y" for other in definition.choice.members)
    return False


def commented(fragment: str) -> Iterator[str]:
    """Yield the lines of a fragment with the comment that each has to have, for a person to fill in."""
    if fragment:
        yield "# What for?\n"
    for line in fragment.splitlines(keepends=True):
        if line.endswith("=n\n"):
            yield "# Why not?\n"
        yield line
