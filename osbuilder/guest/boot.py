"""Starts a guest and waits for what it says about itself: the verdict is the guest's own.

The probe reports; of another agent it is known what it does once it serves (guest.ready).

Owns the choice between KVM and TCG, and the patience; guest.place is where QEMU runs. /dev/kvm is tried, not trusted: a
host may have the device and yet run nothing on it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from osbuilder.errors import BootError, CommandFailed, EngineError, TimeLimit, UsageError
from osbuilder.guest import hotplug, qmp, shares
from osbuilder.guest.expect import expected_probes
from osbuilder.guest.lacking import reason
from osbuilder.guest.place import KVM, Names, Nowhere, Place
from osbuilder.guest.qemu import render_argv
from osbuilder.guest.ready import Ready
from osbuilder.guest.report import Report, Result, console_tail, parse_delivery
from osbuilder.guest.spec import Accel, Device, Guest, RootKind

KVM_TRIAL_S: Final = 15
# The agent reports through its port, powers the guest off, and QEMU exits: nobody has to guess when a boot is over.
AGENT_CMDLINE: Final = ("osbuilder.then=poweroff",)

ROOT_VERITY: Final = "root-verity"
"""The probe that tells what a root on dm-verity is verified by."""

# What dm-verity prints when a block does not have its hash (verity_handle_err of drivers/md/dm-verity-target.c). Loop
# devices (major 7) are not the root's: the agent's probe shows one such a block.
_CORRUPTED: Final = re.compile(rb"device-mapper: verity: (?!7:)\S+ ((?:data|metadata) block \d+) is corrupted")

# For an agent that never ends: runs QEMU until a line of a file matches, and keeps that line. Here rather than in
# Python, so that it is the same wherever QEMU runs. Arguments: pattern, file, where the line goes, QEMU's command.
_BAD_PATTERN: Final = 64
_UNTIL_READY: Final = f"""\
pattern=$1 watched=$2 ready=$3
shift 3
setpriv --pdeathsig KILL -- "$@" &
qemu=$!
matches() {{
  test -e "$watched" || return 1
  grep -a -m 1 -E -e "$pattern" "$watched" > "$ready"
}}
while kill -0 "$qemu" 2> /dev/null; do
  matches && status=0 || status=$?
  if [ "$status" != 1 ]; then
    kill "$qemu"
    wait "$qemu" || :
    test "$status" = 0 && exit 0
    exit {_BAD_PATTERN}
  fi
  sleep 0.2
done
matches && exit 0
wait "$qemu"
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A guest that is up: what it said, how it was started, and how long QEMU ran (seconds of wall time).

    It said so in its report or, with another agent than the probe, `ready` says how. `required` are the probes that its
    kernel promises.
    """

    reported: Report | None
    guest: Guest
    wall_s: float
    ready: str = ""
    required: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """What QEMU said against plugging what the agent asked for."""

    @property
    def report(self) -> Report:
        """The guest's report. Raises BootError for a guest whose agent makes none."""
        if self.reported is None:
            raise BootError(f"the guest serves ({self.ready}), but its agent makes no report")
        return self.reported

    def check(self) -> None:
        """Raise BootError when a required probe failed, or when a root that could be mapped was not.

        A probe that was skipped says that the machine lacks a device; that is no fault of the guest's, unless the guest
        was given that device, root or security module, or it was plugged in.
        """
        if self.reported is None:
            return
        self._check_plugs()
        if self.report.vcpus != self.guest.vcpus:
            raise BootError(
                f"the guest is up, but not with all of its processors: expected {self.guest.vcpus} vCPUs, "
                f"got {self.report.vcpus}",
                hint="Has its kernel the capability smp, and what names processors on this machine (acpi, mptable)?",
            )
        gaps = self.report.gaps(self.required)
        failed = [probe.name for probe in gaps if probe.result is Result.FAIL]
        if failed:
            raise BootError(
                f"the guest is up, but {len(failed)} of its probes failed: {', '.join(failed)}",
                hint="`inv boot` shows what each one missed; kernel/configs/capabilities.yaml says what it stands for.",
            )
        expected = expected_probes(self.guest)
        unseen = [f"{probe.name} ({expected[probe.name]}): {probe.detail}" for probe in gaps if probe.name in expected]
        if unseen:
            raise BootError(
                f"the guest is up, but does not see what it was given; probes that had to pass were skipped: "
                f"{'; '.join(unseen)}",
                hint="Has its kernel the driver? Its log is `dmesg`, with --append ignore_loglevel on the console.",
            )
        if self.guest.root.mapped and not dax(self.report):
            raise BootError(
                f"the root is not mapped: expected dax in its options, got {','.join(self.report.root.options)}",
                hint="Is the image built with --dax, and does the kernel have the capability nvdimm-root?",
            )
        if self.guest.root is RootKind.VERITY:
            self._check_verity()

    def _check_plugs(self) -> None:
        said = {probe.name: probe for probe in self.report.probes}
        guest, release = self.guest, self.report.kernel.release
        for plug in guest.plugs:
            found = said.get(plug.probe)
            lack = reason(plug.probe, guest.arch.name, {guest.accel}, guest.patches, release)
            if found and found.result is Result.SKIP and lack:
                continue
            if found is None or found.result is not Result.PASS:
                detail = found.detail if found else "the probe was not asked for"
                raise BootError(
                    f"what was plugged is of no use ({plug.value}): expected that {plug.probe} passes, got: {detail}",
                    hint=f"QEMU refused: {'; '.join(self.refused)}"
                    if self.refused
                    else "QEMU did as it was told; with --append ignore_loglevel the guest's log is on its console.",
                )

    def _check_verity(self) -> None:
        found = next((probe for probe in self.report.probes if probe.name == ROOT_VERITY), None)
        expected = self.guest.verity.root_hash if self.guest.verity else ""
        if found is None or found.result is not Result.PASS or expected not in found.detail:
            said = found.detail if found else "no word of it"
            raise BootError(
                f"the root is not verified: expected root hash {expected}, got {said}",
                hint=f"Is root=/dev/dm-0 on the kernel line, and does the agent have the probe {ROOT_VERITY}?",
            )


