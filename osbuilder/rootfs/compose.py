"""From packages to a guest's root: one list of edits on a tree, then checks. Needs no root, no builder, no network.

The result depends on the inputs alone: what the bootstrap took from the machine that it ran on is replaced here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from osbuilder.arch import ARCHES
from osbuilder.pid1 import Init
from osbuilder.rootfs import check, init, skeleton, summary, time, trim
from osbuilder.rootfs.summary import AgentName, Base
from osbuilder.rootfs.template import read_file, render
from osbuilder.rootfs.trim import Keep, Trimmed
from osbuilder.tree import Summary, Tree

if TYPE_CHECKING:
    from osbuilder.distro.recipe import Choice, Selection
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
AGENT: Final = "agent"
MODE: Final = 0o755


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """Turn a bootstrapped root into a guest's: input `rootfs` (rootfs.tar) and input `agent` (agent) -> rootfs.tar.

    `files` are the texts that go into the tree, by name, so that they are part of the key. `epoch` (seconds since 1970)
    is the latest time that a file bears. Facts: entries and bytes by folder before and after, what was trimmed, and
    the bootstrap's packages.
    """

    base: Base
    arch: str
    init: Init
    agent: AgentName
    epoch: int
    keep: tuple[Keep, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, choice: Choice, *, packages: Selection, agent: AgentName, epoch: int, keep: tuple[Keep, ...] = ()
    ) -> Compose:
        """Return the action for a choice of distribution and its packages, with this package's files rendered."""
        return cls(
            base=Base(
                name=choice.recipe.name,
                release=choice.release_name,
                default_packages=packages.default,
                extra_packages=packages.extra,
            ),
            arch=choice.arch.name,
            init=choice.init,
            agent=agent,
            epoch=epoch,
            keep=keep,
            files=_rendered_files(agent),
        )

    def describe(self) -> tuple[str, ...]:
        return (
            f"install the agent as {self.agent.path}, init {self.init.value}",
            "set up time, /tmp, /dev, resolv.conf, machine-id; trim all but "
            + (", ".join(keep.value for keep in self.keep) or "what a guest reads"),
            f"write {summary.PATH}, check the tree, write {ROOTFS_TAR}",
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path(ROOTFS_TAR))
        check.check_input(tree)
        before = tree.summary()

        files = dict(self.files)
        skeleton.set_up_mount_points(tree)
        skeleton.set_up_devices(tree)
        skeleton.point_var_tmp_at_tmp(tree)
        skeleton.set_up_network_files(tree)
        tree.add_file(self.agent.path, job.inputs["agent"].path(AGENT), mode=MODE, parents_mode=0o755, replace=True)
        if self.init is Init.SYSTEMD:
            skeleton.clear_machine_id(tree)
            init.set_up_systemd(tree, agent=self.agent.name, files=files)
            time.set_up_time(tree, drop_in=files["chrony-ptp.conf"])
        else:
            init.set_up_agent_init(tree, agent=self.agent.name)
        trimmed = trim.trim(tree, keep=self.keep)
        self._write_summary(tree)

        check.check_output(tree, init=self.init, arch=ARCHES[self.arch], agent_path=self.agent.path)
        tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {
            "packages": job.inputs["rootfs"].facts.get("packages", []),
            "before": _report(before),
            "after": _report(tree.summary()),
            "trimmed": [_trimmed(group) for group in trimmed],
        }

    def _write_summary(self, tree: Tree) -> None:
        text = summary.render_summary(
            base=self.base,
            arch=ARCHES[self.arch],
            agent=self.agent,
            init=self.init,
            epoch=self.epoch,
        )
        tree.add_file(summary.PATH, text.encode(), parents_mode=0o755, replace=True)


def _rendered_files(agent: AgentName) -> tuple[tuple[str, str], ...]:
    """Return what Compose takes as `files`: the unit files for an agent, and the time service's drop-in."""
    unit = render(read_file("agent.service.j2"), agent=agent.name, path=agent.path)
    target = render(read_file(f"{init.TARGET}.j2"), agent=agent.name)
    return (
        ("agent.service", unit),
        ("chrony-ptp.conf", read_file("chrony-ptp.conf.j2")),
        (init.TARGET, target),
        ("tmp.mount", read_file("tmp.mount")),
    )


def _report(tree: Summary) -> dict[str, Any]:
    folders = [
        {"path": folder.path, "content_bytes": folder.content_bytes, "entries": folder.entries}
        for folder in tree.folders
    ]
    return {"content_bytes": tree.content_bytes, "entries": tree.entries, "folders": folders}


def _trimmed(group: Trimmed) -> dict[str, Any]:
    return {"what": group.what, "entries": group.entries, "content_bytes": group.content_bytes}
