"""The public door: a workbench with the settings, pins and store of one checkout, and what can be done at it.

    bench = open_workbench(("engine=sandbox",), stream=sys.stderr)
    built = bench.build(ImageRequest(rootfs=RootfsRequest(distro="debian")))
    bench.boot(BootRequest(image=built.files[0])).check()

Every method raises OsbuilderError for what goes wrong; none prints or exits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from osbuilder import doctor, launch, patchcheck, show, tidy, why
from osbuilder.agents.pin import is_given
from osbuilder.arch import Arch, host_arch
from osbuilder.doctor import Checkup
from osbuilder.engine.base import Builder, Engine
from osbuilder.errors import LockMoved, OsbuilderError, StoreError, UsageError
from osbuilder.everything import Everything, Plans, plan_all
from osbuilder.execute import Executor, Reporter
from osbuilder.fetch import FetchSettings
from osbuilder.image.build import ROOT_HASH
from osbuilder.image.verity import root_hash_file
from osbuilder.launch import Outcome
from osbuilder.offline import rootfs_of, told_what_to_fetch
from osbuilder.plan import Planner
from osbuilder.publish import Name, ancestors, check_folder, check_output, copy_out, image_names, publish
from osbuilder.reporter import reporter_for
from osbuilder.request import (
    AgentRequest,
    BootRequest,
    BuildRequest,
    HeadersRequest,
    ImageRequest,
    InitrdRequest,
    KernelRequest,
    RootfsRequest,
)
from osbuilder.settings import EngineChoice, Settings, load_settings, parse_flags
from osbuilder.step import PACKAGE, Step
from osbuilder.store import Artifact, Store

if TYPE_CHECKING:
    from osbuilder.kernels import Kernels
    from osbuilder.locks import Locks
    from osbuilder.verify import Proof

CHECKOUT = PACKAGE.parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A result: its artifact, and its files in the build folder (or the copy that was asked for, first)."""

    artifact: Artifact
    files: tuple[Path, ...]


def open_workbench(
    settings: tuple[str, ...] = (),
    *,
    stream: TextIO,
    root: Path = CHECKOUT,
    reporter: Reporter | None = None,
    fallbacks: Mapping[str, str] | None = None,
) -> Workbench:
    """Return a workbench. `settings` are NAME=VALUE, `fallbacks` stand for defaults; progress goes to `stream`.

    Raises UsageError, DecodeError.
    """
    loaded = load_settings(parse_flags(settings), fallbacks=fallbacks)
    return Workbench(loaded, root=root, reporter=reporter or reporter_for(stream))


