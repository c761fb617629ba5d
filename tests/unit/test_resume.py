"""What `inv verify --record` takes from a record instead of doing it again, and what it does again all the same."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from osbuilder import launch
from osbuilder.api import CHECKOUT, Built, Workbench, open_workbench
from osbuilder.arch import host_arch
from osbuilder.errors import BootError, Interrupted
from osbuilder.guest.boot import Boot
from osbuilder.guest.qemu import render_argv
from osbuilder.guest.spec import Accel, Guest, RootKind
from osbuilder.kernel.build import compiled
from osbuilder.kernel.catalogue import load_usable
from osbuilder.kernels import Kernels
from osbuilder.launch import Outcome
from osbuilder.record import open_record
from osbuilder.request import BootRequest, BuildRequest, KernelRequest
from osbuilder.settings import Accel as AccelChoice
from osbuilder.step import Step, key_of
from osbuilder.store import Artifact
from osbuilder.trials import Trial
from osbuilder.verdict import Verdict
from tests.unit.test_verify import said

PROBES = ("vsock", "inet")
TRIALS = tuple(
    Trial(arch="x86_64", variant=variant, machine=machine, root=root, distro="scratch")
    for variant, machine in (("base", "q35"), ("minimal", "microvm"))
    for root in (RootKind.INITRD, RootKind.VIRTIO_BLK)
)
NAMES = [str(trial) for trial in TRIALS]
BASE = ("x86_64", "base")
CATALOGUE = functools.cache(load_usable)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(kw_only=True)
class Machine:
    """A machine whose workbench builds and boots nothing, and what can be different about it."""

    folder: Path
    store: set[str] = dataclasses.field(default_factory=set)
    """The keys of the kernels in its store."""
    compiler: str = "gcc 14"
    bytes: str = "as ever"
    root: str = "a root"
    modules: bool = False
    wall_s: float = 977.923
    wrong: tuple[str, ...] = ()
    inet: str = "pass"
    stopped_at: str = ""
    accel: Accel = Accel.TCG
    did: list[str] = dataclasses.field(default_factory=list)
    """What was compiled and started."""

    def digests(self, step: Step) -> dict[str, str]:
        return {name: sha256(f"{each.ident} {self.compiler}") for name, each in step.dependencies()}

    def kernel(self, step: Step) -> Artifact:
        """Return the kernel of a plan."""
        names = ["vmlinux", "vmlinuz", *(["modules.tar.zst"] if self.modules else [])]
        for name in names:
            (self.folder / name).write_text("a kernel")
        files = {name: {"sha256": sha256(f"{self.bytes} {step.ident} {name}")} for name in names}
        facts = {"version": "6.12.1", "options_y": 900, "cpu_s": 1541.25, "ccache": {"hits": 1, "misses": 2}}
        manifest = {"ident": step.ident, "outputs": files, "facts": facts, "wall_s": self.wall_s}
        key = key_of(step.ingredients(self.digests(step)))
        return Artifact(folder=self.folder, key=key, digest=sha256(self.bytes), manifest=manifest)

    def build(self, bench: Workbench, request: BuildRequest) -> Built:
        if not isinstance(request, KernelRequest):
            manifest = {"ident": "root", "outputs": {name: {} for name in ("image", "initrd")}}
            artifact = Artifact(folder=self.folder, key="", digest=sha256(self.root), manifest=manifest)
            return Built(artifact=artifact, files=())
        artifact = self.kernel(bench.planner.plan(request))
        if artifact.key not in self.store:
            self.store.add(artifact.key)
            self.did.append(f"compiled {request.variant}")
        return Built(artifact=artifact, files=())

    def peek(self, step: Step) -> dict[str, Artifact | None]:
        artifact = self.kernel(step)
        there = artifact if artifact.key in self.store else None
        return {step.ident: there, compiled(step).ident: there}

    def run(self, step: Step) -> Artifact:
        digest = sha256(f"{step.ident} {self.compiler}")
        return Artifact(folder=self.folder, key="", digest=digest, manifest={"outputs": {}})

    def boot(self, bench: Workbench, request: BootRequest) -> Outcome:
        trial = next(each for each in TRIALS if each.request(None, None) == dataclasses.replace(request, modules=None))
        if str(trial) == self.stopped_at:
            raise Interrupted("stopped by SIGTERM")
        self.did.append(f"started {trial}")
        if str(trial) in self.wrong:
            raise BootError("the guest did not report")
        planned = launch.planned(bench, request)
        guest = dataclasses.replace(planned.guest, accel=self.accel)
        report = said(vsock="skip", inet=self.inet)
        return Outcome(boot=Boot(reported=report, guest=guest, wall_s=12.3456, required=planned.required))


Verify = Callable[..., tuple[Verdict, list[str]]]


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Verify on a machine with a record, and return the verdict and what was told."""

    def run(
        machine: Machine, record: Path, trials: Sequence[Trial] = TRIALS, **options: Any
    ) -> tuple[Verdict, list[str]]:
        settings = (f"store={machine.folder}/store", f"build={machine.folder}/build")
        bench = open_workbench(settings, stream=io.StringIO(), root=CHECKOUT)
        if "accel" in options:
            bench.settings = dataclasses.replace(bench.settings, accel=options.pop("accel"))
        for module in ("kernels", "kernelplan", "kernel.configure"):
            monkeypatch.setattr(f"osbuilder.{module}.load_usable", CATALOGUE)
        monkeypatch.setattr(bench, "build", functools.partial(machine.build, bench))
        monkeypatch.setattr(bench, "boot", functools.partial(machine.boot, bench))
        monkeypatch.setattr(bench, "peek", machine.peek)
        monkeypatch.setattr(bench.executor, "run", machine.run)
        monkeypatch.setattr(Kernels, "promises", lambda kernels, request: {"net": PROBES})
        monkeypatch.setattr(launch, "emulator_version", lambda bench, guest: "10.0.13")
        machine.did.clear()
        told: list[str] = []
        with open_record(record, tell=told.append) as opened:
            return bench.proof.run(trials, line=None, record=opened, tell=told.append, **options), told

    return run


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    (tmp_path / "here").mkdir()
    return Machine(folder=tmp_path / "here")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Machine:
    """Another machine, which builds the same; that takes another time."""
    (tmp_path / "elsewhere").mkdir()
    return Machine(folder=tmp_path / "elsewhere", wall_s=1234.567)


