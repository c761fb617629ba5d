"""Labels are refused where nothing would enforce them, and set as the kernel keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.errors import PlanError, RootfsError, UsageError
from osbuilder.pid1 import Init
from osbuilder.plan import Planner
from osbuilder.request import InitrdRequest, RootfsRequest
from osbuilder.rootfs.selinux import policy_of, set_labels
from osbuilder.settings import load_settings
from osbuilder.step import Step
from osbuilder.tree import Tree

ROOT = Path(__file__).resolve().parents[2]


def plan(request: RootfsRequest) -> Step:
    flags = {"mirrors": "centos=https://mirror.example.org/centos"}
    return Planner(ROOT, load_settings(flags, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent"))).plan(
        request
    )


def test_labels_come_last_and_the_policy_is_installed() -> None:
    for request in (
        RootfsRequest(distro="centos", arch="x86_64", selinux=True),
        RootfsRequest(distro="centos", arch="x86_64", features=("selinux",)),
    ):
        step = plan(request)
        assert step.name == "labelled"
        packages = next(each for each in step.walk() if each.name == "packages")
        assert "selinux-policy-targeted" in " ".join(packages.action.describe())


def test_a_distribution_without_a_policy_is_refused() -> None:
    with pytest.raises(PlanError, match="--selinux: ubuntu has no policy: its recipe has no feature selinux"):
        plan(RootfsRequest(distro="ubuntu", arch="x86_64", selinux=True))


def test_an_agent_as_init_is_refused_it_loads_no_policy() -> None:
    with pytest.raises(PlanError, match="only systemd loads a policy"):
        plan(RootfsRequest(distro="centos", arch="x86_64", init=Init.AGENT, selinux=True))


def test_what_cannot_hold_labels_is_refused() -> None:
    with pytest.raises(UsageError, match="an initrd cannot hold labels"):
        InitrdRequest(rootfs=RootfsRequest(distro="centos", selinux=True))
    with pytest.raises(UsageError, match="--extension and --selinux exclude each other"):
        RootfsRequest(distro="centos", selinux=True, extension=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no /etc/selinux/config"),
        ({"config": "SELINUX=enforcing\n"}, "no SELinux policy is named"),
        ({"config": "SELINUXTYPE=toy\n"}, "'toy' is incomplete: there is no /etc/selinux/toy/contexts"),
        (
            {"config": "SELINUXTYPE=toy\n", "toy/contexts/files/file_contexts": ""},
            "'toy' is incomplete: there is no /etc/selinux/toy/policy",
        ),
    ],
)
def test_a_tree_without_a_whole_policy_is_refused(files: dict[str, str], message: str) -> None:
    tree = Tree()
    for name, text in files.items():
        tree.add_file(f"etc/selinux/{name}", text.encode(), parents_mode=0o755)
    with pytest.raises(RootfsError, match=message) as error:
        policy_of(tree)
    assert error.value.hint


def test_labels_end_with_a_nul_and_other_attributes_stay() -> None:
    tree = Tree()
    tree.add_file("one", b"", xattrs={"user.x": b"1", "security.selinux": b"old\0"})
    tree.add_file("two", b"", xattrs={"security.selinux": b"old\0"})
    assert set_labels(tree, b"root_t\0one_t\0\0") == 2
    assert dict(tree.get("").xattrs) == {"security.selinux": b"root_t\0"}
    assert dict(tree.get("one").xattrs) == {"user.x": b"1", "security.selinux": b"one_t\0"}
    assert tree.get("two").xattrs == ()


def test_a_file_with_several_names_has_the_label_of_the_first_that_has_one() -> None:
    tree = Tree()
    tree.add_file("a", b"")
    tree.add_link("b", "a")
    tree.add_link("c", "a")
    assert set_labels(tree, b"root_t\0\0b_t\0c_t\0") == 4
    assert dict(tree.get("a").xattrs) == {"security.selinux": b"b_t\0"}


def test_an_answer_that_is_missing_is_noticed() -> None:
    tree = Tree()
    tree.add_file("one", b"")
    with pytest.raises(RootfsError, match="answered for 1 of 2 paths"):
        set_labels(tree, b"root_t\0")
