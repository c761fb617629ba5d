from __future__ import annotations

import functools
import itertools

import pytest

from osbuilder.distro.apk.version import compare, matches

# Each is less than the next: apk-package(5), and what apk-tools' own tests order.
ASCENDING = (
    "0.1.0_alpha",
    "0.1.0_alpha2",
    "0.1.0_beta",
    "0.1.0_pre1",
    "0.1.0_rc2",
    "0.1.0",
    "0.1.0-r1",
    "0.1.0_git20240101",
    "0.1.0_p1",
    "0.1.0_p1-r2",
    "0.1.0_p1-r10",
    "0.1.05",
    "0.1.5",
    "0.1.10",
    "0.2",
    "0.2b",
    "0.2c",
    "0.2.0",
    "1",
    "1.0",
    "1.2.5-r3",
    "1.2.5-r10",
    "1.10",
    "20240101",
)


@pytest.mark.parametrize(("less", "greater"), tuple(itertools.pairwise(ASCENDING)))
def test_versions_are_ordered(less: str, greater: str) -> None:
    assert (compare(less, greater), compare(greater, less), compare(less, less)) == (-1, 1, 0)


def test_a_sort_restores_the_order() -> None:
    assert tuple(sorted(sorted(ASCENDING), key=functools.cmp_to_key(compare))) == ASCENDING


@pytest.mark.parametrize(
    ("version", "operator", "wanted", "expected"),
    [
        ("1.2.3-r4", "=", "1.2.3-r4", True),
        ("1.2.3-r4", "=", "1.2.3", False),
        ("1.2.3-r4", "~", "1.2", True),
        ("1.2.3-r4", "=~", "1.2.3", True),
        ("1.20", "~", "1.2", False),
        ("1.2", "~", "1.2.3", False),
        ("1.3", ">~", "1.2", True),
        ("1.1", ">~", "1.2", False),
        ("1.2.9", "<~", "1.2", True),
        ("2", ">=", "2", True),
        ("2", ">", "2", False),
        ("2_rc1", "<", "2", True),
        ("2", "<=", "1.9", False),
    ],
)
def test_an_operator_holds_or_not(version: str, operator: str, wanted: str, expected: bool) -> None:
    assert matches(version, operator, wanted) is expected


def test_what_is_no_version_still_has_a_place() -> None:
    assert compare("trunk", "trunk") == 0
    assert compare("1.0", "1.0+x") == 1
