"""Settings: flag > OSBUILDER_* environment > osbuilder.yaml in the working directory > the project's default.

The only reader of the environment. What a request asks for (a distribution, a kernel line) is no setting; its defaults
are in versions.yaml and the recipes. Each field of Settings is one setting; everything else here is derived from them.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from osbuilder import decode
from osbuilder.errors import UsageError, suggest
from osbuilder.kata.table import VARIABLES
from osbuilder.userpath import parse_path

FILE: Final = "osbuilder.yaml"
PREFIX: Final = "OSBUILDER_"
FALLBACK: Final = "Kata's environment"

# What every format that is written holds: an initrd's field for a time has 32 bits, and no sign.
_EPOCH_MAX: Final = 2**32 - 1


class EngineChoice(enum.Enum):
    """Which engine runs commands; auto takes the first that works: Docker, Podman, the sandbox."""

    AUTO = "auto"
    DOCKER = "docker"
    PODMAN = "podman"
    SANDBOX = "sandbox"


class Transfer(enum.Enum):
    """How files reach a container engine: as bind mounts, or as archives through its API (a remote daemon)."""

    AUTO = "auto"
    BIND = "bind"
    ARCHIVE = "archive"


class Foreign(enum.Enum):
    """How packages are configured for another architecture than this machine's, where their scripts would run.

    carried: as a native twin of the same packages was; emulated: by their own programs, in qemu-user.
    """

    CARRIED = "carried"
    EMULATED = "emulated"


class QemuChoice(enum.Enum):
    """Where QEMU runs: on the host where it is installed, or in a builder."""

    AUTO = "auto"
    HOST = "host"
    BUILDER = "builder"


class Accel(enum.Enum):
    """What a guest runs on: auto tries KVM with a real guest and falls back to TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


