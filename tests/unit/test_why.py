"""`inv why` names the part of the key that changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from invoke.program import Program

from osbuilder.api import Workbench
from osbuilder.request import ImageRequest
from osbuilder.why import explain
from tasks import namespace
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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What commands ask of the workbench, which does nothing."""
    seen: list[Any] = []
    for name in ("describe", "why"):
        monkeypatch.setattr(Workbench, name, lambda _, request, **options: seen.append(request))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return seen


@pytest.mark.parametrize(
    "words",
    [
        ("rootfs", "--distro", "alpine", "--keep", "docs", "--locked"),
        ("image", "--no-dax", "--free-space-mib", "5", "--align-mib", "4", "--package", "strace"),
        ("initrd", "--compression", "gzip", "--init", "systemd"),
        ("kernel", "--git", "https://a.example/l.git", "--ref", "v6.12", "--patches", "none", "--variant", "debug"),
        ("agent", "--agent", "kata", "--agent-option", "seccomp=no", "--arch", "aarch64"),
    ],
    ids=lambda words: words[0],
)
def test_why_takes_the_flags_of_the_command_that_builds_it(asked: list[Any], words: tuple[str, ...]) -> None:
    program = Program(namespace=namespace)
    program.run(["inv", *words, "--dry"], exit=False)
    program.run(["inv", "why", *words], exit=False)
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_why_heeds_the_variables_that_the_command_heeds(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT_FREE_SPACE", "5")
    Program(namespace=namespace).run(["inv", "why", "image"], exit=False)
    (request,) = asked
    assert isinstance(request, ImageRequest)
    assert request.free_space_mib == 5
