"""What data under kernel/configs/ may depend on: a kernel's version, and the architecture.

Values are checked when a file is read: a range that is none, or a name that no row of osbuilder.arch has, never gets
as far as a build.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

from osbuilder.arch import Arch, parse_arch
from osbuilder.errors import FragmentError


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class KernelVersion:
    """A kernel's version, such as 6.12.117; a release candidate or a distributor's suffix does not count."""

    numbers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> KernelVersion:
        """Parse `6.12`, `6.12.117`, `6.13.0-rc2`. Raises FragmentError."""
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(?=$|[-+.~])", text)
        if not found:
            raise FragmentError(f"expected a kernel version such as 6.12.117, got {text!r}")
        return cls(tuple(int(number or 0) for number in found.groups()))

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers))


_COMPARISONS: Final[Mapping[str, Callable[[KernelVersion, KernelVersion], bool]]] = {
    ">=": operator.ge,
    "<": operator.lt,
}


@dataclasses.dataclass(frozen=True, slots=True)
class KernelRange:
    """Kernel versions between bounds: `>=6.12`, `<6.18`, or both with a comma. No bounds: every version."""

    bounds: tuple[tuple[str, KernelVersion], ...] = ()

    @classmethod
    def parse(cls, text: str) -> KernelRange:
        """Parse `>=6.12,<6.18`. Raises FragmentError."""
        found = [re.fullmatch(r"(>=|<)(\d+\.\d+(?:\.\d+)?)", part.strip()) for part in text.split(",")]
        if not all(found):
            raise FragmentError(f'expected a kernel range such as ">=6.12" or ">=6.1,<6.12", got {text!r}')
        return cls(tuple((part[1], KernelVersion.parse(part[2])) for part in found if part))

    def __str__(self) -> str:
        return ",".join(f"{sign}{bound}" for sign, bound in self.bounds)

    def __contains__(self, version: KernelVersion) -> bool:
        return all(_COMPARISONS[sign](version, bound) for sign, bound in self.bounds)


class ArchName(str):
    """The name of a row of osbuilder.arch."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> ArchName:
        """Return the name. Raises UsageError for one that no row has."""
        return cls(parse_arch(text).name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which kernels something is for. No arches and no bounds: every one."""

    arches: tuple[ArchName, ...] = ()
    kernel: KernelRange = KernelRange()

    def applies(self, arch: Arch, version: KernelVersion) -> bool:
        """Say whether kernels of that architecture and version are meant."""
        return version in self.kernel and (not self.arches or arch.name in self.arches)
