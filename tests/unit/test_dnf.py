from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder import decode
from osbuilder.arch import host_arch
from osbuilder.distro import dnf
from osbuilder.distro.choice import choose, select_packages
from osbuilder.distro.dnf import Index, Install, install, read_index, read_packages
from osbuilder.distro.dnf_errors import explain
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import Recipe
from osbuilder.engine.base import Command
from osbuilder.errors import (
    CommandFailed,
    DecodeError,
    FetchError,
    NoMirror,
    OsbuilderError,
    PlanError,
    RootfsError,
    StoreError,
    UsageError,
    VerificationError,
)
from osbuilder.step import parameters
from osbuilder.tree import Tree
from tests.jobs import Ran, RecordingJob

FINGERPRINT = "36F612DCF27F7D1A48A835E4DBFCF71C6D9F90A6"
MIRROR = "http://mirror.example.org/fedora"
ACTION = Install(
    subject="fedora 44",
    version="44",
    repositories=(
        Index(name="fedora", path="releases/44/os", signed=False),
        Index(name="updates", path="updates/44", signed=True),
    ),
    packages=("chrony", "kmod"),
    keyring=Keyring(builder_path="/usr/share/keys/toy", fingerprints=(FINGERPRINT,)),
    database="/usr/lib/sysimage/rpm",
    epoch=1754697600,
    mirrors=(MIRROR,),
)
TEXT = f"""\
name: toy
title: Toy Linux
package-manager: dnf
default-release: "2"
keyring: /usr/share/keys/toy
releases:
  "2":
    version: "2"
    released: "2025-08-09"
    repositories:
      - {{name: base, path: "releases/{{release}}/{{arch}}/os", signed-index: false}}
      - {{name: updates, path: "updates/{{release}}/{{arch}}", signed-index: true}}
    rpm-database: /var/lib/rpm
    signed-by: [{FINGERPRINT}]
arches: [x86_64]
inits: [systemd]
packages: {{always: [kmod]}}
"""


def _order(**changes: object) -> Order:
    recipe = decode.loads(TEXT, Recipe, where="recipe.yaml")
    choice = choose(recipe, release=None, arch=host_arch(), init=None)
    order = Order(choice=choice, packages=select_packages(choice), epoch=1, mirrors=(f"{MIRROR}/",))
    return dataclasses.replace(order, **changes)  # type: ignore[arg-type]


def _run(tmp_path: Path, action: Install = ACTION, *, mirrors_that_fail: int = 0) -> tuple[RecordingJob, list[str]]:
    """Run an action with a command that leaves what dnf and tar leave; return the job and each dnf.conf."""
    configurations: list[str] = []

    def act(ran: Ran) -> None:
        configurations.append(ran.inputs["dnf.conf"].read_text())
        if len(configurations) <= mirrors_that_fail:
            job.log.write_text("  - Curl error (7): Couldn't connect to server for http://m/x [refused]\n")
            raise CommandFailed("bash exited with status 1", status=1, tail="")
        (ran.output / "packages").write_text("kmod\t34-1\tx86_64\ngpg-pubkey\tx-1\t(none)\nchrony\t4.6\tx86_64\n")
        (ran.output / "scripts").write_text("Error in POSTIN scriptlet in rpm package kmod\n")
        (ran.output / "indexes").mkdir()
        (ran.output / "indexes/fedora").write_text("<revision>17</revision><timestamp>1735689600</timestamp>")
        (ran.output / "indexes/updates").write_text("<repomd/>")
        tree = Tree()
        for name in ("usr/bin/x", "dev/null", "var/lib/dnf/state", "var/log/dnf.log", "usr/lib/sysimage/rpm/.rpm.lock"):
            tree.add_file(name, b"x", parents_mode=0o755)
        tree.write(ran.output / "rootfs.tar", epoch=1754697600)

    job = RecordingJob(tmp_path, act)
    job.facts = action.run(job)  # type: ignore[attr-defined]
    return job, configurations


def test_every_package_is_checked_and_an_index_where_it_is_signed(tmp_path: Path) -> None:
    _, (configuration,) = _run(tmp_path)
    lines = configuration.splitlines()
    assert "gpgcheck=1" in lines
    assert [line for line in lines if line.startswith("repo_gpgcheck")] == ["repo_gpgcheck=0", "repo_gpgcheck=1"]
    assert f"baseurl={MIRROR}/releases/44/os" in lines


def test_only_the_pinned_keys_are_given_to_dnf() -> None:
    script = "\n".join(ACTION.describe())
    assert f"--export {FINGERPRINT}\n" in script
    assert "--import /usr/share/keys/toy/*" in script


