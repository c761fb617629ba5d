"""What a pipeline of Kata's gives `inv` by variables is built as the flags would build it: the same bytes, and notes.

The agent alone is the root filesystem (scratch), so that no mirror is needed. What each variable means, one by one, is
tests/unit/test_kata.py's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from osbuilder.arch import host_arch
from osbuilder.tree import Tree
from tests.mirrors.alpine import BUSYBOX

ROOT = Path(__file__).resolve().parents[2]
ARCH = host_arch().name

if not BUSYBOX.is_file():
    pytest.skip("the agent is that of the package busybox-static, which is not installed", allow_module_level=True)


def inv(*arguments: str, build: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "inv"), *arguments, "--setting", f"build={build}"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.usefixtures("builders")
def test_an_image_of_variables_is_that_of_flags(tmp_path: Path) -> None:
    policy = tmp_path / "allow.rego"
    policy.write_text("package agent_policy\ndefault CreateContainerRequest := true\n")
    variables = {
        "DISTRO": "scratch",
        "AGENT_INIT": "yes",
        "AGENT_SOURCE_BIN": str(BUSYBOX),
        "AGENT_POLICY": "yes",
        "AGENT_POLICY_FILE": str(policy),
        "ROOT_FREE_SPACE": "8",
        "SKIP_DAX_HEADER": "yes",
        "IMAGE": str(tmp_path / "copy.img"),
    }
    flags = ("--distro", "scratch", "--init", "agent", "--agent", str(BUSYBOX), "--agent-policy", str(policy))
    theirs = inv("image", build=tmp_path / "theirs", **variables)
    ours = inv("image", *flags, "--free-space-mib", "8", "--no-dax", build=tmp_path / "ours")
    assert theirs.returncode == 0, theirs.stderr
    assert ours.returncode == 0, ours.stderr
    for name in variables:
        assert f"{name}=" in theirs.stderr
        assert f"{name}=" not in ours.stderr
    images = [*(tmp_path / who / ARCH / "kata-containers.img" for who in ("theirs", "ours")), tmp_path / "copy.img"]
    assert len({hashlib.sha256(image.read_bytes()).hexdigest() for image in images}) == 1
    other = inv("image", *flags, build=tmp_path / "other")
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "other" / ARCH / "kata-containers.img").read_bytes() != images[0].read_bytes()


def test_a_root_filesystem_has_the_policy_that_a_variable_names(tmp_path: Path) -> None:
    policy = tmp_path / "deny.rego"
    policy.write_text("package agent_policy\n")
    named = {"AGENT_POLICY": "yes", "AGENT_POLICY_FILE": str(policy), "AGENT_SOURCE_BIN": str(BUSYBOX)}
    ran = inv("rootfs", build=tmp_path, DISTRO="scratch", AGENT_INIT="yes", **named)
    assert ran.returncode == 0, ran.stderr
    (tar,) = (tmp_path / ARCH).glob("*.tar")
    tree = Tree.read(tar)
    assert tree.read_bytes(tree.resolve("etc/kata-opa/default-policy.rego")) == policy.read_bytes()


def test_a_variable_that_cannot_be_honoured_builds_nothing(tmp_path: Path) -> None:
    ran = inv("image", build=tmp_path, DISTRO="scratch", FS_TYPE="btrfs")
    assert ran.returncode != 0
    assert "FS_TYPE" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.rglob("*.img"))
