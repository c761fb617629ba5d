"""What guests of the rpm family are installed from in tests: Debian's systemd and tools, repackaged as rpms.

A guest has to boot, and no distribution of the family can be reached from here. So the files of Debian packages are
handed out under the names that the recipes ask for; what no name asks for is in the package `filesystem`, which all
need, after the users of `setup`. chrony's user is declared in sysusers.d, and its service is enabled by a script, as
the family's packages do it.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import Step
from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind
from tests.mirrors.rpm import EPOCH, repository_step

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Job, Json

BASE: Final = "filesystem"
SETUP: Final = "setup"

# The names that recipes ask for, each with the Debian packages whose files it has. Names of one line are never
# installed together: they are what different distributions call the same.
CONTENTS: Final[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = (
    (("bash",), ("bash",)),
    (("chrony",), ("chrony",)),
    (("coreutils",), ("coreutils",)),
    (("cryptsetup",), ("cryptsetup-bin",)),
    (("dbus", "dbus-1", "dbus-broker"), ("dbus", "dbus-daemon", "dbus-session-bus-common", "dbus-system-bus-common")),
    (("e2fsprogs",), ("e2fsprogs", "logsave")),
    (("iproute", "iproute2"), ("iproute2",)),
    (("iptables", "iptables-nft"), ("iptables",)),
    (("kmod",), ("kmod",)),
    (("libseccomp", "libseccomp2"), ("libseccomp2",)),
    (("nftables",), ("nftables",)),
    (("procps", "procps-ng"), ("procps",)),
    (("systemd",), ("systemd", "systemd-sysv")),
    (("util-linux",), ("util-linux", "mount")),
    # Names that only steer what else is installed.
    (("chrony-pool-empty", "glibc-minimal-langpack", "systemd-presets-branding-openSUSE"), ()),
)
RELEASES: Final = {
    "azurelinux-release": "azurelinux",
    "centos-stream-release": "centos",
    "fedora-release-container": "fedora",
    "openSUSE-release": "opensuse",
}

# A policy as its package lays it out, in small: what labels are computed from is there, what a kernel loads is not.
_POLICY: Final = {
    "config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
    "targeted/policy/policy.33": "for no kernel\n",
    "targeted/contexts/files/file_contexts.subs_dist": "/bin /usr/bin\n",
    "targeted/contexts/files/file_contexts": """\
/.*\tsystem_u:object_r:default_t:s0
/etc(/.*)?\tsystem_u:object_r:etc_t:s0
/usr/bin(/.*)?\tsystem_u:object_r:bin_t:s0
/usr/bin/bash\t--\tsystem_u:object_r:shell_exec_t:s0
/proc/.*\t<<none>>
""",
}

LEFT_OUT: Final = (
    "boot/*",
    "dev/*",
    "proc/*",
    "run/*",
    "sys/*",
    "tmp/*",
    "etc/*-",
    "etc/os-release",
    "etc/systemd/system/*.wants/chrony*",
    "etc/systemd/system/chrony*",
    "usr/lib/os-release",
    "usr/share/doc/**",
    "usr/share/info/**",
    "usr/share/locale/**",
    "usr/share/man/**",
    "usr/share/zoneinfo/**",
    "var/cache/**",
    "var/lib/dpkg",
    "var/log/**",
)
_USER: Final = "_chrony"
_ACCOUNTS: Final = ("group", "gshadow", "passwd", "shadow")

_HEAD: Final = """\
Name: {base}
Version: 1
Release: 1
Summary: What every guest of a test has
License: several
AutoReqProv: no
Provides: /bin/sh
Requires(pre): setup
Source0: rootfs.tar
%global _unpackaged_files_terminate_build 0
%global __strip /bin/true
%description
%{{summary}}.
%prep
%build
%install
mkdir -p %{{buildroot}}
tar --extract --file=%{{_sourcedir}}/rootfs.tar --directory=%{{buildroot}} --no-same-owner --no-same-permissions
%files -f %{{_sourcedir}}/{base}.files
"""
_PACKAGE: Final = """\
%package -n {name}
Summary: A package of a test
{needs}
AutoReq: no
%description -n {name}
%{{summary}}.
%files -n {name}{content}
"""
_POST: Final = """\
%post -n chrony
if command -v systemctl > /dev/null; then SYSTEMCTL_SKIP_SYSV=1 systemctl enable chrony.service; fi
"""
_NEEDS: Final = {"setup": "", "chrony": "Requires(pre): filesystem\nOrderWithRequires: systemd libseccomp libseccomp2"}
_RELEASE_POST: Final = """\
%post -n {name} -p <lua>
posix.symlink("{file}", "/usr/lib/os-release")
posix.symlink("../usr/lib/os-release", "/etc/os-release")
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repackage:
    """Turn a Debian tree (input `rootfs`) into what rpmbuild needs: rootfs.tar, guest.spec, each package's files."""

    revision: str
    epoch: int

    def describe(self) -> tuple[str, ...]:
        return ("write guest.spec for the packages of the tree",)

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path("rootfs.tar"))
        lists = read_lists(tree)
        owners = {kind: read_owners(tree, f"etc/{file}") for kind, file in (("user", "passwd"), ("group", "group"))}
        tree.remove_glob(*LEFT_OUT)
        (number,) = (number for number, name in owners["group"].items() if name == _USER)
        owned = {name for name, entry in tree.items() if entry.gid == number}
        lists["chrony"] += [declare_user(tree), *(owned - set(lists["chrony"]))]
        parts = share_out(tree, lists)
        parts[SETUP] = [f"etc/{name}" for name in _ACCOUNTS]
        parts[BASE] = [name for name in parts[BASE] if name not in parts[SETUP]]
        posts = [_POST]
        for package, identity in RELEASES.items():
            file = f"os-release-{identity}"
            tree.add_file(f"usr/lib/{file}", f'ID={identity}\nNAME="{identity}"\n'.encode())
            parts[package] = [f"usr/lib/{file}"]
            posts.append(_RELEASE_POST.format(name=package, file=file))
        for name, text in _POLICY.items():
            tree.add_file(f"etc/selinux/{name}", text.encode(), parents_mode=0o755)
        parts["selinux-policy-targeted"] = [f"etc/selinux/{name}" for name in _POLICY]
        for package, names in parts.items():
            rows = "".join(f"{files_row(name, tree.get(name), owners)}\n" for name in names)
            if rows:
                (job.out / f"{package}.files").write_text(rows)
        tree.write(job.out / "rootfs.tar", epoch=self.epoch)
        packages = [
            _PACKAGE.format(
                name=name,
                needs=_NEEDS.get(name, f"Requires(pre): {BASE}"),
                content=f" -f %{{_sourcedir}}/{name}.files" if parts[name] else "",
            )
            for name in sorted(parts)
            if name != BASE
        ]
        (job.out / "guest.spec").write_text("\n".join((_HEAD.format(base=BASE), *packages, *posts)))
        return {}


