"""Request + recipes + pins -> a Step and all that it needs. Pure: reads data files, starts nothing, writes nothing.

A builder, an agent or a rootfs that several results share is one Step object, so it is built once.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from osbuilder import __version__
from osbuilder.arch import Arch, host_arch, parse_arch
from osbuilder.distro.adapters import BUILDERS, plan_bootstrap
from osbuilder.distro.order import Order
from osbuilder.distro.recipe import Choice, Recipe, Selection, choose, find_recipe, select_packages
from osbuilder.engine.builder import BootstrapBuilder
from osbuilder.errors import UsageError
from osbuilder.image.build import MakeImage, MakeInitrd
from osbuilder.kernel.signature import PublicKeys
from osbuilder.kernel.source import KernelLine
from osbuilder.pid1 import Init
from osbuilder.request import AgentRequest, BuildRequest, ImageRequest, InitrdRequest, KernelRequest, RootfsRequest
from osbuilder.rootfs.agent import AgentFile, BuildProbe
from osbuilder.rootfs.compose import Compose
from osbuilder.rootfs.summary import AgentName
from osbuilder.settings import Settings
from osbuilder.step import Step
from osbuilder.versions import Versions, load_versions

# The distribution that builders are made of.
_BUILDER_DISTRO = "debian"


class Planner:
    """Plans requests for one checkout (`root`) under one set of settings."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root
        self.settings = settings

    @functools.cached_property
    def versions(self) -> Versions:
        """The pins of versions.yaml."""
        return load_versions(self.root)

    @property
    def distros(self) -> Path:
        """The folder of the recipes."""
        return self.root / "distros"

    def plan(self, request: BuildRequest) -> Step:
        """Return the step whose artifact the request asks for.

        Raises UsageError and PlanError for what cannot be, DecodeError for a malformed data file.
        """
        match request:
            case RootfsRequest():
                return self._rootfs(request)
            case ImageRequest():
                return self._image(request)
            case InitrdRequest():
                return self._initrd(request)
            case KernelRequest():
                return self._kernel(request)
            case AgentRequest():
                return self._agent(request.agent, _arch(request.arch))[0]

    def choice(self, request: RootfsRequest) -> Choice:
        """Return the recipe, release, architecture and init that a request means."""
        return choose(
            find_recipe(request.distro, self.distros),
            release=request.release,
            arch=_arch(request.arch),
            init=request.init,
        )

    def builder(self, name: str, guest: Arch | None = None, tools: tuple[str, ...] = ()) -> Step:
        """Return the step that makes a builder of versions.yaml, for guests of an architecture (None: the host's).

        `tools` are packages that it has besides.
        """
        return self._builder(name, guest or host_arch(), tools)

    @functools.cache  # noqa: B019 - a planner lives as long as its process
    def _builder(self, name: str, guest: Arch, tools: tuple[str, ...]) -> Step:
        pin = self.versions.builder(name)
        host = host_arch()
        further = pin.packages_for(guest, host=host)
        recipe = find_recipe(_BUILDER_DISTRO, self.distros)
        return Step(
            name="builder",
            subject="-".join((name, *((guest.name,) if further else ()), *tools)),
            action=BootstrapBuilder(
                suite=pin.suite,
                packages=tuple(sorted({*pin.packages, *further, *tools})),
                architecture=host.debian,
                mirrors=tuple(self.settings.mirrors.get(_BUILDER_DISTRO, ())),
                base_image=self.settings.base_image,
                epoch=self._epoch(recipe, pin.suite),
            ),
        )

    # -- what goes into a result -----------------------------------------------------------------------------------

    @functools.cache  # noqa: B019
    def _agent(self, agent: str | None, arch: Arch) -> tuple[Step, AgentName]:
        name = agent or self.versions.defaults.agent
        if "/" in name:
            path = Path(name)
            action = AgentFile.of_path(path, arch)
            step = Step(name="agent", subject=f"{path.name}-{arch.name}", action=action)
            return step, AgentName(name=path.name, version=f"sha256:{action.sha256}")
        pin = self.versions.agent(name)
        step = Step(
            name="agent",
            subject=f"{name}-{arch.name}",
            action=BuildProbe.of_folder(self.root / pin.source, arch),
            builder=self.builder("compiler", arch),
        )
        return step, AgentName(name=pin.install, version=__version__)

    @functools.cache  # noqa: B019
    def _rootfs(self, request: RootfsRequest) -> Step:
        choice = self.choice(request)
        subject = _subject(choice)
        packages = select_packages(choice, features=request.features, extra=request.packages)
        agent, agent_name = self._agent(request.agent, choice.arch)
        return Step(
            name="rootfs",
            subject=subject,
            action=Compose.of(
                choice,
                packages=packages,
                agent=agent_name,
                epoch=self._epoch(choice.recipe, choice.release_name),
                keep=request.keep,
            ),
            inputs=(("agent", agent), ("rootfs", self._packages(choice, packages))),
        )

    def _packages(self, choice: Choice, packages: Selection) -> Step:
        recipe = choice.recipe
        return Step(
            name="packages",
            subject=_subject(choice),
            action=plan_bootstrap(
                Order(
                    choice=choice,
                    packages=packages,
                    epoch=self._epoch(recipe, choice.release_name),
                    mirrors=tuple(self.settings.mirrors.get(recipe.name, ())),
                    components=tuple(self.settings.components.get(recipe.name, ())),
                    keyring=self._keyring(recipe),
                    timeout_s=self.settings.read_timeout_s,
                    attempts=self.settings.attempts,
                )
            ),
            builder=self.builder(builder) if (builder := BUILDERS.get(recipe.package_manager)) else None,
        )

    def _image(self, request: ImageRequest) -> Step:
        choice = self.choice(request.rootfs)
        epoch = self._epoch(choice.recipe, choice.release_name)
        return Step(
            name="image",
            subject=_subject(choice),
            action=MakeImage(
                free_space_mib=request.free_space_mib, dax=request.dax, align_mib=request.align_mib, epoch=epoch
            ),
            inputs=(("rootfs", self._rootfs(request.rootfs)),),
            builder=self.builder("rootfs"),
        )

    def _initrd(self, request: InitrdRequest) -> Step:
        # An initrd is the whole guest in memory: its agent is PID 1 unless the request says otherwise.
        rootfs = dataclasses.replace(request.rootfs, init=request.rootfs.init or Init.AGENT)
        choice = self.choice(rootfs)
        return Step(
            name="initrd",
            subject=_subject(choice),
            action=MakeInitrd.of(request.compression, epoch=self._epoch(choice.recipe, choice.release_name)),
            inputs=(("rootfs", self._rootfs(rootfs)),),
        )

    def _kernel(self, request: KernelRequest) -> Step:
        # Imported here: what plans no kernel does not wait for the Kconfig reader.
        from osbuilder.kernel.build import plan_kernel

        name, line = self._kernel_line(request)
        arch = _arch(request.arch)
        return plan_kernel(
            name,
            line,
            arch=arch,
            variant=request.variant,
            builder=self.builder("compiler"),
            compiler=functools.partial(self.builder, "compiler", arch),
            root=self.root / "kernel",
            epoch=self.settings.source_date_epoch,
            keys=self._kernel_keys(),
        )

    def kernel_source(self, name: str) -> Step:
        """Return the step that gets the source of a kernel line, with its patches applied if it has any."""
        from osbuilder.kernel.build import plan_source

        return plan_source(
            name,
            self.versions.kernel(name),
            builder=self.builder("compiler"),
            root=self.root / "kernel",
            keys=self._kernel_keys(),
        )

    def _kernel_line(self, request: KernelRequest) -> tuple[str, KernelLine]:
        """Return a name and the line that a request means: one of versions.yaml, or one made of its own words."""
        try:
            if request.git is not None:
                return "git", KernelLine(git=request.git, ref=request.ref, patches=request.patches)
            if request.tree is not None:
                return "tree", KernelLine(tree=str(request.tree.expanduser().absolute()), patches=request.patches)
            name = request.line or self.versions.defaults.kernel
            line = self.versions.kernel(name)
            return name, dataclasses.replace(line, patches=request.patches) if request.patches else line
        except ValueError as error:
            raise UsageError(f"--{error}") from error

    def _kernel_keys(self) -> PublicKeys | None:
        """Return the keys that kernel tarballs' signatures are checked with, if that is asked for."""
        path = self.settings.kernel_keys
        return PublicKeys.of_path(path.expanduser()) if path else None

    def _keyring(self, recipe: Recipe) -> Path | None:
        """Return the user's own keyring for a distribution's mirrors, if there is one (setting keyrings)."""
        named = self.settings.keyrings.get(recipe.name, ())
        if len(named) > 1:
            raise UsageError(f"setting keyrings: expected one file for {recipe.name}, got {len(named)}")
        return Path(named[0]) if named else None

    def _epoch(self, recipe: Recipe, release: str) -> int:
        """Return the latest time that a file may bear: the setting, else the day of the release."""
        if self.settings.source_date_epoch is not None:
            return self.settings.source_date_epoch
        return recipe.releases[release].released.epoch


def _arch(name: str | None) -> Arch:
    return parse_arch(name) if name else host_arch()


def _subject(choice: Choice) -> str:
    return f"{choice.recipe.name}-{choice.release_name}-{choice.arch.name}-{choice.init.value}"
