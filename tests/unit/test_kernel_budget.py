"""The size budget of kernels: what is counted, what is saved, and when it is exceeded."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.errors import BudgetError
from osbuilder.kernel.budget import Budgets, Sizes, load_budgets, render_budgets, render_sizes
from osbuilder.kernel.compile import subsystem_sizes

ROOT = Path(__file__).resolve().parents[2]
SIZES = Sizes(vmlinux_bytes=1_000_000, vmlinuz_bytes=400_000, subsystems_bytes={"mm": 300_000, "fs/ext4": 500_000})
BUDGETS = Budgets(allowance_percent=2, kernels={"debian-6.12-x86_64": SIZES})


def grown(**changes: int) -> Sizes:
    return Sizes(vmlinux_bytes=1_000_000, vmlinuz_bytes=400_000, subsystems_bytes={**SIZES.subsystems_bytes, **changes})


def test_a_subsystem_is_a_folder_two_levels_deep() -> None:
    head = "   text\t   data\t    bss\t    dec\t    hex\tfilename\n"
    rows = ["1\t2\t3\t6\t6\tfs/ext4/inode.o (ex vmlinux.a)", "10\t0\t0\t10\ta\tfs/ext4/a/b.o (ex vmlinux.a)"]
    rows += ["100\t0\t0\t100\t64\tmm/slub.o (ex vmlinux.a)", "7\t0\t0\t7\t7\tdummy.o (ex vmlinux.a)"]
    assert subsystem_sizes(head + "\n".join(rows)) == {".": 7, "fs/ext4": 16, "mm": 100}


def test_a_kernel_within_its_allowance_passes() -> None:
    BUDGETS.check("debian-6.12-x86_64", grown(mm=306_000))
    BUDGETS.check("debian-6.12-x86_64", grown(new=4096))


def test_a_kernel_over_its_budget_is_told_what_grew_by_how_much() -> None:
    with pytest.raises(BudgetError) as refused:
        BUDGETS.check("debian-6.12-x86_64", grown(mm=306_001, new=4097))
    assert refused.value.message.splitlines() == [
        "debian-6.12-x86_64 is larger than its budget (kernel/budget.yaml):",
        "mm: 306001 bytes, 6001 more than its 300000",
        "new: 4097 bytes, 4097 more than its 0",
    ]
    assert "--save" in refused.value.hint


def test_a_kernel_without_a_budget_may_have_any_size() -> None:
    BUDGETS.check("debian-6.12-x86_64-debug", grown(mm=10**9))


def test_what_is_saved_is_read_again_and_the_same_text(tmp_path: Path) -> None:
    text = render_budgets(BUDGETS)
    (tmp_path / "budget.yaml").write_text(text)
    again = load_budgets(tmp_path / "budget.yaml")
    assert again.kernels["debian-6.12-x86_64"].subsystems_bytes == SIZES.subsystems_bytes
    assert render_budgets(again) == text


def test_the_table_names_the_largest_subsystem_first_beside_its_budget() -> None:
    lines = render_sizes("debian-6.12-x86_64", grown(new=1), BUDGETS).splitlines()
    assert [line.split() for line in lines[3:]] == [
        ["vmlinux", "1000000", "1000000"],
        ["vmlinuz", "400000", "400000"],
        ["fs/ext4", "500000", "500000"],
        ["mm", "300000", "300000"],
        ["new", "1", "-"],
    ]


def test_the_shipped_budget_is_what_saving_it_would_write() -> None:
    path = ROOT / "kernel" / "budget.yaml"
    assert render_budgets(load_budgets(path)) == path.read_text()
