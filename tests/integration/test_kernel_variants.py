"""What the variants are, with Debian's real source, and what kernel.* say about it. Nothing is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import ARCHES
from osbuilder.errors import PlanError, UsageError
from osbuilder.kernel.catalogue import load_catalogue
from osbuilder.kernel.contract import parse_config
from osbuilder.request import KernelRequest
from tests.conftest import ROOT


def values(bench: Workbench, variant: str, *, arch: str = "x86_64", line: str | None = None) -> Mapping[str, str]:
    """Return a kernel's resolved values; the contract was held or this raises."""
    return parse_config(bench.kernels.config(KernelRequest(arch=arch, line=line, variant=variant)))


def test_a_kernel_with_modules_has_no_key_of_its_own_and_asks_for_no_signature(bench: Workbench) -> None:
    found = values(bench, "nvidia-gpu")
    assert (found["MODULE_SIG"], found["MODULE_SIG_HASH"], found["MODULE_SIG_KEY"]) == ("y", '"sha512"', '""')
    assert not {"MODULE_SIG_ALL", "MODULE_SIG_FORCE"} & found.keys()
    assert (found["MLX5_CORE"], found["INFINIBAND"], found["SYSTEM_TRUSTED_KEYS"]) == ("m", "m", '""')


def test_the_minimal_kernel_has_neither_pci_nor_acpi_and_is_smaller(bench: Workbench) -> None:
    base, minimal = values(bench, "base"), values(bench, "minimal")
    assert {"PCI", "ACPI", "LIBNVDIMM", "MEMORY_HOTPLUG"} <= base.keys() - minimal.keys()
    assert (minimal["NR_CPUS"], minimal["CC_OPTIMIZE_FOR_SIZE"]) == ("32", "y")
    assert len(minimal) < 0.9 * len(base)


def test_the_debug_kernel_is_made_with_pahole_and_has_what_tracers_need(bench: Workbench) -> None:
    found = values(bench, "debug")
    assert int(found["PAHOLE_VERSION"]) > 116
    for symbol in ("DEBUG_INFO_BTF", "KPROBES", "FUNCTION_TRACER", "BPF_EVENTS", "UNWINDER_ORC"):
        assert found[symbol] == "y"
    assert values(bench, "base")["PAHOLE_VERSION"] == "0"


def test_a_confidential_kernel_can_prove_itself_on_every_architecture_that_has_such_guests(bench: Workbench) -> None:
    amd_intel = values(bench, "confidential")
    assert {"SEV_GUEST", "TDX_GUEST_DRIVER", "TSM_REPORTS", "EFI_SECRET", "TCG_CRB"} <= amd_intel.keys()
    secure = values(bench, "confidential", arch="s390x")
    assert (secure["S390_UV_UAPI"], secure["ARCH_HAS_FORCE_DMA_UNENCRYPTED"]) == ("y", "y")
    # Of a line of its own: the default one is too old for realms.
    realm = values(bench, "confidential", arch="aarch64")
    assert {"ARM_CCA_GUEST", "TSM_REPORTS", "ARM64_4K_PAGES"} <= realm.keys()
    words = r"no kernel variant confidential of 6\.12\.\d+ for aarch64: guests in realms"
    with pytest.raises(PlanError, match=words) as refused:
        values(bench, "confidential", arch="aarch64", line="debian-6.12")
    assert refused.value.hint == "It is not for kernels <6.13.0: name another line (--kernel debian-7.2 or 6.18)."


def test_every_base_kernel_sets_up_a_verified_root_from_the_command_line(bench: Workbench) -> None:
    found = values(bench, "base")
    assert (found["DM_INIT"], found["DM_VERITY"], found["CRYPTO_SHA256"]) == ("y", "y", "y")


def test_a_measured_kernel_is_locked_down(bench: Workbench) -> None:
    found = values(bench, "measured")
    assert (found["DM_INIT"], found["LOCK_DOWN_KERNEL_FORCE_INTEGRITY"]) == ("y", "y")
    assert "SECURITY_LOCKDOWN_LSM" not in values(bench, "base")


def test_security_modules_with_a_policy_of_their_own_are_chosen_at_boot(bench: Workbench) -> None:
    found = values(bench, "base")
    assert (found["SECURITY_SELINUX"], found["SECURITY_APPARMOR"]) == ("y", "y")
    assert found["LSM"] == '"landlock,yama"'


