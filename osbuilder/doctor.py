"""Looks at the host: what building and booting need, what is there, and the one command that mends what is not.

Nothing is changed without being asked: `mend` says each command before it runs it, and asks unless it was told not to.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.arch import ARCHES, host_arch
from osbuilder.binfmt import PACKAGE, emulates, setup
from osbuilder.errors import ToolMissing
from osbuilder.guest.place import KVM, host_qemu
from osbuilder.settings import Foreign

if TYPE_CHECKING:
    from osbuilder.settings import Settings

# A kernel's source and objects, two builders, and what comes out of them, measured with du after a quickstart.
_DISK_GIB: Final = 8
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look: what was looked at, whether it is well, what was found, and what mends it.

    `packages` are Debian's, and `setup` what is run after they were installed. `by_hand` are lines for a shell that
    change more than that, so they are only shown.
    `needed` False means that osbuilder does without, only slower or in a builder.
    """

    name: str
    well: bool
    found: str
    needed: bool = True
    packages: tuple[str, ...] = ()
    setup: tuple[tuple[str, ...], ...] = ()
    by_hand: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """All looks at a host."""

    checks: tuple[Check, ...]

    def table(self) -> str:
        """Return a line a check."""
        width = max(len(check.name) for check in self.checks)
        return "\n".join(f"{_mark(check):<7}  {check.name:<{width}}  {check.found}" for check in self.checks)

    @property
    def missing(self) -> tuple[Check, ...]:
        """What has to be mended before anything can be built."""
        return tuple(check for check in self.checks if check.needed and not check.well)

    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Return the commands that mend what is missing; empty when nothing is, or no command can."""
        packages = sorted({package for check in self.missing for package in check.packages})
        install = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
        sudo = () if os.geteuid() == 0 else ("sudo",)
        commands = (
            *((("apt-get", "update"), install) if packages else ()),
            *(command for check in self.missing for command in check.setup),
        )
        return tuple((*sudo, *command) for command in commands)

    def check(self) -> None:
        """Raise ToolMissing that names everything missing and the command that mends it."""
        if not self.missing:
            return
        commands = self.commands()
        ways = (
            ["`inv doctor --fix` runs: " + " && ".join(shlex.join(command) for command in commands)] if commands else []
        )
        ways += dict.fromkeys(f"by hand: {line}" for check in self.missing for line in check.by_hand)
        raise ToolMissing(
            "this host lacks " + "; ".join(f"{check.name} ({check.found})" for check in self.missing),
            hint="\n  ".join(ways),
        )

    def mend(self, *, confirm: Callable[[str], bool] | None, dry: bool, say: Callable[[str], None]) -> None:
        """Run the commands that mend what is missing. `confirm` is asked first (None: nobody is).

        Raises ToolMissing when the answer is no, when a command fails, or when there is none.
        """
        if not self.missing:
            return
        commands = self.commands()
        for command in commands:
            say(shlex.join(command))
        if dry:
            return
        if not commands or (confirm is not None and not confirm("Run this?")):
            self.check()
        for command in commands:
            if not shutil.which(command[0]):
                raise ToolMissing(f"{command[0]} is not there", hint="This needs a Debian or Ubuntu host.")
            status = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
            if status:
                raise ToolMissing(f"{shlex.join(command)} exited with status {status}")


def examine(settings: Settings) -> Checkup:
    """Return what this host has and lacks under these settings. Starts no guest and no container."""
    return Checkup(
        checks=(
            _store(settings),
            _disk(settings),
            *_engines(settings),
            *_bootstrap(settings),
            _qemu(),
            _kvm(),
            _emulation(settings),
        )
    )


def _mark(check: Check) -> str:
    if check.well:
        return "ok"
    return "MISSING" if check.needed else "without"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _store(settings: Settings) -> Check:
    path = settings.store_path
    return Check(name="store", well=os.access(_existing(path), os.W_OK), found=f"{path} (setting store)")


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(_existing(settings.store_path)).free / 2**30
    return Check(
        name="disk",
        well=free >= _DISK_GIB,
        found=f"{free:.0f} GiB free for the store, a first build takes {_DISK_GIB} GiB",
        # A store that is there has taken its share already.
        needed=not (settings.store_path / "objects").is_dir(),
    )


def _engines(settings: Settings) -> tuple[Check, ...]:
    from osbuilder.engine.choose import detect

    reports = detect(settings)
    works = any(report.works for report in reports)
    checks = [
        Check(name=f"engine {report.name}", well=report.works, found=report.found, needed=False) for report in reports
    ]
    chosen = next((report.name for report in reports if report.works), "none works")
    # Whatever was asked for is what gets mended; without a wish it is the sandbox, which needs no daemon.
    mends = reports[-1]
    packages, by_hand = ((), ()) if works else (mends.packages, mends.commands)
    return (*checks, Check(name="engine", well=works, found=chosen, packages=packages, by_hand=by_hand))


def _bootstrap(settings: Settings) -> tuple[Check, ...]:
    if settings.base_image:
        return (Check(name="builders", well=True, found=f"bootstrapped in {settings.base_image}"),)
    program = shutil.which("mmdebstrap")
    return (
        Check(
            name="mmdebstrap",
            well=program is not None,
            found=program or "not installed; it makes the builders",
            packages=("mmdebstrap",),
        ),
        Check(
            name="Debian's keys",
            well=_KEYRING.exists(),
            found=str(_KEYRING) if _KEYRING.exists() else "not installed; they verify the builders' packages",
            packages=("debian-archive-keyring",),
        ),
        *((_newuidmap(), _subordinate_ids()) if os.geteuid() else ()),
    )


def _newuidmap() -> Check:
    program = shutil.which("newuidmap")
    return Check(
        name="newuidmap",
        well=program is not None,
        found=program or "not installed; mmdebstrap needs it for an ordinary user",
        packages=("uidmap",),
    )


def _subordinate_ids() -> Check:
    from osbuilder.engine.namespaces import own_ranges

    name = "subordinate ids"
    try:
        own_ranges()
    except ToolMissing as error:
        return Check(name=name, well=False, found=f"{error.message}; mmdebstrap needs them", by_hand=(error.hint,))
    return Check(name=name, well=True, found="enough for a root filesystem's owners")


def _qemu() -> Check:
    program = host_arch().qemu
    there = host_qemu(program)
    found = f"{program} on this host" if there else f"no {program} on this host: it runs in a builder"
    return Check(name="QEMU", well=there, found=found, needed=False)


def _emulation(settings: Settings) -> Check:
    """Look whether programs of other architectures run: needed only where foreign packages configure themselves."""
    lacking = tuple(arch for arch in ARCHES.values() if arch != host_arch() and not emulates(arch))
    names = ", ".join(arch.name for arch in lacking)
    program = shutil.which(f"qemu-{lacking[0].name}-static") if lacking else None
    return Check(
        name="emulation",
        well=not lacking,
        found=f"programs of {names} do not run here (setting foreign=emulated)" if lacking else "by binfmt_misc",
        needed=settings.foreign is Foreign.EMULATED,
        packages=() if program else (PACKAGE,),
        setup=setup(lacking),
    )


def _kvm() -> Check:
    usable = os.access(KVM, os.R_OK | os.W_OK)
    found = (
        f"{KVM} can be opened (the first boot tries it)" if usable else f"{KVM} cannot be opened: guests are emulated"
    )
    return Check(name="KVM", well=usable, found=found, needed=False)
