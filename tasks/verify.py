"""The command that proves kernels and distributions in guests: `inv verify`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from invoke.context import Context

from tasks.common import path_of, workbench
from tasks.flags import COMMON, command


@command(
    COMMON,
    flags={
        "kernels": "kernels: every variant on every machine, with a guest that is its agent alone",
        "distro": "a distribution: a guest for each of its architectures; may be given several times",
        "arch": "only this architecture; may be given several times",
        "variant": "only this kernel variant; may be given several times",
        "kernel": "a kernel of versions.yaml (see `inv versions`)",
        "again": "build each kernel a second time, with empty caches, and compare the bytes (hours)",
        "record": "a file of what was found: what was right in it is not done again (cat puts several together)",
        "json": "print what was found as JSON",
    },
    several=("distro", "arch", "variant"),
)
def verify(
    _: Context,
    kernels: bool = False,
    distro: Sequence[str] | None = None,
    arch: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    kernel: str | None = None,
    again: bool = False,
    record: str | None = None,
    json: bool = False,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Build kernels and distributions, start them all, and show what their guests found (default: the kernels)."""
    with workbench(setting) as bench, contextlib.ExitStack() as stack:
        from osbuilder.errors import UsageError, suggest
        from osbuilder.record import open_record

        if variant and distro and not kernels:
            raise UsageError("--variant is about kernels, and --distro alone tries none", hint="Give --kernels too.")
        if kernel is not None and kernel not in bench.planner.versions.kernels:
            raise UsageError(f"unknown kernel {kernel!r}", hint=suggest(kernel, bench.planner.versions.kernels))
        if record and dry:
            raise UsageError(
                "--dry does not go with --record: what of it can be taken is known once the guests' roots are built",
                hint="Give one of them.",
            )

        def tell(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        path = path_of(record)
        recorded = stack.enter_context(open_record(path, tell=tell)) if path else None
        trials = [trial for name in distro or () for trial in bench.proof.of_distro(name, arches=arch or ())]
        if kernels or not distro:
            trials += bench.proof.of_kernels(arches=arch or (), variants=variant or (), line=kernel, dry=dry, tell=tell)
        if dry:
            print("\n".join(map(str, trials)))
            return
        verdict = bench.proof.run(trials, line=kernel, again=again, record=recorded, tell=tell)
        print(verdict.json() if json else verdict.table())
        verdict.check()
