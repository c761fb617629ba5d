"""A kernel as steps: source, its patches if there are any, what resolving takes of it, configuration, compilation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.kernel.compile import Compile
from osbuilder.kernel.configure import Configure
from osbuilder.kernel.install import suffix
from osbuilder.kernel.patches import NO_PATCHES, load_series
from osbuilder.kernel.resolver import MakeResolver
from osbuilder.step import Step

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.kernel.signature import PublicKeys
    from osbuilder.kernel.source import KernelLine


def plan_source(name: str, line: KernelLine, *, builder: Step, root: Path, keys: PublicKeys | None = None) -> Step:
    """Return the step whose artifact is the source of a line of versions.yaml, with its patches applied.

    `root` is the checkout's folder kernel/; `keys` as in KernelLine.source. Raises PatchError, SourceError, UsageError.
    """
    source = Step(name="source", subject=name, action=line.source(root.parent, keys=keys), builder=builder)
    if line.patches == NO_PATCHES:
        return source
    series = load_series(root / "patches", line.patches or name, required=line.patches is not None)
    if series is None:
        return source
    return Step(name="patched", subject=name, action=series, inputs=(("source", source),), builder=builder)


def plan_kernel(
    name: str,
    line: KernelLine,
    *,
    arch: Arch,
    variant: str,
    builder: Step,
    compiler: Callable[[tuple[str, ...]], Step],
    root: Path,
    epoch: int | None,
    keys: PublicKeys | None = None,
) -> Step:
    """Return the step whose artifact is the kernel of a line of versions.yaml (see compile.Compile).

    `builder` gets the source ready, which all architectures and variants share; `compiler` returns the builder with the
    compiler for `arch` and some packages besides, a variant's tools. `root` is the checkout's folder kernel/, with
    configs/ and patches/; `epoch` is the build time that the kernel tells (None: the source's). Raises DecodeError,
    FragmentError, PatchError, SourceError and UsageError for what cannot be read.
    """
    source = plan_source(name, line, builder=builder, root=root, keys=keys)
    resolver = Step(name="resolver", subject=name, action=MakeResolver(), inputs=(("source", source),), builder=builder)
    subject = f"{name}-{arch.name}{suffix(variant)}"
    configure = Configure.of_catalogue(root / "configs", arch, variant)
    declared = configure.catalogue.variants[variant]
    tools = compiler(declared.tools)
    config = Step(
        name="config",
        subject=subject,
        action=configure,
        inputs=(("resolver", resolver),),
        builder=tools,
    )
    return Step(
        name="kernel",
        subject=subject,
        action=Compile.for_arch(arch, epoch=epoch, debug_info=declared.debug_info),
        inputs=(("config", config), ("source", source)),
        builder=tools,
    )
