"""From packages to a guest's root: one list of edits on a tree, then checks. Needs no root, no builder, no network.

The result depends on the inputs alone: what the bootstrap took from the machine that it ran on is replaced here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.arch import ARCHES, Arch
from osbuilder.pid1 import Init
from osbuilder.rootfs import check, init, skeleton, summary, time, trim
from osbuilder.rootfs.agent import VERSION
from osbuilder.rootfs.archive import FILES, OVERLAY
from osbuilder.rootfs.modules import MODULES
from osbuilder.rootfs.policy import DEFAULT, FOLDER, NAME, POLICY, install_policy
from osbuilder.rootfs.summary import AgentName, Base
from osbuilder.rootfs.trim import Keep, Trimmed
from osbuilder.template import render
from osbuilder.tree import Summary, Tree

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
AGENT: Final = "agent"
MODE: Final = 0o755

_TEXTS: Final = Path(__file__).resolve().parent / "files"
_UNIT: Final = "agent.service"
_FILES: Final[Mapping[str, str]] = {
    _UNIT: f"{_UNIT}.j2",
    init.TARGET: f"{init.TARGET}.j2",
    "chrony-ptp.conf": "chrony-ptp.conf.j2",
    "tmp.mount": "tmp.mount",
}
_ABOUT_AGENT: Final = (_UNIT, init.TARGET)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """Turn a bootstrapped root into a guest's: input `rootfs` (rootfs.tar) and input `agent` (agent) -> rootfs.tar.

    With `modules`, the input of that name are kernel modules for it; with `policy`, the input policy is the agent's.
    Inputs `overlay-0` and so on are laid over it in their order, when all else is done: what they bring stays.
    `files` are the texts that go into the tree, or templates of them, by name, so that they are part of the key.
    `epoch` (seconds since 1970) is the latest time that a file bears. `base` is None for a tree that a user brings: its
    os-release says what it is.
    Facts: entries and bytes by folder before and after, what was trimmed, and the bootstrap's packages.
    """

    base: Base | None
    arch: str
    init: Init
    agent: AgentName
    epoch: int
    keep: tuple[Keep, ...] = ()
    without_units: tuple[str, ...] = ()
    modules: bool = False
    policy: bool = False
    overlays: int = 0
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        base: Base | None,
        *,
        arch: Arch,
        init: Init,
        agent: AgentName,
        epoch: int,
        keep: tuple[Keep, ...] = (),
        without_units: tuple[str, ...] = (),
        modules: bool = False,
        policy: bool = False,
        overlays: int = 0,
    ) -> Compose:
        """Return the action for what lies below and an agent, with this package's files."""
        return cls(
            base=base,
            arch=arch.name,
            init=init,
            agent=agent,
            epoch=epoch,
            keep=keep,
            without_units=without_units,
            modules=modules,
            policy=policy,
            overlays=overlays,
            files=tuple((name, _file(text)) for name, text in sorted(_FILES.items())),
        )

    def describe(self) -> tuple[str, ...]:
        without = (f"remove the units {', '.join(self.without_units)}",) if self.without_units else ()
        agent = self.agent.path if self.agent.name else "/usr/bin/<what its image calls it>"
        return (
            f"install the agent as {agent}, init {self.init.value}",
            "set up time, /tmp, /dev, resolv.conf, machine-id; trim all but "
            + (", ".join(keep.value for keep in self.keep) or "what a guest reads"),
            *without,
            *_describe_modules(self.modules),
            *((f"install the agent's policy in /{FOLDER}, as {DEFAULT}",) if self.policy else ()),
            *(f"lay overlay-{number} over it" for number in range(self.overlays)),
            f"write {summary.PATH}, check the tree, write {ROOTFS_TAR}",
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path(ROOTFS_TAR))
        check.check_input(tree)
        before = tree.summary()

        agent = self._agent(job)
        files = self._texts(agent)
        skeleton.set_up_mount_points(tree)
        skeleton.set_up_devices(tree)
        skeleton.point_var_tmp_at_tmp(tree)
        skeleton.set_up_network_files(tree)
        brought = self._agent_files(job)
        if self.base is not None:  # A tree of the user's may have been a guest's root before.
            check.check_agent_name(tree, agent.name, init=self.init, brought=brought)
        if self.init is not Init.SYSTEMD:
            brought.remove_glob("**/systemd")
        tree.merge(brought, replace=True)
        tree.add_file(agent.path, job.inputs["agent"].path(AGENT), mode=MODE, parents_mode=0o755, replace=True)
        if self.init is Init.SYSTEMD:
            skeleton.clear_machine_id(tree)
            init.set_up_systemd(tree, agent=agent.name, files=files)
            time.set_up_time(tree, drop_in=files["chrony-ptp.conf"])
        else:
            init.set_up_agent_init(tree, agent=agent.name)
        needed = (f"{agent.name}.service", init.TARGET)
        trimmed = trim.trim(tree, keep=self.keep, without_units=self.without_units, needed=needed)
        modules = _lay_modules(job, tree) if self.modules else []
        if self.policy:
            policy = job.inputs[POLICY]
            install_policy(tree, policy.path(NAME).read_text("utf-8"), policy.path(POLICY).read_bytes())
        overlays = self._lay_overlays(job, tree)
        _write_summary(tree, self, agent=agent, init=self.init)

        check.check_output(tree, init=self.init, arch=ARCHES[self.arch], agent_path=agent.path)
        tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {
            "agent": {"name": agent.name, "version": agent.version},
            "overlays": overlays,
            "modules": modules,
            **_facts(job, before=before, after=tree.summary(), trimmed=trimmed),
        }

    def _agent(self, job: Job) -> AgentName:
        """Return the agent with its name and version, which only the build of some agents tells."""
        made = job.inputs["agent"]
        return dataclasses.replace(
            self.agent,
            name=self.agent.name or made.facts["install"],
            version=self.agent.version or made.path(VERSION).read_text(encoding="utf-8"),
        )

    def _texts(self, agent: AgentName) -> dict[str, str]:
        """Return `files` with what is said in them of the agent."""
        texts = dict(self.files)
        said = {name: render(texts[name], agent=agent.name, path=agent.path) for name in _ABOUT_AGENT}
        return texts | said

    def _agent_files(self, job: Job) -> Tree:
        """Return what comes with the agent: its units, and the rest of its archive."""
        agent = job.inputs["agent"]
        return Tree.read(agent.path(FILES)) if FILES in agent.manifest["outputs"] else Tree()

    def _lay_overlays(self, job: Job, tree: Tree) -> list[Mapping[str, Json]]:
        laid = []
        for number in range(self.overlays):
            overlay = job.inputs[f"overlay-{number}"]
            tree.merge(Tree.read(overlay.path(OVERLAY), scratch=job.work), replace=True)
            laid.append(overlay.facts)
        return laid


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComposeExtension:
    """Turn a bootstrapped root into what a running guest mounts besides its own: no agent, no init, nothing of either.

    Input `rootfs` (rootfs.tar), and `modules` as Compose has it -> rootfs.tar. Fields and facts as those of Compose.
    """

    base: Base | None
    arch: str
    epoch: int
    keep: tuple[Keep, ...] = ()
    modules: bool = False

    def describe(self) -> tuple[str, ...]:
        return (
            "no agent, no init: empty the mount points, trim all but "
            + (", ".join(keep.value for keep in self.keep) or "what a guest reads"),
            *_describe_modules(self.modules),
            f"write {summary.PATH}, check the tree, write {ROOTFS_TAR}",
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["rootfs"].path(ROOTFS_TAR))
        check.check_input(tree)
        before = tree.summary()

        skeleton.set_up_mount_points(tree)
        skeleton.set_up_network_files(tree)
        skeleton.clear_machine_id(tree)
        trimmed = trim.trim(tree, keep=self.keep)
        modules = _lay_modules(job, tree) if self.modules else []
        _write_summary(tree, self, agent=summary.NO_AGENT, init=None)

        check.check_mount_points(tree)
        tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return {"modules": modules, **_facts(job, before=before, after=tree.summary(), trimmed=trimmed)}


