"""A guest whose agent opens a virtio-serial port is up when it has: QEMU tells."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.arch import host_arch
from osbuilder.errors import BootError
from osbuilder.guest.ready import Ready
from osbuilder.request import BootRequest, InitrdRequest, KernelRequest, RootfsRequest
from osbuilder.rootfs.agent import AGENT, BuildProbe
from osbuilder.settings import QemuChoice
from osbuilder.step import Step

PORT = "agent.channel.0"

# An agent as PID 1, with neither udev nor /dev/virtio-ports: it finds its port by name as the driver shows it.
SOURCE = f"""\
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_port(void)
{{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *entry;

	while (ports && (entry = readdir(ports))) {{
		char path[512], name[64] = "";
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		FILE *file = fopen(path, "r");
		if (!file)
			continue;
		if (!fgets(name, sizeof(name), file))
			name[0] = 0;
		fclose(file);
		name[strcspn(name, "\\n")] = 0;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		if (!strcmp(name, "{PORT}"))
			return open(path, O_RDWR);
	}}
	return -1;
}}

int main(void)
{{
	mkdir("/dev", 0755);
	mkdir("/sys", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	int console = open("/dev/console", O_WRONLY);
	dprintf(console, "the agent runs\\n");
	int port = open_port();
	if (port >= 0)
		dprintf(port, "somebody listens\\n");
	dprintf(console, port < 0 ? "no such port\\n" : "the port is open\\n");
	for (;;)
		pause();
}}
"""


@pytest.fixture(scope="module")
def initrd(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initrd of nothing but that agent."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "agent.c").write_text(SOURCE)
    step = Step(
        name="agent",
        subject="port-opener",
        action=BuildProbe.of_folder(folder, host_arch()),
        builder=bench.planner.builder("compiler", host_arch()),
    )
    agent = tmp_path_factory.mktemp("agent") / "port-opener"
    agent.write_bytes(bench.executor.run(step).path(AGENT).read_bytes())
    return bench.build(InitrdRequest(rootfs=RootfsRequest(distro="scratch", agent=str(agent)))).files[0]


@pytest.fixture(scope="module")
def kernel(bench: Workbench) -> str:
    return str(bench.build(KernelRequest()).files[0])


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_a_guest_is_up_when_its_agent_has_opened_the_port(
    bench: Workbench, initrd: Path, kernel: str, machine: str
) -> None:
    request = BootRequest(initrd=initrd, kernel=kernel, machine=machine, ready=Ready(port=PORT))
    outcome = bench.boot(request)
    outcome.check()
    assert outcome.boot.ready == f"the agent has opened its port {PORT}"
    assert f"ready: {outcome.boot.ready}" in outcome.table()
    assert outcome.boot.wall_s < request.timeout_s


def test_it_is_told_the_same_by_qemu_of_a_builder(bench: Workbench, initrd: Path, kernel: str) -> None:
    settings = dataclasses.replace(bench.settings, qemu=QemuChoice.BUILDER)
    other = Workbench(settings, root=bench.root, reporter=bench.executor.reporter)
    outcome = other.boot(BootRequest(initrd=initrd, kernel=kernel, ready=Ready(port=PORT)))
    assert outcome.boot.ready == f"the agent has opened its port {PORT}"


def test_a_guest_whose_agent_opens_another_port_is_not_up(bench: Workbench, initrd: Path, kernel: str) -> None:
    request = BootRequest(initrd=initrd, kernel=kernel, ready=Ready(port="agent.channel.1"), timeout_s=20)
    with pytest.raises(BootError, match=r"nobody opened its port agent\.channel\.1; it was still running") as caught:
        bench.boot(request)
    assert "no such port" in caught.value.console
    assert "virtio-console" in caught.value.hint
