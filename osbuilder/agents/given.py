"""The steps of an agent that is built already: a program or an archive of this host, or a container image."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from osbuilder.agents.pin import IMAGE_PREFIX
from osbuilder.arch import Arch
from osbuilder.distro.oci.install import ResolveImage, UnpackImage, find_origin
from osbuilder.distro.oci.reference import INPUT
from osbuilder.rootfs.agent import AgentFile, check_name
from osbuilder.rootfs.archive import EPOCH_MAX, IMAGE, AgentArchive, AgentImage, is_archive
from osbuilder.rootfs.summary import AgentName
from osbuilder.step import Step

_AGENT: Final = "agent"


def plan_given(agent: str, arch: Arch, *, registries: tuple[str, ...]) -> tuple[Step, AgentName]:
    """Return the step that takes an agent, and its name; an image's agent has a name when it is unpacked.

    `agent` is a path, or oci: and an image's name; `registries` are asked instead of the image's own, if there are any.
    Raises UsageError for what can be no agent.
    """
    if agent.startswith(IMAGE_PREFIX):
        return _of_image(agent.removeprefix(IMAGE_PREFIX), arch, registries), AgentName(name="", version="")
    return _of_file(Path(agent), arch)


def _of_image(image: str, arch: Arch, registries: tuple[str, ...]) -> Step:
    origin = find_origin(image, registries)
    platform = f"linux/{arch.oci}"
    place = origin.local.path.name if origin.local else str(origin.reference and origin.reference.repository)
    subject = f"{place.rpartition('/')[2]}-{arch.name}"
    reference = Step(name="agent-reference", subject=subject, action=ResolveImage(origin=origin, platform=platform))
    unpacked = Step(
        name="agent-image",
        subject=subject,
        action=UnpackImage(origin=origin, platform=platform, epoch=EPOCH_MAX),
        inputs=((INPUT, reference),),
    )
    action = AgentImage(arch=arch.name, origin=f"{IMAGE_PREFIX}{origin.name}")
    return Step(name=_AGENT, subject=subject, action=action, inputs=((INPUT, reference), (IMAGE, unpacked)))


def _of_file(path: Path, arch: Arch) -> tuple[Step, AgentName]:
    action: AgentArchive | AgentFile
    if is_archive(path):
        action = AgentArchive.of_path(path, arch)
        name = action.install
    else:
        action = AgentFile.of_path(path, arch)
        name = path.name
        check_name(name, str(path))
    step = Step(name=_AGENT, subject=f"{path.name}-{arch.name}", action=action)
    return step, AgentName(name=name, version=f"sha256:{action.sha256}")
