"""`inv kernel.patches`: every series is tried on the source that its line pins, and what fails is named."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from osbuilder import patchcheck
from osbuilder.api import Workbench
from osbuilder.errors import PatchError
from osbuilder.plan import Planner
from osbuilder.request import KernelRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step
from osbuilder.store import Artifact
from tests.kernel_bench import Compiler
from tests.kernel_configs import write_configs
from tests.kernel_sources import write_tree

ROOT = Path(__file__).resolve().parents[2]
GOOD = "--- a/kernel/fork.c\n+++ b/kernel/fork.c\n@@ -1 +1 @@\n-int fork;\n+int spoon;\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with three kernel lines of one tree, a variant with patches of its own, and the project's builders."""
    shutil.copytree(ROOT / "distros", tmp_path / "distros")
    write_tree(tmp_path / "linux")
    pins = (ROOT / "versions.yaml").read_text()
    head, _, tail = pins.partition("\nkernels:\n")
    lines = "  good: {tree: linux}\n  bad: {tree: linux}\n  bare: {tree: linux}\n"
    agents = tail[tail.index("\nagents:") :]
    (tmp_path / "versions.yaml").write_text(
        head.replace("kernel: debian-6.12", "kernel: good") + "\nkernels:\n" + lines + agents
    )
    variant = "{purpose: New things, consumers: [anyone], lines: [{line: bare, patches: own}]}\n"
    write_configs(
        tmp_path / "kernel" / "configs",
        {"common/speed.conf": "CONFIG_A=y\n", "variant/new/variant.yaml": variant},
    )
    for name, text in (("good", GOOD), ("own", GOOD), ("bad", GOOD.replace("-int fork", "-int knife"))):
        header = f"Description: A {name} one\nOrigin: own\n\n"
        write_tree(tmp_path / "kernel" / "patches" / name, {"series": "a.patch\n", "a.patch": header + text})
    return tmp_path


@pytest.fixture
def compiler(bench: Workbench, tmp_path: Path) -> Compiler:
    return Compiler(bench, tmp_path / "compiler")


def planner(checkout: Path) -> Planner:
    return Planner(checkout, load_settings({}, environment={"HOME": "/nowhere"}, folder=checkout))


def make(compiler: Compiler, step: Step) -> Artifact:
    return compiler.run(step.action, **{name: make(compiler, each) for name, each in step.inputs}).artifact()


def check(compiler: Compiler, checkout: Path, line: str | None = None) -> str:
    return patchcheck.check(planner(checkout), functools.partial(make, compiler), line)


def check_of(
    compiler: Compiler, checkout: Path, *, patches: str, line: str | None = None, tree: Path | None = None
) -> str:
    request = KernelRequest(line=line, tree=tree, patches=patches)
    return patchcheck.check_of(planner(checkout), functools.partial(make, compiler), request)


def test_patches_are_listed_with_what_they_are_for(checkout: Path) -> None:
    good, own, bad = (f"{name}/a.patch: A {name} one" for name in ("good", "own", "bad"))
    write_tree(checkout / "kernel" / "patches" / "later", {"series": "# nothing yet\n"})
    assert patchcheck.listing(planner(checkout)).splitlines() == [
        "bad: 1 patch, of bad",
        f"  {bad}",
        "good: 1 patch, of good",
        f"  {good}",
        "later: no patches, of no kernel line: name it (--patches)",
        "own: 1 patch, of variant new on bare",
        f"  {own}",
    ]
    assert patchcheck.listing(planner(checkout), "good").splitlines() == ["good: 1 patch, of good", f"  {good}"]
    assert patchcheck.listing(planner(checkout), "bare").splitlines()[1:] == [f"  {own}"]
    (checkout / "kernel" / "patches" / "own").rename(checkout / "kernel" / "patches" / "owned")
    with pytest.raises(PatchError, match=r"patches/own: no such folder of patches") as caught:
        patchcheck.listing(planner(checkout), "bare")
    assert "owned" in caught.value.hint


def test_a_series_that_applies_is_said_to(compiler: Compiler, checkout: Path) -> None:
    assert check(compiler, checkout, "good") == "good: applied to 6.12.57: good/a.patch"


def test_the_series_of_a_variant_is_tried_on_the_line_that_it_is_for(compiler: Compiler, checkout: Path) -> None:
    lines = check(compiler, checkout, "bare").splitlines()
    assert lines == ["bare: no patches", "variant new on bare: applied to 6.12.57: own/a.patch"]
    series = checkout / "kernel" / "patches" / "own" / "a.patch"
    series.write_text(series.read_text().replace("-int fork", "-int knife"))
    with pytest.raises(PatchError, match=r"variant new on bare: own/a\.patch does not apply to 6\.12\.57"):
        check(compiler, checkout, "bare")


def test_all_are_tried_and_what_does_not_apply_is_named_with_file_and_hunk(compiler: Compiler, checkout: Path) -> None:
    with pytest.raises(PatchError) as caught:
        check(compiler, checkout)
    assert caught.value.message.splitlines()[:5] == [
        "good: applied to 6.12.57: good/a.patch",
        "bare: no patches",
        "variant new on bare: applied to 6.12.57: own/a.patch",
        "bad: bad/a.patch does not apply to 6.12.57:",
        "  kernel/fork.c: hunk 1 (line 1)",
    ]


def test_any_series_is_tried_on_any_source(compiler: Compiler, checkout: Path) -> None:
    good, bad = (f"{checkout}/kernel/patches/{name}" for name in ("good", "bad"))
    assert check_of(compiler, checkout, line="bad", patches=good) == "bad: applied to 6.12.57: good/a.patch"
    assert check_of(compiler, checkout, tree=checkout / "linux", patches="own") == (
        "tree: applied to 6.12.57: own/a.patch"
    )
    with pytest.raises(PatchError, match=r"own/a\.patch does not apply to 6\.12\.57"):
        check_of(compiler, checkout, patches="good,own")
    with pytest.raises(PatchError, match=r"bad/a\.patch does not apply to 6\.12\.57"):
        check_of(compiler, checkout, patches=bad)
    assert check_of(compiler, checkout, patches="none") == "good: no patches"


def test_a_source_that_cannot_be_had_fails_the_check(compiler: Compiler, checkout: Path) -> None:
    shutil.rmtree(checkout / "linux")
    with pytest.raises(PatchError, match=r"good: .*linux: no such folder"):
        check(compiler, checkout, "good")
