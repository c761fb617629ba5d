"""What scripts did to a native twin is carried over to foreign packages, and whatever is not known is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from osbuilder.distro.carry import Names, carry
from osbuilder.distro.deb import Deb, read_deb
from osbuilder.distro.dpkg_records import Database, diversions, marks, records, triggers
from osbuilder.errors import RootfsError
from osbuilder.tree import Tree
from tests.mirrors.apt import ar, tar

NAMES = Names(
    debian=("amd64", "arm64"),
    triplet=("x86_64-linux-gnu", "aarch64-linux-gnu"),
    loader=("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"),
)
ELF = b"\x7fELF"
POSTINST = b"#!/bin/sh\nadduser toy # on amd64 and arm64\n"
Files = Mapping[str, bytes]


def deb(folder: Path, name: str, files: Files, control: Files | None = None, fields: str = "") -> Deb:
    """Return a package of arm64, read from a real .deb file."""
    paragraph = f"Package: {name}\nVersion: 1\nArchitecture: arm64\n{fields}".encode()
    parts = {"./control": paragraph, **{f"./{key}": value for key, value in (control or {}).items()}}
    members = {"debian-binary": b"2.0\n", "control.tar": tar(parts), "data.tar": tar(files)}
    (folder / f"{name}.deb").write_bytes(ar(members))
    return read_deb(folder / f"{name}.deb")


def twin(brought: Files, made: Files, scripts: Files | None = None, *, package: str = "toy") -> Tree:
    """Return a configured tree of one package: what it brought, and what its scripts made or changed (`made`)."""
    tree = Tree()
    info = f"var/lib/dpkg/info/{package}"
    listing = "".join(f"/{name}\n" for name in brought)
    sums = "".join(f"{hashlib.md5(data).hexdigest()}  {name}\n" for name, data in brought.items())  # noqa: S324
    dpkg = {
        f"{info}.list": listing.encode(),
        f"{info}.md5sums": sums.encode(),
        **{f"{info}.{name}": text for name, text in (scripts or {}).items()},
        "var/lib/dpkg/info/format": b"1\n",
        "var/lib/dpkg/status": b"Package: toy\nStatus: install ok installed\n",
        "var/lib/dpkg/diversions": b"",
        "var/lib/dpkg/arch": b"amd64\n",
        "etc/passwd": b"root:x:0:0::/:\ntoy:x:100:101::/:\n",
        "etc/group": b"root:x:0:\n",
    }
    for name, data in {**dpkg, **brought, **made}.items():
        if data.startswith(b"->"):
            tree.add_symlink(name, data[2:].decode(), parents_mode=0o755)
        else:
            tree.add_file(name, data, parents_mode=0o755)
    return tree


def carried(folder: Path, foreign: Files, native: Tree) -> Tree:
    return carry((deb(folder, "toy", foreign, {"postinst": POSTINST}),), native, NAMES)


def test_what_scripts_made_comes_along_with_the_foreign_names(tmp_path: Path) -> None:
    native = twin(
        {"usr/lib/x86_64-linux-gnu/libtoy.so": ELF + b">"},
        {
            "etc/toy": b"users: toy\n",
            "etc/owners": b"libtoy:amd64\n/usr/lib/x86_64-linux-gnu/libtoy.so\n",
            "usr/lib/x86_64-linux-gnu/toy.cache": b"x",
            "etc/alternatives/toy": b"->/usr/lib/x86_64-linux-gnu/libtoy.so",
        },
        {"postinst": POSTINST},
    )
    tree = carried(tmp_path, {"./usr/lib/aarch64-linux-gnu/libtoy.so": ELF + b"<"}, native)
    assert tree.read_bytes("usr/lib/aarch64-linux-gnu/libtoy.so") == ELF + b"<"
    assert tree.read_bytes("etc/toy") == b"users: toy\n"
    assert tree.read_bytes("etc/owners") == b"libtoy:arm64\n/usr/lib/aarch64-linux-gnu/libtoy.so\n"
    assert tree.read_bytes("usr/lib/aarch64-linux-gnu/toy.cache") == b"x"
    assert tree.get("etc/alternatives/toy").target == "/usr/lib/aarch64-linux-gnu/libtoy.so"
    assert not tree.exists("usr/lib/x86_64-linux-gnu")
    assert tree.read_bytes("var/lib/dpkg/arch") == b"arm64\n"


def test_owners_and_modes_that_scripts_gave_stay_with_the_foreign_file(tmp_path: Path) -> None:
    native = twin({"usr/bin/toy": ELF + b">"}, {}, {"postinst": POSTINST})
    native.chmod("usr/bin/toy", 0o4754)
    native.chown("usr/bin/toy", uid=0, gid=101)
    entry = carried(tmp_path, {"./usr/bin/toy": ELF + b"<"}, native).get("usr/bin/toy")
    assert (entry.content.read(), entry.mode, entry.gid) == (ELF + b"<", 0o4754, 101)


def test_a_file_that_scripts_changed_or_removed_is_as_in_the_twin(tmp_path: Path) -> None:
    native = twin({"etc/kept": b"old\n", "etc/gone": b"x\n"}, {"etc/kept": b"new\n"}, {"postinst": POSTINST})
    native.remove("etc/gone")
    tree = carried(tmp_path, {"./etc/kept": b"old\n", "./etc/gone": b"x\n"}, native)
    assert tree.read_bytes("etc/kept") == b"new\n"
    assert not tree.exists("etc/gone")


def test_a_folder_that_a_script_replaced_by_a_link_is_the_link(tmp_path: Path) -> None:
    native = twin({"etc/x": b"x"}, {"var/run": b"->/run"}, {"postinst": POSTINST})
    tree = carried(tmp_path, {"./etc/x": b"x", "./var/run/": b""}, native)
    assert tree.get("var/run").target == "/run"


def test_names_of_packages_lead_into_a_merged_usr(tmp_path: Path) -> None:
    native = twin({"usr/lib/x86_64-linux-gnu/libtoy.so": ELF}, {"lib": b"->usr/lib"}, {"postinst": POSTINST})
    for kind in ("list", "md5sums"):  # which name the package's own places
        path = f"var/lib/dpkg/info/toy.{kind}"
        native.add_file(path, native.read_bytes(path).replace(b"usr/lib", b"lib"), replace=True)
    tree = carried(tmp_path, {"./lib/": b"", "./lib/aarch64-linux-gnu/libtoy.so": ELF + b"<"}, native)
    assert tree.resolve("lib/aarch64-linux-gnu/libtoy.so") == "usr/lib/aarch64-linux-gnu/libtoy.so"


@pytest.mark.parametrize(
    ("native", "message"),
    [
        (
            twin({"etc/x": b"x"}, {}, {"postinst": b"#!/bin/sh\nsomething else\n"}),
            "what the postinst of toy does for arm64 cannot be told",
        ),
        (twin({"etc/x": b"x"}, {}, {}), "what the postinst of toy does for arm64 cannot be told"),
        (
            twin({"etc/x": b"old"}, {"etc/x": b"changed"}, {"postinst": POSTINST}),
            "a script changed /etc/x, which is not the same for amd64 and arm64",
        ),
        (
            twin({"etc/x": b"x"}, {"usr/bin/copy": ELF}, {"postinst": POSTINST}),
            "a script made /usr/bin/copy for amd64, and what it would be for arm64 cannot be told",
        ),
        (
            twin({"etc/x": b"x"}, {"etc/arch": b"this is amd64\n"}, {"postinst": POSTINST}),
            "a script made /etc/arch for amd64",
        ),
    ],
    ids=["another script", "no script", "changed", "a program", "a text"],
)
def test_what_cannot_be_known_is_refused_by_name(tmp_path: Path, native: Tree, message: str) -> None:
    with pytest.raises(RootfsError, match=message) as caught:
        carried(tmp_path, {"./etc/x": b"x"}, native)
    assert "foreign=emulated" in caught.value.hint


def test_a_package_that_only_the_twin_has_is_refused_when_it_ran_a_script(tmp_path: Path) -> None:
    native = twin({"etc/x": b"x"}, {}, {"postinst": POSTINST}, package="other")
    with pytest.raises(RootfsError, match="what the postinst of other does"):
        carry((deb(tmp_path, "toy", {"./etc/x": b"x"}),), native, NAMES)


def test_a_file_of_two_packages_is_refused(tmp_path: Path) -> None:
    pair = tuple(deb(tmp_path, name, {"./etc/x": name.encode()}) for name in ("one", "two"))
    with pytest.raises(RootfsError, match="/etc/x comes with one and with two"):
        carry(pair, twin({"etc/x": b"one"}, {}), NAMES)


def test_dpkgs_records_are_those_of_the_foreign_packages(tmp_path: Path) -> None:
    control = {"md5sums": b"0  etc/x\n", "conffiles": b"/etc/x\nremove-on-upgrade /etc/old\n"}
    toy = deb(tmp_path, "toy", {"./": b"", "./etc/": b"", "./etc/x": b"x"}, control, "Multi-Arch: same\n")
    found = {
        name.removeprefix("var/lib/dpkg/"): entry.content.read()
        for name, entry in records((toy,), twin({"etc/x": b"x"}, {}), NAMES.text, "arm64")
    }
    assert found["info/toy:arm64.list"] == b"/.\n/etc\n/etc/x\n"
    assert found["info/toy:arm64.md5sums"] == b"0  etc/x\n"
    assert found["info/format"] == b"1\n"
    status = found["status"].decode().splitlines()
    assert status[:3] == ["Package: toy", "Version: 1", "Architecture: arm64"]
    digest = hashlib.md5(b"x").hexdigest()  # noqa: S324
    assert status[-4:] == [
        "Status: install ok installed",
        "Conffiles:",
        f" /etc/x {digest}",
        " /etc/old newconffile remove-on-upgrade",
    ]


def test_a_twins_database_knows_what_was_changed() -> None:
    tree = twin({"etc/x": b"x", "etc/y": b"y"}, {"etc/y": b"z"})
    database = Database.of(tree)
    assert {name: database.changed(name, tree.get(name)) for name in ("etc/x", "etc/y", "etc/passwd")} == {
        "etc/x": False,
        "etc/y": True,
        "etc/passwd": True,
    }


def test_the_folders_that_base_files_diverts_are_those_of_its_foreign_script(tmp_path: Path) -> None:
    script = b"#!/bin/sh\n  for d in lib32 lib64; do\n"
    base = deb(tmp_path, "base-files", {}, {"preinst": script})
    twins = "/x\n/x.away\ntoy\n/lib32\n/.lib32.usr-is-merged\nbase-files\n"
    rows = diversions((base,), twins).splitlines()
    assert rows[:3] == ["/x", "/x.away", "toy"]
    assert [row for row in rows if row.startswith("/lib")] == ["/lib32", "/lib64"]
    other = deb(tmp_path, "base-files", {}, {"preinst": b"#!/bin/sh\n"})
    with pytest.raises(RootfsError, match="does not say which folders it diverts"):
        diversions((other,), twins)


def test_file_triggers_keep_the_twins_order_and_are_the_foreign_packages_own(tmp_path: Path) -> None:
    one = deb(tmp_path, "one", {}, {"triggers": b"interest-noawait /usr/lib64\ninterest-noawait /usr/lib32\n"})
    two = deb(tmp_path, "two", {}, {"triggers": b"# c\ninterest /etc/two\nactivate-noawait ldconfig\ninterest name\n"})
    text = triggers((one, two), "/etc/two two\n/usr/lib32 one/noawait\n")
    assert text == "/etc/two two\n/usr/lib64 one/noawait\n/usr/lib32 one/noawait\n"


def test_apts_marks_are_kept_for_the_packages_that_there_are(tmp_path: Path) -> None:
    text = b"Package: one\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: two\nArchitecture: amd64\n\n"
    one = deb(tmp_path, "one", {})
    assert marks((one,), text, "arm64") == "Package: one\nArchitecture: arm64\nAuto-Installed: 1\n\n"
