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
from osbuilder.engine.base import Command
from osbuilder.errors import Interrupted, SourceError
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


class Stoppable:
    """An engine whose commands do nothing, until it is stopped."""

    name = "stoppable"

    def __init__(self) -> None:
        self.stopped = False
        self.swept: list[Path] = []

    def prepare(self, builder: object) -> None:
        pass

    def run(self, builder: object, command: Command, mounts: object, *, log: Path, label: str) -> None:
        if self.stopped:
            raise Interrupted("stopped")

    def repeat_line(self, builder: object, command: Command, mounts: object) -> str:
        return ""

    def sweep(self, label: str, folder: Path) -> None:
        assert (folder / "objects").is_dir()
        self.swept.append(folder)

    def stop(self) -> None:
        self.stopped = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Commanded:
    """Runs a command; where it is told to, it fails in any store but one."""

    name: str
    only_in: Path | None = dataclasses.field(default=None, metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return ()

    def run(self, job: Job) -> dict[str, Json]:
        job.run(Command(argv=("true",)))
        if self.only_in and self.only_in != job.out.parents[2]:
            raise SourceError("it does not build again")
        (job.out / "same").write_text(self.name)
        return {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    ONLINE: ClassVar[bool] = True

    def describe(self) -> tuple[str, ...]:
        return ()

    def run(self, job: Job) -> dict[str, Json]:
        (job.out / "builder.tar").write_bytes(b"")
        return {}


def test_what_cannot_be_made_again_does_not_stop_what_comes_after_it(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osbuilder.engine.choose.choose_engine", lambda settings, trees: Stoppable())
    builder = Step(name="make", subject="builder", action=Builder())
    bad = Commanded(name="bad", only_in=bench.store.root)
    good = Commanded(name="good")
    with building_again(bench) as differing:
        with pytest.raises(SourceError, match="it does not build again"):
            differing(Step(name="bad", subject="it", action=bad, builder=builder))
        assert differing(Step(name="good", subject="it", action=good, builder=builder)) == ()


def test_what_the_engine_keeps_of_the_other_store_goes_with_it(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Stoppable()
    monkeypatch.setattr("osbuilder.engine.choose.choose_engine", lambda settings, trees: engine)
    builder = Step(name="make", subject="builder", action=Builder())
    with building_again(bench) as differing:
        step = Step(name="good", subject="it", action=Commanded(name="good"), builder=builder)
        assert differing(step) == ()
        (folder,) = (bench.store.root / "tmp").iterdir()
        assert engine.swept == []
    assert engine.swept == [folder]
    assert not folder.exists()
