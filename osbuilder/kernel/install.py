"""What a kernel's files are called where its users look for them.

The names are those that Kata Containers' runtime and packaging expect: `<kind>-<version>-<config><suffix>`, and for the
two that are booted a link `<kind><suffix>.container`. Here <config> is the beginning of the content key.
"""

from __future__ import annotations

from typing import Final

from osbuilder.kernel.catalogue import BASE
from osbuilder.kernel.compile import CONFIG, DEBUG, GDB_SCRIPTS, SYSTEM_MAP, VMLINUX, VMLINUZ

_KEY_DIGITS: Final = 12
_BOOTED: Final = (VMLINUX, VMLINUZ)


def link_names(
    version: str, key: str, suffix: str = "", *, debug_info: bool = False
) -> tuple[tuple[str, str, str | None], ...]:
    """Return (file of the artifact, published name, name of the link to it or None) for each file of a kernel.

    `suffix` ("", "-debug") tells variants apart; `debug_info` says whether the kernel has it (see compile.Compile).

    >>> link_names("6.12.57", "0123456789abcdef")[0]
    ('vmlinux', 'vmlinux-6.12.57-0123456789ab', 'vmlinux.container')
    """
    return tuple(
        (
            file,
            f"{file}-{version}-{key[:_KEY_DIGITS]}{suffix}",
            f"{file}{suffix}.container" if file in _BOOTED else None,
        )
        for file in (VMLINUX, VMLINUZ, CONFIG, SYSTEM_MAP, *((DEBUG, GDB_SCRIPTS) if debug_info else ()))
    )


def suffix(variant: str) -> str:
    """Return what tells a variant's files apart: nothing for the base, else "-<variant>"."""
    return "" if variant == BASE else f"-{variant}"