def dax(report: Report) -> bool:
    """Whether the guest's root is mapped directly (mount option dax, or dax=always since Linux 5.8)."""
    return any(option in ("dax", "dax=always") for option in report.root.options)


def start(
    guest: Guest,
    place: Place,
    *,
    required: tuple[str, ...],
    accels: tuple[Accel, ...],
    timeout_s: int,
    remember: Callable[[bool], None],
    ready: Ready | None = None,
) -> Boot:
    """Start a guest with the first of `accels` that runs it and return its report.

    With `ready` it is up when that comes true; it need not report. The files that `guest` names are of this host; its
    accelerator, console, report and port are set here. KVM, where another accelerator may follow, gets KVM_TRIAL_S
    seconds; `remember` is told whether it worked. Raises BootError with the console's end.
    """
    notes: list[str] = []
    for number, accel in enumerate(accels, 1):
        trial = accel is Accel.KVM and number < len(accels)
        limit_s = min(KVM_TRIAL_S, timeout_s) if trial else timeout_s
        try:
            boot = _attempt(dataclasses.replace(guest, accel=accel), place, limit_s, ready)
        except (BootError, EngineError):
            if not trial:
                raise
            notes.append(f"KVM is there but ran no guest within {limit_s} s: emulated (TCG) instead")
            continue
        # A guest that comes up nowhere says nothing about KVM.
        if accel is Accel.KVM or notes:
            remember(accel is Accel.KVM)
        return dataclasses.replace(boot, required=required, notes=tuple(notes))
    raise BootError("no accelerator to boot with")


def usable_accels(*, wanted: Accel | None, same_arch: bool, kvm_works: bool | None) -> tuple[Accel, ...]:
    """Return the accelerators to try, in order. `wanted` None chooses; `kvm_works` is what an earlier boot found.

    KVM that ran a guest is not on trial any more: it has no other behind it.
    """
    if wanted is not None:
        return (wanted,)
    if same_arch and kvm_works is not False and os.access(KVM, os.R_OK | os.W_OK):
        return (Accel.KVM,) if kvm_works else (Accel.KVM, Accel.TCG)
    return (Accel.TCG,)


def command_of(guest: Guest) -> tuple[str, ...]:
    """Return the command that starts a guest which reports, wherever that is: the names in it are no host's.

    Guests with the same command and the same bytes in their files are the same guest.
    """
    return _command(_placed(guest, Nowhere(), None), Nowhere(), None)


def _placed(guest: Guest, place: Names, ready: Ready | None) -> Guest:
    return dataclasses.replace(
        guest,
        kernel=place.input(Path(guest.kernel)),
        image=place.input(Path(guest.image)) if guest.image else None,
        initrd=place.input(Path(guest.initrd)) if guest.initrd else None,
        console=place.output("console"),
        report=place.output("report"),
        share=place.output(shares.SHARE),
        port=ready.port if ready else None,
        cmdline=(*guest.cmdline, *AGENT_CMDLINE),
    )


