"""Which tests stay together where several processes run them (pytest-xdist): one process has all of a group.

Of a group are modules that ask for the same mirror, for what the machine has once (a user, a daemon's images), or that
watch the clock. A module of no group stays together by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Final

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "engines": ("test_apk_faults", "test_builder", "test_docker_engine", "test_engines", "test_reproducible"),
    "rpm": ("test_boot_rpm", "test_rpm_locks", "test_rpm_rootfs", "test_selinux"),
    "arch": ("test_boot_archlinux", "test_offline", "test_pacman", "test_pacman_locks"),
    "clocks": ("test_boot_cargo_agent", "test_boot_port", "test_own_patches", "test_probe_agent"),
    "unpacked": (
        *("test_agent_image", "test_alpine", "test_boot_alpine", "test_boot_archive", "test_gentoo"),
        *("test_new_distro", "test_oci"),
    ),
    "ubuntu": ("test_boot_ubuntu", "test_ubuntu_rootfs"),
}

_OF_FIXTURES: Final = {
    **dict.fromkeys(("stranger", "podman_url", "docker_url", "engine_builder", "ground"), "engines"),
    "rpm_mirror": "rpm",
    "arch_mirror": "arch",
    "ubuntu_settings": "ubuntu",
    **dict.fromkeys(("alpine_settings", "gentoo_settings", "oci_registry"), "unpacked"),
}

_FIRST: Final = (
    *("test_boot", "engines", "rpm", "arch", "test_arches", "clocks", "unpacked", "test_cargo_agent"),
    *("test_kernel_contract", "test_kernel_answers", "test_foreign", "test_all_distros", "ubuntu", "test_lifecycle"),
)
"""What takes long begins first; what takes no time at all comes last."""

_QUICK: Final = ("unit", "contract", "golden")


def group_of(path: str | PurePath) -> str:
    """Return the group of a module of tests."""
    stem = PurePath(path).stem
    return next((name for name, modules in GROUPS.items() if stem in modules), stem)


def place_of(path: PurePath) -> tuple[int, bool]:
    """Return what modules are sorted by."""
    group = group_of(path)
    return (_FIRST.index(group) if group in _FIRST else len(_FIRST), path.parent.name in _QUICK)


def missing(path: PurePath, fixtures: Collection[str]) -> str:
    """Return the group that a module has to be of for what it asks for, if it is of none; else ""."""
    groups = {_OF_FIXTURES[name] for name in fixtures if name in _OF_FIXTURES}
    return "" if not groups or group_of(path) in GROUPS else min(groups)
