"""A kernel as steps: source, its patches, what resolving takes of it and of the compiler, configuration, its contract,
compilation.

Where it has modules and the user has a key, they are signed after that, in a step that has the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.kernel.answers import AskToolchain
from osbuilder.kernel.compile import Compile
from osbuilder.kernel.configure import Configure, Resolve
from osbuilder.kernel.fragments import Request
from osbuilder.kernel.install import suffix
from osbuilder.kernel.modulecheck import SETTING
from osbuilder.kernel.modules import TRUSTED, CompileWithModules
from osbuilder.kernel.patches import load_series
from osbuilder.kernel.resolver import MakeResolver
from osbuilder.kernel.series import SeriesNames
from osbuilder.kernel.signing import SigningKey, SignModules
from osbuilder.step import Step

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.kernel.signature import PublicKeys
    from osbuilder.kernel.source import KernelLine

COMPILED: Final = "kernel"
"""The name of the step that compiles."""

TRUST: Final = Request(symbol="SYSTEM_TRUSTED_KEYS", value=f'"{TRUSTED}"', file=SETTING, line=None)
"""What is asked for where modules are signed."""

CUSTOM: Final = "-custom"
"""What the subject of a kernel ends in that is asked for more than its variant says."""


def plan_source(name: str, line: KernelLine, *, builder: Step, root: Path, keys: PublicKeys | None = None) -> Step:
    """Return the step whose artifact is the source of a line of versions.yaml, with its patches applied.

    `root` is the checkout's folder kernel/; `keys` as in KernelLine.source. Raises PatchError, SourceError, UsageError.
    """
    source = Step(name="source", subject=name, action=line.source(root.parent, keys=keys), builder=builder)
    names = series_of(name, line, root=root)
    action = load_series(root / "patches", *names.names, required=line.patches is not None)
    if action is None:
        return source
    return Step(name="patched", subject=name, action=action, inputs=(("source", source),), builder=builder)


def series_of(name: str, line: KernelLine, *, root: Path) -> SeriesNames:
    """Return the series that a line gets: those that it names, or that of its own name, which need not be there."""
    return (line.patches or SeriesNames((name,))).below(root.parent)


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
    signing: SigningKey | None = None,
    further: tuple[Request, ...] = (),
    lines: Mapping[str, KernelLine] | None = None,
) -> Step:
    """Return the step whose artifact is the kernel of a line of versions.yaml (see compile.Compile).

    `builder` gets the source ready, which all architectures and variants share; `compiler` returns the builder with the
    compiler for `arch` and some packages besides, a variant's tools. `root` is the checkout's folder kernel/, with
    configs/ and patches/; `epoch` is the build time that the kernel tells (None: the source's); `signing` is the key
    that its modules are signed with, where it has any; `further` is asked for besides what the catalogue asks for;
    `lines` are all of versions.yaml, to name others where this one is not for the variant. Raises DecodeError,
    FragmentError, PatchError, SourceError and UsageError for what cannot be read.
    """
    source = plan_source(name, line, builder=builder, root=root, keys=keys)
    resolver = Step(name="resolver", subject=name, action=MakeResolver(), inputs=(("source", source),), builder=builder)
    subject = f"{name}-{arch.name}{suffix(variant)}{CUSTOM if further else ''}"
    configure = Configure.of_catalogue(root / "configs", arch, variant, lines=lines).asking(further)
    declared = configure.catalogue.variants[variant]
    signed = signing if declared.modules else None
    if signed:
        configure = configure.asking([TRUST])
    tools = compiler(declared.tools)
    answers = Step(
        name="answers",
        subject="-".join((name, arch.name, *declared.tools)),
        action=AskToolchain.for_arch(arch),
        inputs=(("resolver", resolver),),
        builder=tools,
    )
    resolved = Step(
        name="resolved",
        subject=subject,
        action=Resolve(configure=configure),
        inputs=(("answers", answers), ("resolver", resolver)),
        builder=tools,
    )
    config = Step(
        name="config", subject=subject, action=configure, inputs=(("resolved", resolved), ("resolver", resolver))
    )
    action = Compile.for_arch(arch, epoch=epoch, debug_info=declared.debug_info)
    if declared.modules:
        action = CompileWithModules.of_kernel(action, certificate=signed.certificate if signed else None)
    kernel = Step(
        name=COMPILED,
        subject=subject,
        action=action,
        inputs=(("config", config), ("source", source)),
        builder=tools,
    )
    if not signed:
        return kernel
    sign = SignModules(key=signed)
    return Step(name="signed", subject=subject, action=sign, inputs=(("kernel", kernel),), builder=tools)


def compiled(step: Step) -> Step:
    """Return the step that compiles, of those that plan_kernel's last one needs."""
    return next(each for each in step.walk() if each.name == COMPILED)
