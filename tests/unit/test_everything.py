"""What is done with every distribution at once: one that fails stops no other, and a signal stops all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NoReturn

import pytest

from osbuilder.api import CHECKOUT, Workbench, open_workbench
from osbuilder.errors import Interrupted, StoreError
from osbuilder.everything import Plans
from osbuilder.execute import Executor
from osbuilder.plan import Planner
from osbuilder.publish import Name
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.store import Artifact, Store
from tests.unit.test_execute import Write
from tests.unit.test_store import publish


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return open_workbench((f"store={tmp_path}/store", f"build={tmp_path}/build"), stream=io.StringIO(), root=CHECKOUT)


def test_planning_all_of_them_ends_when_it_is_stopped(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(planner: Planner, request: RootfsRequest) -> NoReturn:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(Planner, "plan", stop)
    with pytest.raises(Interrupted):
        bench.plan_all(RootfsRequest(distro="all"))


def test_one_that_cannot_be_put_into_the_build_folder_stops_no_other(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(store: Store, artifact: Artifact, names: tuple[Name, ...], folder: Path) -> tuple[Path, ...]:
        if "alpine" in names[0].published:
            raise StoreError("the result cannot be put into the build folder")
        return (folder / names[0].published,)

    requests = {name: RootfsRequest(distro=name) for name in ("alpine", "debian")}
    step = Step(name="rootfs", subject="any", action=Write(text=""))
    plans = Plans(requests=requests, steps=dict.fromkeys(requests, step), failed={}, left_out={})
    artifact = publish(bench.store)
    monkeypatch.setattr("osbuilder.api.plan_all", lambda planner, request: plans)
    monkeypatch.setattr(Executor, "run_each", lambda executor, steps: tuple(artifact for _ in steps))
    monkeypatch.setattr("osbuilder.api.publish", place)
    everything = bench.build_all(RootfsRequest(distro="all"))
    assert (set(everything.failed), set(everything.built)) == ({"alpine"}, {"debian"})
