"""A guest of another architecture is planned with a native twin, or emulated where the setting says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.foreign import CarryOver
from osbuilder.plan import Planner
from osbuilder.request import RootfsRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("plan", "distro.adapters", "distro.foreign"):
        monkeypatch.setattr(f"osbuilder.{module}.host_arch", lambda: parse_arch("x86_64"))


def packages(arch: str, way: str = "carried") -> Step:
    settings = load_settings({"foreign": way}, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent"))
    target = Planner(ROOT, settings).plan(RootfsRequest(distro="debian", arch=arch))
    return dict(target.inputs)["rootfs"]


def test_the_twin_is_the_step_of_a_native_guest() -> None:
    step = packages("s390x")
    assert isinstance(step.action, CarryOver)
    assert step.action.architectures == ("amd64", "s390x")
    assert step.action.of.architecture == "s390x"
    assert step.action.emulator == "qemu-s390x"
    ((name, twin),) = step.inputs
    assert name == "twin"
    assert (twin.ident, twin.action) == (packages("x86_64").ident, packages("x86_64").action)


def test_an_emulated_guest_needs_no_twin() -> None:
    step = packages("s390x", "emulated")
    assert isinstance(step.action, Bootstrap)
    assert (step.action.architecture, step.inputs) == ("s390x", ())