@pytest.mark.parametrize("lax", ["nogpgcheck", "gpgcheck=0", "nosignature", "nodigest", "_pkgverify_level none"])
def test_no_command_relaxes_verification(lax: str) -> None:
    texts = (*ACTION.describe(), dnf.CONFIGURATION, dnf.MACROS)
    assert lax not in "\n".join(texts).replace("repo_gpgcheck", "")


def test_dnf_reads_no_configuration_of_the_builder(tmp_path: Path) -> None:
    job, (configuration,) = _run(tmp_path)
    assert {"plugins=0", "reposdir=/tmp/none", "varsdir=/tmp/none"} <= set(configuration.splitlines())
    assert "--config=/in/dnf.conf" in job.ran[0].inputs["script"].read_text()
    assert job.ran[0].command == Command(
        argv=("bash", "/in/script"),
        env=(("PYTHONHASHSEED", "0"), ("SOURCE_DATE_EPOCH", "1754697600")),
        root=True,
        network=True,
    )


def test_what_dnf_leaves_for_itself_is_not_in_the_tar(tmp_path: Path) -> None:
    job, _ = _run(tmp_path)
    assert [path.name for path in job.out.iterdir()] == ["rootfs.tar"]
    files = [name for name, entry in Tree.read(job.out / "rootfs.tar").items() if entry.kind.value == "file"]
    assert files == ["usr/bin/x"]


def test_packages_and_the_state_of_each_repository_are_facts(tmp_path: Path) -> None:
    job, _ = _run(tmp_path)
    assert job.facts == {  # type: ignore[attr-defined]
        "failed_scripts": [["POSTIN", "kmod"]],
        "mirror": MIRROR,
        "packages": [["chrony", "4.6", "x86_64"], ["kmod", "34-1", "x86_64"]],
        "repositories": [
            {"name": "fedora", "revision": "17", "date": "2025-01-01T00:00:00Z"},
            {"name": "updates"},
        ],
    }


def test_the_next_mirror_is_tried_with_its_own_addresses(tmp_path: Path) -> None:
    second = "https://second.example.org/"
    _, configurations = _run(tmp_path, dataclasses.replace(ACTION, mirrors=(MIRROR, second)), mirrors_that_fail=1)
    assert "baseurl=https://second.example.org/updates/44\n" in configurations[1]
    assert MIRROR not in configurations[1]


def test_patience_is_no_part_of_the_key_but_the_mirror_is() -> None:
    assert parameters(dataclasses.replace(ACTION, timeout_s=1, attempts=9)) == parameters(ACTION)
    assert parameters(dataclasses.replace(ACTION, mirrors=("http://other",))) != parameters(ACTION)


@pytest.mark.parametrize("mirror", ["mirror.example.org", "file:///srv", "http://m/[x]", "-", "ftp://m/fedora"])
def test_what_is_no_address_of_a_mirror_is_refused(mirror: str) -> None:
    with pytest.raises(UsageError, match="not a mirror of fedora 44") as caught:
        dataclasses.replace(ACTION, mirrors=(mirror,))
    assert "releases/44/os/repodata/" in caught.value.hint


def test_without_a_mirror_the_setting_that_names_one_is_told() -> None:
    with pytest.raises(UsageError, match="no mirror of toy 2 is known") as caught:
        install(_order(mirrors=()))
    assert caught.value.hint.endswith("has releases/2/x86_64/os/repodata/ below it: --setting mirrors=toy=URL")


def test_an_order_is_what_its_recipe_and_its_settings_say() -> None:
    action = install(_order())
    assert [index.url(MIRROR) for index in action.repositories] == [
        f"{MIRROR}/releases/2/x86_64/os",
        f"{MIRROR}/updates/2/x86_64",
    ]
    assert (action.database, action.packages, action.version) == ("/var/lib/rpm", ("kmod",), "2")
    assert action.keyring.fingerprints == (FINGERPRINT,)


def test_components_choose_among_the_recipes_repositories() -> None:
    assert [index.name for index in install(_order(components=("updates",))).repositories] == ["updates"]
    with pytest.raises(UsageError, match="unknown repository 'update' of toy 2") as caught:
        install(_order(components=("update",)))
    assert caught.value.hint == "Did you mean updates? Known: base, updates."


def test_a_guest_of_another_architecture_is_refused_with_the_reason() -> None:
    order = _order()
    foreign = dataclasses.replace(order.choice.arch, name="s390x")
    with pytest.raises(PlanError, match=r"toy 2 cannot be installed for s390x on .*: its packages' scripts would need"):
        install(dataclasses.replace(order, choice=dataclasses.replace(order.choice, arch=foreign)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: base", "name: Base!", "expected small letters, digits and dashes, got 'Base!'"),
        ('path: "releases', 'path: "/releases', "expected one below a mirror"),
        ('path: "releases/{release}', 'path: "../{release}', "expected one below a mirror"),
        ("{release}/{arch}/os", "{version}/os", "expected one below a mirror"),
        ("    rpm-database: /var/lib/rpm\n", "", "releases.2: expected rpm-database with dnf"),
        ("/var/lib/rpm", "var/lib/rpm", "expected a path such as /var/lib/rpm"),
        ("package-manager: dnf", "package-manager: apt", "releases.2: expected no repositories with apt"),
    ],
)
def test_a_malformed_repository_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode.loads(TEXT.replace(old, new, 1), Recipe, where="recipe.yaml")
    assert message in caught.value.message
    assert caught.value.message.startswith("recipe.yaml:")


