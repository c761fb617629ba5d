"""A small Alpine: a repository with all that distros/alpine asks for, made of Debian's busybox-static and musl.

The C library, busybox, its links, the accounts and the layout are real, and so are the dependencies; the daemons and
tools that a boot to the probe agent does not need are stand-ins with their packages' names, scripts and triggers.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.mirrors.apk import File, Package, Repository, SigningKey

BUSYBOX = Path("/bin/busybox")
MUSL = Path("/lib/ld-musl-x86_64.so.1")

_USERS = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:2:2:daemon:/sbin:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
"""
_GROUPS = """\
root:x:0:root
daemon:x:2:root,daemon
shadow:x:42:
users:x:100:games
nogroup:x:65533:
nobody:x:65534:
"""
_SHADOW = "root:*::0:::::\ndaemon:!::0:::::\nnobody:!::0:::::\n"

_BASELAYOUT_POST = """\
#!/bin/sh

case "$(readlink etc/profile.d/color_prompt.sh 2>/dev/null || true)" in
\tcolor_prompt) ln -sf color_prompt.sh.disabled etc/profile.d/color_prompt.sh;;
esac
chown root:shadow etc/shadow
exit 0
"""
_BUSYBOX_POST = """\
#!/bin/busybox sh

# We need the symlinks early
/bin/busybox mkdir -p "/bin" "/sbin" "/usr/bin" "/usr/sbin"
/bin/busybox --install -s || exit 1

addgroup -S klogd 2>/dev/null
adduser -S -D -H -h /dev/null -s /sbin/nologin -G klogd -g klogd klogd 2>/dev/null

exit 0
"""
_BUSYBOX_TRIGGER = """\
#!/bin/sh
for i in "$@"; do
\tcase "$i" in
\t\t/lib/modules/*)\t/bin/busybox depmod ${i#/lib/modules/};;
\t\t*) /bin/busybox --install -s;;
\tesac
done
"""
_CHRONY_PRE = """\
#!/bin/sh

addgroup -S chrony 2>/dev/null
adduser -S -D -H -h /dev/null -s /sbin/nologin -G chrony -g chrony chrony 2>/dev/null

exit 0
"""
_KMOD_TRIGGER = '#!/bin/sh\nfor i in "$@"; do /sbin/depmod "${i#*/lib/modules/}"; done\n'

# name, programs, further provides, dependencies.
_STAND_INS: tuple[tuple[str, str, str, str], ...] = (
    ("cryptsetup", "sbin/cryptsetup sbin/veritysetup", "", "so:libcryptsetup.so.12"),
    ("cryptsetup-libs", "usr/lib/libcryptsetup.so.12", "so:libcryptsetup.so.12=12.10.0", ""),
    ("e2fsprogs", "sbin/e2fsck sbin/mke2fs", "", "so:libext2fs.so.2"),
    ("e2fsprogs-libs", "lib/libext2fs.so.2", "so:libext2fs.so.2=2.4", ""),
    ("iproute2", "usr/share/iproute2/group", "", "iproute2-minimal>=6"),
    ("iproute2-minimal", "sbin/ip", "cmd:ip=6.17.0-r0", "so:libmnl.so.0"),
    ("iptables", "sbin/iptables-nft", "cmd:iptables=1.8.11-r0", "so:libmnl.so.0"),
    ("libmnl", "usr/lib/libmnl.so.0", "so:libmnl.so.0=0.2.0", ""),
    ("libseccomp", "usr/lib/libseccomp.so.2", "so:libseccomp.so.2=2.6.0", ""),
    ("mount", "bin/mount", "cmd:mount=2.41-r0", ""),
    ("nftables", "usr/sbin/nft", "cmd:nft=1.1.3-r0", "so:libmnl.so.0"),
    ("procps-ng", "bin/ps bin/sysctl", "cmd:ps=4.0.5-r0", ""),
)


def alpine(
    key: SigningKey,
    *,
    release: str = "3.24",
    arch: str = "x86_64",
    busybox: Path = BUSYBOX,
    musl: Path = MUSL,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, bytes]:
    """Return the files of a mirror with one release for one architecture, main and community.

    `versions` are other versions of packages than those that they have usually.
    """
    packages = tuple(
        dataclasses.replace(each, version=versions.get(each.name, each.version))
        for each in _packages(release, arch, busybox, musl)
    )
    main = Repository(key=key, packages=packages, path=f"v{release}/main/{arch}")
    # busybox-doc and docs: what comes by install_if, and only then.
    community = Repository(
        key=key,
        packages=(
            Package(name="docs", arch=arch, depends=("mandoc-apropos",)),
            Package(name="mandoc-apropos", arch=arch),
            Package(
                name="busybox-doc",
                arch=arch,
                install_if=("docs", "busybox=1.37.0-r30"),
                files=(File("usr/share/man/man1/busybox.1", b".TH busybox\n"),),
            ),
        ),
        path=f"v{release}/community/{arch}",
        method="RSA256",
    )
    return {**main.files(), **community.files()}