ALL = [
    "compiled base",
    *(f"started {name}" for name in NAMES[:2]),
    "compiled minimal",
    *(f"started {name}" for name in NAMES[2:]),
]


def test_what_was_right_is_not_started_again_and_counts(verify: Verify, here: Machine, tmp_path: Path) -> None:
    first, _ = verify(here, tmp_path / "record")
    assert here.did == ALL
    second, told = verify(here, tmp_path / "record")
    assert here.did == []
    second.check()
    assert [each.trial for each in second.tried] == list(TRIALS)
    assert all(each.recorded for each in second.tried)
    assert told[0].startswith(f"{NAMES[0]}: 1 probes passed, 0 failed, 1 skipped (recorded 20")
    assert second.kernels == first.kernels
    assert second.table().endswith("taken from the record: 4 of 4 guests; 0 of 2 kernels, which are not built here")
    lines = len((tmp_path / "record").read_bytes().splitlines())
    verify(here, tmp_path / "record")
    assert len((tmp_path / "record").read_bytes().splitlines()) == lines == 1 + 2 + 4


def test_one_that_was_stopped_goes_on_where_it_was(verify: Verify, here: Machine, tmp_path: Path) -> None:
    here.stopped_at = NAMES[2]
    with pytest.raises(Interrupted):
        verify(here, tmp_path / "record")
    assert here.did == ALL[:4]
    here.stopped_at = ""
    verdict, _ = verify(here, tmp_path / "record")
    assert here.did == ALL[4:]
    assert [bool(each.recorded) for each in verdict.tried] == [True, True, False, False]


def test_one_that_was_wrong_is_tried_again(verify: Verify, here: Machine, tmp_path: Path) -> None:
    here.wrong = (NAMES[1],)
    verdict, _ = verify(here, tmp_path / "record")
    for _ in range(2):  # it is wrong as long as it is
        with pytest.raises(BootError, match="1 of 4 guests are not right"):
            verdict.check()
        verdict, _ = verify(here, tmp_path / "record")
        assert here.did == [f"started {NAMES[1]}"]
    here.wrong = ()
    verdict, _ = verify(here, tmp_path / "record")
    verdict.check()
    assert here.did == [f"started {NAMES[1]}"]
    verify(here, tmp_path / "record")
    assert here.did == []


