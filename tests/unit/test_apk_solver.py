from __future__ import annotations

import re

import pytest

from osbuilder.distro.apk.index import Catalogue, Package, parse_dependency
from osbuilder.distro.apk.solver import solve
from osbuilder.errors import FetchError, UsageError

IDENTITY = "Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA="


def _record(name: str, version: str = "1", **fields: str) -> str:
    lines = {"C": IDENTITY, "P": name, "V": version, "A": "x86_64", "S": "1", "o": name, **fields}
    return "".join(f"{letter}:{value}\n" for letter, value in lines.items())


def _solve(records: list[str], *wishes: str, second: tuple[str, ...] = ()) -> list[str]:
    catalogue = Catalogue([("\n".join(records), "main"), ("\n".join(second), "community")])
    return [str(package) for package in solve(catalogue, wishes, repositories="3.24 (main)")]


def test_dependencies_come_before_what_needs_them() -> None:
    records = [_record("app", D="lib>=1"), _record("lib", D="libc"), _record("libc")]
    assert _solve(records, "app") == ["libc-1", "lib-1", "app-1"]


def test_packages_that_need_each_other_are_installed() -> None:
    assert sorted(_solve([_record("a", D="b"), _record("b", D="a")], "a")) == ["a-1", "b-1"]


@pytest.mark.parametrize("name", ["so:libc.musl-x86_64.so.1", "cmd:sh", "pc:zlib", "/bin/sh"])
def test_a_name_that_is_provided_meets_a_dependency(name: str) -> None:
    assert _solve([_record("app", D=name), _record("lib", p=f"{name}=1")], "app") == ["lib-1", "app-1"]


def test_a_provided_version_counts_not_the_packages_own() -> None:
    records = [_record("app", D="so:x>=2"), _record("old", "9", p="so:x=1"), _record("new", "1", p="so:x=2.1")]
    assert _solve(records, "app") == ["new-1", "app-1"]


def test_the_highest_version_is_taken_whatever_the_repository() -> None:
    assert _solve([_record("app", "1.9")], "app", second=(_record("app", "1.10"),)) == ["app-1.10"]


def test_of_equal_versions_the_first_repository_wins() -> None:
    solution = solve(
        Catalogue([(_record("app", o="first"), "main"), (_record("app", o="second"), "community")]),
        ["app"],
        repositories="3.24",
    )
    assert [package.origin for package in solution] == ["first"]


def test_a_provider_with_a_higher_priority_is_preferred() -> None:
    records = [
        _record("app", D="/bin/sh"),
        _record("ash", p="/bin/sh", k="10"),
        _record("busybox-binsh", p="/bin/sh", k="60"),
    ]
    assert _solve(records, "app") == ["busybox-binsh-1", "app-1"]


def test_a_provider_that_is_chosen_anyway_serves_without_a_priority() -> None:
    records = [_record("app", D="mta"), _record("exim", p="mta"), _record("postfix", p="mta")]
    records += [_record("z", D="y"), _record("y", D="x"), _record("x", D="postfix")]
    assert sorted(_solve(records, "app", "z")) == ["app-1", "postfix-1", "x-1", "y-1", "z-1"]


def test_a_name_that_others_provide_without_a_default_has_to_be_settled_by_the_user() -> None:
    records = [_record("app", D="mta"), _record("exim", p="mta"), _record("postfix", p="mta")]
    with pytest.raises(UsageError, match=r"mta is only a name that others provide \(exim-1, postfix-1\)"):
        _solve(records, "app")


def test_two_providers_of_a_versioned_name_exclude_each_other() -> None:
    records = [_record("a", D="libressl"), _record("openssl", p="so:ssl=3"), _record("libressl", p="so:ssl=2")]
    with pytest.raises(UsageError, match=r"(openssl|libressl)-1 both provide so:ssl"):
        _solve(records, "a", "openssl")


def test_two_providers_of_an_unversioned_name_stand_side_by_side() -> None:
    assert len(_solve([_record("a", p="editor"), _record("b", p="editor")], "a", "b")) == 2


