"""A guest of every variant really starts, on each machine and from each root that `inv verify` has for it.

Each compiles a kernel, so they run only when asked for (`inv test --matrix`). The base is test_arches.py's.
"""

from __future__ import annotations

import dataclasses

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import host_arch
from osbuilder.guest.report import Result
from osbuilder.guest.spec import RootKind
from osbuilder.kernel.catalogue import BASE, load_catalogue, matrix
from tests.conftest import ROOT

CATALOGUE = load_catalogue(ROOT / "kernel" / "configs")
HERE = host_arch().name


@pytest.mark.matrix
@pytest.mark.usefixtures("builders")
@pytest.mark.parametrize("variant", [name for name, arch in matrix(CATALOGUE) if arch == HERE and name != BASE])
def test_a_variant_keeps_its_promises_on_its_machines_and_roots(bench: Workbench, variant: str) -> None:
    # A few guests of each: what is attached, plugged or chosen besides takes hours, and is `inv verify`'s.
    trials = [
        dataclasses.replace(trial, whole=False)
        for trial in bench.proof.of_kernels(arches=(HERE,), variants=(variant,))
        if not trial.further
    ]
    verdict = bench.proof.run(trials, line=None, tell=lambda _: None)
    verdict.check()
    assert len(verdict.tried) == len(trials) >= 2
    promised = {probe for probes in verdict.kernels[HERE, variant].probes.values() for probe in probes}
    for each in verdict.tried:
        assert each.boot is not None
        found = {probe.name: probe.result for probe in each.boot.report.probes}
        assert promised <= found.keys()
        own = {probe for it in CATALOGUE.variants[variant].capabilities.values() for probe in it.probes} & promised
        assert {found[probe] for probe in own} <= {Result.PASS}
        if each.trial.root is RootKind.VERITY:
            assert found["root-verity"] is Result.PASS
