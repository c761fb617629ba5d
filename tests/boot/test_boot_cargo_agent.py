"""A guest with an agent that does not report is judged by what it prints on its console."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from osbuilder.agents.build import BUILDER, plan_agent
from osbuilder.agents.pin import AgentOptions, Libc, SourcePin
from osbuilder.api import Workbench
from osbuilder.arch import host_arch
from osbuilder.errors import BootError, UsageError
from osbuilder.guest.ready import Ready
from osbuilder.request import BootRequest, InitrdRequest, KernelRequest, RootfsRequest
from tests.integration.test_cargo_agent import CRATE, PIN

SERVES = Ready(console=r"^tiny-agent [0-9.]+-test serves: .*pid 1")


@pytest.fixture(scope="module")
def initrd(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initrd of nothing but the agent of tests/crates."""
    options = AgentOptions(libc=Libc.GNU, source=SourcePin(tree=str(CRATE)))
    builder = functools.partial(bench.planner.builder, BUILDER)
    step = plan_agent("tiny", PIN, options, host_arch(), builder=builder, root=CRATE)
    agent = tmp_path_factory.mktemp("agent") / PIN.install
    agent.write_bytes(bench.executor.run(step).path("agent").read_bytes())
    return bench.build(InitrdRequest(rootfs=RootfsRequest(distro="scratch", agent=str(agent)))).files[0]


@pytest.fixture(scope="module")
def kernel(bench: Workbench) -> str:
    return str(bench.build(KernelRequest()).files[0])


def test_a_guest_is_up_when_a_line_of_its_console_matches(bench: Workbench, initrd: Path, kernel: str) -> None:
    request = BootRequest(initrd=initrd, kernel=kernel, ready=SERVES)
    outcome = bench.boot(request)
    outcome.check()
    assert outcome.boot.ready == "tiny-agent 0.3.1-test serves: seccomp, free, sum 733, pid 1"
    assert f"ready: {outcome.boot.ready}" in outcome.table()
    assert outcome.boot.wall_s < request.timeout_s


def test_a_guest_that_never_says_so_is_not_up(bench: Workbench, initrd: Path, kernel: str) -> None:
    with pytest.raises(BootError, match="no line of its console matches 'never'; it was still running") as caught:
        bench.boot(BootRequest(initrd=initrd, kernel=kernel, ready=Ready(console="never"), timeout_s=15))
    assert "tiny-agent 0.3.1-test serves" in caught.value.console


def test_a_pattern_that_grep_refuses_is_told_apart(bench: Workbench, initrd: Path, kernel: str) -> None:
    with pytest.raises(UsageError, match=r"ready 'a\(': expected an extended regular expression, .*Unmatched \("):
        bench.boot(BootRequest(initrd=initrd, kernel=kernel, ready=Ready(console="a(")))
