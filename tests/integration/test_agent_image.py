"""The agent out of a container image: from Debian's docker-registry on loopback, and from a layout of this host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.errors import OfflineError, PlanError, UsageError
from osbuilder.pid1 import Init
from osbuilder.request import AgentRequest, RootfsRequest
from osbuilder.tree import Tree
from tests.integration.engines import workbench_under
from tests.mirrors.alpine import BUSYBOX
from tests.mirrors.images import Image, Link, digest, guest, layer, push, write_layout

if not BUSYBOX.is_file():
    pytest.skip("the agent is that of the package busybox-static, which is not installed", allow_module_level=True)

UNIT = "usr/lib/systemd/system/kata-agent.service"
OWN = b"[Service]\nExecStart=/usr/bin/kata-agent --passfd\n"


def agent_image(*names: str, further: dict[str, bytes | Link | None] | None = None) -> Image:
    """Return an image FROM scratch with programs of these names (busybox, which is static), in two layers."""
    old = layer({"usr": None, "usr/bin": None, "usr/bin/old": b"of the layer below", UNIT: b"of the layer below"})
    programs = {f"usr/bin/{name}": BUSYBOX.read_bytes() for name in names}
    return Image(layers=(old, layer({"usr/bin/.wh.old": b"", **programs, UNIT: OWN, **(further or {})}, "zstd")))


IMAGE = agent_image("kata-agent", "helper", further={"etc/kata-opa/default-policy.rego": Link("allow-all.rego")})


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A workbench with a store of its own: everything is asked for."""
    return workbench_under("sandbox", tmp_path, f"store={tmp_path}/store", "attempts=1", "read_timeout_s=2")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "layout", {"1": IMAGE})


def rootfs(bench: Workbench, agent: str, arch: str = "x86_64") -> Tree:
    """Return the root of nothing but an agent."""
    request = RootfsRequest(distro="scratch", agent=agent, arch=arch)
    return Tree.read(bench.build(request).artifact.path("rootfs.tar"))


def test_an_agent_comes_from_a_registry_with_what_belongs_to_it(bench: Workbench, oci_registry: str) -> None:
    pushed = push(oci_registry, "team/agent", "3.1", IMAGE)
    agent = f"oci:{oci_registry.removeprefix('http://')}/team/agent:3.1"
    tree = rootfs(bench, agent)
    assert tree.resolve("sbin/init") == "usr/bin/kata-agent"
    assert tree.read_bytes("usr/bin/kata-agent") == BUSYBOX.read_bytes()
    assert tree.exists("usr/bin/helper")
    assert not tree.exists("usr/bin/old")
    assert tree.exists("etc/kata-opa/default-policy.rego")
    assert not tree.exists(UNIT)  # the agent is init
    summary = tree.read_bytes("var/lib/osbuilder/osbuilder.yaml").decode()
    assert '  name: "kata-agent"\n' in summary
    assert f'  version: "{pushed}"\n' in summary


def test_its_units_are_its_own_where_systemd_is_init(bench: Workbench, layout: Path) -> None:
    request = RootfsRequest(provision=_systemd_tree(layout.parent), agent=f"oci:{layout}", init=Init.SYSTEMD)
    tree = Tree.read(bench.build(request).artifact.path("rootfs.tar"))
    assert tree.read_bytes(UNIT) == OWN
    assert b"kata-agent.service" in tree.read_bytes("usr/lib/systemd/system/kata-containers.target")


def test_the_agent_alone_is_called_what_the_image_calls_it(bench: Workbench, layout: Path) -> None:
    built = bench.build(AgentRequest(agent=f"oci:{layout}:1"))
    assert built.files[0].name == "kata-agent"
    assert built.files[0].read_bytes() == BUSYBOX.read_bytes()
    assert built.artifact.facts["files"] > 0


