"""The doctor names what is missing, the command that mends it, and changes nothing unasked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from osbuilder.doctor import Check, Checkup, examine
from osbuilder.engine.choose import EngineReport
from osbuilder.errors import ToolMissing
from osbuilder.settings import load_settings

WELL = Check(name="store", well=True, found="/store")
WITHOUT = Check(name="KVM", well=False, found="cannot be opened", needed=False)
MISSING = Check(name="mmdebstrap", well=False, found="not installed", packages=("mmdebstrap",))
BY_HAND = Check(name="engine", well=False, found="forbidden", by_hand=("sudo sysctl x=1",))


def install(checkup: Checkup) -> list[str]:
    return [word for command in checkup.commands() for word in command if word != "sudo"]


def test_a_host_that_has_everything_needed_is_well() -> None:
    checkup = Checkup(checks=(WELL, WITHOUT))
    assert checkup.commands() == ()
    checkup.check()
    assert [line.split()[0] for line in checkup.table().splitlines()] == ["ok", "without"]


def test_what_is_missing_is_named_with_the_command_that_mends_it() -> None:
    checkup = Checkup(checks=(WELL, MISSING))
    assert install(checkup)[-1] == "mmdebstrap"
    with pytest.raises(ToolMissing, match=r"this host lacks mmdebstrap \(not installed\)") as caught:
        checkup.check()
    assert "apt-get install --yes --no-install-recommends mmdebstrap" in caught.value.hint


def test_what_more_than_a_package_mends_is_only_shown() -> None:
    checkup = Checkup(checks=(BY_HAND,))
    assert checkup.commands() == ()
    with pytest.raises(ToolMissing) as caught:
        checkup.mend(confirm=None, dry=False, say=lambda line: None)
    assert caught.value.hint == "by hand: sudo sysctl x=1"


def test_a_way_that_mends_two_things_is_told_once() -> None:
    with pytest.raises(ToolMissing) as caught:
        Checkup(checks=(BY_HAND, BY_HAND)).check()
    assert caught.value.hint == "by hand: sudo sysctl x=1"


@pytest.mark.parametrize(("uid", "line"), [(1000, "sudo usermod --add-subuids 1-9 somebody"), (0, "")])
def test_an_ordinary_user_without_subordinate_ids_lacks_them_though_an_engine_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, line: str
) -> None:
    def none_there() -> None:
        raise ToolMissing("user somebody has no subordinate ids", hint=line)

    works = (EngineReport(name="docker", works=True, found="here"),)
    monkeypatch.setattr("osbuilder.engine.choose.detect", lambda settings: works)
    monkeypatch.setattr("osbuilder.engine.namespaces.own_ranges", none_there)
    monkeypatch.setattr("osbuilder.doctor.os.geteuid", lambda: uid)
    settings = load_settings({"store": str(tmp_path)}, environment={}, folder=tmp_path)
    found = {check.name: check for check in examine(settings).missing}
    assert ("subordinate ids" in found) is bool(uid)
    if uid:
        assert found["subordinate ids"].by_hand == (line,)
        assert found["subordinate ids"].found == "user somebody has no subordinate ids; mmdebstrap needs them"


def test_nothing_runs_without_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("osbuilder.doctor.subprocess.run", run)
    monkeypatch.setattr("osbuilder.doctor.shutil.which", lambda name: name)
    said: list[str] = []
    checkup = Checkup(checks=(MISSING,))
    with pytest.raises(ToolMissing):
        checkup.mend(confirm=lambda question: False, dry=False, say=said.append)
    checkup.mend(confirm=lambda question: True, dry=True, say=said.append)
    assert ran == []
    checkup.mend(confirm=lambda question: True, dry=False, say=said.append)
    assert [command[-1] for command in ran] == ["update", "mmdebstrap"]
    assert any("apt-get update" in line for line in said)


def test_what_has_to_be_set_up_is_run_after_the_packages_it_needs() -> None:
    emulation = Check(name="emulation", well=False, found="no", packages=("qemu-user-static",), setup=(("mount", "x"),))
    commands = [[word for word in command if word != "sudo"] for command in Checkup(checks=(emulation,)).commands()]
    assert [command[0] for command in commands] == ["apt-get", "apt-get", "mount"]
