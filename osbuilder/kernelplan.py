"""The part of planning that is about guest kernels: requests to steps, with the pins and keys of a planner's settings.

Pure, as osbuilder.plan is, which hands kernels over to it: what plans no kernel does not load the Kconfig reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

from osbuilder.arch import host_arch, parse_arch
from osbuilder.errors import FragmentError, PlanError, SourceError, UsageError, suggest
from osbuilder.kernel.build import plan_kernel, plan_source
from osbuilder.kernel.catalogue import BASE, load_usable
from osbuilder.kernel.fragments import Request, load_fragment
from osbuilder.kernel.headers import TOOLS, PackHeaders
from osbuilder.kernel.patches import NO_PATCHES, known_series
from osbuilder.kernel.placement import declaration
from osbuilder.kernel.signature import PublicKeys
from osbuilder.kernel.signing import SigningKey
from osbuilder.kernel.source import KernelLine
from osbuilder.step import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from osbuilder.arch import Arch
    from osbuilder.plan import Planner
    from osbuilder.request import HeadersRequest, KernelRequest


def plan(planner: Planner, request: KernelRequest) -> Step:
    """Return the step whose artifact is a guest kernel. Raises as osbuilder.kernel.build.plan_kernel."""
    arch = _arch(request)
    name, line = _line(planner, request, arch)
    _check_series(planner, request.patches)
    with _told_by_flag(request):
        return plan_kernel(
            name,
            line,
            arch=arch,
            variant=request.variant,
            builder=planner.builder("compiler"),
            compiler=functools.partial(planner.builder, "compiler", arch),
            root=planner.root / "kernel",
            epoch=planner.settings.source_date_epoch,
            keys=_public_keys(planner),
            signing=_signing_key(planner),
            further=_own_requests(request),
            lines=planner.versions.kernels,
        )


def plan_headers(planner: Planner, request: HeadersRequest) -> Step:
    """Return the step that packs what modules for a kernel are built with. Raises PlanError for one without modules."""
    arch = _arch(request.kernel)
    variants = load_usable(planner.root / "kernel" / "configs").variants
    kernel = plan(planner, request.kernel)
    if not variants[request.kernel.variant].modules:
        having = " or ".join(name for name, variant in variants.items() if variant.modules)
        raise PlanError(
            f"kernel variant {request.kernel.variant} has no modules, so that nothing is built against its headers",
            hint=f"Name one that has: --variant {having}.",
        )
    return Step(
        name=f"headers-{request.format.value}",
        subject=kernel.subject,
        action=PackHeaders.for_arch(request.format, arch),
        inputs=(("kernel", kernel),),
        builder=planner.builder("compiler", tools=TOOLS.get(request.format, ())),
    )


def plan_line_source(planner: Planner, name: str, patches: str | None = None) -> Step:
    """Return the step that gets the source of a kernel line, with its patches, or the series `patches`, applied."""
    return plan_source(
        name,
        _with_patches(planner.versions.kernel(name), patches),
        builder=planner.builder("compiler"),
        root=planner.root / "kernel",
        keys=_public_keys(planner),
    )


def _line(planner: Planner, request: KernelRequest, arch: Arch) -> tuple[str, KernelLine]:
    """Return a name and the line that a request means: one of versions.yaml, or one made of its own words."""
    try:
        if request.git is not None:
            return "git", KernelLine(git=request.git, ref=request.ref, patches=request.patches)
        if request.tree is not None:
            if not request.tree.is_dir():
                raise UsageError(
                    f"--tree {request.tree}: no such folder", hint="Name the top folder of a kernel source."
                )
            return "tree", KernelLine(tree=str(request.tree.absolute()), patches=request.patches)
        name, patches = (request.line, None) if request.line else usual_line(planner, request.variant, arch)
        return name, _with_patches(planner.versions.kernel(name), request.patches or patches)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _check_series(planner: Planner, series: str | None) -> None:
    """Refuse patches of a request that are not in this checkout."""
    known = known_series(planner.root / "kernel" / "patches")
    if series is not None and series not in (NO_PATCHES, *known):
        raise UsageError(f"--patches {series}: no such folder of kernel/patches", hint=suggest(series, known))


@contextlib.contextmanager
def _told_by_flag(request: KernelRequest) -> Iterator[None]:
    """Say with its flag what is wrong with a tree that a request names, whatever else names trees."""
    try:
        yield
    except SourceError as error:
        if request.tree is None:
            raise
        raise UsageError(f"--tree {error.message}", hint=error.hint) from None


def _with_patches(line: KernelLine, patches: str | None) -> KernelLine:
    return dataclasses.replace(line, patches=patches) if patches else line


def own_patches(planner: Planner) -> Iterator[tuple[str, str, str]]:
    """Yield each series that is a variant's own: the variant, the kernel line that the series is for, the series."""
    for name, variant in load_usable(planner.root / "kernel" / "configs").variants.items():
        yield from dict.fromkeys((name, each.line, each.patches) for each in variant.lines if each.patches)


def usual_line(planner: Planner, variant: str, arch: Arch) -> tuple[str, str | None]:
    """Return the kernel line that a variant is built from when nobody names one, and the variant's own patches.

    Raises PlanError for a line that versions.yaml has not.
    """
    if variant != BASE:
        declared = load_usable(planner.root / "kernel" / "configs").variants.get(variant)
        usual = declared.usual_line(arch) if declared else None
        if usual:
            if usual.line not in planner.versions.kernels:
                raise PlanError(
                    f"{declaration(variant)}: lines: unknown kernel {usual.line!r}",
                    hint=suggest(usual.line, planner.versions.kernels),
                )
            return usual.line, usual.patches
    return planner.versions.defaults.kernel, None


def _public_keys(planner: Planner) -> PublicKeys | None:
    """Return the keys that kernel tarballs' signatures are checked with, if that is asked for."""
    path = planner.settings.kernel_keys
    return PublicKeys.of_path(path) if path else None


def _signing_key(planner: Planner) -> SigningKey | None:
    """Return the key that kernel modules are signed with, if there is one."""
    path = planner.settings.module_signing_key
    return SigningKey.of_path(path, pin=planner.settings.module_signing_pin) if path else None


def _own_requests(request: KernelRequest) -> tuple[Request, ...]:
    """Return what the user's own fragments ask for. Raises UsageError for one that is none, or asks for nothing."""
    found: list[Request] = []
    for path in request.fragments:
        try:
            requests = load_fragment(path, str(path))
        except FragmentError as error:
            raise UsageError(f"--fragment {error.message}", hint=error.hint) from None
        if not requests:
            raise UsageError(f"--fragment {path}: asks for nothing", hint="A line that asks is CONFIG_NAME=value.")
        found += requests
    return tuple(found)


def _arch(request: KernelRequest) -> Arch:
    return parse_arch(request.arch) if request.arch else host_arch()
