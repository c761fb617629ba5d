"""Which engine: what each one needs, whether this host has it, and the commands that mend what is missing.

Every probe tries the real thing (an API call, a sandbox that runs true(1)) under a time limit, and never raises for
what it finds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pwd
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.engine import namespaces
from osbuilder.engine.bubblewrap import Process
from osbuilder.engine.daemon import Daemon, Endpoint, connect, inspect_daemon
from osbuilder.engine.docker import DockerEngine
from osbuilder.engine.sandbox import SandboxEngine
from osbuilder.errors import EngineError, Interrupted, OsbuilderError, ToolMissing
from osbuilder.settings import EngineChoice

if TYPE_CHECKING:
    from osbuilder.engine.base import Engine
    from osbuilder.settings import Settings

_TIMEOUT_S: Final = 5

# Kernel settings that forbid user namespaces to ordinary users: file, the value that forbids, the name of the setting
# and the value that allows. Debian before 11; any kernel; Ubuntu 24.04 and later.
_NAMESPACE_SETTINGS: Final = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone", "1"),
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces", "65536"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns",
        "0",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What a probe found. `packages` (Debian's names) and `commands` (lines for a shell) would mend what is missing.

    `endpoint` is where a container engine answered.
    """

    name: str
    works: bool
    found: str
    packages: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    endpoint: Endpoint | None = None

    @property
    def remedies(self) -> tuple[str, ...]:
        """Everything to run to mend it, in order."""
        install = (f"sudo apt-get install {' '.join(self.packages)}",) if self.packages else ()
        return install + self.commands


def detect(settings: Settings) -> tuple[EngineReport, ...]:
    """Probe the engines that the settings allow, in the order in which auto prefers them."""
    return tuple(probe() for probe in _probes(settings))


def choose_engine(settings: Settings, *, trees: Path) -> Engine:
    """Return the first engine that works of those that the settings allow. `trees`: where the sandbox unpacks builders.

    Raises ToolMissing that says what each one lacks and the commands that mend it.
    """
    reports = []
    for probe in _probes(settings):
        report = probe()
        if not report.works:
            reports.append(report)
        elif report.endpoint is None:
            return SandboxEngine(trees=trees, proxies=settings.proxies)
        else:
            return _on_daemon(report.endpoint, settings)
    lacks = "".join(f"\n  {report.name}: {report.found}" for report in reports)
    ways = " or ".join(" && ".join(report.remedies) for report in reports if report.remedies)
    raise ToolMissing(f"no engine works on this host:{lacks}", hint=f"Run one of: {ways}" if ways else "")


def container_engines(settings: Settings) -> Iterator[DockerEngine]:
    """Yield every container engine that answers, of those that the settings allow."""
    for report in detect(settings):
        if report.works and report.endpoint:
            yield _on_daemon(report.endpoint, settings)


def _on_daemon(endpoint: Endpoint, settings: Settings) -> DockerEngine:
    return DockerEngine(
        endpoint,
        store_id=_store_id(settings),
        proxies=settings.proxies,
        transfer=settings.engine_transfer,
    )


def _store_id(settings: Settings) -> str:
    return hashlib.sha256(f"{os.getuid()}:{settings.store_path}".encode()).hexdigest()[:12]


def _probes(settings: Settings) -> tuple[Callable[[], EngineReport], ...]:
    wanted = settings.engine
    probes: list[Callable[[], EngineReport]] = []
    if wanted in (EngineChoice.AUTO, EngineChoice.DOCKER):
        probes.append(lambda: _probe_daemon("docker", settings))
    if wanted in (EngineChoice.AUTO, EngineChoice.PODMAN):
        probes.append(lambda: _probe_daemon("podman", settings))
    if wanted in (EngineChoice.AUTO, EngineChoice.SANDBOX):
        probes.append(probe_sandbox)
    return tuple(probes)


# Docker and Podman


def sockets(name: str, runtime_folder: Path | None) -> tuple[Path, ...]:
    """Return where an engine's API listens by default: the user's own (rootless) before the system's."""
    relative, system = {
        "docker": ("docker.sock", Path("/var/run/docker.sock")),
        "podman": ("podman/podman.sock", Path("/run/podman/podman.sock")),
    }[name]
    return (runtime_folder / relative, system) if runtime_folder else (system,)


