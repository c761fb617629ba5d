"""The kernel that the other tests start is as large as kernel/budget.yaml allows, in all and subsystem by subsystem."""

from __future__ import annotations

from osbuilder.api import Workbench
from osbuilder.arch import host_arch
from osbuilder.request import KernelRequest


def test_the_base_kernel_is_within_its_budget(bench: Workbench) -> None:
    line = bench.planner.versions.defaults.kernel
    assert f"{line}-{host_arch().name}:" in (bench.planner.root / "kernel" / "budget.yaml").read_text()
    assert "vmlinuz" in bench.kernels.size(KernelRequest())
