"""SELinux labels for a root filesystem, as extended attributes, on a host that knows nothing of SELinux.

Which label a path gets is asked of libselinux itself, in a builder: its rules of order, of substitutions and of local
additions are its own, and no second matcher can keep up with them. It reads the policy that is in the tree
(selabel_file(5)); the kernel of the host has no part in it. A path with no label in the policy, or <<none>>, gets none.
"""

from __future__ import annotations

import dataclasses
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.engine.base import Command
from osbuilder.errors import RootfsError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

FEATURE: Final = "selinux"
"""The feature of a recipe that installs a policy."""

XATTR: Final = "security.selinux"
ROOTFS_TAR: Final = "rootfs.tar"
_CONFIG: Final = "etc/selinux/config"
_CONTEXTS: Final = "contexts/files/file_contexts"
_NO_POLICY: Final = "Install the distribution's policy (a recipe's feature selinux), or build without --selinux."

# The file's own suffixes: a distribution's and an administrator's additions and substitutions. A compiled
# file_contexts.bin is for one version of PCRE and is left aside.
_SUFFIXES: Final = ("", ".homedirs", ".local", ".subs", ".subs_dist")

_TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIR: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}

# Names may hold anything but NUL, so NUL ends each, in and out. A label is never empty: none is an empty word.
# Called as C, since the bindings for Python refuse names that are not UTF-8 (selabel_open(3), selabel_lookup(3)).
_SCRIPT: Final = """\
import ctypes
import errno
import selinux

class Option(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("value", ctypes.c_char_p)]

library = ctypes.CDLL("libselinux.so.1", use_errno=True)
library.selabel_open.restype = ctypes.c_void_p
option = Option(selinux.SELABEL_OPT_PATH, b"/in/policy/file_contexts")
handle = ctypes.c_void_p(library.selabel_open(selinux.SELABEL_CTX_FILE, ctypes.byref(option), 1))
if not handle:
    raise OSError(ctypes.get_errno(), "selabel_open")
with open("/in/names", "rb") as stream:
    names = stream.read().split(b"\\0")[:-1]
with open("/out/labels", "wb") as stream:
    for name in names:
        mode, _, path = name.partition(b" ")
        label = ctypes.c_char_p()
        if library.selabel_lookup_raw(handle, ctypes.byref(label), path, int(mode)) == 0:
            stream.write(label.value)
            library.freecon(label)
        elif ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), "selabel_lookup_raw", path)
        stream.write(b"\\0")
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Give every file of a root filesystem its label: input `rootfs` (rootfs.tar) -> rootfs.tar. Runs in a builder."""

    epoch: int

    def describe(self) -> tuple[str, ...]:
        return (f"ask libselinux for the label of each path, by the tree's own policy; set {XATTR}",)

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path(ROOTFS_TAR))
        kind = policy_of(tree)
        policy, names, script, output = (job.work / name for name in ("policy", "names", "script", "labelled"))
        for folder in (policy, output):
            folder.mkdir()
        _copy_contexts(tree, kind, policy)
        names.write_bytes(b"".join(_question(tree, name) for name in tree.names()))
        script.write_text(_SCRIPT, encoding="utf-8")
        command = Command(argv=("python3", "-I", "/in/script"))
        job.run(command, inputs={"script": script, "policy": policy, "names": names}, output=output)
        labelled = set_labels(tree, (output / "labels").read_bytes())
        tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {"policy": kind, "labelled": labelled, "unlabelled": len(tree) - labelled}


def policy_of(tree: Tree) -> str:
    """Return the name of the policy that a tree's init loads. Raises RootfsError when there is none to load."""
    if not tree.exists(_CONFIG):
        raise RootfsError(f"no SELinux policy in the root filesystem: there is no /{_CONFIG}", hint=_NO_POLICY)
    found = re.search(r"^SELINUXTYPE=([A-Za-z0-9_.-]+)\s*$", tree.read_bytes(_CONFIG).decode("utf-8", "replace"), re.M)
    if not found:
        raise RootfsError(f"no SELinux policy is named (/{_CONFIG}): expected SELINUXTYPE=NAME", hint=_NO_POLICY)
    kind = found[1]
    for part in (_CONTEXTS, "policy"):
        if not tree.exists(f"etc/selinux/{kind}/{part}"):
            raise RootfsError(
                f"the SELinux policy {kind!r} is incomplete: there is no /etc/selinux/{kind}/{part}", hint=_NO_POLICY
            )
    return kind


def set_labels(tree: Tree, labels: bytes) -> int:
    """Set what libselinux answered, one label a name in the order of the tree; return how many names have one.

    A file with several names has one label: that of the first of them that the policy has one for. The kernel keeps a
    label with the NUL at its end, and so does ext4. Raises RootfsError for too few answers.
    """
    answers = labels.split(b"\0")[:-1]
    names = tree.names()
    if len(answers) != len(names):
        raise RootfsError(f"libselinux answered for {len(answers)} of {len(names)} paths", hint="See the step's log.")
    label_of = dict(zip(names, answers, strict=True))
    for several in tree.hard_links().values():
        label_of |= dict.fromkeys(several, next((label_of[name] for name in several if label_of[name]), b""))
    for name, label in label_of.items():
        others = {key: value for key, value in tree.get(name).xattrs if key != XATTR}
        tree.set_xattrs(name, {**others, **({XATTR: label + b"\0"} if label else {})})
    return sum(1 for label in label_of.values() if label)


def _copy_contexts(tree: Tree, kind: str, folder: Path) -> None:
    for suffix in _SUFFIXES:
        name = f"etc/selinux/{kind}/{_CONTEXTS}{suffix}"
        if tree.exists(name):
            (folder / f"file_contexts{suffix}").write_bytes(tree.read_bytes(name))


def _question(tree: Tree, name: str) -> bytes:
    entry = tree.get(name)
    return f"{_TYPES[entry.kind] | entry.mode} /{name}\0".encode("utf-8", "surrogateescape")
