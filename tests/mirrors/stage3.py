"""A small Gentoo mirror: a stage3-like tarball of this host's busybox, its signed digests, the text that names it.

What a stage3 has and other root filesystems lack is in it: a package database under /var/db/pkg, hard links, a setuid
program, device nodes, extended attributes, a merged /usr.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import lzma
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.mirrors.alpine import BUSYBOX
from tests.openpgp import Key

KEY = Key.of_seed(31, "Test Release Engineering <releng@example.org>")
STAMP = "20261101T170000Z"
FOLDER = "releases/amd64/autobuilds"
LATEST = f"{FOLDER}/latest-stage3-amd64-openrc.txt"
_TIME = 1793552400  # 2026-11-01T17:00:00Z

_USERS = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_FOLDERS = (
    "dev etc home media mnt opt proc root run sys tmp usr usr/bin usr/lib usr/lib64 usr/share usr/share/doc "
    "usr/share/doc/busybox-1.37.0 var var/cache var/db var/db/pkg var/db/pkg/sys-apps var/db/pkg/sys-libs "
    "var/db/pkg/sys-apps/busybox-1.37.0-r2 var/db/pkg/sys-libs/glibc-2.42 var/lib var/log var/tmp"
)


def tarball_name(stamp: str = STAMP, flavour: str = "amd64-openrc") -> str:
    """Return the path of the tarball below a mirror."""
    return f"{FOLDER}/{stamp}/stage3-{flavour}-{stamp}.tar.xz"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A member of the tarball that is more than a file or a folder."""

    kind: bytes
    target: str = ""
    device: tuple[int, int] = (0, 0)
    content: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def stage3(busybox: Path = BUSYBOX) -> bytes:
    """Return the tarball."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, what, mode in _members(busybox):
            member = tarfile.TarInfo(f"./{name}")
            member.mode, member.mtime = mode, _TIME
            content = what.content if isinstance(what, Node) else what or b""
            if what is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(what, Node):
                member.type, member.linkname = what.kind, what.target
                member.devmajor, member.devminor = what.device
                member.pax_headers = dict(what.headers)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return lzma.compress(data.getvalue(), preset=0)


def _members(busybox: Path) -> Iterator[tuple[str, bytes | Node | None, int]]:
    """Yield (name, content or None for a folder, mode)."""
    yield "", None, 0o755
    for folder in _FOLDERS.split():
        yield folder, None, 0o1777 if folder.endswith("tmp") else 0o755
    for name, target in (("bin", "usr/bin"), ("sbin", "usr/bin"), ("usr/sbin", "bin"), ("lib", "usr/lib")):
        yield name, Node(kind=tarfile.SYMTYPE, target=target), 0o777
    yield "usr/bin/busybox", busybox.read_bytes(), 0o755
    applets = subprocess.run([str(busybox), "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet not in ("busybox", "init", "ping"):
            yield f"usr/bin/{applet}", Node(kind=tarfile.LNKTYPE, target="./usr/bin/busybox"), 0o755
    capability = {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0"}
    yield "usr/bin/ping", Node(kind=tarfile.REGTYPE, content=b"#!/bin/sh\n", headers=capability), 0o755
    yield "usr/bin/setuid", b"#!/bin/sh\n", 0o4711
    yield "etc/passwd", _USERS.encode(), 0o644
    yield "etc/group", b"root:x:0:root\nnobody:x:65534:\n", 0o644
    yield "etc/os-release", b'NAME=Gentoo\nID=gentoo\nPRETTY_NAME="Gentoo Linux"\n', 0o644
    yield "usr/share/doc/busybox-1.37.0/README", b"read me\n", 0o644
    yield "dev/console", Node(kind=tarfile.CHRTYPE, device=(5, 1)), 0o600
    yield "dev/null", Node(kind=tarfile.CHRTYPE, device=(1, 3)), 0o666


def gentoo(
    key: Key = KEY, *, stamp: str = STAMP, flavour: str = "amd64-openrc", tarball: bytes | None = None
) -> dict[str, bytes]:
    """Return the files of a mirror with one stage3, which the text for x86_64 with OpenRC names."""
    content = stage3() if tarball is None else tarball
    path = tarball_name(stamp, flavour)
    name = path.rpartition("/")[2]
    relative = path.removeprefix(f"{FOLDER}/")
    latest = f"# Latest as of Sun, 01 Nov 2026 18:00:00 +0000\n# ts=1793556000\n{relative} {len(content)}\n"
    digests = (
        f"# BLAKE2B HASH\n{hashlib.blake2b(content).hexdigest()}  {name}\n"
        f"# SHA512 HASH\n{hashlib.sha512(content).hexdigest()}  {name}\n"
        f"# BLAKE2B HASH\n{hashlib.blake2b(b'').hexdigest()}  {name}.CONTENTS.gz\n"
        f"# SHA512 HASH\n{hashlib.sha512(b'').hexdigest()}  {name}.CONTENTS.gz\n"
    )
    return {
        LATEST: key.clearsign(latest).encode(),
        path: content,
        f"{path}.DIGESTS": key.clearsign(digests).encode(),
    }
