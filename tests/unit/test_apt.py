from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.apt_errors import explain
from osbuilder.distro.apt_releases import read_releases
from osbuilder.distro.dpkg import read_packages
from osbuilder.distro.keyring import Keyring
from osbuilder.errors import (
    FetchError,
    OsbuilderError,
    RootfsError,
    StoreError,
    ToolMissing,
    UsageError,
    VerificationError,
)
from osbuilder.step import parameters
from osbuilder.tree import Tree
from tests.jobs import RecordingJob, refuse
from tests.openpgp import Key

FINGERPRINT = "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8"
MIRROR = "http://mirror.example.org/debian"
ACTION = Bootstrap(
    suite="trixie",
    architecture="amd64",
    components=("main", "contrib"),
    packages=("chrony", "kmod"),
    keyring=Keyring(builder_path="/usr/share/keyrings/toy.gpg", fingerprints=(FINGERPRINT,)),
    epoch=1754697600,
)


def test_only_the_pinned_keys_are_given_to_apt() -> None:
    export, bootstrap = ACTION.describe()
    assert export.endswith(f"--output /out/keyring.gpg --export {FINGERPRINT}")
    assert "--keyring=/in/keyring" in bootstrap.split()
    assert "--skip=check/signed-by,check/qemu,chroot/mount" in bootstrap.split()


@pytest.mark.parametrize("lax", ["no-check", "trusted=", "allow-unauth", "AllowInsecure", "AllowUnauth"])
def test_no_command_relaxes_verification(lax: str) -> None:
    assert lax.lower() not in " ".join(ACTION.describe()).lower()


def test_each_mirror_has_its_command_in_the_order_given() -> None:
    mirrors = (MIRROR, "file:///srv/debian")
    commands = dataclasses.replace(ACTION, mirrors=mirrors).describe()[1:]
    assert tuple(command.split()[-1] for command in commands) == mirrors


@pytest.mark.parametrize(
    "mirror", ["debian.example.org", "deb [trusted=yes] http://m trixie main", "http://m/[x]", "-", "ftp://m/debian"]
)
def test_what_is_no_address_of_a_mirror_is_refused(mirror: str) -> None:
    with pytest.raises(UsageError, match="not a mirror of apt packages"):
        dataclasses.replace(ACTION, mirrors=(mirror,))


def test_patience_is_no_part_of_the_key_but_the_mirror_is() -> None:
    assert parameters(dataclasses.replace(ACTION, timeout_s=1, attempts=9)) == parameters(ACTION)
    assert parameters(dataclasses.replace(ACTION, mirrors=(MIRROR,))) != parameters(ACTION)


def test_a_foreign_root_is_emulated_only_where_its_programs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osbuilder.binfmt.emulates", lambda arch, mount: False)
    with pytest.raises(ToolMissing, match="programs of s390x do not run here"):
        dataclasses.replace(ACTION, architecture="s390x").run(RecordingJob(tmp_path, refuse))


def test_a_users_keyring_counts_by_content_and_is_checked_to_be_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(Key.of_seed(1).public())
    keyrings = [Keyring.of_file(tmp_path / name) for name in ("a", "b")]
    assert parameters(keyrings[0]) == parameters(keyrings[1])
    with pytest.raises(UsageError, match="setting keyrings: cannot read"):
        Keyring.of_file(tmp_path / "c")


def test_packages_are_read_from_dpkgs_status() -> None:
    tree = _status(("zsh", "5.9-8", "install ok installed"), ("bash", "5.2", "install ok installed"))
    assert read_packages(tree) == (("bash", "5.2", "amd64"), ("zsh", "5.9-8", "amd64"))


def test_a_package_whose_configuration_was_left_is_not_installed() -> None:
    assert read_packages(_status(("bash", "5.2", "deinstall ok config-files"))) == ()


def test_a_half_configured_package_is_refused() -> None:
    with pytest.raises(RootfsError, match=r"package bash is not configured.*got 'install ok half-configured'"):
        read_packages(_status(("bash", "5.2", "install ok half-configured")))


def test_release_files_say_what_state_of_the_archive_it_was(tmp_path: Path) -> None:
    text = "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n 00 1 x\n"
    (tmp_path / "InRelease").write_text(Key.of_seed(1).clearsign(text))
    assert read_releases(tmp_path) == [
        {"origin": "Debian", "suite": "stable", "codename": "trixie", "date": "Sat, 12 Sep 2026 07:55:41 UTC"}
    ]


@pytest.mark.parametrize(
    ("line", "kind", "text", "next_mirror"),
    [
        ("E: Unable to locate package toyy", UsageError, "package toyy does not exist in trixie (main)", False),
        ("tar: ./x: Cannot write: No space left on device", StoreError, "no space left", False),
        (
            "E: You don't have enough free space in /var/cache/apt/archives/.",
            StoreError,
            "no space left",
            False,
        ),
        (
            "dpkg: error processing package chrony (--install):",
            RootfsError,
            "package chrony could not be installed",
            False,
        ),
        (f"E: Failed to fetch {MIRROR}/x.deb  Hash Sum mismatch", VerificationError, f"{MIRROR}/x.deb came with", True),
        (f"E: Failed to fetch {MIRROR}/x.deb  500  Oh no [IP: ::1 80]", FetchError, "answered 500 (Oh no) for", True),
        (
            f"E: Failed to fetch {MIRROR}/x  Temporary failure resolving 'm'",
            FetchError,
            "its host name does not resolve",
            True,
        ),
    ],
)
def test_what_the_tools_say_is_told_in_plain_words(
    line: str, kind: type[OsbuilderError], text: str, next_mirror: bool
) -> None:
    problem = explain(f"I: running apt-get update...\n{line}\n", mirror=MIRROR, suite="trixie", components=("main",))
    assert problem is not None
    assert (problem.kind, problem.next_mirror) == (kind, next_mirror)
    assert text in problem.text
    assert problem.hint
    assert isinstance(problem.error(), kind)


def test_a_cause_is_told_before_its_consequences() -> None:
    log = (
        f"E: Failed to fetch {MIRROR}/InRelease  Could not connect to m:80 (::1). - connect (111: Connection refused)\n"
        f"E: The repository '{MIRROR} trixie InRelease' is not signed.\n"
    )
    problem = explain(log, mirror=None, suite="trixie", components=("main",))
    assert problem is not None
    assert problem.text == "mmdebstrap's default mirror refuses connections"


def test_an_unknown_failure_is_not_guessed_at() -> None:
    assert explain("E: something new\n", mirror=MIRROR, suite="trixie", components=("main",)) is None


def _status(*packages: tuple[str, str, str]) -> Tree:
    text = "\n".join(
        f"Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\nDescription: x\n more: text\n"
        for name, version, status in packages
    )
    tree = Tree()
    tree.add_file("var/lib/dpkg/status", text.encode(), parents_mode=0o755)
    return tree
