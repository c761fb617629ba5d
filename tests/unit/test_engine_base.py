from __future__ import annotations

from pathlib import Path

from osbuilder.engine import base
from osbuilder.engine.base import Command


def test_a_command_gets_its_whole_environment_from_env_in_a_fixed_order() -> None:
    command = Command(argv=("make", "-j2"), env=(("Z", "1"), ("A", "x y")))
    assert base.exec_argv(command, proxies={"http_proxy": "http://proxy"}) == (
        "/usr/bin/env",
        "-i",
        "A=x y",
        "HOME=/tmp",
        "LANG=C.UTF-8",
        "LC_ALL=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TZ=UTC",
        "Z=1",
        "make",
        "-j2",
    )


def test_proxies_reach_only_a_command_with_a_network() -> None:
    proxies = {"https_proxy": "http://proxy"}
    assert "https_proxy=http://proxy" in base.exec_argv(Command(argv=("a",), network=True), proxies=proxies)
    assert "https_proxy=http://proxy" not in base.exec_argv(Command(argv=("a",)), proxies=proxies)


def test_root_never_gets_the_capability_to_mount() -> None:
    assert "SYS_ADMIN" not in base.ROOT_CAPABILITIES
    assert list(base.ROOT_CAPABILITIES) == sorted(set(base.ROOT_CAPABILITIES))


def test_a_killed_command_is_explained(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("compiling\n")
    error = base.command_failed(("make",), "builder kernel", status=137, log=log)
    assert error.message == f"make exited with status 137 (builder kernel, log {log})"
    assert error.tail == "compiling"
    assert "memory" in error.hint
    assert base.command_failed(("make",), "builder kernel", status=2, log=log).hint == ""


def test_the_tail_of_a_long_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff" * 100 + b"\n" + b"".join(b"line %d\n" % number for number in range(10000)))
    assert base.log_tail(log, lines=2) == "line 9998\nline 9999"
    assert base.log_tail(tmp_path / "none") == ""
