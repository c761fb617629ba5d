"""Files of kernel/configs: what has no place is refused with what to do, and what editors leave is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.decode import loads
from osbuilder.errors import FragmentError, UsageError
from osbuilder.kernel.catalogue import Variant, load_catalogue
from osbuilder.kernel.configure import Configure
from tests.kernel_configs import capabilities, write_configs

FILES = {
    "capabilities.yaml": capabilities("speed", "vsock"),
    "common/speed.conf": "CONFIG_FAST=y\n",
    "arch/x86_64/speed.conf": "CONFIG_FASTER=y\n",
    "common/vsock.conf": "CONFIG_VSOCK=y\n",
    "variant/mine/variant.yaml": "purpose: p\nconsumers: [anyone]\n",
}


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("variant/mine/comon/k.conf", "variant/mine/comon has no place", "Did you mean common?"),
        (
            "variant/mine/k.conf",
            "variant/mine/k.conf has no place",
            "Move it to kernel/configs/variant/mine/common/ or",
        ),
        ("x.conf", "x.conf has no place", "Move it to kernel/configs/common/ or kernel/configs/arch/<arch>/."),
        ("extra/x.conf", "extra has no place", "Known: arch, capabilities.yaml, common,"),
        ("waiver.yaml", "waiver.yaml has no place", "Did you mean waivers.yaml?"),
        ("variant/mine/variants.yaml", "variant/mine/variants.yaml has no place", "Did you mean variant.yaml?"),
        ("variant/mine.yaml", "variant/mine.yaml has no place: expected a folder", "its variant.yaml says"),
        (
            "common/net/x.conf",
            "common/net has no place: expected fragments here, no folder",
            "lie in kernel/configs/common/ itself",
        ),
        ("arch/x86_64/net/x.conf", "arch/x86_64/net has no place", "lie in kernel/configs/arch/x86_64/ itself"),
        ("common/wg.config", "common/wg.config has no place: expected the extension .conf, got .config", "wg.conf."),
        ("common/README", "common/README has no place: expected the extension .conf, got none", "lies elsewhere"),
        (
            "common/vsok.conf",
            "common/vsok.conf belongs to no capability of kernel/configs/capabilities.yaml",
            "Did you mean vsock? El",
        ),
    ],
)
def test_what_has_no_place_is_refused_with_what_to_do(tmp_path: Path, name: str, words: str, hint: str) -> None:
    write_configs(tmp_path, FILES)
    assert load_catalogue(tmp_path)
    write_configs(tmp_path, {**FILES, name: "CONFIG_X=y\n"})
    with pytest.raises(FragmentError) as refused:
        load_catalogue(tmp_path)
    assert refused.value.message.startswith(f"kernel/configs/{words}")
    assert hint in refused.value.hint


def test_a_folder_of_an_architecture_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write_configs(tmp_path, {**FILES, "arch/amd64/speed.conf": "CONFIG_B=y\n"})
    with pytest.raises(UsageError, match="arch/amd64: unknown architecture 'amd64'"):
        load_catalogue(tmp_path)


def test_a_fragment_without_a_capability_is_told_the_lines_that_declare_one(tmp_path: Path) -> None:
    write_configs(tmp_path, {**FILES, "variant/mine/common/wg.conf": "CONFIG_WIREGUARD=y\n"})
    with pytest.raises(FragmentError) as refused:
        load_catalogue(tmp_path)
    mine = "kernel/configs/variant/mine"
    assert refused.value.message == f"{mine}/common/wg.conf belongs to no capability of {mine}/variant.yaml"
    what_to_do, yaml = refused.value.hint.split("\n\n")
    assert what_to_do == "Add to kernel/configs/variant/mine/variant.yaml:"
    text = "\n".join(line[4:] for line in yaml.splitlines())
    declared = loads(f"{FILES['variant/mine/variant.yaml']}{text}", Variant, where="variant.yaml")
    assert list(declared.capabilities) == ["wg"]


@pytest.mark.parametrize("folder", ["", "common/", "arch/x86_64/", "variant/", "variant/mine/"])
@pytest.mark.parametrize("name", [".speed.conf.swp", ".waivers.yaml.swo", "speed.conf~", "#speed.conf#"])
def test_what_editors_leave_is_passed_over_and_changes_nothing(tmp_path: Path, folder: str, name: str) -> None:
    write_configs(tmp_path, FILES)
    before = Configure.of_catalogue(tmp_path, parse_arch("x86_64"), "mine").fragments
    (tmp_path / folder / name).write_bytes(b"b0VIM\0\xff")
    (tmp_path / folder / ".#speed.conf").symlink_to("someone@somewhere.1234")
    assert Configure.of_catalogue(tmp_path, parse_arch("x86_64"), "mine").fragments == before