class Workbench:
    """Settings, pins and store of one checkout. Opening it costs nothing; the rest comes on first use."""

    def __init__(self, settings: Settings, *, root: Path, reporter: Reporter) -> None:
        self.settings = settings
        self.root = root
        self.planner = Planner(root, settings)
        self._reporter = reporter

    @functools.cached_property
    def store(self) -> Store:
        """The store. Raises StoreError when its folder cannot be used."""
        return Store(self.settings.store_path)

    @functools.cached_property
    def executor(self) -> Executor:
        """What walks plans for this workbench."""
        settings = self.settings
        return Executor(
            self.store,
            engine=self._engine,
            reporter=self._reporter,
            fetching=FetchSettings(
                connect_timeout_s=settings.connect_timeout_s,
                read_timeout_s=settings.read_timeout_s,
                attempts=settings.attempts,
                proxies=settings.proxies,
                ca_bundle=settings.ca_bundle,
                offline=settings.offline,
            ),
            jobs=settings.jobs_count,
            engine_named=self._engine,
            keep_failed=settings.keep_failed,
        )

    def _engine(self, name: str | None = None) -> Engine:
        """Return the engine of that name; without one, the one that the settings choose. Raises ToolMissing."""
        from osbuilder.engine.choose import choose_engine

        settings = self.settings if name is None else dataclasses.replace(self.settings, engine=EngineChoice(name))
        return choose_engine(settings, trees=self.store.folder("trees"))

    # -- building --------------------------------------------------------------------------------------------------

    def build(self, request: BuildRequest, *, output: Path | None = None) -> Built:
        """Build what a request asks for, put it into the build folder, and return where it is.

        A copy goes to `output` too: a file or, as a kernel is several, a folder of them. Raises UsageError before
        anything is built for a request or an output path that cannot be.
        """
        if output is not None:
            _check_output(request, output)
        check_folder(self.settings.build_path)
        step = self.planner.plan(request)
        # The artifact is in use until all of it is where people look.
        with self.executor.in_use():
            try:
                with told_what_to_fetch(request):
                    artifact = self.executor.run(step)
            except LockMoved as moved:
                raise self.locks.explained(rootfs_of(request), moved) from moved
            names = self._names(request, artifact)
            files = publish(self.store, artifact, names, self._folder(request))
            if output is not None:
                for file, path in _copies(request, names, output).items():
                    copy_out(artifact, file, path, store=self.store)
                files = (output, *files)
        return Built(artifact=artifact, files=files)

    def sizes(self, built: Built) -> str:
        """Return the size by folder of the root filesystem in a result, before and after; "" where there is none."""
        found = [item.facts for item in ancestors(self.store, built.artifact) if "before" in item.facts]
        return show.sizes_text(found[-1]) if found else ""

    def build_all(self, request: RootfsRequest) -> Everything:
        """Build a root filesystem of every distribution that can be, `request` being for each; see Everything.

        One that fails stops no other. Raises UsageError for a request that can be no distribution's.
        """
        check_folder(self.settings.build_path)
        plans = plan_all(self.planner, request)
        failed = dict(plans.failed)
        built: dict[str, Built] = {}
        with self.executor.in_use():
            for name, result in zip(plans.steps, self.executor.run_each(tuple(plans.steps.values())), strict=True):
                if isinstance(result, OsbuilderError):
                    failed[name] = result
                    continue
                each = plans.requests[name]
                try:
                    files = publish(self.store, result, self._names(each, result), self._folder(each))
                except StoreError as error:
                    failed[name] = error
                else:
                    built[name] = Built(artifact=result, files=files)
        return Everything(built=built, failed=failed, left_out=plans.left_out)

    def plan_all(self, request: RootfsRequest) -> Plans:
        """Return what `build_all` would build; runs and writes nothing. Raises UsageError as it does."""
        return plan_all(self.planner, request)

    def describe(self, request: BuildRequest, *, output: Path | None = None) -> str:
        """Return the plan of a request, a paragraph a step with each command; runs and writes nothing.

        Raises UsageError as `build` does.
        """
        if output is not None:
            _check_output(request, output)
        if isinstance(request, KernelRequest):
            return self.kernels.describe(request)
        step = self.planner.plan(request)
        return show.plan_text(step.walk(), self.peek(step))

    def why(self, request: BuildRequest) -> str:
        """Return, for each step of a request, whether it would run and what changed since it ran last."""
        step = self.planner.plan(request)
        found = self.peek(step)
        return why.explain(step, self.store if self._has_store else None, found)

    def peek(self, step: Step) -> Mapping[str, Artifact | None]:
        """Return, for each step of a plan by ident, its artifact if it is up to date; builds and writes nothing."""
        return self.executor.peek(step) if self._has_store else {each.ident: None for each in step.walk()}

    @property
    def _has_store(self) -> bool:
        """Whether there is a store: looking writes nothing, so it makes none."""
        return self.settings.store_path.is_dir()

    def _folder(self, request: BuildRequest) -> Path:
        name = request.rootfs.arch if isinstance(request, ImageRequest | InitrdRequest) else request.arch
        return self.settings.build_path / (name or host_arch().name)

    def _names(self, request: BuildRequest, artifact: Artifact) -> tuple[Name, ...]:
        """Return what a result's files are called: Kata's names, because its runtime and its packages look for them."""
        match request:
            case KernelRequest():
                from osbuilder.kernel.install import link_names, suffix

                rows = link_names(
                    artifact.facts["version"],
                    artifact.key,
                    suffix(request.variant),
                    files=artifact.manifest["outputs"],
                )
                return tuple(Name(file=file, published=published, link=link) for file, published, link in rows)
            case HeadersRequest():
                from osbuilder.kernel.headers import PACKAGE

                return (Name(file=PACKAGE, published=artifact.facts["file"]),)
            case AgentRequest():
                agent = request.agent or self.planner.versions.defaults.agent
                named = Path(agent).name if is_given(agent) else self.planner.versions.agent(agent).install
                install = artifact.facts.get("install", named)  # of an archive or an image it is not the name
                return (Name(file="agent", published=install),)
            case RootfsRequest():
                return (Name(file="rootfs.tar", published=f"{self._stem(request)}.rootfs.tar"),)
            case ImageRequest():
                return image_names(self.planner.name(request.rootfs), request.variants, measured=request.measured)
            case InitrdRequest():
                published = f"{self._stem(request.rootfs)}.initrd"
                return (Name(file="initrd", published=published, link="kata-containers-initrd.img"),)

    def _stem(self, request: RootfsRequest) -> str:
        return f"kata-{self.planner.name(request)}{'-extension' if request.extension else ''}"

    # -- looking ---------------------------------------------------------------------------------------------------

    def inspect(self, path: Path, *, as_json: bool = False) -> str:
        """Return what a file is, for a person or as JSON. Raises ImageError, UsageError for a missing file."""
        from osbuilder.image.inspect import inspect

        found = inspect(path)
        return found.to_json() if as_json else "\n".join(found.lines())

    def list_settings(self) -> str:
        """Return each setting, its value and its origin."""
        return show.settings_text(self.settings)

    def list_distros(self, *, as_json: bool = False) -> str:
        """Return the distributions of this checkout, for a person or as JSON."""
        from osbuilder.distro.recipe import load_recipes

        recipes = load_recipes(self.planner.distros)
        return show.distros_json(recipes) if as_json else show.distros_text(recipes)

    def new_distro(self, name: str, *, package_manager: str, dry: bool = False) -> tuple[Path, str]:
        """Write the skeleton of a recipe, or with `dry` only make it; return its path and its text.

        Raises UsageError for a name that cannot be.
        """
        from osbuilder.distro.recipe import PackageManager
        from osbuilder.distro.skeleton import render_skeleton, write_skeleton
        from osbuilder.request import parse_choice

        manager = parse_choice(package_manager, PackageManager, "package manager")
        path, text = render_skeleton(self.planner.distros, name, manager)
        if not dry:
            write_skeleton(self.planner.distros, name, manager)
        return path, text

    def list_versions(self) -> str:
        """Return what versions.yaml pins."""
        return show.versions_text(self.planner.versions)

    def list_patches(self, request: KernelRequest) -> str:
        """Return the patches of a kernel line (None: all of kernel/patches), or those of the sources, and of the
        series, that a request names otherwise. Raises as patchcheck.listing and listing_of."""
        if request.from_line:
            return patchcheck.listing(self.planner, request.line)
        return patchcheck.listing_of(self.planner, request)

    def check_patches(self, request: KernelRequest) -> str:
        """Apply the same patches to the source of each. Raises as patchcheck.check and check_of."""
        if request.from_line:
            return patchcheck.check(self.planner, self.executor.run, request.line)
        return patchcheck.check_of(self.planner, self.executor.run, request)

    @functools.cached_property
    def kernels(self) -> Kernels:
        """What can be asked about guest kernels."""
        from osbuilder.kernels import Kernels

        return Kernels(self)

    @functools.cached_property
    def locks(self) -> Locks:
        """What can be done with locks."""
        from osbuilder.locks import Locks

        return Locks(self)

    @functools.cached_property
    def proof(self) -> Proof:
        """What kernels and distributions show when they are started, all of them."""
        from osbuilder.verify import Proof

        return Proof(self)

    # -- booting and checking --------------------------------------------------------------------------------------

    def boot(self, request: BootRequest) -> Outcome:
        """Start a guest and return what it reported; builds what is missing first. See launch.boot."""
        return launch.boot(self, request)

    def describe_boot(self, request: BootRequest) -> str:
        """Return what `boot` would build and run; runs nothing."""
        return launch.describe(self, request)

    def examine(self) -> Checkup:
        """Return what this host has and lacks for building and booting."""
        return doctor.examine(self.settings)

    # -- tidying ---------------------------------------------------------------------------------------------------

    def clean(self, *, dry: bool = False) -> str:
        """Remove the build folder's architectures; returns what was (or would be) removed."""
        return tidy.clean(self.settings.build_path, dry=dry)

    def cache(self, *, collect: bool = False, verify: bool = False, dry: bool = False) -> str:
        """Return what the store holds, after tidying it as asked; `dry` only says what `collect` would remove."""
        lines = tidy.unneeded(self.store) if dry else tidy.tidied(self, collect=collect, verify=verify)
        return "\n".join([*lines, show.store_text(self.store)])

    # -- running builders ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def builder(self, name: str, guest: Arch | None = None) -> Iterator[tuple[Engine, Builder]]:
        """Yield the engine and a builder of versions.yaml that is ready to run in; `guest` as in Planner.builder."""
        step = self.planner.builder(name, guest)
        with told_what_to_fetch(KernelRequest(arch=guest.name if guest else None)):
            artifact = self.executor.run(step)
        yield self.executor.ready(step.subject, artifact)


def _check_output(request: BuildRequest, output: Path) -> None:
    """Refuse an output path that can take no copies of a result. Raises UsageError."""
    if isinstance(request, KernelRequest):
        from osbuilder.kernel.compile import VMLINUX

        if not output.is_dir():
            raise UsageError(f"--output {output}: expected a folder: a kernel is several files", hint="Make it first.")
        output = output / VMLINUX
    check_output(output)


def _copies(request: BuildRequest, names: tuple[Name, ...], output: Path) -> Mapping[str, Path]:
    """Return where copies of a result's files go: all of a kernel's, else the first and the root hash that it has."""
    if isinstance(request, KernelRequest):
        return {name.file: output / name.published for name in names}
    beside = {name.file: root_hash_file(output) for name in names if name.file == ROOT_HASH}
    return {names[0].file: output, **beside}
