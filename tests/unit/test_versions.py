"""versions.yaml is read strictly: what it does not say clearly, it does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import DecodeError, UsageError
from osbuilder.plan import Planner
from osbuilder.settings import load_settings
from osbuilder.versions import FILE, load_versions

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / FILE).read_text()


def refused(tmp_path: Path, old: str, new: str) -> str:
    assert old in TEXT
    (tmp_path / FILE).write_text(TEXT.replace(old, new, 1))
    with pytest.raises(DecodeError) as caught:
        load_versions(tmp_path)
    return str(caught.value)


def test_the_projects_own_pins_are_whole() -> None:
    versions = load_versions(ROOT)
    assert versions.kernel(versions.defaults.kernel).package == "linux-source-6.12"
    assert versions.agent(versions.defaults.agent).source == "agents/probe"
    assert {"rootfs", "compiler", "qemu"} <= set(versions.builders)


def test_a_builder_has_the_cross_compiler_only_for_guests_of_another_architecture() -> None:
    pin = load_versions(ROOT).builder("compiler")
    x86_64, s390x = parse_arch("x86_64"), parse_arch("s390x")
    assert pin.packages_for(x86_64, host=x86_64) == ()
    assert pin.packages_for(s390x, host=x86_64) == ("gcc-s390x-linux-gnu", "libc6-dev-s390x-cross")
    assert pin.packages_for(x86_64, host=s390x) == ("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross")


def test_qemu_is_that_of_the_guest_whatever_the_host() -> None:
    pin = load_versions(ROOT).builder("qemu")
    x86_64, aarch64 = parse_arch("x86_64"), parse_arch("aarch64")
    assert pin.packages_for(x86_64, host=x86_64) == ("qemu-system-x86", "seabios", "ovmf")
    assert pin.packages_for(aarch64, host=x86_64) == ("qemu-system-arm", "qemu-efi-aarch64")


def test_architectures_that_add_nothing_to_a_builder_share_one_step() -> None:
    planner = Planner(ROOT, load_settings({}))
    steps = [planner.builder("rootfs", parse_arch(name), ("kmod",)) for name in ("aarch64", "s390x")]
    assert steps[0] is steps[1]
    assert steps[0].ident == "rootfs-kmod/builder"
    assert planner.builder("qemu", parse_arch("aarch64")) is not planner.builder("qemu", parse_arch("s390x"))


def test_what_a_builder_adds_for_its_guests_is_one_of_the_known_things(tmp_path: Path) -> None:
    message = refused(tmp_path, "    for-guest: qemu", "    for-guest: qmeu")
    assert 'builders.qemu.for-guest: expected one of cross-compiler, qemu, got the text "qmeu"' in message


def test_an_unknown_key_names_its_line_and_the_nearest_known_one(tmp_path: Path) -> None:
    message = refused(tmp_path, "    suite: trixie", "    siute: trixie")
    assert (
        f"{FILE}:{TEXT[: TEXT.index('    suite: trixie')].count(chr(10)) + 1}: builders.rootfs: unknown key 'siute'"
        in message
    )
    assert "Did you mean suite?" in message


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "given twice" in refused(tmp_path, "  kernel: debian-6.12", "  kernel: debian-6.12\n  kernel: other")


def test_a_wrong_type_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "    source: agents/probe", "    source: [agents/probe]")
    assert "agents.probe.source" in message


def test_a_version_without_quotes_is_refused_before_it_loses_its_zero(tmp_path: Path) -> None:
    message = refused(tmp_path, "    package: linux-source-6.12", "    package: 6.10")
    assert "6.10 is a number in YAML and would lose its zero" in message


def test_a_default_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "unknown kernel 'debian-5.4'" in refused(tmp_path, "kernel: debian-6.12", "kernel: debian-5.4")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minimal", "kernels.minimal: expected another name than that of a kernel variant"),
        ("debian/base", "kernels.debian/base: expected a name without a slash"),
    ],
)
def test_a_line_that_could_be_taken_for_a_variant_is_refused_with_its_line(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "kernel/configs/variant/minimal").mkdir(parents=True)
    line = TEXT[: TEXT.index("  debian-6.1:\n")].count("\n") + 1
    message = refused(tmp_path, "  debian-6.1:\n", f"  {name}:\n")
    assert f"{FILE}:{line}: {words}" in message
    assert f"Who names the kernel {name} may mean either" in message


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown kernel 'debian-6\.122'") as caught:
        load_versions(ROOT).kernel("debian-6.122")
    assert "Did you mean debian-6.12?" in caught.value.hint
