"""SELinux and AppArmor: off in every other guest of the tests, on in one that chooses them, with Landlock and Yama."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.boot_time import make_initrd
from osbuilder.api import Workbench
from osbuilder.arch import parse_arch
from osbuilder.guest.boot import BuilderPlace, start
from osbuilder.guest.qemu import Accel, Guest, RootKind
from osbuilder.request import AgentRequest, KernelRequest

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
