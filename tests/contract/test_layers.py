"""Imports that run point one way: tasks -> api -> plan/execute -> rooms -> tree/store/fetch -> arch/decode/errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"tasks"}),
    frozenset(
        f"osbuilder.{name}"
        for name in (
            "again",
            "api",
            "doctor",
            "everything",
            "guestroot",
            "kernels",
            "launch",
            "locks",
            "offline",
            "patchcheck",
            "record",
            "reporter",
            "resume",
            "tidy",
            "trials",
            "verdict",
            "verify",
        )
    ),
    frozenset(
        {
            "osbuilder.capabilities",
            "osbuilder.variants",
            "osbuilder.plan",
            "osbuilder.kernelplan",
            "osbuilder.packageplan",
            "osbuilder.execute",
            "osbuilder.running",
            "osbuilder.publish",
            "osbuilder.request",
            "osbuilder.show",
            "osbuilder.why",
            "osbuilder.versions",
        }
    ),
    frozenset(f"osbuilder.{room}" for room in ("agents", "engine", "distro", "rootfs", "image", "kernel", "guest")),
    frozenset(f"osbuilder.{name}" for name in ("tree", "store", "fetch", "download", "partfile", "step")),
    frozenset(
        f"osbuilder.{name}"
        for name in (
            "arch",
            "binfmt",
            "decode",
            "errors",
            "kata",
            "leavings",
            "openpgp",
            "pid1",
            "settings",
            "outfile",
            "progress",
            "template",
            "terminal",
            "userpath",
        )
    ),
)


def layer(module: str) -> int:
    parts = module.split(".")
    for number, names in enumerate(LAYERS):
        if parts[0] in names or ".".join(parts[:2]) in names:
            return number
    raise AssertionError(f"{module} has no place in the layers: give it one, or a better room")


def modules() -> list[tuple[str, Path]]:
    paths = [*sorted((ROOT / "tasks").glob("*.py")), *sorted((ROOT / "osbuilder").rglob("*.py"))]
    named = [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in paths]
    return [(name, path) for name, path in named if name != "osbuilder"]


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below a node, without the bodies of `if TYPE_CHECKING`: types may be named from anywhere."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from running(child)


def imported(path: Path) -> Iterator[str]:
    known = {name for name, _ in modules()}
    for node in running(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("osbuilder."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "osbuilder":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_a_module_imports_only_its_own_layer_and_those_below(name: str, path: Path) -> None:
    upward = {other for other in imported(path) if other != "osbuilder" and layer(other) < layer(name)}
    assert upward == set()


def test_only_settings_reads_the_environment() -> None:
    readers = {
        name
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os"
    }
    assert readers == {"osbuilder.settings"}


def test_library_code_neither_exits_nor_prints() -> None:
    found = {
        (name, ast.unparse(node.func))
        for name, path in modules()
        if name.split(".")[0] != "tasks"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit", "os._exit")
    }
    assert found == set()
