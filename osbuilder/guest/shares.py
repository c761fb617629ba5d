"""A folder of the host that a guest mounts: over 9p, which QEMU serves, and over virtio-fs, which virtiofsd does.

Owns what the folder holds, and how virtiofsd runs beside QEMU (virtiofsd(1)). The agent's probes mount it by its tag,
read the file that the host wrote and write one. virtio-fs has no DAX window here: QEMU's device makes none.
"""

from __future__ import annotations

import os
import shutil
from pathlib import PurePath
from typing import Final

from osbuilder.errors import UsageError

TAG: Final = "osbuilder"
"""What the guest mounts the folder by, on both."""

HOST_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where a host's QEMU and virtiofsd are looked for, and run, whatever the user's own path is."""

SHARE: Final = "share"
"""What the folder is called where QEMU writes."""

VIRTIOFSD: Final = "virtiofsd"
# Debian's package keeps it apart from what users call.
_FOLDERS: Final = "/usr/libexec"
_SOCKET_PATH_BYTES: Final = 107

# Makes the folder, starts virtiofsd on it where there is a socket to listen on, and runs QEMU. Here rather than in
# Python, so that it is the same wherever QEMU runs. A guest's host is confined by whoever confines QEMU: virtiofsd
# starts no namespaces of its own. Arguments: folder, socket ("": no virtiofsd), QEMU's command.
_SERVING: Final = f"""\
share=$1 socket=$2
shift 2
rm -rf "$share" "$socket"
mkdir "$share" || exit 1
echo {TAG} > "$share/from-host"
if [ -n "$socket" ]; then
  PATH=$PATH:{_FOLDERS}
  setpriv --pdeathsig KILL -- {VIRTIOFSD} --socket-path="$socket" --shared-dir="$share" --sandbox=none \\
    --rlimit-nofile=0 --log-level=warn &
  until [ -S "$socket" ]; do
    kill -0 $! || exit 1
    sleep 0.1
  done
fi
status=0
setpriv --pdeathsig KILL -- "$@" || status=$?
rm -rf "$share" "$socket"
exit "$status"
"""


def serving(argv: tuple[str, ...], *, share: PurePath, virtiofs: bool) -> tuple[str, ...]:
    """Return the command that runs QEMU with a folder to share, over virtio-fs too if asked; paths are as QEMU's."""
    return ("sh", "-c", _SERVING, "sh", str(share), str(socket(share)) if virtiofs else "", *argv)


def socket(share: PurePath) -> PurePath:
    """Return where virtiofsd listens for the QEMU that shares a folder."""
    return share.with_name(f"{share.name}.socket")


def check_socket(share: PurePath) -> None:
    """Raise UsageError where virtiofsd could not listen for a folder's guest: unix(7) takes 107 bytes of a path."""
    path = os.fsencode(socket(share))
    if len(path) > _SOCKET_PATH_BYTES:
        raise UsageError(
            f"virtio-fs: the store's path is too long for a socket in it: {path.decode('utf-8', 'replace')}",
            hint="Use --setting qemu=builder, or a store with a shorter path (setting store).",
        )


def host_virtiofsd() -> bool:
    """Whether this host has a virtiofsd."""
    return shutil.which(VIRTIOFSD, path=f"{HOST_PATH}:{_FOLDERS}") is not None