def test_a_conflict_is_told_with_who_excludes_whom() -> None:
    records = [_record("app", D="lib !busybox"), _record("lib", D="busybox"), _record("busybox")]
    with pytest.raises(UsageError, match=r"app-1 excludes busybox-1 \(!busybox\) \(needed by app-1 -> lib-1\)"):
        _solve(records, "app")


def test_a_conflict_with_versions_spares_the_others() -> None:
    assert _solve([_record("app", D="!lib<2 lib"), _record("lib", "2")], "app") == ["lib-2", "app-1"]


def test_another_provider_is_tried_where_the_preferred_one_leads_nowhere() -> None:
    records = [
        _record("app", D="so:x safe"),
        _record("new", p="so:x=2", D="missing"),
        _record("old", p="so:x=1"),
        _record("safe"),
    ]
    assert sorted(_solve(records, "app")) == ["app-1", "old-1", "safe-1"]


def test_an_older_version_is_taken_where_the_newest_is_excluded() -> None:
    records = [_record("app", D="lib !lib>1.5"), _record("lib", "2"), _record("lib", "1.4")]
    assert _solve(records, "app") == ["lib-1.4", "app-1"]


def test_a_package_with_install_if_comes_when_all_of_it_is_there() -> None:
    records = [
        _record("app"),
        _record("docs"),
        _record("app-doc", i="docs app=1"),
        _record("app-old-doc", i="docs app<1"),
        _record("app-doc-extra", i="app-doc"),
    ]
    assert sorted(_solve(records, "app")) == ["app-1"]
    assert sorted(_solve(records, "app", "docs")) == ["app-1", "app-doc-1", "app-doc-extra-1", "docs-1"]


def test_a_package_with_install_if_that_cannot_be_had_stays_out() -> None:
    records = [_record("app"), _record("app-extra", i="app", D="missing"), _record("app-none", i="app !app")]
    assert _solve(records, "app") == ["app-1"]


def test_a_wish_that_does_not_exist_is_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=re.escape("package crony does not exist in 3.24 (main)")) as caught:
        _solve([_record("chrony"), _record("app", p="cmd:crony=1")], "crony")
    assert "Did you mean chrony?" in caught.value.hint


def test_what_cannot_be_met_is_told_with_the_chain_that_leads_there() -> None:
    records = [_record("app", D="lib"), _record("lib", D="libc>=2"), _record("libc", "1.5")]
    with pytest.raises(
        UsageError, match=r"libc>=2 is asked for, there is libc-1.5 .needed by app-1 -> lib-1."
    ) as caught:
        _solve(records, "app")
    assert "--package" in caught.value.hint
    with pytest.raises(UsageError, match=r"nothing provides so:gone .needed by app-1."):
        _solve([_record("app", D="so:gone")], "app")


def test_the_order_of_records_and_wishes_changes_nothing() -> None:
    records = [_record("a", D="c"), _record("b", D="c /bin/sh"), _record("c"), _record("d", p="/bin/sh", k="1")]
    assert _solve(records, "a", "b") == _solve(records[::-1], "b", "a")


@pytest.mark.parametrize("text", ["", "!", "a b", "a=", "=1", "a>=1<2"])
def test_a_malformed_dependency_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="malformed dependency"):
        parse_dependency(text)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_record("a/../b"), "malformed name or version 'a/../b'"),
        (_record("a", V="../1"), "malformed name or version '../1'"),
        (_record("a", C="Q2AAAA"), "expected a checksum of the kind Q1"),
        (_record("a", S="many"), "invalid literal"),
        ("P:a\nV:1\nA:x86_64\nS:1\n", "no field 'C'"),
    ],
)
def test_a_malformed_record_is_refused_with_its_package(record: str, message: str) -> None:
    name = re.escape(record.partition("P:")[2].partition("\n")[0])
    with pytest.raises(FetchError, match=rf"bad package index \(main\): record of {name}: {re.escape(message)}"):
        Catalogue([(record, "main")]).answering(record.partition("P:")[2].partition("\n")[0])


def test_records_are_parsed_only_when_they_are_asked_for() -> None:
    catalogue = Catalogue([(_record("good") + "\n" + _record("bad", C="?"), "main")])
    assert [type(package) for package in catalogue.answering("good")] == [Package]
