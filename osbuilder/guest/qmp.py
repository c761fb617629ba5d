"""QEMU's machine protocol (QMP) on its standard input and output, as scripts that run where QEMU does.

Source: QEMU's docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

from typing import Final

# Opens QMP in file descriptor 3; `$qmp` is the file that QEMU's answers go to. QEMU tells nothing before it was asked
# for its capabilities, and nothing any more when its input ends; a FIFO that the script has open itself never does.
OPEN: Final = """\
mkfifo "$qmp.in"
exec 3<> "$qmp.in"
rm "$qmp.in"
echo '{"execute": "qmp_capabilities"}' >&3
"""

_LISTENING: Final = f"""\
qmp=$1
shift
{OPEN}exec "$@" <&3 > "$qmp"
"""


def listening(argv: tuple[str, ...], *, qmp: str) -> tuple[str, ...]:
    """Return the command that runs QEMU with what it says in a file, `qmp` as seen where QEMU runs."""
    return ("sh", "-c", _LISTENING, "sh", qmp, *argv)