def _describe_modules(modules: bool) -> tuple[str, ...]:
    return ("put the kernel modules into /lib/modules",) if modules else ()


def _lay_modules(job: Job, tree: Tree) -> list[str]:
    """Put kernel modules where the tree has its own, through /lib if that is a link; return their releases."""
    modules = job.inputs["modules"]
    tree.merge(Tree.read(modules.path(MODULES)), replace=True)
    return list(modules.facts["releases"])


def _write_summary(tree: Tree, action: Compose | ComposeExtension, *, agent: AgentName, init: Init | None) -> None:
    base = action.base or summary.base_of(tree)
    text = summary.render_summary(base=base, arch=ARCHES[action.arch], agent=agent, init=init, epoch=action.epoch)
    tree.add_file(summary.PATH, text.encode(), parents_mode=0o755, replace=True)


def _facts(job: Job, *, before: Summary, after: Summary, trimmed: tuple[Trimmed, ...]) -> Mapping[str, Json]:
    return {
        "packages": job.inputs["rootfs"].facts.get("packages", []),
        "before": _report(before),
        "after": _report(after),
        "trimmed": [_trimmed(group) for group in trimmed],
    }


def _file(name: str) -> str:
    return (_TEXTS / name).read_text("utf-8")


def _report(tree: Summary) -> dict[str, Any]:
    folders = [
        {"path": folder.path, "content_bytes": folder.content_bytes, "entries": folder.entries}
        for folder in tree.folders
    ]
    return {"content_bytes": tree.content_bytes, "entries": tree.entries, "folders": folders}


def _trimmed(group: Trimmed) -> dict[str, Any]:
    return {"what": group.what, "entries": group.entries, "content_bytes": group.content_bytes}
