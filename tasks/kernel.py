"""The commands about guest kernels: `inv kernel` builds one, `inv kernel.*` look into what it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context

from tasks.common import make, path_of, paths_of, workbench
from tasks.flags import ARCH, COMMON, KERNEL, KERNEL_SOURCE, OFFLINE, ONE_KERNEL, OUTPUT, SETTING, Flag, command

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.request import KernelRequest


def request_of(given: Mapping[str, Any]) -> KernelRequest:
    """Return the request that the flags of the table ONE_KERNEL make."""
    from osbuilder.request import KernelRequest

    return KernelRequest(
        arch=given["arch"],
        line=given["kernel"],
        variant=given["variant"],
        git=given["git"],
        ref=given["ref"],
        tree=path_of(given["tree"]),
        patches=given["patches"],
        fragments=paths_of(given["fragment"]),
    )


def _wanted(bench: Workbench, given: Mapping[str, Any]) -> KernelRequest:
    """Return the request, and say on stderr which patches it leaves out."""
    request = request_of(given)
    if request.patches and (note := bench.kernels.patches_left_out(request)):
        print(f"note: {note}", file=sys.stderr)
    return request


_INTO = {"output": Flag("also write copies of all of its files into this folder")}


@command(ONE_KERNEL, _INTO, OFFLINE, COMMON)
def build(_: Context, **given: Any) -> None:
    """Build a guest kernel and hold its configuration against what was asked for."""
    with workbench(given["setting"], command="kernel", given=given) as bench:
        make(bench, _wanted(bench, given), output=given["output"], dry=given["dry"])


@command(
    KERNEL_SOURCE,
    SETTING,
    flags={
        "check": "apply them to the source that each kernel line pins, or to the one that is named",
        "kernel": "only this kernel of versions.yaml",
    },
)
def patches(_: Context, check: bool = False, kernel: str | None = None, **given: Any) -> None:
    """List the patches of kernel/patches, or of one source, or try whether they apply."""
    from osbuilder.request import KernelRequest

    with workbench(given["setting"]) as bench:
        request = KernelRequest(
            line=kernel, git=given["git"], ref=given["ref"], tree=path_of(given["tree"]), patches=given["patches"]
        )
        print(bench.check_patches(request) if check else bench.list_patches(request))


@command(ONE_KERNEL, COMMON, flags={"output": "write it to this path (default: print it)"})
def config(_: Context, output: str | None = None, **given: Any) -> None:
    """Resolve a kernel's .config, check the contract, and write it."""
    with workbench(given["setting"]) as bench:
        if given["dry"]:
            print(bench.kernels.describe_config(_wanted(bench, given), output=path_of(output)))
            return
        text = bench.kernels.config(_wanted(bench, given), output=path_of(output))
        print(output or text, end="\n" if output else "")


@command(
    SETTING,
    flags={
        "kernel": "all of this kernel of versions.yaml (default: each of its usual one)",
        "variant": "only this variant",
        "arch": "only this architecture",
    },
)
def contract(
    _: Context,
    kernel: str | None = None,
    variant: str | None = None,
    arch: str | None = None,
    setting: Sequence[str] | None = None,
) -> None:
    """Resolve all kernels, each variant for each architecture, and check that every contract holds."""
    with workbench(setting) as bench:
        print(bench.kernels.contract(kernel, variant=variant, arch=arch))


@command(ONE_KERNEL, OUTPUT, OFFLINE, COMMON, flags={"format": "deb, rpm or tar"})
def headers(_: Context, format: str = "deb", **given: Any) -> None:  # noqa: A002 - the flag is called so
    """Pack what modules for a kernel are built with: headers, symbols, build programs."""
    with workbench(given["setting"], given=given) as bench:
        from osbuilder.kernel.packageformat import PackageFormat
        from osbuilder.request import HeadersRequest, parse_choice

        request = HeadersRequest(kernel=_wanted(bench, given), format=parse_choice(format, PackageFormat, "format"))
        make(bench, request, output=given["output"], dry=given["dry"])


@command(
    ONE_KERNEL,
    SETTING,
    flags={"symbol": "a configuration symbol, with or without CONFIG_"},
    positional=["symbol"],
)
def explain(_: Context, symbol: str, **given: Any) -> None:
    """Say where a symbol is asked for, what it is, and why."""
    with workbench(given["setting"]) as bench:
        print(bench.kernels.explain(_wanted(bench, given), symbol))


@command(
    ARCH,
    SETTING,
    flags={
        "one": "a kernel: LINE, VARIANT or LINE/VARIANT (debian-6.1, minimal, debian-6.1/minimal)",
        "other": "the kernel to hold against it",
    },
    positional=["one", "other"],
)
def diff(_: Context, one: str, other: str, arch: str | None = None, setting: Sequence[str] | None = None) -> None:
    """Compare two kernels: their symbols, and their sizes where both are built."""
    with workbench(setting) as bench:
        print(bench.kernels.diff(one, other, arch=arch))


@command(flags={"variant": "only what this variant has", "arch": "only what this architecture has"})
def capabilities(_: Context, variant: str | None = None, arch: str | None = None) -> None:
    """List what guest kernels can do: fragments, probes, who needs it, and in which kernels it is."""
    with workbench(()) as bench:
        print(bench.kernels.capabilities(variant=variant, arch=arch))


@command()
def variants(_: Context) -> None:
    """List the variants: what each is for, on which architectures, and who can boot or use it."""
    with workbench(()) as bench:
        print(bench.kernels.variants_text())


@command(KERNEL, flags={"arch": "only this architecture"})
def consumers(_: Context, arch: str | None = None, **given: Any) -> None:
    """List which VMMs and runtimes can boot or use a variant, declared or not, or what it lacks for them."""
    with workbench(()) as bench:
        print(bench.kernels.consumers(given["variant"], line=given["kernel"], arch=arch))


@command(ONE_KERNEL, SETTING, flags={"save": "make these sizes its budget (kernel/budget.yaml)"})
def size(_: Context, save: bool = False, **given: Any) -> None:
    """Show a kernel's size by subsystem; fails when it exceeds its saved budget."""
    with workbench(given["setting"]) as bench:
        print(bench.kernels.size(_wanted(bench, given), save=save))


@command(ONE_KERNEL, SETTING, flags={"output": "write the fragment to this path (default: print it)"})
def menuconfig(_: Context, output: str | None = None, **given: Any) -> None:
    """Edit a kernel's configuration in its menus, and get what was changed as a fragment."""
    with workbench(given["setting"]) as bench:
        fragment = bench.kernels.menuconfig(_wanted(bench, given), terminal=sys.stdin.fileno(), output=path_of(output))
        print(output or fragment or "nothing was changed", end="\n" if output or not fragment else "")


commands = Collection(
    "kernel",
    config,
    contract,
    explain,
    diff,
    variants,
    capabilities,
    consumers,
    size,
    menuconfig,
    headers,
    patches,
)
commands.add_task(build, default=True)
