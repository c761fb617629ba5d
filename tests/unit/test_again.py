"""What is built a second time is made anew of the same downloads, and its bytes are compared."""

from __future__ import annotations

import dataclasses
import io
import secrets
from pathlib import Path
from typing import ClassVar

import pytest

from osbuilder.again import building_again
from osbuilder.api import CHECKOUT, Workbench, open_workbench
from osbuilder.step import NOT_IN_KEY, Job, Json, Step


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Writes `same`, and `dice` where it is told to; counts its runs in a file."""

    runs: Path = dataclasses.field(metadata=NOT_IN_KEY)
    dice: bool = False

    def describe(self) -> tuple[str, ...]:
        return ()

    def run(self, job: Job) -> dict[str, Json]:
        with self.runs.open("a") as runs:
            runs.write(f"{type(self).__name__}\n")
        (job.out / "same").write_text("".join(item.path("same").read_text() for item in job.inputs.values()) or "x")
        if self.dice:
            (job.out / "dice").write_bytes(secrets.token_bytes(8))
        return {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Made):
    ONLINE: ClassVar[bool] = True


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return open_workbench((f"store={tmp_path}/store", f"build={tmp_path}/build"), stream=io.StringIO(), root=CHECKOUT)


def plan(runs: Path, *, dice: bool = False) -> Step:
    source = Step(name="source", subject="it", action=Fetched(runs=runs))
    middle = Step(name="middle", subject="it", action=Made(runs=runs), inputs=(("source", source),))
    return Step(name="end", subject="it", action=Made(runs=runs, dice=dice), inputs=(("middle", middle),))


def test_all_but_the_downloads_is_made_twice_and_the_store_is_as_before(bench: Workbench, tmp_path: Path) -> None:
    with building_again(bench) as differing:
        assert differing(plan(tmp_path / "runs")) == ()
    assert (tmp_path / "runs").read_text().split() == ["Fetched", "Made", "Made", "Made", "Made"]
    assert list((bench.store.root / "tmp").iterdir()) == []
    assert len(list(bench.store.artifacts())) == 3


def test_what_two_results_have_in_common_is_made_again_once(bench: Workbench, tmp_path: Path) -> None:
    with building_again(bench) as differing:
        assert differing(plan(tmp_path / "runs")) == ()
        assert differing(plan(tmp_path / "runs", dice=True)) == ("dice",)
    assert (tmp_path / "runs").read_text().split() == ["Fetched", *["Made"] * 6]


def test_the_files_that_differ_are_named(bench: Workbench, tmp_path: Path) -> None:
    with building_again(bench) as differing:
        assert differing(plan(tmp_path / "runs", dice=True)) == ("dice",)