def test_a_release_without_repositories_is_refused() -> None:
    lines = [line for line in TEXT.splitlines() if "name: base" not in line and "name: upd" not in line]
    text = "\n".join(line for line in lines if "repositories" not in line and "rpm-database" not in line)
    with pytest.raises(DecodeError, match=r"releases\.2: expected repositories with dnf"):
        decode.loads(text, Recipe, where="recipe.yaml")


def test_an_index_tells_its_revision_and_its_newest_date() -> None:
    text = "<timestamp>1</timestamp><revision>r7</revision><timestamp>1735689600</timestamp>"
    assert read_index(text) == {"revision": "r7", "date": "2025-01-01T00:00:00Z"}
    assert read_index("<repomd/>") == {}


def test_keys_in_rpms_database_are_no_packages(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("zsh\t1:5\tx86_64\ngpg-pubkey\t6d9f90a6-1\t(none)\nbash\t5\tnoarch\n")
    assert read_packages(tmp_path / "list") == (("bash", "5", "noarch"), ("zsh", "1:5", "x86_64"))


@pytest.mark.parametrize(
    ("line", "kind", "text", "next_mirror"),
    [
        ("No match for argument: toyy", UsageError, "package toyy does not exist in fedora 44", False),
        ("osbuilder: no such key", VerificationError, f"expected {FINGERPRINT}", False),
        ("  At least 5MB more space needed on the / filesystem.", StoreError, "no space left", False),
        ("Error in PREIN scriptlet in rpm package chrony", RootfsError, "package chrony could not be", False),
        ("  - Curl error (6): Couldn't resolve host name for http://m/x []", FetchError, "does not resolve", True),
        ("  - Curl error (28): Timeout was reached for http://m/x []", FetchError, "does not answer", True),
        ("  - Status code: 503 for http://m/x.rpm (IP: ::1)", FetchError, "answered 503 for http://m/x.rpm", True),
    ],
)
def test_what_the_tools_say_is_told_in_plain_words(
    line: str, kind: type[OsbuilderError], text: str, next_mirror: bool
) -> None:
    problem = explain(f"noise\n{line}\n", mirror=MIRROR, subject="fedora 44", keys=(FINGERPRINT,))
    assert problem is not None
    assert (problem.kind, problem.next_mirror) == (kind, next_mirror)
    assert text in problem.text
    assert problem.hint
    assert isinstance(problem.error(), kind)


def test_a_release_that_is_not_there_is_looked_for_where_the_distribution_keeps_old_ones() -> None:
    line = f"  - Status code: 404 for {MIRROR}/releases/30/repodata/repomd.xml (IP: ::1)"
    own = ("https://one.example.org", "https://archive.example.org")
    problem = explain(line, mirror=MIRROR, subject="fedora 30", keys=(), own_mirrors=own)
    assert problem is not None
    assert problem.next_mirror
    assert problem.hint.endswith(
        "A release that has ended may have moved to another server: the distribution's own are "
        "https://one.example.org, https://archive.example.org."
    )
    assert install(_order()).own_mirrors == ()


def test_a_name_that_is_like_the_missing_one_is_suggested() -> None:
    log = "No match for argument: chronny\n"
    problem = explain(log, mirror=MIRROR, subject="fedora 44", keys=(), names=("bash", "chrony"))
    assert problem is not None
    assert problem.hint.endswith("Did you mean chrony?")


def test_an_unknown_failure_is_not_guessed_at() -> None:
    assert explain("Error: something new\n", mirror=MIRROR, subject="fedora 44", keys=()) is None


def test_a_retired_distribution_says_so_and_asks_for_mirror_and_keys() -> None:
    text = TEXT.replace("keyring: /usr/share/keys/toy\n", "retired: Toys ended in May.\n")
    recipe = decode.loads(text.replace(f"    signed-by: [{FINGERPRINT}]\n", ""), Recipe, where="recipe.yaml")
    choice = choose(recipe, release=None, arch=host_arch(), init=None)
    with pytest.raises(NoMirror, match=r"no key of toy is known: Toys ended in May\.") as caught:
        install(Order(choice=choice, packages=select_packages(choice), epoch=1))
    assert "--setting mirrors=toy=URL --setting keyrings=toy=FILE" in caught.value.hint
