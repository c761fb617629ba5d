"""The lock's format: one text for one content, read strictly; what makes it stale; how two of them differ."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from osbuilder import decode
from osbuilder.arch import parse_arch
from osbuilder.distro.choice import Choice, choose, select_packages
from osbuilder.distro.lock import (
    Difference,
    Lock,
    LockedIndex,
    LockedKey,
    LockedPackage,
    Resolved,
    find_request,
    load_lock,
    lock_path,
    lockable,
    merged,
    recipe_digest,
    write_lock,
)
from osbuilder.distro.pool import FetchPackages, exactly
from osbuilder.distro.recipe import find_recipe
from osbuilder.errors import DecodeError, FetchError, PlanError, VerificationError
from osbuilder.plan import Planner
from osbuilder.request import RootfsRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step, is_online, parameters

DISTROS = Path(__file__).resolve().parents[2] / "distros"


def package(name: str, version: str = "1.0", **fields: Any) -> LockedPackage:
    given = {
        "arch": "amd64",
        "path": f"pool/{name}_{version}_amd64.deb",
        "sha256": (name[0] if name[0] in "abcdef" else "0") * 64,
        "size_bytes": 1 << 20,
        "installed_bytes": 3 << 20,
        **fields,
    }
    return LockedPackage(name=name, version=version, **given)


@pytest.fixture
def choice() -> Choice:
    return choose(find_recipe("debian", DISTROS), release=None, arch=parse_arch("x86_64"), init=None)


def lock_of(choice: Choice, *packages: LockedPackage, **fields: Any) -> Lock:
    resolved = Resolved(
        indexes=(LockedIndex(name="dists/trixie", sha256="a" * 64, date="Sat, 09 Aug 2025 00:00:00 UTC"),),
        packages=packages,
        keys=(LockedKey(name="a.rsa.pub", pem="-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"),),
    )
    return dataclasses.replace(Lock.of(choice, (("a", "b"), ("a",)), resolved), **fields)


def test_a_lock_is_read_as_it_was_written(choice: Choice, tmp_path: Path) -> None:
    lock = lock_of(choice, package("b", "1:2~rc1", requests=(0,)), package("a", requests=(0, 1), record="P:a\nV:1 é"))
    path = lock_path(tmp_path, choice)
    path.parent.parent.mkdir()
    write_lock(path, lock)
    assert path == tmp_path / "debian" / "lock" / "trixie.x86_64.json"
    assert decode.load(path, Lock) == lock
    assert load_lock(tmp_path, choice) == lock
    assert [each.name for each in lock.packages] == ["a", "b"]


@pytest.mark.parametrize(
    "told", ["\U0001f427", "\u00e9", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", '"\\', "\U0010fffe"]
)
def test_whatever_a_package_tells_of_itself_is_read_as_it_was_written(
    choice: Choice, tmp_path: Path, told: str
) -> None:
    record = f"P:a\nT:a{told}z"
    resolved = Resolved(indexes=(), packages=(package("a", record=record),))
    resolved.write(tmp_path / "resolved.json")
    assert Resolved.read(tmp_path / "resolved.json") == resolved
    assert json.loads((tmp_path / "resolved.json").read_text("utf-8"))["packages"][0]["record"] == record
    lock = lock_of(choice, package("a", record=record))
    assert decode.loads(lock.text(), Lock, where="lock.json") == lock


def test_what_no_lock_can_hold_is_told_with_the_package_and_where_it_is_named() -> None:
    fields: dict[str, str] = {}
    with pytest.raises(FetchError) as caught, lockable("a", "main"):
        package("a", path="/x")
    assert caught.value.message == "cannot lock a (main): path: expected one below a mirror, got '/x'"
    with pytest.raises(FetchError) as caught, lockable("a", "main"):
        package("a", fields["Version"])
    assert caught.value.message == "cannot lock a (main): no field 'Version'"


def test_a_lock_is_json_with_a_line_a_package_and_says_nothing_that_is_not_so(choice: Choice) -> None:
    text = lock_of(choice, package("a"), package("b")).text()
    assert json.loads(text)["packages"][0]["path"] == "pool/a_1.0_amd64.deb"
    assert len([line for line in text.splitlines() if '"sha256"' in line and '"path"' in line]) == 2
    assert '"record"' not in text
    assert '"date": ""' not in text


def test_packages_of_several_requests_are_there_once() -> None:
    rows = merged([package("a", requests=(0,)), package("b", requests=(0,)), package("a", requests=(1,))])
    assert [(each.name, each.requests) for each in rows] == [("a", (0, 1)), ("b", (0,))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: expected 1, got 2: another osbuilder wrote this lock"),
        ({"mirror": "https://m"}, "unknown key 'mirror'"),
        ({"recipe": None}, "recipe: expected text, got"),
        ({"packages": [{"name": "a"}]}, r"packages\[0\]: missing keys 'version', 'arch', 'path', 'sha256'"),
    ],
)
def test_what_no_lock_says_is_refused(choice: Choice, change: dict[str, Any], message: str) -> None:
    data = {**json.loads(lock_of(choice, package("a")).text()), **change}
    with pytest.raises(DecodeError, match=rf"^lock\.json:\d+: .*{message}"):
        decode.loads(json.dumps(data, indent=1), Lock, where="lock.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sha256": "A" * 64}, "sha256: expected 64 lower-case hexadecimal digits"),
        ({"size_bytes": 0}, "size_bytes: expected 1 or more, got 0"),
        ({"path": "/etc/passwd"}, "path: expected one below a mirror, got '/etc/passwd'"),
        ({"path": "pool/../../passwd"}, "path: expected one below a mirror"),
        ({"path": "pool/"}, "path: expected one below a mirror"),
        ({"requests": [2]}, "a: requests: expected places in the lock's requests"),
        ({"requests": []}, "a: requests: expected places in the lock's requests"),
    ],
)
def test_what_no_package_says_is_refused(choice: Choice, fields: dict[str, Any], message: str) -> None:
    data = json.loads(lock_of(choice, package("a")).text())
    data["packages"][0].update(fields)
    with pytest.raises(DecodeError, match=message):
        decode.loads(json.dumps(data, indent=1), Lock, where="lock.json")


def test_the_lock_of_another_release_in_its_place_is_refused(choice: Choice, tmp_path: Path) -> None:
    path = lock_path(tmp_path, choice)
    path.parent.parent.mkdir()
    write_lock(path, lock_of(choice, package("a"), release="bookworm"))
    with pytest.raises(PlanError, match="is the lock of debian bookworm for x86_64: expected debian trixie x86_64"):
        load_lock(tmp_path, choice)


def test_the_digest_of_a_recipe_is_that_of_what_counts_for_its_packages(choice: Choice) -> None:
    digest = recipe_digest(choice)
    recipe = choice.recipe
    for same in (
        dataclasses.replace(recipe, title="Another"),
        dataclasses.replace(recipe, features=dict.fromkeys(recipe.features, "said otherwise")),
        dataclasses.replace(recipe, releases={"trixie": choice.release}, default_release="trixie", excluded=()),
        dataclasses.replace(recipe, aliases=("deb",), mirrors=("https://mirror.example.org/debian",)),
        dataclasses.replace(
            recipe, releases={**recipe.releases, "trixie": dataclasses.replace(choice.release, aliases=("stable",))}
        ),
    ):
        assert recipe_digest(dataclasses.replace(choice, recipe=same)) == digest
    release = dataclasses.replace(choice.release, components=("main", "contrib"))
    for other in (
        dataclasses.replace(recipe, keyring="/usr/share/keyrings/other.gpg"),
        dataclasses.replace(recipe, releases={**recipe.releases, "trixie": release}),
    ):
        assert recipe_digest(dataclasses.replace(choice, recipe=other)) != digest


def test_of_several_requests_the_nearest_says_what_is_missing(choice: Choice) -> None:
    lock = lock_of(choice, package("a", requests=(0, 1)), package("b"))
    assert [each.name for each in find_request(lock, choice, ("a",))] == ["a"]
    with pytest.raises(PlanError) as caught:
        find_request(lock, choice, ("a", "c"))
    assert caught.value.message == (
        "the lock of debian trixie for x86_64 is stale: it was made for other packages: c is not in it"
    )
    assert "inv lock --distro debian --release trixie --arch x86_64 --diff" in caught.value.hint


def test_packages_are_below_each_mirror_or_where_they_were_found() -> None:
    mirrors = ("https://one/debian/", "https://two")
    assert package("a").urls(mirrors) == (
        "https://one/debian/pool/a_1.0_amd64.deb",
        "https://two/pool/a_1.0_amd64.deb",
    )
    absolute = package("a", path="http://three/debian/pool/a_1.0_amd64.deb")
    assert absolute.urls(mirrors) == ("http://three/debian/pool/a_1.0_amd64.deb",)
    with pytest.raises(FetchError, match=r"no mirror to fetch pool/a_1\.0_amd64\.deb from"):
        package("a").urls(())


def test_a_difference_has_a_line_a_package_and_the_sizes_of_all() -> None:
    before = (package("a"), package("b"), package("c"), package("d"))
    after = (
        package("a"),
        package("b", "1.1", installed_bytes=4 << 20, size_bytes=2 << 20),
        package("c", sha256="9" * 64),
        package("e"),
    )
    assert Difference.between(before, before).text() == "nothing would change"
    assert Difference.between(before, after).text().splitlines() == [
        "~ b 1.0 -> 1.1 (+1024 KiB)",
        "! c 1.0: the same version with other bytes (+0 KiB)",
        "- d 1.0 (-3072 KiB)",
        "+ e 1.0 (+3072 KiB)",
        "1 added, 1 removed, 2 changed; download 4.0 -> 5.0 MiB (+1.0), installed 12.0 -> 13.0 MiB (+1.0)",
    ]


def test_an_installation_of_anything_else_is_refused() -> None:
    locked = (package("a"), package("b"))
    exactly(locked, [["b", "1.0", "amd64"], ["a", "1.0", "amd64"]], subject="trixie")
    with pytest.raises(VerificationError, match=r"trixie: .* b 1\.0 was left out, c 1\.0 came besides"):
        exactly(locked, [["a", "1.0", "amd64"], ["c", "1.0", "amd64"]], subject="trixie")


def test_two_packages_in_files_of_one_name_are_refused() -> None:
    other = package("b", path="updates/a_1.0_amd64.deb")
    with pytest.raises(PlanError) as caught:
        FetchPackages(packages=(package("a"), other), mirrors=(), subject="the lock of toy", remedy="inv lock")
    assert caught.value.message == (
        "the lock of toy: two packages are in files of one name: a 1.0 (pool/a_1.0_amd64.deb) and "
        "b 1.0 (updates/a_1.0_amd64.deb)"
    )
    assert caught.value.hint == "Make it anew: inv lock"


def test_a_locked_plan_has_a_network_for_the_lock_alone_and_no_mirror_in_its_keys(tmp_path: Path) -> None:
    (tmp_path / "distros" / "debian").mkdir(parents=True)
    (tmp_path / "distros" / "debian" / "recipe.yaml").symlink_to(DISTROS / "debian" / "recipe.yaml")
    (tmp_path / "versions.yaml").symlink_to(DISTROS.parent / "versions.yaml")
    (tmp_path / "agents").symlink_to(DISTROS.parent / "agents")
    request = RootfsRequest(distro="debian", arch="x86_64", locked=True)
    names = ("locked", "repository", "packages")

    def steps(mirror: str) -> dict[str, Step]:
        settings = load_settings({"mirrors": f"debian={mirror}"}, environment={"HOME": "/"}, folder=tmp_path)
        planner = Planner(tmp_path, settings)
        wanted = planner.choice(request)
        path = lock_path(planner.distros, wanted)
        resolved = Resolved(indexes=(), packages=(package("a"),))
        write_lock(path, Lock.of(wanted, (select_packages(wanted).everything,), resolved))
        return {step.name: step for step in planner.plan(request).walk() if step.name in names}

    one, two = steps("https://one/debian"), steps("https://two/debian")
    assert [is_online(one[name].action) for name in names] == [True, False, False]
    assert [[name for name, _ in one[step].inputs] for step in names] == [[], ["locked"], ["repository"]]
    for name in names:
        assert parameters(one[name].action) == parameters(two[name].action)
    commands = "\n".join(one["packages"].action.describe())
    assert "'deb [trusted=yes] copy:///in trixie main'" in commands
    assert "--keyring" not in commands
