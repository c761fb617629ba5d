"""KVM is on trial on a host where nobody has tried it, and nowhere else: where it ran a guest it has all the time."""

from __future__ import annotations

import dataclasses
import io
import resource
from pathlib import Path, PurePath

import pytest

from osbuilder import launch
from osbuilder.api import open_workbench
from osbuilder.arch import parse_arch
from osbuilder.errors import BootError, TimeLimit
from osbuilder.guest import boot
from osbuilder.guest.boot import KVM_TRIAL_S, Boot, start, usable_accels
from osbuilder.guest.ready import Ready
from osbuilder.guest.spec import Accel, Guest, RootKind

X86 = parse_arch("x86_64")
PATIENCE_S = 180
GUEST = Guest(
    arch=X86, machine=X86.machine("microvm"), accel=Accel.TCG, kernel=PurePath("/w/vmlinux"), root=RootKind.VIRTIO_BLK
)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A host that starts guests under TCG at once, and under KVM in `kvm_s` seconds."""

    folder: Path
    kvm_s: float
    limits: list[tuple[bool, float]] = dataclasses.field(default_factory=list)

    def input(self, path: Path) -> PurePath:
        return path

    def output(self, name: str) -> PurePath:
        return self.folder / name

    def run(self, argv: tuple[str, ...], *, kvm: bool, timeout_s: float) -> None:
        self.limits.append((kvm, timeout_s))
        if kvm and self.kvm_s > timeout_s:
            raise TimeLimit(f"{argv[0]} took longer than {timeout_s:g} s")
        (self.folder / "ready").write_text("up")


@pytest.fixture(autouse=True)
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev/kvm that may be opened."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(boot, "KVM", path)
    return path


def started(place: Loaded, verdicts: list[bool], *, kvm_works: bool | None) -> Boot:
    return start(
        dataclasses.replace(GUEST, image=PurePath("/w/image")),
        place,
        required=(),
        accels=usable_accels(wanted=None, same_arch=True, kvm_works=kvm_works),
        timeout_s=PATIENCE_S,
        remember=verdicts.append,
        ready=Ready(console="up"),
    )


def test_a_slow_guest_does_not_cost_a_host_the_kvm_that_ran_one(tmp_path: Path) -> None:
    place, verdicts = Loaded(tmp_path, kvm_s=KVM_TRIAL_S + 1), list[bool]()
    assert started(place, verdicts, kvm_works=True).guest.accel is Accel.KVM
    assert place.limits == [(True, PATIENCE_S)]
    assert False not in verdicts


def test_where_kvm_ran_a_guest_one_that_never_comes_up_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    verdicts: list[bool] = []
    with pytest.raises(BootError, match=f"it was still running after {PATIENCE_S} s"):
        started(Loaded(tmp_path, kvm_s=PATIENCE_S + 1), verdicts, kvm_works=True)
    assert verdicts == []


def test_on_an_unknown_host_kvm_is_tried_for_some_seconds_and_the_verdict_is_remembered(tmp_path: Path) -> None:
    place, verdicts = Loaded(tmp_path, kvm_s=KVM_TRIAL_S + 1), list[bool]()
    found = started(place, verdicts, kvm_works=None)
    assert (found.guest.accel, verdicts) == (Accel.TCG, [False])
    assert place.limits == [(True, KVM_TRIAL_S), (False, PATIENCE_S)]
    assert found.notes == (f"KVM is there but ran no guest within {KVM_TRIAL_S} s: emulated (TCG) instead",)
    verdicts.clear()
    assert started(Loaded(tmp_path, kvm_s=1), verdicts, kvm_works=None).guest.accel is Accel.KVM
    assert verdicts == [True]


def test_kvm_is_left_alone_where_it_ran_nothing_cannot_be_opened_or_is_of_another_architecture(device: Path) -> None:
    assert usable_accels(wanted=None, same_arch=True, kvm_works=False) == (Accel.TCG,)
    assert usable_accels(wanted=None, same_arch=False, kvm_works=True) == (Accel.TCG,)
    assert usable_accels(wanted=Accel.KVM, same_arch=True, kvm_works=False) == (Accel.KVM,)
    device.unlink()
    assert usable_accels(wanted=None, same_arch=True, kvm_works=True) == (Accel.TCG,)


def test_a_verdict_that_did_not_reach_the_disk_is_none(tmp_path: Path) -> None:
    bench = open_workbench((f"store={tmp_path}/store",), stream=io.StringIO())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file takes a byte: a full disk
    try:
        launch._remember_kvm(bench, True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert launch._kvm_verdict(bench) is None
    assert list(bench.store.folder("caches").iterdir()) == []
    for verdict in (True, False):
        launch._remember_kvm(bench, verdict)
        assert launch._kvm_verdict(bench) is verdict
    launch._kvm_record(bench).write_text("")  # so an earlier osbuilder may have left it
    assert launch._kvm_verdict(bench) is None