def _setting(default: Any, doc: str, *environment: str, secret: bool = False, blanks: bool = False) -> Any:
    """Declare a setting: its default, a line of help, and further environment names that the field's tools know.

    The value of a `secret` one is never shown. With `blanks` the values of a distribution may have blanks in them.
    """
    metadata = {"doc": doc, "environment": environment, "secret": secret, "blanks": blanks}
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The effective settings. Build one with `load_settings`."""

    store: Path | None = _setting(None, "artifacts, downloads and caches (default: osbuilder in the user's cache)")
    build: Path = _setting(Path("build"), "where results appear, as <build>/<arch>/")
    engine: EngineChoice = _setting(EngineChoice.AUTO, "auto, docker, podman or sandbox")
    engine_url: str | None = _setting(None, "address of the Docker or Podman API", "DOCKER_HOST", "CONTAINER_HOST")
    engine_certificates: Path | None = _setting(
        None, "folder of ca.pem, cert.pem and key.pem for an engine that wants TLS", "DOCKER_CERT_PATH"
    )
    engine_transfer: Transfer = _setting(Transfer.AUTO, "auto, bind, or archive for a remote daemon")
    base_image: str | None = _setting(None, "image (with digest) to bootstrap builders in, where a registry answers")
    jobs: int | None = _setting(None, "processes at once (default: the CPUs of this machine)")
    mirrors: Mapping[str, tuple[str, ...]] = _setting(
        dict, "a distribution's mirrors in order: debian=URL,URL (default: its recipe's, or its tool's own)"
    )
    archives: Mapping[str, tuple[str, ...]] = _setting(
        dict,
        "what apt uses beside mirrors that are named: debian=URL SUITE COMPONENT..., instead of the recipe's of that"
        " suite or besides; debian=none: nothing of the recipe's (default: the recipe's)",
        blanks=True,
    )
    components: Mapping[str, tuple[str, ...]] = _setting(
        dict, "a distribution's components: debian=main,contrib (default: the recipe's)"
    )
    keyrings: Mapping[str, tuple[str, ...]] = _setting(
        dict, "the keys of a distribution's own mirrors: debian=FILE (default: those that the recipe pins)"
    )
    foreign: Foreign = _setting(
        Foreign.CARRIED, "carried or emulated: how packages are configured for another architecture than this one"
    )
    kernel_keys: Path | None = _setting(
        None, "public keys of who signs kernels, a file or a folder: set, signatures are checked (default: only sha256)"
    )
    module_signing_key: Path | None = _setting(
        None,
        "PEM file of an RSA key and its certificate: kernel modules are signed with it (default: they are not)",
    )
    module_signing_pin: str | None = _setting(
        None, "what opens that key, if it is encrypted", "KBUILD_SIGN_PIN", secret=True
    )
    qemu: QemuChoice = _setting(QemuChoice.AUTO, "auto, host or builder")
    accel: Accel = _setting(Accel.AUTO, "auto, kvm or tcg")
    keep_failed: bool = _setting(
        False, "keep the folders of a step whose command failed, to run it by hand: true or false"
    )
    source_date_epoch: int | None = _setting(
        None, "timestamp of everything that is built, in seconds (default: from the pins)", "SOURCE_DATE_EPOCH"
    )
    offline: bool = _setting(False, "use no network: true or false; `inv fetch` gets what a build needs beforehand")
    http_proxy: str | None = _setting(None, "proxy for http", "http_proxy")
    https_proxy: str | None = _setting(None, "proxy for https", "https_proxy", "HTTPS_PROXY")
    no_proxy: str | None = _setting(None, "hosts that are reached without a proxy", "no_proxy", "NO_PROXY")
    ca_bundle: Path | None = _setting(
        None, "certificate authorities for https (PEM)", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"
    )
    connect_timeout_s: int = _setting(10, "give up on connecting to a mirror after this many seconds")
    read_timeout_s: int = _setting(30, "give up on a mirror that sends nothing for this many seconds")
    attempts: int = _setting(3, "tries at each mirror before the next one")

    # Facts of the environment that are not settings but that only this module may read.
    cache_home: Path = dataclasses.field(default=Path("/"), metadata={"derived": True})
    runtime_folder: Path | None = dataclasses.field(default=None, metadata={"derived": True})
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, metadata={"derived": True})

    def __post_init__(self) -> None:
        for name in ("jobs", "connect_timeout_s", "read_timeout_s", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"setting {name} ({self._origin(name)}): expected 1 or more, got {value}")
        epoch = self.source_date_epoch
        if epoch is not None and not 0 <= epoch <= _EPOCH_MAX:
            raise UsageError(
                f"setting source_date_epoch ({self._origin('source_date_epoch')}): expected seconds since 1970, "
                f"from 0 to {_EPOCH_MAX}, got {epoch}",
                hint="`git log -1 --format=%ct` prints those of a commit.",
            )
        for distro, addresses in self.mirrors.items():
            if any(not _is_address(address) for address in addresses):
                raise UsageError(
                    f"setting mirrors ({self._origin('mirrors')}): expected URLs for {distro}, got one that is none"
                )

    def _origin(self, name: str) -> str:
        return self.origins.get(name, "default")

    @property
    def store_path(self) -> Path:
        """The store's folder, absolute."""
        return (self.store or self.cache_home / "osbuilder").absolute()

    @property
    def build_path(self) -> Path:
        """The folder where results appear, absolute."""
        return self.build.absolute()

    @property
    def jobs_count(self) -> int:
        """How many processes may run at once."""
        return self.jobs or len(os.sched_getaffinity(0))

    @property
    def proxies(self) -> Mapping[str, str]:
        """The proxy variables that commands with a network get."""
        pairs = {"http_proxy": self.http_proxy, "https_proxy": self.https_proxy, "no_proxy": self.no_proxy}
        return {name: value for name, value in pairs.items() if value}


def fields() -> tuple[dataclasses.Field[Any], ...]:
    """Return the dataclass fields that are settings, in order."""
    return tuple(field for field in dataclasses.fields(Settings) if not field.metadata.get("derived"))


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    fallbacks: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Return the effective settings; a flag that is None was not given. `fallbacks` (texts) win over defaults alone.

    Raises UsageError for a value that does not fit, naming where it came from, and DecodeError for osbuilder.yaml.
    """
    environment = os.environ if environment is None else environment
    path = (folder or Path.cwd()) / FILE
    in_file = decode.load(path, _file_model()) if path.exists() else None
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in flags or {}:
        _known(name, {field.name for field in fields()}, "setting")
    for field in fields():
        value, origin = _effective(field, flags or {}, environment, in_file)
        if origin == "default" and field.name in (fallbacks or {}):
            origin = FALLBACK
            value = parse_value(field.name, (fallbacks or {})[field.name], origin)
        if origin != "default":
            values[field.name] = value
        origins[field.name] = origin
    _refuse_unknown(environment)
    cache = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "/", ".cache"))
    runtime = environment.get("XDG_RUNTIME_DIR")
    return Settings(
        **values,
        cache_home=parse_path(cache, "XDG_CACHE_HOME"),
        runtime_folder=Path(runtime) if runtime else None,
        origins=types.MappingProxyType(origins),
    )


def parse_flags(texts: Iterable[str]) -> Mapping[str, str]:
    """Return settings by name of texts NAME=VALUE; one for distributions may come several times, and is put together.

    Raises UsageError for what is no such text, and for another setting that comes twice.
    """
    flags: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--setting {text}: expected NAME=VALUE", hint="`inv settings` lists the names.")
        if name in flags and not _is_mapping(name):
            raise UsageError(f"--setting {name}: expected it once, got it twice")
        flags[name] = f"{flags[name]} {value}" if name in flags else value
    return flags


def without_login(proxy: str, instead: str = "") -> str:
    """Return a proxy's address with something instead of a name and password; its scheme may be left out."""
    return re.sub(r"^(\w+://)?.*@", rf"\g<1>{instead}", proxy)