def test_the_fragments_carry_over_to_an_older_kernel_under_its_names(bench: Workbench) -> None:
    found = values(bench, "base", line="debian-6.1")
    for symbol in ("RETPOLINE", "PAGE_TABLE_ISOLATION", "MEMORY_HOTPLUG_DEFAULT_ONLINE", "BPF_JIT", "PREEMPT_NONE"):
        assert found[symbol] == "y"


def test_the_fragments_carry_over_to_a_newer_kernel_from_the_backports(bench: Workbench) -> None:
    found = values(bench, "base", line="debian-7.2")
    assert found["MITIGATION_RETPOLINE"] == "y"
    assert "SCHED_DEBUG" not in found


def test_the_contract_of_a_line_is_a_table_of_all_its_kernels(bench: Workbench) -> None:
    table, reasons = bench.kernels.contract().split("\n\n")
    head, *rows = [line.split() for line in table.splitlines()]
    assert head == ["VARIANT", *ARCHES]
    assert [row[0] for row in rows] == list(load_catalogue(ROOT / "kernel" / "configs").variants)
    _, count, *others = next(row for row in rows if row[0] == "minimal")
    assert int(count) < int(rows[0][1])
    assert (others[0], others[2:]) == ("=y", ["=y", "-", "-", "-"])
    confidential = next(row for row in rows if row[0] == "confidential")
    assert [cell for cell in confidential if cell in ("=y", "-")] == ["=y", "=y", "-", "=y", "-"]
    assert {
        "confidential for aarch64 is of debian-7.2",
        "experimental for x86_64 is of debian-7.2",
        "no confidential for aarch64 <6.13.0: guests in realms (CCA) came with 6.13, and so did their reports",
    } <= set(reasons.splitlines())
    assert "is of debian" not in bench.kernels.contract("debian-6.12")


def test_the_contract_of_one_variant_on_one_architecture_is_checked_alone(bench: Workbench) -> None:
    table, _, _ = bench.kernels.contract(variant="minimal", arch="x86_64").partition("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["VARIANT", "minimal"]
    assert table.splitlines()[0].split() == ["VARIANT", "x86_64"]
    both = bench.kernels.contract(variant="minimal").splitlines()
    assert both[0].split() == ["VARIANT", "x86_64", "aarch64"]
    assert both[3:] == [
        "no minimal for ppc64le, s390x, riscv64: it is a kernel for Firecracker, which runs on x86_64 and aarch64"
    ]


def test_an_explanation_names_the_line_the_definition_and_the_chain(bench: Workbench) -> None:
    text = bench.kernels.explain(KernelRequest(arch="x86_64"), "CONFIG_FUSE_DAX")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("FUSE_DAX=y in 6.12.")
    assert "asked for FUSE_DAX=y in kernel/configs/common/dax.conf:6 (capability dax)" in lines
    assert "because kernel/configs/common/dax.conf:6 asks for it (capability dax)" in lines
    assert any(line.startswith("depends on VIRTIO_FS && FS_DAX && DAX (holds)") for line in lines)
    with pytest.raises(UsageError, match="candidates: MITIGATION_RETPOLINE"):
        bench.kernels.explain(KernelRequest(arch="x86_64"), "RETPOLINE")


def test_a_difference_of_two_variants_names_what_one_lacks(bench: Workbench) -> None:
    lines = bench.kernels.diff("base", "debian-6.12/minimal", arch="x86_64").splitlines()
    assert lines[:2] == ["--- base", "+++ debian-6.12/minimal"]
    assert {"-PCI=y", "-NR_CPUS=256", "+NR_CPUS=32"} <= set(lines)
    # A variant alone is of its own line.
    assert "+ARM_CCA_GUEST=y" in bench.kernels.diff("debian-7.2", "confidential", arch="aarch64").splitlines()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("debian-6", "unknown kernel or variant 'debian-6'"),
        ("debian-6.12/mini", "unknown kernel variant 'mini'"),
        ("mini/base", "unknown kernel 'mini'"),
    ],
)
def test_a_kernel_that_there_is_not_is_refused_by_name(bench: Workbench, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bench.kernels.diff(text, "base")


def test_a_configuration_is_written_where_it_is_asked_for(bench: Workbench, tmp_path: Path) -> None:
    text = bench.kernels.config(KernelRequest(arch="x86_64"), output=tmp_path / "kernel.config")
    assert (tmp_path / "kernel.config").read_text() == text
    with pytest.raises(UsageError, match="is a folder"):
        bench.kernels.config(KernelRequest(arch="x86_64"), output=tmp_path)
