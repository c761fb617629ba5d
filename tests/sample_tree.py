"""A small tree with one of everything, and what tests of trees share."""

from __future__ import annotations

import io

from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from osbuilder.tree.posix_acl import encode_acl

EPOCH = 1_700_000_000
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = encode_acl("user::rw-,user:1000:r--,group::r--,mask::r--,other::---", lambda kind, name: None)


def written(tree: Tree, epoch: int = EPOCH) -> bytes:
    stream = io.BytesIO()
    tree.write(stream, epoch=epoch)
    return stream.getvalue()


def sample() -> Tree:
    tree = Tree()
    tree.add_dir("etc", mode=0o755)
    tree.add_file("etc/passwd", b"root:x:0:0\n", uid=0, gid=42)
    tree.add_file(
        "usr/bin/ping", b"\x7fELF", mode=0o4755, xattrs={"security.capability": CAPABILITY}, parents_mode=0o755
    )
    tree.add_link("usr/bin/ping6", "usr/bin/ping")
    tree.add_symlink("bin", "usr/bin")
    tree.add_dir("dev")
    tree.add_device("dev/console", Kind.CHAR, (5, 1))
    tree.add_device("dev/initctl", Kind.FIFO)
    tree.add_file("etc/secret", b"s", xattrs={"system.posix_acl_access": ACL, "user.note": b"a\nb\0c"})
    tree.add_file("usr/" + "long/" * 40 + "n" * 120, b"x", parents_mode=0o755)
    tree.add_symlink("usr/far", "t" * 300)
    tree.add_file("usr/latin-\udce9", b"x")
    tree.add_file("usr/owned", b"x", uid=3_000_000, gid=4_000_000)
    return tree