def read_kata_variables() -> Mapping[str, str]:
    """Return the variables of Kata's scripts that are set and not empty (osbuilder.kata.table says what they mean)."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def _effective(
    field: dataclasses.Field[Any], flags: Mapping[str, object], environment: Mapping[str, str], in_file: Any
) -> tuple[Any, str]:
    if flags.get(field.name) is not None:
        return parse_value(field.name, str(flags[field.name]), "flag"), "flag"
    own = f"{PREFIX}{field.name.upper()}"
    if environment.get(own):
        return parse_value(field.name, environment[own], own), own
    value = getattr(in_file, field.name, None)
    if value is not None:
        return (parse_path(str(value), f"setting {field.name} ({FILE})") if isinstance(value, Path) else value), FILE
    # Names that other tools share are weaker than a file that was written for osbuilder.
    for name in field.metadata["environment"]:
        if environment.get(name):
            return parse_value(field.name, environment[name], name), name
    return None, "default"


def parse_value(name: str, text: str, origin: str) -> Any:
    """Return a setting's value from its text. Raises UsageError naming the setting and where the text came from."""
    kind = _kind(typing.get_type_hints(Settings)[name])
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"setting {name} ({origin}): expected a whole number, got {text!r}") from None
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"setting {name} ({origin}): expected true or false, got {text!r}")
        return text == "true"
    if kind is Path:
        return parse_path(text, f"setting {name} ({origin})")
    if typing.get_origin(kind) is Mapping:
        return types.MappingProxyType(dict(_parse_pairs(name, text, origin)))
    if issubclass(kind, enum.Enum):
        try:
            return kind(text)
        except ValueError:
            raise UsageError(
                f"setting {name} ({origin}): unknown value {text!r}", hint=suggest(text, (m.value for m in kind))
            ) from None
    return kind(text)


def _is_mapping(name: str) -> bool:
    hint = typing.get_type_hints(Settings).get(name)
    return typing.get_origin(_kind(hint)) is Mapping


def _pairs(name: str, text: str) -> list[str]:
    (field,) = (field for field in fields() if field.name == name)
    # A value with blanks ends where the next NAME= begins.
    return re.split(r"\s+(?=[a-z0-9][a-z0-9-]*=)", text.strip()) if field.metadata["blanks"] else text.split()


def _parse_pairs(name: str, text: str, origin: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    seen: set[str] = set()
    for pair in _pairs(name, text):
        distro, items = _parse_pair(name, pair, origin)
        if distro in seen:
            raise UsageError(f"setting {name} ({origin}): expected {distro} once, got it twice")
        seen.add(distro)
        yield distro, items


def _parse_pair(name: str, pair: str, origin: str) -> tuple[str, tuple[str, ...]]:
    distro, equals, items = pair.partition("=")
    if not (distro and equals and items):
        raise UsageError(f"setting {name} ({origin}): expected NAME=VALUE,VALUE (debian=...), got {pair!r}")
    return distro, tuple(" ".join(item.split()) for item in items.split(","))


def _is_address(text: str) -> bool:
    """Whether a text can be read as a URL, its port too; what kind of address is wanted is not asked here."""
    try:
        return urlsplit(text).port != 0
    except ValueError:
        return False


def _kind(hint: Any) -> Any:
    """Return X of `X | None`, else the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(argument for argument in typing.get_args(hint) if argument is not types.NoneType)
    return hint


@functools.cache
def _file_model() -> type:
    """Return the model of osbuilder.yaml: every setting, all of them optional."""
    hints = typing.get_type_hints(Settings)
    members = []
    for field in fields():
        kind = _kind(hints[field.name])
        members.append((field.name, kind | None, dataclasses.field(default=None)))
    return dataclasses.make_dataclass("SettingsFile", members, frozen=True, kw_only=True)


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{field.name.upper()}" for field in fields()}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in VARIABLES:
            _known(name, known, "setting in the environment:")


def _known(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise UsageError(f"unknown {what} {name}", hint=suggest(name, known))
