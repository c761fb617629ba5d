"""The table of architectures: what one row says must fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import ARCHES, Arch, parse_arch
from osbuilder.errors import UsageError
from osbuilder.kernel.compile import VMLINUX, VMLINUZ, Compile
from osbuilder.kernel.fragments import load_fragment

ROOT = Path(__file__).resolve().parents[2]
ROWS = pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)


@pytest.mark.parametrize("field", ["name", "debian", "triplet", "qemu", "cross_packages"])
def test_no_two_rows_share_what_is_one_architectures_own(field: str) -> None:
    values = [getattr(arch, field) for arch in ARCHES.values()]
    assert len(set(values)) == len(values)


@ROWS
def test_every_architecture_has_fragments_of_its_own(arch: Arch) -> None:
    assert list((ROOT / "kernel" / "configs" / "arch" / arch.name).glob("*.conf"))


@ROWS
def test_what_kernels_put_before_their_line_is_what_they_are_asked_for(arch: Arch) -> None:
    folder = ROOT / "kernel" / "configs" / "arch" / arch.name
    asked = [
        request.value.strip('"')
        for path in folder.glob("*.conf")
        for request in load_fragment(path, path.name)
        if request.symbol == "CMDLINE"
    ]
    assert asked == ([arch.cmdline_built_in] if arch.cmdline_built_in else [])


@ROWS
def test_a_machine_loads_files_that_a_kernels_build_leaves(arch: Arch) -> None:
    assert arch.machines
    for machine in arch.machines:
        assert machine.kernels
        assert set(machine.kernels) <= {VMLINUX, VMLINUZ}
        assert machine.virtio in ("pci", "device", "ccw")


@ROWS
def test_what_is_published_is_what_make_is_asked_for(arch: Arch) -> None:
    made = {Path(arch.vmlinux_path).name, Path(arch.vmlinuz_path).name}
    assert set(arch.kernel_targets) <= made
    # vmlinux is made on the way to every other target.
    assert made <= {*arch.kernel_targets, "vmlinux"}


@pytest.mark.parametrize(
    ("name", "vmlinux", "vmlinuz"),
    [
        ("x86_64", "/work/build/vmlinux", "/work/build/arch/x86/boot/bzImage"),
        ("aarch64", "/work/build/arch/arm64/boot/Image", "/work/build/arch/arm64/boot/Image.gz"),
        ("ppc64le", "/work/build/vmlinux", "/work/build/vmlinux"),
        ("s390x", "/work/build/arch/s390/boot/vmlinux", "/work/build/arch/s390/boot/bzImage"),
        ("riscv64", "/work/build/arch/riscv/boot/Image", "/work/build/arch/riscv/boot/Image.gz"),
    ],
)
def test_kernels_are_the_files_that_katas_runtime_boots(name: str, vmlinux: str, vmlinuz: str) -> None:
    script = Compile.for_arch(parse_arch(name)).describe()
    for path, file in ((vmlinux, VMLINUX), (vmlinuz, VMLINUZ)):
        (line,) = [each for each in script if each.endswith((f"{path} /out/{file}", f"-o /out/{file} {path}"))]
        assert line.startswith("cp ") is (not path.endswith("/vmlinux"))


def test_only_s390x_is_big_endian() -> None:
    assert [arch.name for arch in ARCHES.values() if not arch.elf_little_endian] == ["s390x"]


def test_the_kernels_own_name_of_an_architecture_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="unknown architecture 'arm64'") as caught:
        parse_arch("arm64")
    assert "aarch64" in caught.value.hint
