"""docs/kernel.md says what the base kernel has; the catalogue is the truth."""

from __future__ import annotations

import re

from osbuilder.api import CHECKOUT
from osbuilder.arch import ARCHES
from osbuilder.kernel.catalogue import BASE, Capability, load_catalogue

DOCUMENT = (CHECKOUT / "docs" / "kernel.md").read_text("utf-8")
SECTION = DOCUMENT.partition("\n## What is in the base kernel\n")[2].partition("\n## ")[0]
CAPABILITIES = load_catalogue(CHECKOUT / "kernel" / "configs").capabilities_of(BASE)


def _row(name: str, capability: Capability) -> str:
    """Return the line that a table has of a capability."""
    where = f" ({', '.join(capability.arches)})" if set(capability.arches) not in (set(), set(ARCHES)) else ""
    last = " ".join(f"`{probe}`" for probe in capability.probes) or capability.unproven
    return f"| `{name}`{where} | {capability.purpose} | {last} |"


def test_the_tables_have_every_capability_of_the_base_kernel_as_the_catalogue_has_it() -> None:
    rows = [_row(name, capability) for name, capability in CAPABILITIES.items()]
    found = [line for line in SECTION.splitlines() if line.startswith("| `")]
    assert sorted(found) == sorted(rows)


def test_the_number_of_capabilities_is_told() -> None:
    told = re.match(r"\s*(\d+) capabilities; ", SECTION)
    assert told is not None
    assert int(told[1]) == len(CAPABILITIES)