def _attempt(guest: Guest, place: Place, timeout_s: int, ready: Ready | None) -> Boot:
    outputs = {name: place.folder / name for name in ("console", "report", "ready", "qmp")}
    for path in outputs.values():
        path.unlink(missing_ok=True)
    placed = _placed(guest, place, ready)
    began = time.monotonic()
    ended = ""
    try:
        place.run(_command(placed, place, ready), kvm=guest.accel is Accel.KVM, timeout_s=timeout_s)
    except TimeLimit:
        ended = f"it was still running after {timeout_s} s"
    except CommandFailed as failure:
        if ready is not None and failure.status == _BAD_PATTERN:
            said = next((line for line in failure.tail.splitlines() if line.startswith("grep:")), failure.tail)
            raise UsageError(
                f"ready {ready.pattern!r}: expected an extended regular expression, got what grep refuses ({said})",
                hint="grep(1) describes them; a backslash takes a character as it is.",
            ) from failure
        ended = f"QEMU exited with status {failure.status}: {' '.join(failure.tail.strip().splitlines()[-1:])}"
    console, port, line = (_content(outputs[name]) for name in ("console", "report", "ready"))
    if ready is not None:
        if not line.strip():
            _check_blocks(console, guest)
        return Boot(
            reported=None,
            ready=_ready_line(line, ready, console=console, ended=ended),
            guest=placed,
            wall_s=time.monotonic() - began,
        )
    try:
        report = parse_delivery(port, console)
    except BootError as error:
        _check_blocks(console, guest)
        message = f"the guest did not say that it is ready: {error.message}" + (f"; {ended}" if ended else "")
        raise BootError(message, console=console_tail(console), hint=error.hint) from None
    refused = hotplug.refusals(_content(outputs["qmp"]))
    return Boot(reported=report, guest=placed, wall_s=time.monotonic() - began, refused=refused)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _command(guest: Guest, place: Names, ready: Ready | None) -> tuple[str, ...]:
    """Return the command that runs QEMU and does what its guest needs of a host meanwhile."""
    argv = render_argv(guest)
    if guest.shares:
        argv = shares.serving(argv, share=guest.share, virtiofs=Device.VIRTIOFS in guest.devices)
    if guest.plugs:
        return _answering(argv, guest, place)
    return argv if ready is None else _until_ready(argv, place, ready)


def _answering(argv: tuple[str, ...], guest: Guest, place: Names) -> tuple[str, ...]:
    """Return the command that runs QEMU and plugs what its guest's agent asks for."""
    answers = hotplug.answers(guest.plugs, guest.machine, model=guest.cpu, vcpus=guest.vcpus)
    return hotplug.answering(argv, answers, qmp=str(place.output("qmp")), console=str(place.output("console")))


def _until_ready(argv: tuple[str, ...], place: Names, ready: Ready) -> tuple[str, ...]:
    """Return the command that runs QEMU until its guest serves."""
    watched = str(place.output("console"))
    if ready.port is not None:
        watched = str(place.output("qmp"))
        argv = qmp.listening(argv, qmp=watched)
    return ("sh", "-c", _UNTIL_READY, "sh", ready.pattern, watched, str(place.output("ready")), *argv)


def _check_blocks(console: bytes, guest: Guest) -> None:
    """Raise BootError, with the console's end, when the guest's root had a block that does not have its hash."""
    block = _CORRUPTED.search(console)
    if block is None or guest.root is not RootKind.VERITY:
        return
    what = block[1].decode("ascii")
    raise BootError(
        f"the guest refused its root: {what} of {guest.image} is not what the root hash stands for",
        console=console_tail(console),
        hint="The image was changed or damaged after it was built, or the root hash is another's: `inv inspect IMAGE` "
        "compares them, `inv image --measured` makes both.",
    )


def _ready_line(line: bytes, ready: Ready, *, console: bytes, ended: str) -> str:
    """Return what the line that matched says, for a terminal. Raises BootError, with the console's end, for none."""
    if line.strip():
        return ready.told(console_tail(line).strip())
    raise BootError(
        f"the guest did not say that it is ready: {ready.lacking}; {ended or 'it ended by itself'}",
        console=console_tail(console),
        hint=ready.hint,
    )
