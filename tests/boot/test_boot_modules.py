"""A guest whose kernel has modules finds those that were put into its root, and loads one.

That kernel is compiled for it, so these run only when asked for (`inv test --matrix`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.guest.spec import RootKind
from osbuilder.request import BootRequest, KernelRequest
from osbuilder.store import Artifact

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def kernel(bench: Workbench) -> Artifact:
    return bench.build(KernelRequest(arch="x86_64", variant="nvidia-gpu")).artifact


@pytest.mark.parametrize("root", [RootKind.VIRTIO_BLK, RootKind.INITRD])
def test_a_guest_loads_a_module_of_its_root(bench: Workbench, kernel: Artifact, root: RootKind) -> None:
    modules: Path = kernel.path("modules.tar.zst")
    outcome = bench.boot(BootRequest(distro="scratch", arch="x86_64", variant="nvidia-gpu", modules=modules, root=root))
    outcome.check()
    assert outcome.boot.report.kernel.release == kernel.facts["release"] == f"{kernel.facts['version']}-nvidia-gpu"
    (found,) = [probe for probe in outcome.boot.report.probes if probe.name == "modules"]
    assert (found.result.value, found.detail.endswith(" was loaded and unloaded")) == ("pass", True), found.detail
