"""Request + recipes + pins -> a Step and all that it needs. Pure: reads data files, starts nothing, writes nothing.

A builder, an agent or a rootfs that several results share is one Step object, so it is built once.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder import __version__, packageplan
from osbuilder.agents.pin import AgentOptions, is_given
from osbuilder.arch import Arch, host_arch, parse_arch
from osbuilder.distro.archives import find_archives
from osbuilder.distro.choice import Choice, choose, select_packages
from osbuilder.distro.recipe import Recipe, find_recipe
from osbuilder.engine.builder import COMPONENTS, BootstrapBuilder
from osbuilder.errors import NotOffered, SourceError, UsageError
from osbuilder.image import erofs
from osbuilder.image.build import MakeImage, MakeInitrd
from osbuilder.pid1 import Init
from osbuilder.request import (
    AgentRequest,
    BuildRequest,
    Filesystem,
    HeadersRequest,
    ImageRequest,
    InitrdRequest,
    KernelRequest,
    RootfsRequest,
)
from osbuilder.rootfs.agent import BuildProbe
from osbuilder.rootfs.compose import Compose, ComposeExtension
from osbuilder.rootfs.modules import TakeModules
from osbuilder.rootfs.policy import POLICY, PolicyFile
from osbuilder.rootfs.provision import EPOCH as PROVIDED_EPOCH
from osbuilder.rootfs.provision import name_of, provide
from osbuilder.rootfs.selinux import FEATURE as SELINUX
from osbuilder.rootfs.selinux import Label
from osbuilder.rootfs.summary import AgentName, Base
from osbuilder.settings import Settings
from osbuilder.step import Action, Step
from osbuilder.versions import Versions, load_versions

if TYPE_CHECKING:
    from osbuilder.kernel.series import SeriesNames

# The distribution that builders are made of.
_BUILDER_DISTRO = "debian"

# The distribution whose mirrors are registries.
_IMAGES = "oci"

# What a request means that names no distribution.
_DEFAULT_DISTRO = "debian"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a root filesystem stands on: a distribution's packages, or a tree that a user brings (`base` is None).

    `name` is that of its files: debian-trixie. `init` is None for an extension.
    """

    name: str
    arch: Arch
    init: Init | None
    epoch: int
    base: Base | None
    tree: Step

    @property
    def subject(self) -> str:
        """What the steps on it are about."""
        return packageplan.subject_of(self.name, self.arch, self.init)


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
            case KernelRequest() | HeadersRequest():
                # Imported here: what plans no kernel does not wait for the Kconfig reader.
                from osbuilder import kernelplan

                if isinstance(request, HeadersRequest):
                    return kernelplan.plan_headers(self, request)
                return kernelplan.plan(self, request)
            case AgentRequest():
                return self._agent(request.agent, request.agent_options, _arch(request.arch))[0]

    def choice(self, request: RootfsRequest) -> Choice:
        """Return the recipe, release, architecture and init that a request means."""
        return choose(
            find_recipe(request.distro or _DEFAULT_DISTRO, self.distros),
            release=request.release,
            arch=_arch(request.arch),
            init=request.init,
            extension=request.extension,
        )

    def name(self, request: RootfsRequest) -> str:
        """Return what the files of a root filesystem are called after: debian-trixie, or where the user's tree lies."""
        if request.provision is not None:
            return name_of(request.provision)
        return self.choice(request).label

    def builder(self, name: str, guest: Arch | None = None, tools: tuple[str, ...] = ()) -> Step:
        """Return the step that makes a builder of versions.yaml, for guests of an architecture (None: the host's).

        `tools` are packages that it has besides.
        """
        host = host_arch()
        guest = guest or host
        further = self.versions.builder(name).packages_for(guest, host=host)
        # Architectures that add nothing have one builder, which is one step: two would write under one name at once.
        subject = "-".join((name, *((guest.name,) if further else ()), *tools))
        return self._builder(name, subject, (*further, *tools), tools)

    @functools.cache  # noqa: B019 - a planner lives as long as its process
    def _builder(self, name: str, subject: str, further: tuple[str, ...], tools: tuple[str, ...]) -> Step:
        pin = self.versions.builder(name)
        recipe = find_recipe(_BUILDER_DISTRO, self.distros)
        mirrors = packageplan.named(self.settings.mirrors, recipe)
        named = packageplan.named(self.settings.archives, recipe)
        archives = find_archives(recipe, pin.suite, named, components=COMPONENTS, mirrors=mirrors)
        return Step(
            name="builder",
            subject=subject,
            action=BootstrapBuilder(
                suite=pin.suite,
                packages=tuple(sorted({*pin.packages, *further})),
                architecture=host_arch().debian,
                mirrors=mirrors,
                # A user's further archives are for guests.
                archives=archives.release,
                base_image=self.settings.base_image,
                epoch=self.epoch(recipe, pin.suite),
            ),
            packages_hint=(
                f"Correct `tools: [{', '.join(tools)}]` in the variant.yaml of the kernel, or" if tools else "Correct"
            )
            + f" `packages` of the builder {name} in versions.yaml.",
        )

    # -- what goes into a result -----------------------------------------------------------------------------------

    @functools.cache  # noqa: B019
    def _agent(self, agent: str | None, options: AgentOptions, arch: Arch) -> tuple[Step, AgentName]:
        name = agent or self.versions.defaults.agent
        if is_given(name):
            return self._given_agent(name, options, arch)
        pin = self.versions.agent(name)
        if pin.cargo is not None or options:
            from osbuilder.agents.build import BUILDER, plan_agent

            builder = functools.partial(self.builder, BUILDER)
            try:
                step = plan_agent(name, pin, options, arch, builder=builder, root=self.root)
            except SourceError as error:
                if options.source is None:
                    raise
                hint = "Name the top folder of the agent's source."
                raise UsageError(f"--agent-option tree={error.message}", hint=hint) from None
            # Which version it is, its source tells.
            return step, AgentName(name=pin.install, version="", url=pin.url)
        step = Step(
            name="agent",
            subject=f"{name}-{arch.name}",
            action=BuildProbe.of_folder(self.root / (pin.source or ""), arch),
            builder=self.builder("compiler", arch),
        )
        return step, AgentName(name=pin.install, version=__version__)

    def _given_agent(self, name: str, options: AgentOptions, arch: Arch) -> tuple[Step, AgentName]:
        # Imported here: what has no such agent does not wait for what reads container images.
        from osbuilder.agents.given import plan_given

        if options:
            raise UsageError(
                f"--agent {name} has no options: they are for agents that are compiled with cargo",
                hint="Leave --agent-option out.",
            )
        return plan_given(name, arch, registries=tuple(self.settings.mirrors.get(_IMAGES, ())))

    @functools.cache  # noqa: B019
    def ground(self, request: RootfsRequest) -> Ground:
        """Return what the root filesystem of a request stands on."""
        if request.provision is not None:
            return self._provided(request, request.provision)
        choice = self.choice(request)
        if request.labelled:
            _check_labelled(choice)
        packages = select_packages(choice, features=request.all_features, extra=request.packages)
        return Ground(
            name=self.name(request),
            arch=choice.arch,
            init=choice.init,
            epoch=self.epoch(choice.recipe, choice.release_name),
            base=Base(
                name=choice.recipe.name,
                release=choice.told_release,
                default_packages=packages.default,
                extra_packages=packages.extra,
            ),
            tree=packageplan.plan(self, choice, packages, locked=request.locked),
        )

    def _provided(self, request: RootfsRequest, path: Path) -> Ground:
        epoch = self.settings.source_date_epoch
        action = provide(path, epoch=PROVIDED_EPOCH if epoch is None else epoch)
        arch = _arch(request.arch)
        init = None if request.extension else request.init or Init.SYSTEMD
        name = self.name(request)
        tree = Step(name="provided", subject=packageplan.subject_of(name, arch, init), action=action)
        return Ground(name=name, arch=arch, init=init, epoch=action.epoch, base=None, tree=tree)

    @functools.cache  # noqa: B019
    def _rootfs(self, request: RootfsRequest) -> Step:
        composed = self._composed(request)
        if not request.labelled:
            return composed
        ground = self.ground(request)
        if ground.init is not Init.SYSTEMD:
            raise NotOffered(
                "--selinux: only systemd loads a policy: got the agent as init", hint="Use --init systemd."
            )
        return Step(
            name="labelled",
            subject=ground.subject,
            action=Label(epoch=ground.epoch),
            inputs=(("rootfs", composed),),
            builder=self.builder("selinux"),
        )

    @functools.cache  # noqa: B019
    def _composed(self, request: RootfsRequest) -> Step:
        ground = self.ground(request)
        if ground.init is None:
            return Step(
                name="rootfs",
                subject=ground.subject,
                action=ComposeExtension(
                    base=ground.base,
                    arch=ground.arch.name,
                    epoch=ground.epoch,
                    keep=request.keep,
                    modules=request.modules is not None,
                ),
                inputs=(("rootfs", ground.tree), *_modules(request)),
            )
        agent, agent_name = self._agent(request.agent, request.agent_options, ground.arch)
        overlays = tuple(
            (f"overlay-{number}", Step(name="overlay", subject=f"{number}-{each.path.name}", action=each.action()))
            for number, each in enumerate(request.overlays)
        )
        return Step(
            name="rootfs",
            subject=ground.subject,
            action=Compose.of(
                ground.base,
                arch=ground.arch,
                init=ground.init,
                agent=agent_name,
                epoch=ground.epoch,
                keep=request.keep,
                without_units=request.without_units,
                modules=request.modules is not None,
                policy=request.agent_policy is not None,
                overlays=len(overlays),
            ),
            inputs=(("agent", agent), ("rootfs", ground.tree), *_modules(request), *_policy(request), *overlays),
        )

    def supplies(self, request: RootfsRequest) -> tuple[Step, ...]:
        """Return the steps that a guest needs beside its packages, whatever it becomes: builders, and the agent's."""
        choice = self.choice(request)
        agent, _ = self._agent(request.agent, request.agent_options, choice.arch)
        package_builder = packageplan.package_builder(self, choice.recipe)
        images = (self.builder("rootfs"), self.builder(erofs.BUILDER))
        return (*images, agent, *((package_builder,) if package_builder else ()))

    def _image(self, request: ImageRequest) -> Step:
        ground = self.ground(request.rootfs)
        action: Action
        match request.filesystem:
            case Filesystem.EXT4:
                builder = "rootfs"
                action = MakeImage(
                    free_space_mib=request.free_space_mib,
                    dax=request.dax,
                    align_mib=request.align_mib,
                    epoch=ground.epoch,
                    measured=request.measured,
                )
            case Filesystem.EROFS:
                builder = erofs.BUILDER
                action = erofs.MakeErofsImage(
                    dax=request.dax, align_mib=request.align_mib, epoch=ground.epoch, measured=request.measured
                )
        return Step(
            name="image",
            subject=ground.subject,
            action=action,
            inputs=(("rootfs", self._rootfs(request.rootfs)),),
            builder=self.builder(builder),
        )

    def _initrd(self, request: InitrdRequest) -> Step:
        ground = self.ground(request.guest)
        return Step(
            name="initrd",
            subject=ground.subject,
            action=MakeInitrd.of(request.compression, epoch=ground.epoch),
            inputs=(("rootfs", self._rootfs(request.guest)),),
        )

    def kernel_source(self, name: str, patches: SeriesNames | None = None) -> Step:
        """Return the step that gets the source of a kernel line, with its patches, or those of `patches`, applied."""
        from osbuilder.kernelplan import plan_line_source

        return plan_line_source(self, name, patches)

    def epoch(self, recipe: Recipe, release: str) -> int:
        """Return the latest time that a file may bear: the setting, else the day of the release."""
        if self.settings.source_date_epoch is not None:
            return self.settings.source_date_epoch
        return recipe.release(release).released.epoch


def _modules(request: RootfsRequest) -> tuple[tuple[str, Step], ...]:
    """Return the input that takes the kernel modules of a request, if it has any."""
    if request.modules is None:
        return ()
    action = TakeModules.of_path(request.modules)
    return (("modules", Step(name="modules", subject=action.name, action=action)),)


def _policy(request: RootfsRequest) -> tuple[tuple[str, Step], ...]:
    """Return the input that takes the policy of a request, if it has one."""
    if request.agent_policy is None:
        return ()
    action = PolicyFile.of_path(request.agent_policy)
    return ((POLICY, Step(name=POLICY, subject=action.name, action=action)),)


def _arch(name: str | None) -> Arch:
    return parse_arch(name) if name else host_arch()


def _check_labelled(choice: Choice) -> None:
    """Refuse labels where nothing would enforce them. Raises NotOffered."""
    recipe = choice.recipe
    if SELINUX not in recipe.features:
        raise NotOffered(
            f"--selinux: {recipe.name} has no policy: its recipe has no feature {SELINUX}",
            hint="Name a distribution whose recipe has it (`inv distros --json`), or bring a tree that has a policy.",
        )
