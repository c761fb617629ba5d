"""The table of capabilities: where each is, what proves it, in a width that can be read."""

from __future__ import annotations

import pytest

from osbuilder.api import CHECKOUT
from osbuilder.capabilities import capabilities_text, place
from osbuilder.errors import UsageError
from osbuilder.kernel.catalogue import Catalogue, load_catalogue, matrix

KERNELS = [("base", "x86_64"), ("base", "s390x"), ("small", "x86_64"), ("debug", "x86_64"), ("debug", "s390x")]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(CHECKOUT / "kernel" / "configs")


def rows(text: str) -> dict[str, list[str]]:
    """Return the lines of each capability by its name."""
    found: dict[str, list[str]] = {}
    for line in text.split("\n\n")[0].splitlines()[1:]:
        if line[0] != " " and line.split()[0].rstrip(":") != name_of(found):
            found[line.split()[0].rstrip(":")] = []
        found[name_of(found)].append(line)
    return found


def name_of(found: dict[str, list[str]]) -> str:
    return next(reversed(found), "")


def test_where_a_capability_is_names_no_kernel_that_there_is_not() -> None:
    assert place(KERNELS, KERNELS) == "all"
    assert place([("base", "s390x"), ("debug", "s390x")], KERNELS) == "s390x"
    assert place([pair for pair in KERNELS if pair[0] != "small"], KERNELS) == "all but small"
    assert place([("debug", "x86_64"), ("debug", "s390x")], KERNELS) == "debug"
    assert place([("small", "x86_64")], KERNELS) == "small"
    assert place([("base", "x86_64"), ("debug", "x86_64")], KERNELS) == "all but small x86_64"


def test_a_capability_of_one_architecture_is_in_its_variants_alone(catalogue: Catalogue) -> None:
    line = rows(capabilities_text(catalogue))["vfio-ap"][0]
    assert " s390x " in line
    assert not any(name in line for name in ("debug", "confidential", "minimal"))


def test_every_capability_is_there_with_its_probes_or_the_reason_for_none(catalogue: Catalogue) -> None:
    found = rows(capabilities_text(catalogue))
    assert set(catalogue.capabilities) <= set(found)
    for name, each in catalogue.capabilities.items():
        said = " ".join(" ".join(found[name]).split())
        assert (each.probes[0] if each.probes else "none:") in said
    assert "vhost-vsock of the host" in " ".join(found["vsock"])
    assert "ptp (ptp cannot pass" in " ".join(found["ptp"])


def test_no_line_is_wider_than_a_terminal(catalogue: Catalogue) -> None:
    for variant, arch in matrix(catalogue):
        assert max(map(len, capabilities_text(catalogue, variant=variant, arch=arch).splitlines())) <= 128
    assert max(map(len, capabilities_text(catalogue).splitlines())) <= 128


def test_a_kernel_that_there_is_not_has_no_table(catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match="kernel variant minimal is not for s390x: "):
        capabilities_text(catalogue, variant="minimal", arch="s390x")
    with pytest.raises(UsageError, match="unknown kernel variant 'minmal'"):
        capabilities_text(catalogue, variant="minmal")
