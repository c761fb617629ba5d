"""The command that passes the tests: `inv test`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from invoke.context import Context

from tasks.common import workbench
from tasks.flags import command

# Builders, mirrors and guests of two at once, none of which is removed before the end.
_TWO_NEED_BYTES = 30 << 30


@command(
    flags={
        "strict": "fail where a prerequisite is missing, skip nothing (CI)",
        "select": "only what pytest's -k takes",
        "matrix": "instead of the usual tests those of every other architecture and kernel line (hours)",
        "jobs": "how many processes run them (default: 2 where there are two processors and room for both)",
    }
)
def test(context: Context, strict: bool = False, select: str = "", matrix: bool = False, jobs: int = 0) -> None:
    """Set up and pass the tests: lint, types, unit, contract, golden, integration and boot."""
    root = Path(__file__).resolve().parents[1]
    python = shlex.quote(sys.executable)
    with context.cd(str(root)):
        for check in ("ruff check .", "ruff format --check .", "mypy"):
            context.run(f"{python} -m {check}", pty=False)
        options = ["--strict-prerequisites"] if strict else []
        options += ["-k", select] if select else []
        options += ["-m", "matrix"] if matrix else []
        if (jobs or _test_jobs(selected=bool(select or matrix))) > 1:
            # One that dies is a failure; long groups begin first, as tests/groups.py has them.
            options += ["-n", str(jobs or 2), "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart=0"]
        context.run(f"{python} -m pytest {shlex.join(options)}", pty=False)


def _test_jobs(*, selected: bool) -> int:
    """Return how many processes run the tests: a few, and the matrix's large ones, are one's."""
    with workbench(()) as bench:
        store = bench.settings.store_path
    while not store.is_dir():
        store = store.parent
    room = shutil.disk_usage(store).free > _TWO_NEED_BYTES
    return 2 if room and not selected and (os.cpu_count() or 1) > 1 else 1