def _probe_daemon(name: str, settings: Settings) -> EngineReport:
    if settings.engine_url:
        return _answer(name, Endpoint(url=settings.engine_url, certificates=settings.engine_certificates))
    there = [path for path in sockets(name, settings.runtime_folder) if path.exists()]
    if not there:
        packages, command = _INSTALL[name]
        commands = (command.format(user=_user()),)
        return EngineReport(
            name=name, works=False, found="no socket: not running", packages=packages, commands=commands
        )
    reports = [_answer(name, Endpoint(url=f"unix://{path}")) for path in there]
    return next((report for report in reports if report.works), reports[0])


_JOIN: Final = "sudo usermod -aG docker {user}   # then log in again"
_START: Final = {"docker": "sudo systemctl start docker", "podman": "systemctl --user restart podman.socket"}
_INSTALL: Final = {
    "docker": (("docker.io",), _JOIN),
    "podman": (("podman",), "systemctl --user enable --now podman.socket"),
}


def _answer(name: str, endpoint: Endpoint) -> EngineReport:
    """Ask a daemon what it is. A daemon of the other kind is no answer."""
    path = Path(endpoint.url.removeprefix("unix://"))
    if endpoint.url.startswith("unix://") and path.exists() and not os.access(path, os.R_OK | os.W_OK):
        found = f"no permission to use {path}"
        return EngineReport(name=name, works=False, found=found, commands=(_JOIN.format(user=_user()),))
    try:
        daemon = _within(lambda: _greet(endpoint))
    except Interrupted:
        raise
    except OsbuilderError as error:
        local = endpoint.url.startswith("unix://")
        return EngineReport(name=name, works=False, found=error.message, commands=(_START[name],) if local else ())
    kind = "podman" if daemon.podman else "docker"
    if kind != name:
        return EngineReport(name=name, works=False, found=f"{endpoint.url} is {kind}")
    rootless = ", rootless" if daemon.rootless else ""
    return EngineReport(name=name, works=True, found=f"{daemon.version}{rootless} at {endpoint.url}", endpoint=endpoint)


def _greet(endpoint: Endpoint) -> Daemon:
    client = connect(endpoint, timeout_s=_TIMEOUT_S)
    try:
        return inspect_daemon(client, endpoint)
    finally:
        client.close()


def _within(ask: Callable[[], Daemon]) -> Daemon:
    """Return what `ask` returns or raises, or raise EngineError after the time limit: ssh(1) may wait for ever."""
    answers: list[Daemon | OsbuilderError] = []

    def work() -> None:
        try:
            answers.append(ask())
        except OsbuilderError as error:
            answers.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(2 * _TIMEOUT_S)
    if not answers:
        raise EngineError(f"no answer within {2 * _TIMEOUT_S} s")
    if isinstance(answers[0], OsbuilderError):
        raise answers[0]
    return answers[0]


# The sandbox


def probe_sandbox() -> EngineReport:
    """Run true(1) in both kinds of sandbox: as nobody, and as root with a full map of ids."""
    missing = [] if shutil.which("bwrap") else ["bubblewrap"]
    missing += [] if os.getuid() == 0 or shutil.which("newuidmap") else ["uidmap"]
    if missing:
        return _without(f"{' and '.join(missing)} not installed", packages=tuple(missing))
    try:
        namespaces.own_ranges()
    except ToolMissing as error:
        return _without(error.message, commands=(error.hint,))
    try:
        for full_map in (False, True):
            _try_sandbox(full_map=full_map)
    except Interrupted:
        raise
    except OsbuilderError as error:
        return _explain_refusal(error)
    return EngineReport(name="sandbox", works=True, found="user namespaces and bubblewrap work")


def _try_sandbox(*, full_map: bool) -> None:
    argv = ["bwrap", "--unshare-user", "--uid", "0" if full_map else "1000", "--unshare-pid", "--unshare-net"]
    argv += ["--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with Process.started(argv, log, full_map=full_map) as process:
            status = process.poll(_TIMEOUT_S)
        if status != 0:
            raise EngineError("true(1) does not end" if status is None else f"true(1) exited with status {status}")


def _explain_refusal(error: OsbuilderError) -> EngineReport:
    for file, forbidding, setting, allowing in _NAMESPACE_SETTINGS:
        path = Path(file)
        if path.exists() and path.read_text(encoding="ascii").strip() == forbidding:
            return _without(
                f"{setting}={forbidding} forbids user namespaces", commands=(f"sudo sysctl -w {setting}={allowing}",)
            )
    return _without(error.message)


def _without(found: str, *, packages: tuple[str, ...] = (), commands: tuple[str, ...] = ()) -> EngineReport:
    return EngineReport(name="sandbox", works=False, found=found, packages=packages, commands=commands)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
