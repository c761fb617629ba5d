"""What all tests share: strictness about prerequisites, and one workbench for what is expensive to build.

A test whose prerequisite this machine lacks skips with a reason, and the last lines of the run repeat the reasons; so
does one that ends for such a lack (tests/prerequisites.py). With --strict-prerequisites, or CI=true in the environment,
such a skip is a failure: a run that left something out is not green.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.groups import group_of, missing, place_of
from tests.prerequisites import lacking

if TYPE_CHECKING:
    from osbuilder.api import Workbench

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-prerequisites",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="a test that cannot run here fails instead of being skipped",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a module that would disturb others; a process that shares the tests with another takes long ones first."""
    asked: dict[Path, set[str]] = {}
    for item in items:
        asked.setdefault(item.path, set()).update(getattr(item, "fixturenames", ()))
    for path, fixtures in asked.items():
        if group := missing(path, fixtures):
            raise pytest.UsageError(
                f"{path.name} belongs into the group {group} of tests/groups.py, for what it asks for"
            )
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests by their groups. (--dist loadgroup reads a name that pytest has no more since 9.2.)"""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped] # it has types, and does not say so

    class ByGroup(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return ByGroup(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure() -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, and whatever the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo and (lack := lacking(call.excinfo.value, in_setup=call.when == "setup")):
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (path, (line or 0) + 1, f"Skipped: {lack}")
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--strict-prerequisites"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} could not run here: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and collector.config.getoption("--strict-prerequisites"):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} could not run here: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = sorted({report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)})
    if reasons:
        terminalreporter.section("not run on this machine")
        for reason in reasons:
            terminalreporter.write_line(reason.removeprefix("Skipped: "))


@pytest.fixture(scope="module", autouse=True)
def user_store(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """The user's store keeps what costs time and is for everybody, and nothing of mirrors that are gone with a test.

    None for tests that build nothing.
    """
    from osbuilder.settings import load_settings
    from tests.loopback import Made, make_room, nothing_of_it_stays

    if request.path.parent.name not in ("boot", "integration"):
        yield None
        return
    store = load_settings().store_path
    make_room(store)
    with nothing_of_it_stays(Made(store)):
        yield store


@pytest.fixture(autouse=True)
def room_on_the_disk(user_store: Path | None) -> None:
    """Room for what a test builds, where the disk is nearly full."""
    from tests.loopback import make_room

    if user_store is not None:
        make_room(user_store, between_tests=True)


@pytest.fixture(scope="session")
def alpine_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The settings that name a small Alpine mirror on loopback, of this machine's busybox and musl, and its key."""
    from tests.mirrors.alpine import BUSYBOX, MUSL, alpine
    from tests.mirrors.apk import SigningKey
    from tests.servers import FaultyServer, Reply

    if not (BUSYBOX.is_file() and MUSL.is_file()):
        pytest.skip("Alpine's mirror is made of the packages busybox-static and musl, which are not installed")
    key = SigningKey.named()
    keyring = tmp_path_factory.mktemp("keys") / key.name
    keyring.write_bytes(key.public)
    with FaultyServer() as server:
        for name, content in alpine(key).items():
            server.serve(f"/alpine/{name}", Reply(body=content))
        yield (f"mirrors=alpine={server.url}/alpine", f"keyrings=alpine={keyring}")


@pytest.fixture(scope="session")
def gentoo_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The settings that name a small Gentoo mirror on loopback, of this machine's busybox, and its key."""
    from tests.mirrors.alpine import BUSYBOX
    from tests.mirrors.stage3 import KEY, gentoo
    from tests.servers import FaultyServer, Reply

    if not BUSYBOX.is_file():
        pytest.skip("Gentoo's mirror is made of the package busybox-static, which is not installed")
    keyring = tmp_path_factory.mktemp("keys") / "gentoo.gpg"
    keyring.write_bytes(KEY.public())
    with FaultyServer() as server:
        for name, content in gentoo().items():
            server.serve(f"/{name}", Reply(body=content))
        yield (f"mirrors=gentoo={server.url}", f"keyrings=gentoo={keyring}")


@pytest.fixture(scope="session")
def oci_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty docker-registry on loopback."""
    from tests.mirrors.alpine import BUSYBOX
    from tests.mirrors.images import can_serve, registry

    if not (can_serve() and BUSYBOX.is_file()):
        pytest.skip("images need the packages docker-registry and busybox-static, which are not installed")
    with registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture(scope="session")
def ubuntu_settings(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The settings that name a small Ubuntu mirror on loopback and its key."""
    from tests.mirrors import ubuntu
    from tests.mirrors.rpm import served

    folder = tmp_path_factory.mktemp("ubuntu")
    ubuntu.lay_out(bench, folder / "mirror")
    with served(folder / "mirror") as url:
        yield ubuntu.settings_for(url, folder)


@pytest.fixture(scope="session")
def rpm_mirror(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """The address, on 127.0.0.1, of a mirror of every recipe of the rpm family."""
    from tests.mirrors.rpm import family, lay_out, served
    from tests.mirrors.rpm_guest import guest_step

    folder = tmp_path_factory.mktemp("rpm") / "mirror"
    lay_out(bench, guest_step(bench), family().values(), folder)
    with served(folder) as url:
        yield url


@pytest.fixture(scope="session")
def arch_mirror(
    bench: Workbench, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[str, Mapping[str, bytes]], None, None]:
    """The address, on 127.0.0.1, of a mirror of Arch Linux, and the files of its repositories."""
    from osbuilder.distro.recipe import find_recipe
    from tests.mirrors.pacman import guest, lay_out, repository
    from tests.mirrors.rpm import served

    folder = tmp_path_factory.mktemp("pacman")
    files = repository(guest(bench))
    lay_out(files, find_recipe("archlinux", bench.planner.distros), folder / "mirror")
    with served(folder / "mirror") as url:
        yield url, files


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench on the user's own store: what was built before from the same inputs is not built again.

    In the sandbox where there is one: without a daemon's filesystem in between, compiling takes less of the machine.
    What engines could differ in has tests of its own, on each of them.
    """
    from osbuilder.api import open_workbench
    from osbuilder.engine.choose import probe_sandbox

    engine = "sandbox" if probe_sandbox().works else "auto"
    build = tmp_path_factory.mktemp("build")
    return open_workbench((f"engine={engine}", f"build={build}"), stream=sys.stderr, root=ROOT)


@pytest.fixture
def builders(bench: Workbench) -> None:
    """The builders that nearly everything needs, for tests that would take the lack of one for a fault of ours."""
    for name in ("compiler", "rootfs"):
        bench.executor.run(bench.planner.builder(name))
