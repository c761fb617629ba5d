"""Commands with a network trust the user's certificate authorities, where there are any."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.engine.authorities import trusting
from osbuilder.engine.base import Command
from osbuilder.errors import UsageError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "corporate.pem"
    path.touch()
    return path


def test_an_ordinary_user_is_told_by_variables(bundle: Path) -> None:
    plain = Command(argv=("git", "fetch"), env=(("A", "b"),), network=True)
    command, inputs = trusting(plain, {"script": Path("/s")}, bundle)
    assert command.argv == plain.argv
    assert command.tmpfs == ()
    assert dict(command.env) == {
        "A": "b",
        "CARGO_HTTP_CAINFO": "/in/authorities",
        "GIT_SSL_CAINFO": "/in/authorities",
        "SSL_CERT_FILE": "/in/authorities",
    }
    assert inputs == {"script": Path("/s"), "authorities": bundle}


def test_root_finds_them_where_debian_has_its_own(bundle: Path) -> None:
    command, _ = trusting(Command(argv=("dnf", "install", "a b"), root=True, network=True), {}, bundle)
    assert command.argv[:2] == ("sh", "-c")
    assert command.argv[2] == 'cp /in/authorities /etc/ssl/certs/ca-certificates.crt && exec "$@"'
    assert command.argv[4:] == ("dnf", "install", "a b")
    assert command.tmpfs == ("/etc/ssl/certs",)


def test_what_a_command_says_of_itself_wins(bundle: Path) -> None:
    own = Command(argv=("git",), env=(("GIT_SSL_CAINFO", "/own"),), network=True)
    assert dict(trusting(own, {}, bundle)[0].env)["GIT_SSL_CAINFO"] == "/own"


def test_a_bundle_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ca_bundle: no such file"):
        trusting(Command(argv=("git",), network=True), {}, tmp_path / "none")
