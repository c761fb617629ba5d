"""The part of planning that is about guest kernels: requests to steps, with the pins and keys of a planner's settings.

Pure, as osbuilder.plan is, which hands kernels over to it: what plans no kernel does not load the Kconfig reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.arch import host_arch, parse_arch
from osbuilder.errors import FragmentError, PatchError, PlanError, SourceError, UsageError, suggest
from osbuilder.kernel.build import plan_kernel, plan_source, series_of
from osbuilder.kernel.catalogue import BASE, load_usable
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.fragments import Request, load_fragment
from osbuilder.kernel.headers import TOOLS, PackHeaders
from osbuilder.kernel.patches import known_series, load_series, read_series
from osbuilder.kernel.placement import declaration
from osbuilder.kernel.series import SeriesNames
from osbuilder.kernel.signature import PublicKeys
from osbuilder.kernel.signing import SigningKey
from osbuilder.kernel.source import KernelLine
from osbuilder.step import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from osbuilder.arch import Arch
    from osbuilder.plan import Planner
    from osbuilder.request import HeadersRequest, KernelRequest

_ANY: Final = KernelVersion((sys.maxsize,))
"""What stands for the version of a line whose pins tell none: newer than all."""


def plan(planner: Planner, request: KernelRequest) -> Step:
    """Return the step whose artifact is a guest kernel. Raises as osbuilder.kernel.build.plan_kernel."""
    arch = _arch(request)
    name, line = _line(planner, request, arch)
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
            signing=_signing_key(planner, request.variant),
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


def plan_line_source(planner: Planner, name: str, patches: SeriesNames | None = None) -> Step:
    """Return the step that gets the source of a kernel line, with its patches, or those of `patches`, applied."""
    return _plan_source(planner, name, _with_patches(planner.versions.kernel(name), patches))


def plan_request_source(planner: Planner, request: KernelRequest) -> tuple[str, Step]:
    """Return the name of the line that a request means, and the step that gets its source, patches applied."""
    name, line = _line(planner, request, _arch(request))
    with _told_by_flag(request):
        return name, _plan_source(planner, name, line)


def _plan_source(planner: Planner, name: str, line: KernelLine) -> Step:
    return plan_source(
        name, line, builder=planner.builder("compiler"), root=planner.root / "kernel", keys=_public_keys(planner)
    )


def _line(planner: Planner, request: KernelRequest, arch: Arch) -> tuple[str, KernelLine]:
    """Return a name and the line that a request means: one of versions.yaml, or one made of its own words."""
    patches = _patches(planner, request)
    try:
        if request.git is not None:
            return "git", KernelLine(git=request.git, ref=request.ref, patches=patches)
        if request.tree is not None:
            if not request.tree.is_dir():
                raise UsageError(
                    f"--tree {request.tree}: no such folder", hint="Name the top folder of a kernel source."
                )
            return "tree", KernelLine(tree=str(request.tree.absolute()), patches=patches)
        name, own = (request.line, None) if request.line else usual_line(planner, request.variant, arch)
        return name, _with_patches(planner.versions.kernel(name), patches or own)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _patches(planner: Planner, request: KernelRequest) -> SeriesNames | None:
    """Return the series that a request names; relative paths begin where the user is.

    Raises UsageError for what is not there, and for a series elsewhere that cannot be read.
    """
    if request.patches is None:
        return None
    try:
        named = SeriesNames.parse(request.patches).below(Path.cwd())
    except ValueError as error:
        raise UsageError(f"--patches: {error}") from error
    _check_series(planner, named)
    return named


def _check_series(planner: Planner, named: SeriesNames) -> None:
    """Refuse series of a request that are not in this checkout, and those elsewhere that cannot be read."""
    root = planner.root / "kernel" / "patches"
    known = known_series(root)
    for name in named.names:
        if "/" in name:
            try:
                read_series(root, name, required=True)
            except PatchError as error:
                raise UsageError(f"--patches {error.message}", hint=error.hint) from None
        elif name not in known:
            raise UsageError(
                f"--patches {name}: no such folder of kernel/patches",
                hint=f"{suggest(name, known)} One that lies elsewhere has a slash: ./{name}.",
            )


@contextlib.contextmanager
def _told_by_flag(request: KernelRequest) -> Iterator[None]:
    """Say with its flag what is wrong with a tree that a request names, whatever else names trees."""
    try:
        yield
    except SourceError as error:
        if request.tree is None:
            raise
        raise UsageError(f"--tree {error.message}", hint=error.hint) from None


def _with_patches(line: KernelLine, patches: SeriesNames | None) -> KernelLine:
    return dataclasses.replace(line, patches=patches) if patches else line


def patches_left_out(planner: Planner, request: KernelRequest) -> str:
    """Return what to say of patches that a kernel would have without --patches, and has not with it; "" of none.

    Nothing is said where none are asked for. Raises PatchError and UsageError for a series that cannot be read.
    """
    named = _patches(planner, request)
    if not named or not named.names:
        return ""
    root = planner.root / "kernel"
    load_series(root / "patches", *named.names, required=True)
    name, line = _line(planner, dataclasses.replace(request, patches=None), _arch(request))
    own = [each for each in series_of(name, line, root=root).names if each not in named.names]
    lost = [each for each in own if read_series(root / "patches", each)]
    if not lost:
        return ""
    both = ",".join((*lost, request.patches or ""))
    return f"without the patches of {' and '.join(lost)}, which {name} has otherwise; with both: --patches {both}"


def own_patches(planner: Planner) -> Iterator[tuple[str, str, SeriesNames]]:
    """Yield the series that are a variant's own: the variant, the kernel line that they are for, the series."""
    for name, variant in load_usable(planner.root / "kernel" / "configs").variants.items():
        yield from dict.fromkeys((name, each.line, each.patches) for each in variant.lines if each.patches)


def usual_line(planner: Planner, variant: str, arch: Arch) -> tuple[str, SeriesNames | None]:
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


def newest_version(planner: Planner, variant: str, line: str | None, arch: Arch) -> KernelVersion:
    """Return the newest version that a variant's kernels of a line (None: the usual one) can have, as its pins tell."""
    span = planner.versions.kernel(line or usual_line(planner, variant, arch)[0]).span
    return span[-1] if span else _ANY


def _public_keys(planner: Planner) -> PublicKeys | None:
    """Return the keys that kernel tarballs' signatures are checked with, if that is asked for."""
    path = planner.settings.kernel_keys
    return PublicKeys.of_path(path) if path else None


def _signing_key(planner: Planner, variant: str) -> SigningKey | None:
    """Return the key that a variant's modules are signed with, if there is one, and if it has modules."""
    path = planner.settings.module_signing_key
    if path is None:
        return None
    declared = load_usable(planner.root / "kernel" / "configs").variants.get(variant)
    return SigningKey.of_path(path, pin=planner.settings.module_signing_pin) if declared and declared.modules else None


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
