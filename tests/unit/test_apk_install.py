"""Packages in apk's real format, made in memory: what is verified, and what becomes of their files."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping

import pytest

from osbuilder.distro.apk.accounts import Accounts
from osbuilder.distro.apk.archive import VerifiedPackage, open_index, open_package
from osbuilder.distro.apk.database import write_configuration, write_database
from osbuilder.distro.apk.index import Catalogue, Package, checksum_text
from osbuilder.distro.apk.keys import TrustedKey, TrustedKeys
from osbuilder.distro.apk.unpack import Installation, unpack, written_folders
from osbuilder.errors import FetchError, OsbuilderError, RootfsError, TreeError, VerificationError
from osbuilder.tree import Tree
from tests.mirrors import apk
from tests.mirrors.apk import File, SigningKey

KEY, STRANGER = SigningKey.named(), SigningKey.named("stranger@example.org-0001.rsa.pub")
TRUSTED = TrustedKeys((TrustedKey(KEY.name, KEY.public),))
SCRIPT = b"#!/bin/sh\n"
TOY = apk.Package(
    name="toy",
    files=(File("usr/bin/toy", SCRIPT, 0o755), File("usr/bin/link", "toy"), File("root", None, 0o700)),
    scripts={"post-install": "#!/bin/sh\nexit 0\n"},
    triggers=("/usr/bin", "/lib/*"),
    replaces=("old", "older<2"),
    replaces_priority=5,
)


def _record(package: apk.Package, key: SigningKey = KEY) -> tuple[bytes, Package]:
    """Return a package file and its record, parsed."""
    content, text = package.apk(key)
    return content, Catalogue([(text, "main")]).answering(package.name)[0]


def _install(*packages: apk.Package) -> Installation:
    installation = Installation()
    for package in packages:
        content, record = _record(package)
        installation.add(unpack(record, open_package(content, record, TRUSTED)))
    return installation


# --- what is verified


@pytest.mark.parametrize("method", ["RSA", "RSA256", "RSA512"])
def test_an_index_with_a_signature_by_a_trusted_key_is_taken(method: str) -> None:
    repository = apk.Repository(key=KEY, packages=(TOY,), method=method)
    index = open_index(repository.files()[repository.index], TRUSTED, where="URL")
    assert (index.key_name, index.key) == (KEY.name, TRUSTED.keys[0])
    assert "\nP:toy\n" in index.text


def test_of_several_signatures_one_has_to_be_of_a_trusted_key() -> None:
    repository = apk.Repository(key=KEY, packages=(TOY,))
    signed = repository.files()[repository.index]
    both = STRANGER.segment(apk.streams(signed)[1]) + signed
    assert open_index(both, TRUSTED, where="URL").key_name == KEY.name


Change = Callable[[bytes], bytes]
INDEX_FAULTS: Mapping[str, tuple[Change, type[OsbuilderError], str]] = {
    "stranger": (
        lambda _: apk.Repository(key=STRANGER, packages=(TOY,)).sign("P:toy\n"),
        VerificationError,
        r"none of the trusted keys has signed URL: it says that stranger@example\.org-0001\.rsa\.pub did",
    ),
    "flipped": (
        lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
        VerificationError,
        r"the signature of URL is wrong \(builder@example\.org-0000\.rsa\.pub\): it was altered",
    ),
    "truncated": (lambda data: data[:-1], VerificationError, "the signature of URL is wrong"),
    "unsigned": (lambda data: apk.streams(data)[1], VerificationError, "URL is not signed"),
    "web page": (lambda _: b"<html>Log in</html>", FetchError, "URL is no package index: it is not gzip"),
    "empty": (lambda _: b"", FetchError, "URL is no package index: it is empty"),
    "other file": (
        lambda _: KEY.segment(body := apk.segment({"OTHER": b""}, cut=False)) + body,
        FetchError,
        r"bad package index \(URL\): expected a file APKINDEX in it, got OTHER",
    ),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_an_index_with_a_fault_is_refused(fault: str) -> None:
    change, kind, message = INDEX_FAULTS[fault]
    repository = apk.Repository(key=KEY, packages=(TOY,))
    with pytest.raises(kind, match=message) as caught:
        open_index(change(repository.files()[repository.index]), TRUSTED, where="URL")
    assert caught.value.hint or kind is FetchError


def test_a_package_is_taken_with_its_scripts_and_data() -> None:
    content, record = _record(TOY)
    verified = open_package(content, record, TRUSTED)
    assert verified.control.one("pkgname") == "toy"
    assert verified.control.scripts == {"post-install": b"#!/bin/sh\nexit 0\n"}
    assert verified.control.all("replaces") == ("old", "older<2")
    with tarfile.open(fileobj=io.BytesIO(verified.unpack())) as archive:
        assert archive.getnames() == ["root", "usr", "usr/bin", "usr/bin/link", "usr/bin/toy"]


def test_a_package_with_other_bytes_is_refused_wherever_they_are() -> None:
    content, record = _record(TOY)
    # What is neither signed nor hashed is the wrapping of the signature itself: its gzip and tar headers.
    for at in range(len(apk.streams(content)[0]), len(content), 11):
        altered = content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :]
        with pytest.raises(VerificationError, match=r"toy-1\.0-r0\.apk"):
            open_package(altered, record, TRUSTED)


def test_a_package_that_breaks_off_is_refused() -> None:
    content, record = _record(TOY)
    for length in (0, 10, len(content) // 2, len(content) - 1):
        with pytest.raises(VerificationError, match=r"toy-1\.0-r0\.apk"):
            open_package(content[:length], record, TRUSTED)


def test_a_package_of_another_build_is_told_by_its_control_segment() -> None:
    _, record = _record(TOY)
    other, _ = _record(apk.Package(name="toy", files=(File("evil", b"x"),)))
    with pytest.raises(
        VerificationError, match=r"is not the package of the index: expected control segment Q1.*, got Q1"
    ):
        open_package(other, record, TRUSTED)


def test_a_package_that_a_stranger_signed_is_refused_although_the_index_names_it() -> None:
    content, record = _record(TOY, STRANGER)
    with pytest.raises(VerificationError, match=r"none of the trusted keys has signed toy-1\.0-r0\.apk"):
        open_package(content, record, TRUSTED)


def test_other_data_behind_a_good_control_segment_is_refused() -> None:
    content, record = _record(TOY)
    data = TOY.data()
    head = content[: -len(data)]
    other = apk.Package(name="toy", files=(File("evil", b"x"),)).data()
    with pytest.raises(VerificationError, match=r"toy-1\.0-r0\.apk has other data: expected sha256"):
        open_package(head + other, record, TRUSTED)


def test_a_package_that_calls_itself_otherwise_is_refused() -> None:
    renamed = apk.Package(name="tor")
    content, text = renamed.apk(KEY)
    record = Catalogue([(text.replace("P:tor", "P:toy"), "main")]).answering("toy")[0]
    with pytest.raises(VerificationError, match=r"says that it is tor-1\.0-r0: expected toy-1\.0-r0"):
        open_package(content, record, TRUSTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "no key in the keyring"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key in PEM form"),
    ],
)
def test_a_keyring_without_a_usable_key_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        TrustedKeys.of_file(content, name="ours.pub")


def test_a_keyring_may_hold_several_keys() -> None:
    keys = TrustedKeys.of_file(STRANGER.public + KEY.public, name="ours.pub")
    repository = apk.Repository(key=KEY, packages=(TOY,))
    assert open_index(repository.files()[repository.index], keys, where="URL").key_name == KEY.name


# --- what becomes of files


def _owned(installation: Installation) -> dict[str, list[str]]:
    return {str(each.package): installation.files_of(number) for number, each in enumerate(installation.installed)}


def test_two_packages_with_the_same_file_are_refused_by_name() -> None:
    with pytest.raises(RootfsError, match=r"two packages bring the same file \(/etc/x\): one-1\.0-r0 and two-1\.0-r0"):
        _install(apk.Package(name="one", files=(File("etc/x"),)), apk.Package(name="two", files=(File("etc/x"),)))


@pytest.mark.parametrize("swap", [False, True])
def test_a_package_that_replaces_another_keeps_the_file_whatever_the_order(swap: bool) -> None:
    packages = [
        apk.Package(name="old", files=(File("etc/x", b"old"), File("etc/own", b""))),
        apk.Package(name="new", files=(File("etc/x", b"new"),), replaces=("old",)),
    ]
    installation = _install(*(packages[::-1] if swap else packages))
    assert installation.tree.read_bytes("etc/x") == b"new"
    assert _owned(installation) == {"old-1.0-r0": ["etc", "etc/own"], "new-1.0-r0": ["etc", "etc/x"]}


def test_where_both_replace_each_other_the_higher_priority_wins() -> None:
    installation = _install(
        apk.Package(name="a", files=(File("x", b"a"),), replaces=("b",), replaces_priority=10),
        apk.Package(name="b", files=(File("x", b"b"),), replaces=("a",), replaces_priority=5),
    )
    assert installation.tree.read_bytes("x") == b"a"


def test_packages_of_one_source_may_share_a_file() -> None:
    installation = _install(
        apk.Package(name="a", files=(File("x", b"a"),), origin="src"),
        apk.Package(name="a-libs", files=(File("x", b"b"),), origin="src"),
    )
    assert installation.tree.read_bytes("x") == b"b"


def test_a_file_in_place_of_a_folder_is_refused() -> None:
    with pytest.raises(RootfsError, match=r"two-1\.0-r0 cannot be unpacked over what is there"):
        _install(apk.Package(name="one", files=(File("opt/x/y"),)), apk.Package(name="two", files=(File("opt/x"),)))


def test_a_folder_keeps_the_attributes_of_whoever_says_more() -> None:
    plain, special = (
        apk.Package(name=name, files=(File("tmp", None, mode),)) for name, mode in (("a", 0o755), ("b", 0o1777))
    )
    assert _install(plain, special).tree.get("tmp").mode == 0o1777
    assert _install(special, plain).tree.get("tmp").mode == 0o1777


def test_files_below_a_linked_folder_lie_where_it_leads() -> None:
    installation = _install(
        apk.Package(name="layout", files=(File("usr/lib", None, 0o755), File("lib", "usr/lib"))),
        apk.Package(name="musl", files=(File("lib/ld-musl.so.1", b"x"),)),
    )
    assert installation.tree.read_bytes("usr/lib/ld-musl.so.1") == b"x"
    with pytest.raises(RootfsError, match=r"the same file \(/usr/lib/ld-musl\.so\.1\)"):
        installation.add(unpack(*_opened(apk.Package(name="other", files=(File("usr/lib/ld-musl.so.1", b"y"),)))))


def _opened(package: apk.Package) -> tuple[Package, VerifiedPackage]:
    content, record = _record(package)
    return record, open_package(content, record, TRUSTED)


def test_owners_by_name_get_the_guests_own_numbers() -> None:
    installation = _install(
        apk.Package(name="base", files=(File("etc/passwd", b"app:x:70:80::/:\n"), File("etc/group", b"grp:x:80:\n"))),
        apk.Package(
            name="app",
            files=(
                File("var/app", None, 0o750, ("app", "grp", 990, 991)),
                File("var/x", b"", 0o600, ("ghost", "", 7, 8)),
            ),
        ),
    )
    installation.resolve_owners(Accounts(installation.tree, epoch=0))
    entries = [installation.tree.get(name) for name in ("var/app", "var/x")]
    assert [(entry.uid, entry.gid) for entry in entries] == [(70, 80), (7, 8)]


def test_a_package_that_leaves_the_root_is_refused() -> None:
    content, record = _record(apk.Package(name="evil", files=(File("../etc/passwd", b"x"),)))
    with pytest.raises(TreeError, match=r"contains `\.\.`"):
        unpack(record, open_package(content, record, TRUSTED))


# --- the guest's own apk


def test_the_installed_database_reads_as_apk_writes_it() -> None:
    installation = _install(
        TOY, apk.Package(name="dep", files=(File("usr/bin/dep", b"", 0o4755),), provides=("cmd:dep=1",))
    )
    write_database(installation, Accounts(installation.tree, epoch=0))
    toy, dep = installation.tree.read_bytes("lib/apk/db/installed").decode().strip("\n").split("\n\n")
    head = dict(line.split(":", 1) for line in toy.splitlines()[:13])
    assert (head["P"], head["V"], head["r"], head["q"]) == ("toy", "1.0-r0", "old older<2", "5")
    assert toy.splitlines()[-10:] == [
        "F:root",
        "M:0:0:700",
        "F:usr",
        "F:usr/bin",
        "R:link",
        "a:0:0:777",
        f"Z:{checksum_text(sha1(b'toy'))}",
        "R:toy",
        "a:0:0:755",
        f"Z:{checksum_text(sha1(SCRIPT))}",
    ]
    assert dep.splitlines()[-3:] == ["R:dep", "a:0:0:4755", "Z:Q12jmj7l5rSw0yVb/vlWAYkK/YBwk="]


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def test_scripts_and_triggers_are_kept_for_upgrades() -> None:
    installation = _install(TOY)
    write_database(installation, Accounts(installation.tree, epoch=0))
    identity = installation.installed[0].package.fields["C"]
    assert installation.tree.read_bytes("lib/apk/db/triggers").decode() == f"{identity} /usr/bin /lib/*\n"
    with tarfile.open(fileobj=io.BytesIO(installation.tree.read_bytes("lib/apk/db/scripts.tar"))) as archive:
        assert archive.getnames() == [f"toy-1.0-r0.{identity}.post-install"]


def test_the_configuration_names_what_was_asked_for_and_leaves_a_packages_keys() -> None:
    tree = Tree()
    tree.add_file("etc/apk/keys/theirs.pub", b"theirs", parents_mode=0o755)
    write_configuration(
        tree,
        arch="x86_64",
        world=("b", "a"),
        repositories=("https://m/v1/main",),
        keys={"theirs.pub": b"x", "ours.pub": b"y"},
    )
    contents = {name: tree.read_bytes(f"etc/apk/{name}") for name in ("arch", "world", "repositories")}
    assert contents == {"arch": b"x86_64\n", "world": b"a\nb\n", "repositories": b"https://m/v1/main\n"}
    assert (tree.read_bytes("etc/apk/keys/theirs.pub"), tree.read_bytes("etc/apk/keys/ours.pub")) == (b"theirs", b"y")


def test_the_folders_that_were_written_are_those_with_files_and_those_named() -> None:
    assert written_folders(_install(TOY).installed) == {"root", "usr", "usr/bin"}
