"""What dpkg says of a tree: its installed packages. Reads only.

Source: dpkg-query(1) for the states, Debian Policy 5.1 for the syntax of control files.
"""

from __future__ import annotations

import re

from osbuilder.errors import RootfsError
from osbuilder.tree import Tree


def read_packages(tree: Tree) -> tuple[tuple[str, str, str], ...]:
    """Return (name, version, architecture) of every installed package of a tree, sorted (dpkg-query(1), status).

    Raises RootfsError for a package that is not fully configured.
    """
    found = []
    for paragraph in tree.read_bytes("var/lib/dpkg/status").decode("utf-8", "replace").split("\n\n"):
        fields = parse_fields(paragraph)
        if not fields or fields.get("Status", "").endswith(" config-files"):
            continue
        if fields.get("Status") != "install ok installed":
            raise RootfsError(
                f"package {fields.get('Package')} is not configured: expected status 'install ok installed', "
                f"got {fields.get('Status')!r}",
                hint="The step's log shows what its maintainer script said.",
            )
        found.append((fields["Package"], fields["Version"], fields["Architecture"]))
    return tuple(sorted(found))


def parse_fields(paragraph: str) -> dict[str, str]:
    """Return the one-line fields of a Debian control paragraph; continuation lines and a signature are left out."""
    fields: dict[str, str] = {}
    for line in paragraph.splitlines():
        name, colon, value = line.partition(": ")
        if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            fields.setdefault(name, value.strip())
    return fields
