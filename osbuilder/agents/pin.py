"""What is known of agents before any of them is built: the entries of versions.yaml, and what a request changes."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from osbuilder.arch import Arch
from osbuilder.errors import PlanError, UsageError, suggest
from osbuilder.guest.ready import Ready
from osbuilder.kernel.git import Git
from osbuilder.kernel.tarball import Tarball
from osbuilder.rootfs.agent import is_name
from osbuilder.userpath import parse_path

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")
_INSIDE: Final = re.compile(r"(?!/)(?!(.*/)?\.\.(/|$))[A-Za-z0-9_./+@-]+")
_SWITCH: Final[Mapping[str, bool]] = {"yes": True, "no": False}

IMAGE_PREFIX: Final = "oci:"
"""What stands before the name of a container image that an agent is in."""


def is_given(agent: str) -> bool:
    """Whether an agent is built already, a file or a container image, and no name of versions.yaml."""
    return "/" in agent or agent.startswith(IMAGE_PREFIX)


class Libc(enum.Enum):
    """The C library that an agent is linked with, always statically."""

    MUSL = "musl"
    GNU = "gnu"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CratesPin:
    """A tarball of what `cargo vendor` makes: one top folder with a folder a crate."""

    urls: tuple[str, ...]
    sha256: str

    def __post_init__(self) -> None:
        self.tarball()

    def tarball(self) -> Tarball:
        """Return the download of it. Raises ValueError for a malformed pin."""
        return Tarball(urls=self.urls, sha256=self.sha256)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourcePin:
    """Where an agent's source is: urls + sha256 (a tarball with one top folder), git + ref, or tree (a folder)."""

    urls: tuple[str, ...] | None = None
    sha256: str | None = None
    git: str | None = None
    ref: str | None = None
    tree: str | None = None

    def __post_init__(self) -> None:
        kinds = [name for name in ("urls", "git", "tree") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"expected exactly one of urls, git, tree, got {' and '.join(kinds) or 'none of them'}")
        for name, owner in (("sha256", "urls"), ("ref", "git")):
            given = getattr(self, name) is not None
            if given != (kinds[0] == owner):
                what = f"{owner} needs {name} beside it" if not given else f"{name} does not go with {kinds[0]}"
                raise ValueError(what)
        self.download()

    def __str__(self) -> str:
        return " ".join(part for part in (*(self.urls or ()), self.git, self.ref, self.tree) if part)

    def download(self) -> Tarball | Git | None:
        """Return what gets it, or None for a tree. Raises ValueError for a malformed pin."""
        if self.urls is not None and self.sha256 is not None:
            return Tarball(urls=self.urls, sha256=self.sha256)
        if self.git is not None and self.ref is not None:
            return Git(url=self.git, ref=self.ref)
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CargoPin:
    """How an agent is made of Rust. `folder` is where its Cargo.toml is in the source.

    `features` are always on; `seccomp` and `policy` name those that a request switches (seccomp is on unless it says
    otherwise, policy is off). `policy_file` is the policy in the source, if it has one, that a guest gets when that is
    switched on and the request names none. `make` are targets of the folder's Makefile that cargo needs beforehand;
    `units` are files of the folder that go to systemd's units. `version_file` holds the version (else Cargo.toml's
    counts). Without `source` a request has to name one.
    """

    source: SourcePin | None = None
    crates: CratesPin | None = None
    folder: str = "."
    features: tuple[str, ...] = ()
    seccomp: str | None = None
    policy: str | None = None
    policy_file: str | None = dataclasses.field(default=None, metadata={"key": "policy-file"})
    make: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    version_file: str | None = dataclasses.field(default=None, metadata={"key": "version-file"})

    def __post_init__(self) -> None:
        for path in (self.folder, *self.make, *filter(None, (self.version_file, self.policy_file))):
            if not _INSIDE.fullmatch(path):
                raise ValueError(f"expected a path inside the source, got {path!r}")
        for unit in self.units:
            if not _NAME.fullmatch(unit):
                raise ValueError(f"units: expected the name of a file, got {unit!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentPin:
    """An agent; `install` is its file's name in /usr/bin.

    Either `source`, a folder of this repository with C (the probe), or `cargo`. `ready` is how it is known to serve;
    only the probe reports by itself. `url` is where it is published, for the guest's summary.
    """

    install: str
    source: str | None = None
    cargo: CargoPin | None = None
    ready: Ready | None = None
    url: str = ""

    def __post_init__(self) -> None:
        if not is_name(self.install):
            raise ValueError(f"install: expected the name of a file, got {self.install!r}")
        if (self.source is None) == (self.cargo is None):
            raise ValueError("expected exactly one of source and cargo")
        if (self.cargo is None) != (self.ready is None):
            raise ValueError("ready goes with cargo: how the agent is known to serve")

    def __str__(self) -> str:
        """What it is made from, for `inv versions`."""
        if self.cargo is None:
            return self.source or ""
        return str(self.cargo.source or "named with --agent-option")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What a request changes of an agent that is compiled with cargo. Make one with `parse`."""

    libc: Libc | None = None
    seccomp: bool | None = None
    policy: bool | None = None
    source: SourcePin | None = None
    crates: CratesPin | None = None

    @classmethod
    def parse(cls, texts: Iterable[str]) -> AgentOptions:
        """Return the options that words like `libc=gnu` or `tree=DIR` mean. Raises UsageError."""
        values: dict[str, str] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or not value:
                raise UsageError(f"--agent-option {text!r}: expected NAME=VALUE", hint=suggest(name, _OPTIONS))
            if name not in _OPTIONS:
                raise UsageError(f"unknown --agent-option {name!r}", hint=suggest(name, _OPTIONS))
            if name in values and name not in ("url", "crates-url"):
                raise UsageError(f"--agent-option {name} is given twice")
            values[name] = f"{values[name]} {value}" if name in values else value
        return cls(
            libc=_libc(values.get("libc")),
            seccomp=_switch("seccomp", values.get("seccomp")),
            policy=_switch("policy", values.get("policy")),
            source=_source(values),
            crates=_crates(values),
        )

    def words(self) -> Iterator[str]:
        """Yield the words that `parse` makes these options of."""
        source, crates = self.source, self.crates
        switch = {value: word for word, value in _SWITCH.items()}
        for name, value in (
            ("libc", self.libc and self.libc.value),
            ("seccomp", None if self.seccomp is None else switch[self.seccomp]),
            ("policy", None if self.policy is None else switch[self.policy]),
            *((name, getattr(source, name)) for name in ("tree", "git", "ref", "sha256") if source),
            *(("url", url) for url in (source and source.urls) or ()),
            *(("crates-url", url) for url in (crates and crates.urls) or ()),
            ("crates-sha256", crates and crates.sha256),
        ):
            if value is not None:
                yield f"{name}={value}"

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))


NO_OPTIONS: Final = AgentOptions()
_OPTIONS: Final = (
    *("libc", "seccomp", "policy", "tree", "git", "ref", "url", "sha256"),
    *("crates-url", "crates-sha256"),
)


def _libc(text: str | None) -> Libc | None:
    if text is None:
        return None
    try:
        return Libc(text)
    except ValueError:
        raise UsageError(f"--agent-option libc={text}: expected musl or gnu") from None


def _switch(name: str, text: str | None) -> bool | None:
    if text is not None and text not in _SWITCH:
        raise UsageError(f"--agent-option {name}={text}: expected yes or no")
    return None if text is None else _SWITCH[text]


def _source(values: Mapping[str, str]) -> SourcePin | None:
    given = {name: values[name] for name in ("git", "ref", "sha256") if name in values}
    if not given and "url" not in values and "tree" not in values:
        return None
    try:
        return SourcePin(
            **given,
            urls=tuple(values["url"].split()) if "url" in values else None,
            tree=str(parse_path(values["tree"], "--agent-option tree").absolute()) if "tree" in values else None,
        )
    except ValueError as error:
        raise UsageError(f"--agent-option: {error}".replace("urls", "url")) from error


def _crates(values: Mapping[str, str]) -> CratesPin | None:
    url, sha256 = values.get("crates-url"), values.get("crates-sha256")
    if url is None and sha256 is None:
        return None
    if url is None or sha256 is None or not _SHA256.fullmatch(sha256):
        raise UsageError(
            "--agent-option: crates-url and crates-sha256 (64 hexadecimal digits) go together",
            hint="Make such a tarball with `cargo vendor --locked --versioned-dirs vendor`.",
        )
    try:
        return CratesPin(urls=tuple(url.split()), sha256=sha256)
    except ValueError as error:
        raise UsageError(f"--agent-option crates-url: {error}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An agent whose every choice is made: what is compiled, with which features, for what."""

    install: str
    cargo: CargoPin
    source: SourcePin
    crates: CratesPin | None
    features: tuple[str, ...]
    libc: Libc
    seccomp: bool
    policy_file: str | None


def choose(name: str, pin: AgentPin, options: AgentOptions, arch: Arch) -> Recipe:
    """Return the recipe of an agent of versions.yaml. Raises UsageError and PlanError for what it does not have."""
    if pin.cargo is None:
        raise UsageError(
            f"agent {name} has no options: they are for agents that are compiled with cargo",
            hint="Leave --agent-option out.",
        )
    cargo = pin.cargo
    source = options.source or cargo.source
    if source is None:
        raise UsageError(
            f"agent {name} has no source: versions.yaml pins none, and none was named",
            hint=f"Name one: --agent-option git=URL --agent-option ref=COMMIT, or url=URL and sha256=HEX, or tree=DIR; "
            f"to keep it, write `source: {{urls: [URL], sha256: HEX}}` below agents/{name}/cargo in versions.yaml.",
        )
    libc = options.libc or Libc(arch.libcs[0])
    if libc.value not in arch.libcs:
        raise PlanError(
            f"agent {name}: no {libc.value} for {arch.name}: expected {' or '.join(arch.libcs)}",
            hint="Leave libc out to get the usual one.",
        )
    features = [*cargo.features]
    wanted = (("seccomp", cargo.seccomp, options.seccomp), ("policy", cargo.policy, options.policy))
    for switch, feature, asked in wanted:
        if asked is not None and feature is None:
            raise UsageError(f"agent {name} has no {switch} to switch", hint=f"Leave --agent-option {switch} out.")
        if feature is not None and (switch == "seccomp" if asked is None else asked):
            features.append(feature)
    return Recipe(
        install=pin.install,
        cargo=cargo,
        source=source,
        # Crates that were pinned belong to the source that was pinned.
        crates=options.crates or (cargo.crates if options.source is None else None),
        features=tuple(sorted(set(features))),
        libc=libc,
        seccomp=cargo.seccomp is not None and cargo.seccomp in features,
        policy_file=cargo.policy_file if cargo.policy is not None and cargo.policy in features else None,
    )
