"""The command that proves kernels and distributions in guests: `inv verify`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from invoke.context import Context

from tasks.common import workbench
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
    json: bool = False,
    dry: bool = False,
    setting: Sequence[str] | None = None,
) -> None:
    """Build kernels and distributions, start them all, and show what their guests found (default: the kernels)."""
    with workbench(setting) as bench:
        from osbuilder.errors import UsageError, suggest

        if variant and distro and not kernels:
            raise UsageError("--variant is about kernels, and --distro alone tries none", hint="Give --kernels too.")
        if kernel is not None and kernel not in bench.planner.versions.kernels:
            raise UsageError(f"unknown kernel {kernel!r}", hint=suggest(kernel, bench.planner.versions.kernels))
        trials = [trial for name in distro or () for trial in bench.proof.of_distro(name, arches=arch or ())]

        def tell(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        if kernels or not distro:
            trials += bench.proof.of_kernels(arches=arch or (), variants=variant or (), line=kernel, dry=dry, tell=tell)
        if dry:
            print("\n".join(map(str, trials)))
            return
        verdict = bench.proof.run(trials, line=kernel, again=again, tell=tell)
        print(verdict.json() if json else verdict.table())
        verdict.check()
