"""`inv why` names the part of the key that changed."""

from __future__ import annotations

from pathlib import Path

from osbuilder.why import explain
from tests.unit.test_execute import Heard, chain, executor


def why(tmp_path: Path, *texts: str) -> str:
    runner = executor(tmp_path, Heard())
    target = chain(*texts)
    return explain(target, runner.store, runner.peek(target))


def test_what_was_never_built_says_so(tmp_path: Path) -> None:
    assert why(tmp_path, "a") == "row/s0: would run\n  nothing of it is in the store"


def test_what_is_built_is_up_to_date(tmp_path: Path) -> None:
    executor(tmp_path, Heard()).run(chain("a", "b"))
    assert [line.split(" (")[0] for line in why(tmp_path, "a", "b").splitlines()] == [
        "row/s0: up to date",
        "row/s1: up to date",
    ]


def test_a_changed_parameter_is_named_with_both_values(tmp_path: Path) -> None:
    executor(tmp_path, Heard()).run(chain("a", "b"))
    assert why(tmp_path, "a", "B").splitlines()[1:] == ["row/s1: would run", "  text: b -> B"]


def test_a_step_below_a_changed_one_waits_for_it(tmp_path: Path) -> None:
    executor(tmp_path, Heard()).run(chain("a", "b"))
    assert "  its input above would run first, and may come out the same" in why(tmp_path, "A", "b").splitlines()


def test_a_damaged_artifact_is_named_as_such(tmp_path: Path) -> None:
    path = executor(tmp_path, Heard()).run(chain("a")).path("file")
    path.chmod(0o644)
    path.write_text("b")
    assert "  its artifact is damaged" in why(tmp_path, "a").splitlines()
