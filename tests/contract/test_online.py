"""An action that reaches the network says so: offline builds and `inv fetch` go by it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def actions() -> dict[str, tuple[ast.ClassDef, str]]:
    """Return every action of osbuilder (a class that describes itself and runs) with its module's text."""
    found = {}
    for path in sorted((ROOT / "osbuilder").rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name != "Action":
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                if {"describe", "run"} <= methods:
                    found[f"{path.relative_to(ROOT)}:{node.name}"] = (node, text)
    return found


def says_online(node: ast.ClassDef) -> bool:
    return any(isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == "ONLINE" for each in node.body)


def reaches_out(node: ast.ClassDef) -> bool:
    """Whether a class's own text asks for a network: a command with one, a download, or a helper that downloads."""
    return any(
        (isinstance(each, ast.keyword) and each.arg == "network" and ast.unparse(each.value) == "True")
        or (isinstance(each, ast.Attribute) and each.attr == "fetch" and ast.unparse(each.value) == "job")
        or (isinstance(each, ast.Name) and each.id in ("fetch_indexes", "fetch_packages", "bootstrap_on_host"))
        for each in ast.walk(node)
    )


def test_every_action_that_reaches_the_network_says_so() -> None:
    silent = {name for name, (node, _) in actions().items() if reaches_out(node) and not says_online(node)}
    assert silent == set()


def test_the_actions_that_reach_it_are_known() -> None:
    online = {name.rpartition(":")[2] for name, (node, _) in actions().items() if says_online(node)}
    assert online >= {"BootstrapBuilder", "Bootstrap", "Install", "InstallPackages", "FetchPackages", "Resolve"}
    assert online >= {"DebianPackage", "Tarball", "Git"}
    assert not online & {"Compose", "MakeImage", "MakeInitrd", "BuildProbe", "Compile", "InstallLocked"}
