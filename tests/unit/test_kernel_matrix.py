"""What is told about all kernels of a line at once: a table, or all that their contracts lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.errors import ContractError, FetchError, OsbuilderError, PlanError
from osbuilder.kernels import facts_of_all
from osbuilder.show import options_text
from osbuilder.store import Artifact
from tests.jobs import artifact

Results = dict[tuple[str, str], Artifact | OsbuilderError]


def test_the_table_tells_options_by_variant_and_architecture(tmp_path: Path) -> None:
    base = artifact(tmp_path, {"options_y": 944, "options_m": 0})
    modules = artifact(tmp_path, {"options_y": 1000, "options_m": 5})
    refused = PlanError("kernel variant gpu is for kernels >=6.10, not for 6.1.192")
    results: Results = {
        ("base", "x86_64"): base,
        ("base", "s390x"): base,
        ("gpu", "x86_64"): modules,
        ("gpu", "s390x"): refused,
    }
    assert options_text(facts_of_all(results)).splitlines() == [
        "VARIANT  x86_64         s390x",
        "base     944 =y         944 =y",
        "gpu      1000 =y, 5 =m  -",
    ]


def test_the_losses_of_every_kernel_are_told_at_once(tmp_path: Path) -> None:
    results: Results = {
        ("base", "x86_64"): artifact(tmp_path, {"options_y": 944, "options_m": 0}),
        ("base", "s390x"): ContractError("f.conf:1: A=y dropped", hint="Request what is missing."),
        ("debug", "x86_64"): ContractError("f.conf:2: B=y dropped", hint="Request what is missing."),
    }
    with pytest.raises(ContractError) as caught:
        facts_of_all(results)
    assert caught.value.message.split("\n\n") == [
        "base for s390x: f.conf:1: A=y dropped",
        "debug for x86_64: f.conf:2: B=y dropped",
    ]
    assert caught.value.hint == "Request what is missing."


def test_what_says_nothing_about_a_contract_is_no_loss() -> None:
    results: Results = {("base", "x86_64"): ContractError("lost"), ("base", "s390x"): FetchError("no such package")}
    with pytest.raises(FetchError, match="no such package"):
        facts_of_all(results)
