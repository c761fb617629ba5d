"""Kernel configuration fragments: what a guest kernel is asked for, as data that knows the line it came from.

Owns kernel/configs/: `capabilities.yaml` names each capability, `common/<name>.conf` and `arch/<arch>/<name>.conf` ask
for its symbols, `waivers.yaml` excuses what a kernel cannot give. Fragments are parsed, never concatenated, and merged
here: a symbol has one home, so a second request is refused whether it agrees or not. What the kernel makes of the
requests is osbuilder.kernel.contract's business.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from osbuilder import decode
from osbuilder.arch import Arch, parse_arch
from osbuilder.errors import FragmentError, suggest

# --- conditions ----------------------------------------------------------------------------------------------------


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

    def __contains__(self, version: KernelVersion) -> bool:
        return all(_COMPARISONS[sign](version, bound) for sign, bound in self.bounds)


class ArchName(str):
    """The name of a row of osbuilder.arch."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> ArchName:
        """Return the name. Raises UsageError for one that no row has."""
        return cls(parse_arch(text).name)


# --- requests ------------------------------------------------------------------------------------------------------

_SYMBOL: Final = r"CONFIG_(\w+)"
_VALUE: Final = re.compile(r'[ymn]|-?(?:0|[1-9]\d*)|0x[0-9a-fA-F]+|"(?:[^"\\]|\\["\\])*"', re.ASCII)
_ASSIGNMENT: Final = re.compile(rf"{_SYMBOL}=(.*)", re.ASCII)
_UNSET: Final = re.compile(rf"# {_SYMBOL} is not set", re.ASCII)
_NEARLY_UNSET: Final = re.compile(rf"#\s*{_SYMBOL}\s*(?:is\s+not\s+set|=n\b)", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of a fragment: CONFIG_<symbol>=<value>, with the value as .config spells it (strings with quotes)."""

    symbol: str
    value: str
    file: str
    line: int

    @property
    def where(self) -> str:
        """The line that asks, as file:line."""
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.symbol}={self.value}"


def parse(text: str, file: str) -> tuple[Request, ...]:
    """Parse a fragment; `file` is its name in messages. A last line without a newline is a line.

    Raises FragmentError naming file:line for anything but an assignment, `# CONFIG_X is not set`, a comment or a blank.
    """
    requests = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip()
        if found := _UNSET.fullmatch(line):
            requests.append(Request(symbol=found[1], value="n", file=file, line=number))
        elif _NEARLY_UNSET.match(line):
            raise FragmentError(
                f"{file}:{number}: expected `# CONFIG_X is not set` to the letter, or a comment, got {line!r}",
                hint="Write CONFIG_X=n: it cannot be taken for a comment.",
            )
        elif line and not line.startswith("#"):
            requests.append(_parse_assignment(line, file, number))
    return tuple(requests)


def _parse_assignment(line: str, file: str, number: int) -> Request:
    found = _ASSIGNMENT.fullmatch(line)
    if not found:
        hint = ""
        if re.match(r"\s+(CONFIG_|#)", line):
            hint = "Start it in the first column."
        elif re.match(r"[A-Z0-9_]+\s*=", line):
            hint = "Write the name with CONFIG_ and no blanks around =."
        raise FragmentError(f"{file}:{number}: expected CONFIG_NAME=value or a # comment, got {line!r}", hint=hint)
    symbol, value = found.groups()
    if not _VALUE.fullmatch(value):
        raise FragmentError(
            f"{file}:{number}: CONFIG_{symbol}: expected y, m, n, a number or a text in double quotes, got {value!r}",
            hint="A comment needs a line of its own." if "#" in value else "",
        )
    return Request(symbol=symbol, value=value, file=file, line=number)


def load_fragment(path: Path, name: str) -> tuple[Request, ...]:
    """Read and parse the fragment at `path`; `name` stands for it in messages. Raises FragmentError."""
    try:
        return parse(path.read_bytes().decode("utf-8"), name)
    except OSError as err:
        raise FragmentError(f"{name}: cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise FragmentError(f"{name}: expected UTF-8 text, got the byte 0x{err.object[err.start]:02x}") from None


def merge(requests: Iterable[Request]) -> tuple[Request, ...]:
    """Return the requests sorted by symbol. Raises FragmentError listing every symbol that is asked for twice."""
    merged: dict[str, Request] = {}
    problems = []
    for request in requests:
        first = merged.setdefault(request.symbol, request)
        if first is request:
            continue
        if first.value == request.value:
            problems.append(f"duplicate: CONFIG_{request} in {first.where} and again in {request.where}")
        else:
            problems.append(f"contradiction: CONFIG_{first} in {first.where}, but CONFIG_{request} in {request.where}")
    if problems:
        raise FragmentError("\n".join(problems), hint="Each symbol has one home: remove one of the two lines.")
    return tuple(merged[symbol] for symbol in sorted(merged))


def render(requests: Iterable[Request]) -> str:
    """Make the text that KCONFIG_ALLCONFIG names: one assignment a line, in the order given."""
    return "".join(f"CONFIG_{request.symbol}={request.value}\n" for request in requests)


# --- the catalogue -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Something that a guest kernel can do. Its symbols are asked for in <layer>/<fragment>.conf.

    `fragments` (default: one of the capability's own name) are looked up in each layer; at least one must exist in one.
    `probes` are what the reference agent runs in the guest to prove it; without any, `unproven` says why none can.
    """

    purpose: str
    probes: tuple[str, ...] = ()
    unproven: str = ""
    fragments: tuple[str, ...] = ()
    arches: tuple[ArchName, ...] = ()
    kernel: KernelRange = KernelRange()

    def __post_init__(self) -> None:
        if bool(self.probes) == bool(self.unproven):
            raise ValueError("expected either probes, or unproven: the reason why no probe can show it")

    def applies(self, arch: Arch, version: KernelVersion) -> bool:
        """Say whether kernels of that architecture and version have it. No arches: all do."""
        return version in self.kernel and (not self.arches or arch.name in self.arches)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """Excuses the loss of one symbol on exact terms. One that excuses nothing is an error of the contract."""

    symbol: str
    kernel: KernelRange
    arches: tuple[ArchName, ...]
    reason: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?!CONFIG_)\w+", self.symbol, re.ASCII):
            raise ValueError(f"expected a symbol without CONFIG_, got {self.symbol!r}")
        if not self.arches or not self.reason:
            raise ValueError("expected at least one architecture and a reason")

    def applies(self, arch: Arch, version: KernelVersion) -> bool:
        """Say whether it is meant for kernels of that architecture and version."""
        return version in self.kernel and arch.name in self.arches


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _CapabilitiesFile:
    capabilities: Mapping[str, Capability]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _WaiversFile:
    waivers: tuple[Waiver, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one kernel is asked for: its capabilities by name, the merged requests, the waivers meant for it."""

    capabilities: Mapping[str, Capability]
    requests: tuple[Request, ...]
    waivers: tuple[Waiver, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All of kernel/configs: the capabilities in the file's order, the waivers, and the folder of the layers."""

    root: Path
    capabilities: Mapping[str, Capability]
    waivers: tuple[Waiver, ...]

    def select(self, arch: Arch, version: KernelVersion) -> Selection:
        """Read and merge the fragments of every capability that such a kernel has.

        Raises FragmentError for a malformed fragment, a duplicate, a contradiction, or a capability without fragments.
        """
        chosen = {name: each for name, each in self.capabilities.items() if each.applies(arch, version)}
        requests: list[Request] = []
        for name, capability in chosen.items():
            paths = [path for path in self._candidates(name, capability, arch) if path.is_file()]
            if not paths:
                layers = ", ".join(f"{layer}/" for layer in _layers(arch))
                raise FragmentError(
                    f"capability {name} has no fragment for {arch.name}: expected one of its .conf files in {layers}",
                    hint=f"Write it, or name the arches of {name} in capabilities.yaml.",
                )
            for path in paths:
                requests.extend(load_fragment(path, self._name(path)))
        return Selection(
            capabilities=chosen,
            requests=merge(requests),
            waivers=tuple(waiver for waiver in self.waivers if waiver.applies(arch, version)),
        )

    def _candidates(self, name: str, capability: Capability, arch: Arch) -> list[Path]:
        stems = capability.fragments or (name,)
        return [self.root / layer / f"{stem}.conf" for stem in stems for layer in _layers(arch)]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _layers(arch: Arch) -> tuple[str, ...]:
    """The folders that fragments come from, the general one first."""
    return ("common", f"arch/{arch.name}")


def load_catalogue(root: Path) -> Catalogue:
    """Read kernel/configs at `root` and check that every fragment belongs to exactly one capability.

    Raises DecodeError for the YAML files, FragmentError for a fragment that nobody or more than one names.
    """
    capabilities = decode.load(root / "capabilities.yaml", _CapabilitiesFile).capabilities
    waivers = decode.load(root / "waivers.yaml", _WaiversFile).waivers
    owners: dict[str, str] = {}
    for name, capability in capabilities.items():
        for stem in capability.fragments or (name,):
            if stem in owners:
                raise FragmentError(f"fragment {stem} belongs to two capabilities: {owners[stem]} and {name}")
            owners[stem] = name
    for path in sorted(root.glob("common/*")) + sorted(root.glob("arch/*/*")):
        if path.suffix != ".conf" or path.stem not in owners:
            raise FragmentError(
                f"{path.relative_to(root)} belongs to no capability of {root.name}/capabilities.yaml",
                hint=suggest(path.stem, owners),
            )
    for path in sorted(root.glob("arch/*")):
        ArchName.parse(path.name)
    return Catalogue(root=root, capabilities=capabilities, waivers=waivers)
