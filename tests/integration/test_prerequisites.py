"""A test that cannot run here is skipped and told in the last lines; where nothing may be left out, it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LACKING = """
import pytest
from osbuilder.errors import FetchError, ToolMissing
from tests.prerequisites import program

@pytest.fixture
def builder():
    raise ToolMissing("builders cannot be bootstrapped here: mmdebstrap is missing", hint="sudo apt-get install it")

@pytest.fixture
def packages():
    raise FetchError("the mirror refuses connections")

@pytest.fixture
def key():
    program("no-such-program")

def test_with_a_builder(builder): ...
def test_with_another(builder): ...
def test_with_packages(packages): ...
def test_with_a_key(key): ...

def test_that_builds():
    raise ToolMissing("no engine works on this host")

def test_that_bootstraps():
    error = FetchError("no mirror serves")
    error.add_note("step: compiler/builder")
    raise error

def test_that_needs_nothing(): ...
"""

FAILING = """
import pytest
from osbuilder.errors import FetchError, VerificationError

@pytest.fixture
def altered():
    raise VerificationError("another sha256")

def test_of_what_came_altered(altered): ...

def test_of_a_download():
    raise FetchError("it was not resumed")
"""


def run(folder: Path, content: str, *options: str, ci: str = "") -> tuple[int, str]:
    """Run a module of tests as pytest runs ours, outside of them; return the exit status and what it printed."""
    (folder / "test_small.py").write_text(content)
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", *options, str(folder)]
    environment = {**os.environ, "CI": ci}
    ran = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    return ran.returncode, ran.stdout


def test_what_a_machine_lacks_skips_the_tests_that_need_it_and_is_told_at_the_end(tmp_path: Path) -> None:
    status, printed = run(tmp_path, LACKING)
    assert status == 0, printed
    assert "1 passed, 6 skipped" in printed
    told = [line for line in printed.partition("not run on this machine")[2].splitlines() if line]
    assert told[1:-1] == [
        "builders cannot be bootstrapped here: mmdebstrap is missing: sudo apt-get install it",
        "no engine works on this host",
        "no mirror serves",
        "no-such-program is not installed",
        "the mirror refuses connections",
    ]


@pytest.mark.parametrize(("option", "ci"), [(("--strict-prerequisites",), ""), ((), "true")], ids=["flag", "CI"])
def test_where_nothing_may_be_left_out_each_of_them_fails(tmp_path: Path, option: tuple[str, ...], ci: str) -> None:
    status, printed = run(tmp_path, LACKING, *option, ci=ci)
    assert status == 1
    assert "2 failed, 1 passed, 4 errors" in printed
    assert "test_that_builds could not run here: Skipped: no engine works on this host" in printed


def test_what_came_altered_and_what_a_test_downloads_itself_are_failures_everywhere(tmp_path: Path) -> None:
    status, printed = run(tmp_path, FAILING)
    assert status == 1
    assert "1 failed, 1 error" in printed
    assert "not run on this machine" not in printed
