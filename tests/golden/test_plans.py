"""A request means these steps and these commands: a change of either shows up here, on purpose.

To accept a change: python -m tests.golden.test_plans, and read the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.image.initrd import Compression
from osbuilder.kernel.packageformat import PackageFormat
from osbuilder.pid1 import Init
from osbuilder.plan import Planner
from osbuilder.request import (
    BuildRequest,
    Filesystem,
    HeadersRequest,
    ImageRequest,
    InitrdRequest,
    KernelRequest,
    RootfsRequest,
)
from osbuilder.settings import load_settings
from osbuilder.show import plan_text

ROOT = Path(__file__).resolve().parents[2]
PLANS = Path(__file__).parent / "plans"

DEBIAN = RootfsRequest(distro="debian", arch="x86_64")

REQUESTS: dict[str, BuildRequest] = {
    "rootfs-systemd": DEBIAN,
    "rootfs-agent-bookworm": RootfsRequest(
        distro="debian", release="bookworm", arch="x86_64", init=Init.AGENT, packages=("tcpdump",)
    ),
    "rootfs-carried": RootfsRequest(distro="ubuntu", release="noble", arch="s390x"),
    "rootfs-alpine": RootfsRequest(distro="alpine", arch="x86_64"),
    "rootfs-fedora": RootfsRequest(distro="fedora", arch="x86_64"),
    "rootfs-selinux": RootfsRequest(
        distro="fedora", arch="x86_64", selinux=True, without_units=("systemd-sysctl.service",)
    ),
    "image-extension": ImageRequest(rootfs=RootfsRequest(distro="debian", arch="x86_64", extension=True)),
    "image": ImageRequest(rootfs=DEBIAN),
    "image-plain": ImageRequest(rootfs=DEBIAN, filesystem=Filesystem.EXT4, dax=False, free_space_mib=64, align_mib=1),
    "image-erofs": ImageRequest(rootfs=DEBIAN, filesystem=Filesystem.EROFS, measured=True),
    "image-measured": ImageRequest(rootfs=DEBIAN, measured=True),
    "initrd": InitrdRequest(rootfs=DEBIAN, compression=Compression.ZSTD),
    "kernel": KernelRequest(arch="x86_64"),
    "initrd-foreign": InitrdRequest(rootfs=RootfsRequest(distro="scratch", arch="s390x")),
    "kernel-debug": KernelRequest(arch="x86_64", variant="debug"),
    "kernel-headers": HeadersRequest(
        kernel=KernelRequest(arch="x86_64", variant="nvidia-gpu"), format=PackageFormat.DEB
    ),
}


def plan_of(request: BuildRequest) -> str:
    settings = load_settings(
        {"source_date_epoch": "1700000000", "mirrors": "fedora=https://mirror.example.org/fedora"},
        environment={"HOME": "/nowhere"},
        folder=Path("/nonexistent"),
    )
    step = Planner(ROOT, settings).plan(request)
    return plan_text(step.walk(), {each.ident: None for each in step.walk()}) + "\n"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_means_these_steps_and_commands(name: str) -> None:
    assert plan_of(REQUESTS[name]) == (PLANS / f"{name}.txt").read_text()


def test_a_plan_names_no_path_of_this_host() -> None:
    for request in REQUESTS.values():
        assert str(ROOT) not in plan_of(request)


if __name__ == "__main__":
    for plan, wanted in REQUESTS.items():
        (PLANS / f"{plan}.txt").write_text(plan_of(wanted))
