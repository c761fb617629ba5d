from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import docker.errors
import pytest
import requests

from osbuilder.engine import choose, images
from osbuilder.engine.choose import EngineReport
from osbuilder.engine.daemon import Endpoint, translated
from osbuilder.errors import EngineError, Interrupted, ToolMissing
from osbuilder.settings import EngineChoice, Settings

ENDPOINT = Endpoint(url="unix:///run/engine.sock")


def _settings(engine: EngineChoice = EngineChoice.AUTO, **fields: object) -> Settings:
    return Settings(engine=engine, **fields)  # type: ignore[arg-type]


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine on this host."""

    def no_daemon(name: str, settings: Settings) -> EngineReport:
        return EngineReport(name=name, works=False, found="no socket", packages=(name,), commands=(f"start {name}",))

    def no_sandbox() -> EngineReport:
        return EngineReport(name="sandbox", works=False, found="bubblewrap not installed", packages=("bubblewrap",))

    monkeypatch.setattr(choose, "_probe_daemon", no_daemon)
    monkeypatch.setattr(choose, "probe_sandbox", no_sandbox)


@pytest.mark.usefixtures("nothing")
def test_when_nothing_works_everything_missing_is_listed_with_what_mends_it() -> None:
    with pytest.raises(ToolMissing) as caught:
        choose.choose_engine(_settings(), trees=Path("/trees"))
    assert caught.value.message.splitlines() == [
        "no engine works on this host:",
        "  docker: no socket",
        "  podman: no socket",
        "  sandbox: bubblewrap not installed",
    ]
    assert caught.value.hint == (
        "Run one of: sudo apt-get install docker && start docker or "
        "sudo apt-get install podman && start podman or sudo apt-get install bubblewrap"
    )


@pytest.mark.usefixtures("nothing")
def test_only_the_engine_that_was_asked_for_is_probed() -> None:
    assert [report.name for report in choose.detect(_settings(EngineChoice.PODMAN))] == ["podman"]
    assert [report.name for report in choose.detect(_settings())] == ["docker", "podman", "sandbox"]


@pytest.mark.usefixtures("nothing")
def test_auto_falls_back_to_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "probe_sandbox", lambda: EngineReport(name="sandbox", works=True, found="works"))
    assert choose.choose_engine(_settings(), trees=Path("/trees")).name == "sandbox"


@pytest.mark.parametrize(
    ("engine", "probe"), [(EngineChoice.DOCKER, "_within"), (EngineChoice.SANDBOX, "_try_sandbox")]
)
def test_who_is_stopped_while_engines_are_probed_tries_no_other(
    monkeypatch: pytest.MonkeyPatch, engine: EngineChoice, probe: str
) -> None:
    def stop(*arguments: object, **options: object) -> NoReturn:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(choose, probe, stop)
    monkeypatch.setattr("shutil.which", lambda program: program)
    monkeypatch.setattr("osbuilder.engine.namespaces.own_ranges", lambda: None)
    with pytest.raises(Interrupted):
        choose.detect(_settings(engine, engine_url="tcp://127.0.0.1:1"))


def test_a_users_own_socket_comes_before_the_systems() -> None:
    assert choose.sockets("podman", Path("/run/user/7")) == (
        Path("/run/user/7/podman/podman.sock"),
        Path("/run/podman/podman.sock"),
    )
    assert choose.sockets("docker", None) == (Path("/var/run/docker.sock"),)


def test_a_socket_that_is_not_there_is_told_with_the_package_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "sockets", lambda name, folder: (folder / f"{name}.sock",))
    settings = _settings(EngineChoice.PODMAN, runtime_folder=tmp_path)
    (report,) = choose.detect(settings)
    assert not report.works
    assert report.packages == ("podman",)
    assert report.remedies[0] == "sudo apt-get install podman"


def test_ubuntus_restriction_is_named_with_the_setting_that_lifts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "apparmor_restrict_unprivileged_userns"
    file.write_text("1\n")
    rows = ((str(tmp_path / "none"), "0", "none", "1"), (str(file), "1", "kernel.apparmor_restrict", "0"))
    monkeypatch.setattr(choose, "_NAMESPACE_SETTINGS", rows)
    report = choose._explain_refusal(EngineError("setting up uid map: Permission denied"))
    assert report.found == "kernel.apparmor_restrict=1 forbids user namespaces"
    assert report.remedies == ("sudo sysctl -w kernel.apparmor_restrict=0",)
    file.write_text("0\n")
    assert choose._explain_refusal(EngineError("other")).found == "other"


def test_a_full_disk_of_the_engine_is_told_with_what_frees_it() -> None:
    refusal = docker.errors.APIError("500", explanation="write /var: no space left on device")
    with (
        pytest.raises(EngineError, match="importing failed: the engine says: write /var") as caught,
        translated("importing", ENDPOINT),
    ):
        raise refusal
    assert "docker system prune" in caught.value.hint


def test_a_daemon_that_went_away_is_told_without_the_client_librarys_wrapping() -> None:
    wrapped = requests.exceptions.ConnectionError("HTTPConnectionPool(...)")
    wrapped.__cause__ = ConnectionRefusedError(111, "Connection refused")
    with pytest.raises(EngineError) as caught, translated("running make", ENDPOINT):
        raise wrapped
    assert caught.value.message == (
        "the engine went away while running make (unix:///run/engine.sock): Connection refused"
    )


def test_an_import_that_the_engine_refuses_is_an_error() -> None:
    with pytest.raises(EngineError, match="the engine refuses: bad tar"):
        images._last('{"status":"ok"}\r\n{"errorDetail":{"message":"bad tar"},"error":"bad tar"}\r\n')
