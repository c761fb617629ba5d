"""Listings: what a person reads, and what a program reads instead."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuilder.distro.recipe import load_recipes
from osbuilder.settings import load_settings
from osbuilder.show import disk_bytes, distros_json, distros_text, settings_text, sizes_text

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def test_sizes_are_told_by_folder_before_and_after_the_largest_first() -> None:
    facts = {
        "before": {
            "content_bytes": 9 * MIB,
            "folders": [
                {"path": "usr", "content_bytes": 8 * MIB, "entries": 3},
                {"path": "etc", "content_bytes": MIB, "entries": 2},
                {"path": "proc", "content_bytes": 0, "entries": 1},
            ],
        },
        "after": {
            "content_bytes": 5 * MIB,
            "folders": [
                {"path": "usr", "content_bytes": 3 * MIB, "entries": 2},
                {"path": "var", "content_bytes": 2 * MIB, "entries": 1},
            ],
        },
        "trimmed": [
            {"what": "docs", "content_bytes": 4 * MIB, "entries": 7},
            {"what": "units", "content_bytes": 0, "entries": 0},
        ],
    }
    assert sizes_text(facts).splitlines() == [
        "FOLDER  BEFORE   AFTER",
        "usr     8.0 MiB  3.0 MiB",
        "var     0.0 MiB  2.0 MiB",
        "etc     1.0 MiB  0.0 MiB",
        "total   9.0 MiB  5.0 MiB",
        "trimmed: docs 4.0 MiB, units 0.0 MiB",
    ]


def test_a_program_learns_of_every_distribution_what_it_can_be_built_as() -> None:
    recipes = load_recipes(ROOT / "distros")
    listed = json.loads(distros_json(recipes))
    assert set(listed) == set(recipes)
    assert listed["centos"]["inits"] == ["systemd", "agent"]
    assert "selinux" in listed["centos"]["features"]
    for name, recipe in recipes.items():
        assert listed[name]["default_release"] in listed[name]["releases"]
        assert {each["why"] for each in listed[name]["excluded"]} == {each.why for each in recipe.excluded}
        for each in listed[name]["excluded"]:
            assert recipe.why_excluded(each["release"], each["arch"]) == each["why"]
    assert {"release": "43", "arch": "riscv64", "why": "Fedora's releases are not made for it"} in listed["fedora"][
        "excluded"
    ]


def test_a_release_is_listed_with_what_else_it_may_be_called() -> None:
    rows = {line.split()[0]: line for line in distros_text(load_recipes(ROOT / "distros")).splitlines() if line}
    assert "resolute (26.04) noble (24.04)" in rows["ubuntu"]
    assert "tumbleweed 15.6 (leap)" in rows["opensuse"]
    assert "44 43 " in rows["fedora"]


def test_a_file_that_goes_while_a_folder_is_measured_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "downloads").mkdir()
    kept, part = (tmp_path / "downloads" / name for name in ("kept", "part"))
    for path in (kept, part):
        path.write_bytes(b"x" * 9000)
    walk = os.walk

    def listed(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for each in walk(folder):
            part.unlink(missing_ok=True)
            yield each

    monkeypatch.setattr("os.walk", listed)
    assert disk_bytes(tmp_path) == kept.stat().st_blocks * 512


def test_settings_are_listed_without_the_passwords_in_them() -> None:
    environment = {
        "http_proxy": "http://bob:sec/ret@proxy.corp:3128",
        "https_proxy": "bob:secret@proxy.corp:3128",
        "OSBUILDER_MIRRORS": "oci=https://bob:secret@registry.corp,https://two.example debian=https://m.example/@a/b",
    }
    settings = load_settings({}, environment=environment, folder=Path("/nonexistent"))
    rows = dict(line.split(maxsplit=1) for line in settings_text(settings).splitlines())
    assert rows["http_proxy"].startswith("http://***@proxy.corp:3128 ")
    assert rows["https_proxy"].startswith("***@proxy.corp:3128 ")
    assert rows["mirrors"].startswith(
        "oci=https://***@registry.corp,https://two.example debian=https://m.example/@a/b "
    )
    assert settings.proxies["https_proxy"] == "bob:secret@proxy.corp:3128"
