"""A step's key follows everything that can change its output, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder import step as step_module
from osbuilder.step import NOT_IN_KEY, Json, Step, canonical, key_of, parameters, source_digests, with_shared


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pour:
    cups: int
    names: tuple[str, ...] = ()
    path: Path = dataclasses.field(default=Path("/anywhere"), metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return (f"pour {self.cups}",)

    def run(self, job: object) -> dict[str, Json]:
        return {}


def pour(cups: int = 1, **fields: object) -> Step:
    return Step(name="pour", subject="tea", action=Pour(cups=cups, **fields))  # type: ignore[arg-type]


def key(step: Step, **digests: str) -> str:
    return key_of(step.ingredients(digests))


def test_a_changed_parameter_changes_the_key() -> None:
    assert key(pour(1)) != key(pour(2))
    assert key(pour(names=("a", "b"))) != key(pour(names=("b", "a")))


def test_a_host_path_does_not_change_the_key() -> None:
    assert key(pour(path=Path("/one"))) == key(pour(path=Path("/two")))


def test_the_digest_of_an_input_changes_the_key() -> None:
    drink = Step(name="drink", subject="tea", action=Pour(cups=1), inputs=(("cup", pour()),))
    assert key(drink, cup="a" * 64) != key(drink, cup="b" * 64)


def test_the_builder_is_an_input_by_digest() -> None:
    drink = Step(name="drink", subject="tea", action=Pour(cups=1), builder=pour())
    assert [name for name, _ in drink.dependencies()] == ["builder"]
    assert key(drink, builder="a" * 64) != key(drink, builder="b" * 64)


def test_a_path_or_a_float_in_a_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be part of a key"):
        parameters(Pour(cups=1.5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be part of a key"):
        parameters(Pour(cups=Path("/x")))  # type: ignore[arg-type]


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert (
        canonical({"b": 1, "a": [True, None]}) == canonical({"a": [True, None], "b": 1}) == b'{"a":[true,null],"b":1}'
    )


def test_the_source_of_a_module_includes_what_it_imports_but_not_type_checking_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text("")
    (tmp_path / "top.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from osbuilder.room import deep\n"
        "if TYPE_CHECKING:\n    from osbuilder.types_only import X\n"
        "def later():\n    import osbuilder.lazy\n"
    )
    for name in ("types_only", "lazy", "room/deep"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.setattr(step_module, "PACKAGE", tmp_path)
    step_module.read_module.cache_clear()
    before = source_digests("osbuilder.top")
    assert set(before) == {"osbuilder.top", "osbuilder.room", "osbuilder.room.deep", "osbuilder.lazy"}
    (tmp_path / "room" / "deep.py").write_text("VALUE = 1\n")
    step_module.read_module.cache_clear()
    assert source_digests("osbuilder.top") != before
    step_module.read_module.cache_clear()


def test_an_import_counts_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "top.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import osbuilder.types_only\nelse:\n    import osbuilder.otherwise\n"
        "try:\n    import osbuilder.tried\nexcept ImportError:\n    import osbuilder.handler\n"
        "else:\n    import osbuilder.went\nfinally:\n    import osbuilder.end\n"
        "match 1:\n    case 1:\n        import osbuilder.arm\n"
        "if not TYPE_CHECKING:\n    import osbuilder.negated\n"
        "def later():\n    with open('x'):\n        from osbuilder import within\n"
    )
    names = {"otherwise", "tried", "handler", "went", "end", "arm", "negated", "within"}
    for name in (*names, "types_only"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.setattr(step_module, "PACKAGE", tmp_path)
    step_module.read_module.cache_clear()
    found = source_digests("osbuilder.top")
    step_module.read_module.cache_clear()
    assert set(found) == {"osbuilder.top", *(f"osbuilder.{name}" for name in names)}


def test_walk_yields_dependencies_first_and_each_step_once() -> None:
    base = pour()
    left = Step(name="left", subject="tea", action=Pour(cups=1), inputs=(("base", base),))
    right = Step(name="right", subject="tea", action=Pour(cups=1), inputs=(("base", base),))
    top = Step(name="top", subject="tea", action=Pour(cups=1), inputs=(("l", left), ("r", right)), builder=base)
    assert [step.name for step in top.walk()] == ["pour", "left", "right", "top"]


def test_steps_are_one_where_they_do_the_same_of_the_same_whatever_they_are_called() -> None:
    def drink(leaf: Step, name: str) -> Step:
        brew = Step(name="brew", subject="tea", action=Pour(cups=9), inputs=(("leaf", leaf),))
        return Step(name="drink", subject=name, action=Pour(cups=1), inputs=(("brew", brew),))

    shared: dict[bytes, Step] = {}
    one, same, other = (with_shared(drink(pour(cups), name), shared) for cups, name in ((1, "a"), (1, "b"), (2, "c")))
    assert one.inputs[0][1] is same.inputs[0][1]
    (_, brew), (_, others) = one.inputs[0], other.inputs[0]
    assert (brew.ident, brew.action) == (others.ident, others.action)
    assert [each.inputs[0][1].action for each in (brew, others)] == [Pour(cups=1), Pour(cups=2)]
