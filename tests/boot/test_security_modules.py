"""SELinux and AppArmor: off in every other guest of the tests, on in one that chooses them, with Landlock and Yama.

With a policy in the image, systemd loads it, and each program runs as what the label of its file makes it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.boot_time import make_initrd
from osbuilder.api import Workbench
from osbuilder.arch import parse_arch
from osbuilder.guest.boot import start
from osbuilder.guest.place import BuilderPlace
from osbuilder.guest.report import Result
from osbuilder.guest.spec import Accel, Guest, RootKind
from osbuilder.request import AgentRequest, BootRequest, ImageRequest, KernelRequest, RootfsRequest

X86_64 = parse_arch("x86_64")


@pytest.mark.parametrize("module", ["selinux", "apparmor"])
def test_a_module_that_the_kernel_line_chooses_is_on(bench: Workbench, tmp_path: Path, module: str) -> None:
    probes = (module, "security-modules", "landlock", "yama", "tmpfs-xattr", "cgroup2")
    initrd = tmp_path / "initrd"
    make_initrd(bench.build(AgentRequest(arch="x86_64")).artifact.path("agent"), initrd)
    guest = Guest(
        arch=X86_64,
        machine=X86_64.machine("microvm"),
        accel=Accel.TCG,
        kernel=bench.build(KernelRequest(arch="x86_64")).artifact.path("vmlinux"),
        root=RootKind.INITRD,
        initrd=initrd,
        cmdline=(f"security={module}", f"osbuilder.probes={','.join(probes)}"),
        devices=(),
    )
    with bench.builder("qemu") as (engine, builder):
        place = BuilderPlace(engine=engine, builder=builder, folder=tmp_path, label="test-security-modules")
        boot = start(guest, place, required=probes, accels=(Accel.TCG,), timeout_s=180, remember=lambda _: None)
    assert boot.report.gaps(probes) == ()


@pytest.mark.parametrize("enforcing", [0, 1])
def test_a_labelled_image_starts_under_its_policy(bench: Workbench, enforcing: int) -> None:
    image = bench.build(ImageRequest(rootfs=RootfsRequest(distro="debian", selinux=True))).files[0]
    append = ("security=selinux", f"enforcing={enforcing}", "osbuilder.probes=selinux")
    outcome = bench.boot(BootRequest(image=image, machine="q35", root=RootKind.PMEM, append=append))
    (probe,) = outcome.boot.report.probes
    assert (probe.name, probe.result) == ("selinux", Result.PASS)
    assert f"enforce is {enforcing}; init is system_u:system_r:init_t:s0, " in probe.detail
    assert "from a file of system_u:object_r:bin_t:s0" in probe.detail