def test_the_same_image_is_the_same_agent_wherever_it_is(bench: Workbench, layout: Path, oci_registry: str) -> None:
    push(oci_registry, "team/agent", "same", IMAGE)
    first = bench.build(AgentRequest(agent=f"oci:{layout}")).artifact
    named = f"oci:{oci_registry.removeprefix('http://')}/team/agent@{digest(IMAGE.manifest)}"
    second = bench.build(AgentRequest(agent=named)).artifact
    assert first.digest == second.digest


def test_the_summary_tells_the_image_that_it_is_also_where_another_one_has_the_same_files(
    bench: Workbench, tmp_path: Path
) -> None:
    again = dataclasses.replace(IMAGE, config_changes={"author": "Somebody else"})
    for number, image in enumerate((IMAGE, again)):
        place = write_layout(tmp_path / str(number), {"1": image})
        summary = rootfs(bench, f"oci:{place}").read_bytes("var/lib/osbuilder/osbuilder.yaml").decode()
        assert f'  version: "{digest(image.manifest)}"\n' in summary


def test_a_mirror_of_registries_is_asked_instead(bench: Workbench, oci_registry: str) -> None:
    push(oci_registry, "team/agent", "mirrored", IMAGE)
    settings = dataclasses.replace(bench.settings, mirrors={"oci": (oci_registry,)})
    mirrored = Workbench(settings, root=bench.root, reporter=bench.executor.reporter)
    built = mirrored.build(AgentRequest(agent="oci:quay.invalid/team/agent:mirrored"))
    assert built.files[0].name == "kata-agent"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (guest(), "expected an image of the agent alone, got one of a whole system: it has /etc/os-release"),
        (agent_image(), "expected one program in usr/bin, or kata-agent among them, got none"),
        (agent_image("a", "b"), "expected one program in usr/bin, or kata-agent among them, got a, b"),
        (agent_image(further={"usr/bin/a": b"#!/bin/sh\n"}), "usr/bin/a: expected an executable, got not an ELF file"),
    ],
    ids=["system", "none", "two", "script"],
)
def test_an_image_without_an_agent_of_its_own_is_refused(
    bench: Workbench, tmp_path: Path, image: Image, message: str
) -> None:
    place = write_layout(tmp_path / "other", {"1": image})
    with pytest.raises(UsageError, match=f"--agent oci:other: {message}") as caught:
        bench.build(AgentRequest(agent=f"oci:{place}"))
    assert caught.value.hint


def test_an_image_for_another_platform_is_refused(bench: Workbench, layout: Path) -> None:
    with pytest.raises(PlanError, match="is not for linux/s390x: expected that platform, got linux/amd64"):
        bench.build(AgentRequest(agent=f"oci:{layout}", arch="s390x"))


def test_a_program_in_it_that_is_for_another_machine_is_refused(bench: Workbench, tmp_path: Path) -> None:
    lying = dataclasses.replace(agent_image("kata-agent"), architecture="arm64")
    place = write_layout(tmp_path / "other", {"1": lying})
    with pytest.raises(UsageError, match="usr/bin/kata-agent is for x86_64: expected aarch64"):
        bench.build(AgentRequest(agent=f"oci:{place}", arch="aarch64"))


def test_a_registry_is_not_asked_offline_and_a_layout_is_read(bench: Workbench, layout: Path) -> None:
    offline = Workbench(
        dataclasses.replace(bench.settings, offline=True), root=bench.root, reporter=bench.executor.reporter
    )
    with pytest.raises(OfflineError):
        offline.build(AgentRequest(agent="oci:quay.invalid/team/agent:1"))
    assert offline.build(AgentRequest(agent=f"oci:{layout}")).files[0].name == "kata-agent"


def _systemd_tree(folder: Path) -> Path:
    """Return a tar of a system that systemd could start, in small."""
    from tests.unit.test_rootfs_compose import EPOCH, bootstrapped

    path = folder / "system.tar"
    bootstrapped().write(path, epoch=EPOCH)
    return path
