"""An initrd's archive, byte for byte: what kernels unpack."""

from __future__ import annotations

from pathlib import Path

from tests.golden.test_dax_bytes import dump
from tests.unit.test_cpio import cpio, sample

GOLDEN = Path(__file__).parent / "cpio.hex"


def test_the_archive_of_a_small_tree_is_these_bytes() -> None:
    expected = [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    assert dump(0, cpio(sample())) == expected
