"""POSIX ACLs: from the text that archives carry to the extended attribute that the kernel takes.

GNU tar --acls and bsdtar store text (SCHILY.acl.access, SCHILY.acl.default), which mke2fs loses. The extended attribute
survives. Formats: acl(5) for the text, include/uapi/linux/posix_acl_xattr.h for the attribute.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_VERSION = 2
_NO_ID = 0xFFFFFFFF
# posix_acl.h: (tag when the entry names nobody, tag when it names a user or group)
_TAGS = {"user": (0x01, 0x02), "group": (0x04, 0x08), "mask": (0x10, None), "other": (0x20, None)}
_SHORT = {"u": "user", "g": "group", "m": "mask", "o": "other"}

Lookup = Callable[[str, str], int | None]


def encode_acl(text: str, lookup: Lookup) -> bytes:
    """Return the extended attribute's value for an ACL in short or long text form.

    An entry is `tag:qualifier:perms`; bsdtar appends the number as a fourth field, which then wins. A qualifier that is
    not a number goes through `lookup(tag, name)` with tag "user" or "group". Raises ValueError with a message that
    names the entry.
    """
    entries = []
    for raw in text.replace("\n", ",").split(","):
        entry = raw.partition("#")[0].strip()
        if entry:
            entries.append(_parse(entry, lookup))
    if not entries:
        raise ValueError("no entry")
    entries.sort(key=lambda fields: (fields[0], fields[2]))
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *fields) for fields in entries)


def _parse(entry: str, lookup: Lookup) -> tuple[int, int, int]:
    fields = [field.strip() for field in entry.removeprefix("default:").split(":")]
    if len(fields) == 2:  # Solaris writes `mask:rwx` and `other:rwx`
        fields.insert(1, "")
    if len(fields) not in (3, 4):
        raise ValueError(f"entry {entry!r} is not tag:qualifier:perms")
    kind, qualifier = _SHORT.get(fields[0], fields[0]), fields[1]
    if kind not in _TAGS:
        raise ValueError(f"entry {entry!r} has an unknown tag")
    plain, named = _TAGS[kind]
    perms = _perms(fields[2], entry)
    if not qualifier:
        return plain, perms, _NO_ID
    if named is None:
        raise ValueError(f"entry {entry!r} cannot name anybody")
    number = _identity(fields[3] if len(fields) == 4 else qualifier, kind, lookup)
    if number is None:
        raise ValueError(f"entry {entry!r} names an unknown {kind}")
    return named, perms, number


def _identity(text: str, kind: str, lookup: Lookup) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else lookup(kind, text)


def _perms(text: str, entry: str) -> int:
    if len(text) > 3 or any(letter not in "rwx-" for letter in text):
        raise ValueError(f"entry {entry!r} has malformed permissions")
    return sum({"r": 4, "w": 2, "x": 1}.get(letter, 0) for letter in text)