def test_one_that_was_wrong_is_tried_again_though_its_report_would_be_right_today(
    verify: Verify, here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osbuilder.launch.asked", lambda guest, probes, known: guest)
    here.inet = "fail"
    verdict, _ = verify(here, tmp_path / "record", TRIALS[:1])
    with pytest.raises(BootError, match="1 of its probes failed: inet"):
        verdict.check()
    monkeypatch.setattr("tests.unit.test_resume.PROBES", ("vsock",))
    verdict, _ = verify(here, tmp_path / "record", TRIALS[:1])
    assert here.did == [f"started {NAMES[0]}"]


def test_guests_that_were_not_asked_for_before_are_started(verify: Verify, here: Machine, tmp_path: Path) -> None:
    verify(here, tmp_path / "record", TRIALS[:1])
    verdict, _ = verify(here, tmp_path / "record")
    assert here.did == ALL[2:]
    assert verdict.table().endswith("taken from the record: 1 of 4 guests; 0 of 2 kernels, which are not built here")


def test_another_command_of_qemu_is_another_guest(
    verify: Verify, here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify(here, tmp_path / "record")
    monkeypatch.setattr("osbuilder.guest.boot.render_argv", lambda guest: (*render_argv(guest), "-no-hpet"))
    verify(here, tmp_path / "record")
    assert here.did == [f"started {name}" for name in NAMES]


def test_another_root_is_another_guest(verify: Verify, here: Machine, tmp_path: Path) -> None:
    verify(here, tmp_path / "record")
    here.root = "an agent with one more probe"
    verify(here, tmp_path / "record")
    assert here.did == [f"started {name}" for name in NAMES]


def test_the_folder_of_the_store_makes_no_other_guest(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    verify(here, tmp_path / "record")
    elsewhere.store, elsewhere.wall_s = set(here.store), here.wall_s
    verdict, _ = verify(elsewhere, tmp_path / "record")
    assert elsewhere.did == []
    assert verdict.again(BASE) == "-"  # a store that was copied has the same build


def test_more_that_a_kernel_promises_is_held_against_what_its_guests_said(
    verify: Verify, here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify(here, tmp_path / "record")
    monkeypatch.setattr("tests.unit.test_resume.PROBES", ("vsock",))
    monkeypatch.setattr("osbuilder.launch.asked", lambda guest, probes, known: guest)
    verify(here, tmp_path / "record")  # what they were asked for is on the kernel line, which is another one
    verify(here, tmp_path / "record")
    assert here.did == []
    monkeypatch.setattr("tests.unit.test_resume.PROBES", ("vsock", "tun"))
    verdict, _ = verify(here, tmp_path / "record")
    assert here.did == [f"started {name}" for name in NAMES]
    assert not any(each.recorded for each in verdict.tried)


@pytest.mark.parametrize(("wanted", "started"), [("auto", 0), ("tcg", 0), ("kvm", 4)])
def test_a_guest_counts_on_any_accelerator_unless_one_is_asked_for(
    verify: Verify, here: Machine, tmp_path: Path, wanted: str, started: int
) -> None:
    verify(here, tmp_path / "record")
    verify(here, tmp_path / "record", accel=AccelChoice(wanted))
    assert len(here.did) == started


def test_a_kernel_that_a_record_has_is_not_compiled_where_all_of_its_guests_are_there(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    first, _ = verify(here, tmp_path / "record", TRIALS[:3])
    verdict, _ = verify(elsewhere, tmp_path / "record")
    assert elsewhere.did == ["compiled minimal", f"started {NAMES[3]}"]
    verdict.check()
    assert verdict.kernels[BASE] == first.kernels[BASE]
    assert verdict.again(BASE) == "-"  # one build
    assert verdict.again(("x86_64", "minimal")) == "same"  # compiled there and here
    assert verdict.table().endswith("taken from the record: 3 of 4 guests; 1 of 2 kernels, which are not built here")


def test_a_kernel_of_other_inputs_is_another_kernel(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    verify(here, tmp_path / "record")
    elsewhere.compiler, elsewhere.bytes = "gcc 15", "others"
    verdict, _ = verify(elsewhere, tmp_path / "record")
    assert elsewhere.did == ALL
    verdict.check()
    assert verdict.again(BASE) == "-"


def test_a_kernel_of_other_inputs_with_the_same_bytes_has_the_same_guests(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    verify(here, tmp_path / "record")
    elsewhere.compiler = "gcc 14 of another day"
    verify(elsewhere, tmp_path / "record")
    assert elsewhere.did == ["compiled base", "compiled minimal"]


def test_other_bytes_of_the_same_inputs_are_wrong_and_their_guests_are_started(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    first, _ = verify(here, tmp_path / "record", TRIALS[:1])
    elsewhere.bytes = "not reproducible"
    verdict, _ = verify(elsewhere, tmp_path / "record", TRIALS[:2])
    assert elsewhere.did == ALL[:3]
    one, other = first.kernels[BASE].files["vmlinux"], verdict.kernels[BASE].files["vmlinux"]
    with pytest.raises(BootError, match=rf"x86_64 base is not reproducible.*\n?.*vmlinux has sha256 {other} and {one}"):
        verdict.check()
    assert verdict.again(BASE) == "DIFFERS: vmlinux vmlinuz"
    # It is in the record now, and wrong on a third machine that has neither.
    here.store.clear()
    verdict, _ = verify(here, tmp_path / "record", TRIALS[:1])
    assert here.did == []
    with pytest.raises(BootError, match="is not reproducible"):
        verdict.check()


def test_records_of_two_machines_put_together_are_one_proof(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    verify(here, tmp_path / "one", TRIALS[:2])
    verify(elsewhere, tmp_path / "other", TRIALS[1:])
    (tmp_path / "both").write_bytes((tmp_path / "one").read_bytes() + (tmp_path / "other").read_bytes())
    (tmp_path / "third").mkdir()
    third = Machine(folder=tmp_path / "third", wall_s=1)
    verdict, _ = verify(third, tmp_path / "both")
    assert third.did == []
    verdict.check()
    assert [verdict.again(("x86_64", variant)) for variant in ("base", "minimal")] == ["same", "-"]
    assert verdict.table().endswith("taken from the record: 4 of 4 guests; 2 of 2 kernels, which are not built here")


def test_a_guest_that_failed_after_it_was_right_is_tried_again(
    verify: Verify, here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osbuilder.resume.now", lambda: "2026-11-23T02:00:00Z")
    here.wrong = (NAMES[0],)
    verify(here, tmp_path / "later", TRIALS[:1])
    monkeypatch.setattr("osbuilder.resume.now", lambda: "2026-11-23T01:00:00Z")
    here.wrong = ()
    verify(here, tmp_path / "earlier", TRIALS[:1])
    for number, names in enumerate((("later", "earlier"), ("earlier", "later"))):
        both = tmp_path / f"both{number}"
        both.write_bytes(b"".join((tmp_path / name).read_bytes() for name in names))
        verify(here, both, TRIALS[:1])
        assert here.did == [f"started {NAMES[0]}"]


def test_a_kernel_with_modules_is_built_for_the_roots_of_its_guests(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    here.modules = elsewhere.modules = True
    verify(here, tmp_path / "record", TRIALS[:1])
    _, told = verify(elsewhere, tmp_path / "record", TRIALS[:1])
    assert elsewhere.did[0] == "compiled base"
    assert told[0] == ("x86_64 base is built, though the record has it: its modules are a part of its guests' roots")


def test_a_kernel_is_built_again_once_for_a_record(
    verify: Verify, here: Machine, elsewhere: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Again:
        def __init__(self, bench: Workbench) -> None: ...
        def __enter__(self) -> Callable[[Step], tuple[str, ...]]:
            return lambda step: here.did.append("compiled again") or ()  # type: ignore[func-returns-value]

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("osbuilder.verify.building_again", Again)
    verify(here, tmp_path / "record", TRIALS[:1])
    (tmp_path / "copy").write_bytes((tmp_path / "record").read_bytes())
    verify(elsewhere, tmp_path / "copy", TRIALS[:1], again=True)
    assert [*elsewhere.did, here.did[-1]] == ["compiled base", "compiled again"]
    elsewhere.store.clear()
    verdict, _ = verify(here, tmp_path / "record", TRIALS[:1], again=True)
    assert (here.did, verdict.again(BASE)) == (["compiled again"], "same")
    for machine in (here, elsewhere):
        for again in (True, False):
            verdict, _ = verify(machine, tmp_path / "record", TRIALS[:1], again=again)
            assert (machine.did, verdict.again(BASE)) == ([], "same")


def test_the_version_of_qemu_is_its_packages_or_what_it_says_itself(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(
        arch=host_arch(),
        machine=host_arch().machines[0],
        accel=Accel.TCG,
        kernel=Path("k"),
        root=RootKind.INITRD,
        initrd=Path("i"),
    )

    def version(qemu: str, builder: Artifact | None = None) -> str | None:
        settings = (f"store={here.folder}/store", f"build={here.folder}/build", f"qemu={qemu}")
        bench = open_workbench(settings, stream=io.StringIO(), root=CHECKOUT)
        monkeypatch.setattr(bench, "peek", lambda step: {step.ident: builder})
        return launch.emulator_version(bench, guest)

    packages = [["qemu-system-common", "1:10.0.13", "amd64"], ["qemu-system-x86", "1:10.0.13", "amd64"]]
    manifest = {"facts": {"packages": packages}}
    assert version("builder", Artifact(folder=here.folder, key="", digest="", manifest=manifest)) == "1:10.0.13"
    assert version("builder") is None
    said = subprocess.CompletedProcess((), 0, stdout=b"QEMU emulator version 10.0.13 (Debian)\nCopyright\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    monkeypatch.setattr(launch, "host_qemu", lambda program: True)
    assert version("host") == "10.0.13 (Debian)"
