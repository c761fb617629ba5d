"""A kernel is asked for by a line of versions.yaml, or by a repository or a tree on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from osbuilder.errors import FragmentError, PlanError, UsageError
from osbuilder.kernel.git import Git
from osbuilder.kernel.localtree import LocalTree
from osbuilder.kernel.patches import ApplyPatches
from osbuilder.kernel.tarball import Tarball
from osbuilder.kernelplan import patches_left_out
from osbuilder.plan import Planner
from osbuilder.request import BootRequest, KernelRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step, parameters
from tests.kernel_sources import write_tree

ROOT = Path(__file__).resolve().parents[2]


def plan(request: KernelRequest, *, root: Path = ROOT, **settings: str) -> dict[str, Step]:
    loaded = load_settings(settings, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent"))
    return {step.name: step for step in Planner(root, loaded).plan(request).walk()}


def test_a_repository_of_the_command_line_is_a_source_without_patches() -> None:
    steps = plan(KernelRequest(arch="x86_64", git="https://a.example/l.git", ref="v6.12"))
    assert steps["source"].action == Git(url="https://a.example/l.git", ref="v6.12")
    assert steps["source"].ident == "git/source"
    assert "patched" not in steps


def test_a_tree_of_the_command_line_is_looked_up_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "linux")
    monkeypatch.chdir(tmp_path)
    action = plan(KernelRequest(arch="x86_64", tree=Path("linux")))["source"].action
    assert isinstance(action, LocalTree)
    assert action.path == tmp_path / "linux"


def test_patches_of_the_command_line_replace_those_of_the_line() -> None:
    default = KernelRequest(arch="x86_64", line="debian-6.12")
    assert "patched" in plan(default)
    assert "patched" not in plan(KernelRequest(arch="x86_64", line="debian-6.12", patches="none"))
    git = KernelRequest(arch="x86_64", git="https://a.example/l.git", ref="v6.12", patches="linux-6.12")
    assert plan(git)["patched"].action == plan(default)["patched"].action


def test_a_kernel_may_have_several_series_and_one_that_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "Description: A change\nOrigin: own\n\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"
    write_tree(tmp_path / "mine", {"series": "a.patch\n", "a.patch": header})
    monkeypatch.chdir(tmp_path)
    both = KernelRequest(arch="x86_64", patches="linux-6.12,./mine")
    action = plan(both)["patched"].action
    assert isinstance(action, ApplyPatches)
    assert [patch.series for patch in action.patches] == ["linux-6.12"] * 6 + ["mine"]
    alone = plan(KernelRequest(arch="x86_64", patches=f"{tmp_path}/mine"))["patched"].action
    assert isinstance(alone, ApplyPatches)
    assert [patch.label for patch in alone.patches] == ["mine/a.patch"]
    with pytest.raises(UsageError, match=r"^--patches mine: no such folder of kernel/patches") as caught:
        plan(KernelRequest(arch="x86_64", patches="mine"))
    assert "has a slash: ./mine." in caught.value.hint
    with pytest.raises(UsageError, match=rf"^--patches {tmp_path}/gone: no such folder"):
        plan(KernelRequest(arch="x86_64", patches="./gone"))
    (tmp_path / "mine" / "series").write_text("b.patch\n")
    with pytest.raises(UsageError, match=rf"^--patches {tmp_path}/mine/series:1: cannot read b\.patch"):
        plan(KernelRequest(arch="x86_64", patches="./mine"))


def test_a_line_of_versions_yaml_lists_series_and_begins_their_paths_at_the_checkout(tmp_path: Path) -> None:
    for folder in ("kernel", "distros"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    pins = (ROOT / "versions.yaml").read_text()
    (tmp_path / "versions.yaml").write_text(pins.replace("patches: linux-6.12", "patches: [linux-6.12, more/mine]", 1))
    header = "Description: A change\nOrigin: own\n\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"
    write_tree(tmp_path / "more" / "mine", {"series": "a.patch\n", "a.patch": header})
    action = plan(KernelRequest(arch="x86_64"), root=tmp_path)["patched"].action
    assert isinstance(action, ApplyPatches)
    assert [patch.series for patch in action.patches] == ["linux-6.12"] * 6 + ["mine"]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (
            {"patches": "./mine"},
            "linux-6.12, which debian-6.12 has otherwise; with both: --patches linux-6.12,./mine",
        ),
        ({"patches": "linux-6.12,./mine"}, ""),
        ({"patches": "none"}, ""),
        ({}, ""),
        # It has none to leave out; the variant's series is empty.
        ({"patches": "./mine", "line": "debian-6.1"}, ""),
        ({"patches": "./mine", "variant": "experimental"}, ""),
        ({"patches": "./mine", "git": "https://a.example/l.git", "ref": "v6.12"}, ""),
    ],
)
def test_patches_that_the_command_line_leaves_out_are_named(
    wish: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "mine", {"series": "# nothing yet\n"})
    monkeypatch.chdir(tmp_path)
    loaded = load_settings({}, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent"))
    told = patches_left_out(Planner(ROOT, loaded), KernelRequest(arch="x86_64", **wish))
    assert told == (f"without the patches of {said}" if said else "")


def test_a_variant_may_have_a_line_and_patches_of_its_own(tmp_path: Path) -> None:
    for folder in ("kernel", "distros"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "versions.yaml", tmp_path)
    series = tmp_path / "kernel" / "patches" / "experimental"
    (series / "series").write_text("new.patch\n")
    (series / "new.patch").write_text("Description: a try\nOrigin: own\n\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n")
    own = plan(KernelRequest(arch="x86_64", variant="experimental"), root=tmp_path)
    assert own["source"].ident == "debian-7.2/source"
    assert "new.patch" in "".join(own["patched"].action.describe())
    named = plan(KernelRequest(arch="x86_64", variant="experimental", line="debian-6.12"), root=tmp_path)
    assert named["source"].ident == "debian-6.12/source"
    assert named["patched"].action == plan(KernelRequest(arch="x86_64"))["patched"].action
    git = KernelRequest(arch="x86_64", variant="experimental", git="https://a.example/l.git", ref="v6.12")
    assert "patched" not in plan(git, root=tmp_path)


def test_a_variant_may_have_a_line_of_its_own_on_one_architecture(tmp_path: Path) -> None:
    realm, others = (plan(KernelRequest(arch=arch, variant="confidential")) for arch in ("aarch64", "x86_64"))
    assert (realm["source"].ident, others["source"].ident) == ("debian-7.2/source", "debian-6.12/source")
    named = plan(KernelRequest(arch="aarch64", variant="confidential", line="debian-6.12"))
    assert named["source"].ident == "debian-6.12/source"

    for folder in ("kernel", "distros"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "versions.yaml", tmp_path)
    declared = tmp_path / "kernel" / "configs" / "variant" / "confidential" / "variant.yaml"
    declared.write_text(declared.read_text().replace("{line: debian-7.2,", "{line: debian-7,"))
    with pytest.raises(PlanError, match=r"variant/confidential/variant\.yaml: lines: unknown kernel 'debian-7'") as no:
        plan(KernelRequest(arch="aarch64", variant="confidential"), root=tmp_path)
    assert "Did you mean debian-7.2" in no.value.hint
    assert plan(KernelRequest(arch="x86_64", variant="confidential"), root=tmp_path)


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"line": "6.12", "tree": Path("linux")}, "--kernel and --tree exclude each other"),
        ({"git": "https://a.example/l.git", "ref": "x", "tree": Path("l")}, "--git and --tree exclude each other"),
        ({"git": "https://a.example/l.git"}, "--git and --ref go together"),
        ({"ref": "v6.12"}, "--git and --ref go together"),
        ({"git": "/srv/linux", "ref": "v6.12"}, "--git: expected a https, http or git URL, got '/srv/linux'"),
        ({"git": "https://a.example/l.git", "ref": "--all"}, "--ref: expected a branch, a tag or a full commit id"),
        ({"patches": "mine,"}, "--patches: malformed: ''"),
    ],
)
def test_what_cannot_be_is_refused_with_its_flag(wish: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(KernelRequest(arch="x86_64", **wish))
    assert caught.value.message.startswith(problem)


def test_patches_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--patches linux-6\.13: no such folder of kernel/patches") as caught:
        plan(KernelRequest(arch="x86_64", patches="linux-6.13"))
    assert "Did you mean linux-6.12?" in caught.value.hint


def test_a_tree_that_is_no_kernel_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--tree .*: not a kernel source: it has no Makefile"):
        plan(KernelRequest(arch="x86_64", tree=tmp_path))
    with pytest.raises(UsageError, match=r"--tree none: no such folder") as caught:
        plan(KernelRequest(arch="x86_64", tree=Path("none")))
    assert caught.value.hint == "Name the top folder of a kernel source."


def test_signatures_are_checked_where_keys_are_named_and_a_signer_is_pinned(tmp_path: Path) -> None:
    keys = tmp_path / "keys.asc"
    keys.write_bytes(b"keys")
    action = plan(KernelRequest(arch="x86_64", line="6.12"), kernel_keys=str(keys))["source"].action
    assert isinstance(action, Tarball)
    assert action.signature is not None
    assert action.signature.signed_by[0] == "647F28654894E3BD457199BE38DBBDC86092693E"
    assert [url.rsplit("/", 1)[1] for url in action.signature.urls] == ["linux-6.12.64.tar.sign"] * 2
    plain = plan(KernelRequest(arch="x86_64", line="6.12"))["source"].action
    assert isinstance(plain, Tarball)
    assert plain.signature is None


def test_fragments_of_the_command_line_change_the_configuration_alone(tmp_path: Path) -> None:
    one, other, nothing = (tmp_path / name for name in ("one.conf", "other.conf", "nothing.conf"))
    for path in (one, other):
        path.write_text("CONFIG_NFS_FS=y\n")
    nothing.write_text("# CONFIG_NFS_FS is what this is about.\n")
    plain, custom, renamed = (plan(KernelRequest(arch="x86_64", fragments=each)) for each in ((), (one,), (other,)))
    assert [step.ident for step in custom.values() if "custom" in step.ident] == [
        "debian-6.12-x86_64-custom/resolved",
        "debian-6.12-x86_64-custom/config",
        "debian-6.12-x86_64-custom/kernel",
    ]
    assert custom["kernel"].action == plain["kernel"].action
    asked = [parameters(steps["config"].action) for steps in (plain, custom, renamed)]
    assert [each["besides"] for each in asked] == [[], ["NFS_FS=y"], ["NFS_FS=y"]]
    assert asked[1] == asked[2]
    with pytest.raises(UsageError, match=r"--fragment .*nothing\.conf: asks for nothing"):
        plan(KernelRequest(arch="x86_64", fragments=(nothing,)))
    with pytest.raises(UsageError, match=r"--fragment .*gone\.conf: cannot be read: No such file"):
        plan(KernelRequest(arch="x86_64", fragments=(tmp_path / "gone.conf",)))
    with pytest.raises(FragmentError, match="duplicate: CONFIG_NFS_FS=y"):
        plan(KernelRequest(arch="x86_64", fragments=(one, other)))


def test_a_kernel_that_is_a_file_takes_no_fragments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--fragment does not go with a kernel's file"):
        BootRequest(kernel="./vmlinux", fragments=(tmp_path / "mine.conf",))
    request = BootRequest(kernel="debian-6.1", variant="debug", fragments=(tmp_path / "mine.conf",))
    assert request.kernel_request("aarch64") == KernelRequest(
        arch="aarch64", line="debian-6.1", variant="debug", fragments=(tmp_path / "mine.conf",)
    )