def _packages(release: str, arch: str, busybox: Path, musl: Path) -> tuple[Package, ...]:
    libc = f"so:libc.musl-{arch}.so.1"
    return (
        *_base(release, arch),
        Package(
            name="musl",
            version="1.2.5-r21",
            arch=arch,
            files=(
                File(f"lib/ld-musl-{arch}.so.1", musl.read_bytes(), 0o755),
                File(f"lib/libc.musl-{arch}.so.1", f"ld-musl-{arch}.so.1"),
            ),
            provides=(f"{libc}=1",),
        ),
        Package(
            name="busybox",
            version="1.37.0-r30",
            arch=arch,
            files=(
                File("bin/busybox", busybox.read_bytes(), 0o755),
                File("etc/busybox-paths.d/busybox", _applets(str(busybox))),
                *(File(folder, None, 0o755) for folder in ("sbin", "usr/bin", "usr/sbin")),
                File("tmp", None, 0o1777),
            ),
            depends=(libc, "busybox-binsh"),
            scripts={"post-install": _BUSYBOX_POST, "trigger": _BUSYBOX_TRIGGER, "post-upgrade": _BUSYBOX_POST},
            triggers=("/bin", "/usr/bin", "/sbin", "/usr/sbin", "/lib/modules/*"),
        ),
        Package(
            name="busybox-binsh",
            version="1.37.0-r30",
            arch=arch,
            origin="busybox",
            files=(File("bin/sh", "/bin/busybox"),),
            provides=("/bin/sh", "cmd:sh=1.37.0-r30"),
            depends=("busybox=1.37.0-r30",),
            priority=60,
        ),
        Package(
            name="yash-binsh",
            arch=arch,
            files=(File("bin/sh", "/usr/bin/yash"),),
            provides=("/bin/sh", "cmd:sh=2.58-r0"),
            priority=10,
        ),
        Package(
            name="chrony",
            version="4.8-r1",
            arch=arch,
            files=(
                File("usr/sbin/chronyd", b"#!/bin/sh\n", 0o755),
                File("var/lib/chrony", None, 0o750, ("chrony", "chrony", 990, 990)),
                File("etc/chrony/chrony.conf", b"pool pool.ntp.org iburst\n", 0o644),
            ),
            depends=(libc,),
            scripts={"pre-install": _CHRONY_PRE},
        ),
        Package(
            name="kmod",
            version="34.2-r0",
            arch=arch,
            files=(File("bin/kmod", b"#!/bin/sh\n", 0o755), File("sbin/modprobe", "../bin/kmod")),
            depends=(libc,),
            scripts={"trigger": _KMOD_TRIGGER},
            triggers=("/lib/modules/*",),
        ),
        *(
            Package(
                name=name,
                version="6.17.0-r0" if name.startswith("iproute2") else "1.0-r0",
                arch=arch,
                files=tuple(File(path, b"#!/bin/sh\n", 0o755) for path in programs.split()),
                provides=tuple(provides.split()),
                depends=(libc, *depends.split()),
            )
            for name, programs, provides, depends in _STAND_INS
        ),
    )


def _base(release: str, arch: str) -> tuple[Package, ...]:
    folders = (
        "dev etc home lib media mnt opt proc run srv sys usr/bin usr/lib usr/sbin usr/share var/cache var/lib var/log"
    )
    return (
        Package(
            name="alpine-baselayout",
            version="3.7.1-r8",
            arch=arch,
            files=(
                *(File(folder, None, 0o755) for folder in folders.split()),
                File("root", None, 0o700),
                File("tmp", None, 0o1777),
                File("var/empty", None, 0o555),
                File("var/tmp", None, 0o1777),
                File("var/run", "../run"),
                File("etc/motd", b"Welcome to Alpine!\n"),
            ),
            depends=("alpine-baselayout-data=3.7.1-r8", "/bin/sh"),
            scripts={"post-install": _BASELAYOUT_POST},
        ),
        Package(
            name="alpine-baselayout-data",
            version="3.7.1-r8",
            arch=arch,
            origin="alpine-baselayout",
            files=(
                File("etc/passwd", _USERS.encode()),
                File("etc/group", _GROUPS.encode()),
                File("etc/shadow", _SHADOW.encode(), 0o640),
                File("etc/hosts", b"127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
            ),
            replaces=("alpine-baselayout",),
        ),
        Package(
            name="alpine-release",
            arch=arch,
            files=(
                File("etc/os-release", b'NAME="Alpine Linux"\nID=alpine\n'),
                File("etc/alpine-release", f"{release}.0\n".encode()),
            ),
            depends=("alpine-keys",),
        ),
        Package(name="alpine-keys", arch=arch, files=(File("etc/apk/keys/other.rsa.pub", b"no key of ours\n"),)),
    )


@functools.cache
def _applets(busybox: str) -> bytes:
    """Return the list of links that a busybox asks for, from itself; of a foreign one from this host's."""
    program = busybox if busybox == str(BUSYBOX) else str(BUSYBOX)
    listing = subprocess.run([program, "--list-full"], check=True, capture_output=True).stdout
    return b"".join(sorted(line for line in listing.splitlines(keepends=True) if not line.endswith(b"/busybox\n")))