def read_lists(tree: Tree) -> dict[str, list[str]]:
    """Return the names that each Debian package of a tree lists as its own, folders behind links resolved."""
    found = {}
    for path in tree.glob("var/lib/dpkg/info/*.list"):
        package = path.rpartition("/")[2].removesuffix(".list").partition(":")[0]
        names = [line.lstrip("/") for line in tree.read_bytes(path).decode().splitlines() if line != "/."]
        found[package] = [_real_name(tree, name) for name in names if tree.exists(name)]
    return found


def _real_name(tree: Tree, name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{tree.resolve(folder)}/{last}" if folder else last


def read_owners(tree: Tree, database: str) -> dict[int, str]:
    """Return the names of a passwd(5) or group(5) by number."""
    rows = [line.split(":") for line in tree.read_bytes(database).decode().splitlines()]
    return {int(row[2]): row[0] for row in rows}


def declare_user(tree: Tree) -> str:
    """Take chrony's user out of the tree, and declare it where rpm makes users from; return that file's name."""
    for name in (f"etc/{account}" for account in _ACCOUNTS):
        rows = tree.read_bytes(name).decode().splitlines(keepends=True)
        kept = "".join(row for row in rows if not row.startswith(f"{_USER}:"))
        # Owned by root: nobody else is there when they come.
        tree.add_file(name, kept.encode(), mode=tree.get(name).mode, replace=True)
    declaration = "usr/lib/sysusers.d/chrony.conf"
    text = f'u {_USER} - "Chrony daemon" /var/lib/chrony /usr/sbin/nologin\n'
    tree.add_file(declaration, text.encode(), parents_mode=0o755, replace=True)
    return declaration


def share_out(
    tree: Tree,
    lists: Mapping[str, list[str]],
    contents: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = CONTENTS,
) -> dict[str, list[str]]:
    """Return the names that each package has. What several of Debian's list, or none of `contents`, is the base's."""
    counts = collections.Counter(name for names in lists.values() for name in names)
    parts: dict[str, list[str]] = {}
    shared = set(tree.names())
    for aliases, debian in contents:
        names = sorted(
            {name for package in debian for name in lists[package] if counts[name] == 1 and tree.exists(name)}
        )
        shared -= set(names)
        parts.update(dict.fromkeys(aliases, names))
    parts[BASE] = sorted(shared - {""})
    return parts


def files_row(name: str, entry: Entry, owners: Mapping[str, Mapping[int, str]]) -> str:
    """Return the line of %files for a name (rpm's manual, spec: %attr, %dir)."""
    mode = "-" if entry.kind is Kind.SYMLINK else f"{entry.mode:04o}"
    kind = "%dir " if entry.kind is Kind.DIR else ""
    return f'%attr({mode},{owners["user"][entry.uid]},{owners["group"][entry.gid]}) {kind}"/{name}"'


def guest_step(bench: Workbench) -> Step:
    """Return the step of a repository from which every recipe of the family installs a guest that boots."""
    target = bench.planner.plan(RootfsRequest(distro="debian", release="trixie", init=Init.SYSTEMD))
    packages = next(step for step in target.walk() if step.name == "packages")
    revision = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    sources = Step(
        name="sources",
        subject="test-rpm-guest",
        action=Repackage(revision=revision, epoch=EPOCH),
        inputs=(("rootfs", packages),),
    )
    return repository_step(bench, "guest", {}, sources=sources)
