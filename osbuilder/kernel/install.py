"""What a kernel's files are called where its users look for them.

The names are those that Kata Containers' runtime and packaging expect: `<kind>-<version>-<config><suffix>`, and for the
two that are booted a link `<kind><suffix>.container`. Here <config> is the beginning of the content key. Modules are
`modules-<version>-<config><suffix>.tar.zst`, with a link `modules<suffix>.tar.zst`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from osbuilder.kernel.catalogue import BASE
from osbuilder.kernel.compile import CONFIG, DEBUG, GDB_SCRIPTS, SYSTEM_MAP, VMLINUX, VMLINUZ
from osbuilder.kernel.modules import MODULES

_KEY_DIGITS: Final = 12
_BOOTED: Final = (VMLINUX, VMLINUZ)
_ORDER: Final = (VMLINUX, VMLINUZ, CONFIG, SYSTEM_MAP, DEBUG, GDB_SCRIPTS)


def link_names(
    version: str, key: str, suffix: str = "", *, files: Collection[str] = _ORDER[:4]
) -> tuple[tuple[str, str, str | None], ...]:
    """Return (file of the artifact, published name, name of the link to it or None) for each file of a kernel.

    `suffix` ("", "-debug") tells variants apart; `files` are those that the kernel has (see compile.Compile).

    >>> link_names("6.12.57", "0123456789abcdef")[0]
    ('vmlinux', 'vmlinux-6.12.57-0123456789ab', 'vmlinux.container')
    """
    known = f"{version}-{key[:_KEY_DIGITS]}{suffix}"
    names: list[tuple[str, str, str | None]] = [
        (file, f"{file}-{known}", f"{file}{suffix}.container" if file in _BOOTED else None)
        for file in _ORDER
        if file in files
    ]
    if MODULES in files:
        names.append((MODULES, f"modules-{known}.tar.zst", f"modules{suffix}.tar.zst"))
    return tuple(names)


def suffix(variant: str) -> str:
    """Return what tells a variant's files apart: nothing for the base, else "-<variant>"."""
    return "" if variant == BASE else f"-{variant}"
