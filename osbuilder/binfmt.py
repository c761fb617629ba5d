"""Programs of other architectures on this kernel: whether binfmt_misc starts them in qemu-user, and what makes it.

Flag F is needed: the kernel then opens the emulator when it is registered, so that it also serves in a sandbox or a
container, which do not have it. Debian's package qemu-user-static brings a line to register for each architecture.

Source: the kernel's Documentation/admin-guide/binfmt-misc.rst, binfmt.d(5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.errors import ToolMissing

if TYPE_CHECKING:
    from osbuilder.arch import Arch

MOUNT: Final = Path("/proc/sys/fs/binfmt_misc")
PACKAGE: Final = "qemu-user-static"
_LINES: Final = Path("/usr/lib/binfmt.d")


def emulates(arch: Arch, mount: Path = MOUNT) -> bool:
    """Say whether programs of an architecture run here, and in what does not see this host's files."""
    try:
        text = (mount / f"qemu-{arch.name}").read_text("utf-8")
    except OSError:
        return False
    flags = re.search(r"^flags: (\w*)$", text, re.MULTILINE)
    return text.startswith("enabled\n") and flags is not None and "F" in flags[1]


CARRIED: Final = "Or leave the setting foreign alone: nothing foreign has to run then."


def check_emulation(arch: Arch, mount: Path = MOUNT, *, otherwise: str = CARRIED) -> None:
    """Raise ToolMissing, with the command that mends it, unless programs of an architecture run here.

    `otherwise` says what can be done without them.
    """
    if emulates(arch, mount):
        return
    raise ToolMissing(
        f"programs of {arch.name} do not run here: expected {mount}/qemu-{arch.name} to be enabled with flag F",
        hint=f"`inv doctor --fix --setting foreign=emulated` sets it up and says what it changes.\n  {otherwise}",
    )


def setup(arches: tuple[Arch, ...], mount: Path = MOUNT) -> tuple[tuple[str, ...], ...]:
    """Return the commands, without sudo, that make programs of architectures run until the host is rebooted.

    PACKAGE must be installed; where systemd runs, its installation has registered them already.
    """
    commands: list[tuple[str, ...]] = []
    if not (mount / "register").exists():
        commands.append(("mount", "-t", "binfmt_misc", "binfmt_misc", str(mount)))
    for arch in arches:
        entry = mount / f"qemu-{arch.name}"
        if entry.exists():  # without flag F, or disabled: -1 removes an entry
            commands.append(("sh", "-c", f"echo -1 > {entry}"))
        line = _LINES / f"qemu-{arch.name}.conf"
        commands.append(("sh", "-c", f"[ -e {entry} ] || cp {line} {mount / 'register'}"))
    return tuple(commands)
