"""What an offline build lacks, told with the commands that get it: `inv fetch` and `inv lock`, with their flags."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from osbuilder.agents.pin import NO_OPTIONS
from osbuilder.errors import OfflineError
from osbuilder.fetch import LOCK_FIRST
from osbuilder.request import (
    AgentRequest,
    BuildRequest,
    HeadersRequest,
    ImageRequest,
    InitrdRequest,
    KernelRequest,
    RootfsRequest,
)


def rootfs_of(request: BuildRequest) -> RootfsRequest:
    """Return the root filesystem's part of a request that has one, as it is built."""
    match request:
        case RootfsRequest():
            return request
        case ImageRequest():
            return request.rootfs
        case InitrdRequest():
            return request.guest
        case KernelRequest() | HeadersRequest() | AgentRequest():
            raise TypeError(f"{type(request).__name__} has no packages")


@contextlib.contextmanager
def told_what_to_fetch(request: BuildRequest) -> Iterator[None]:
    """Say in an OfflineError with which flags `inv fetch`, or before it `inv lock`, gets what a request needs."""
    try:
        yield
    except OfflineError as error:
        if error.hint == LOCK_FIRST:
            lock = ("inv", "lock", *_lock_flags(rootfs_of(request)))
            error.hint = error.hint.replace("inv lock", shlex.join(lock))
        if _is_of_own_source(request):
            error.hint = "Run the same once with a network: without --offline."
        error.hint = error.hint.replace("inv fetch", shlex.join(("inv", "fetch", *_fetch_flags(request))))
        raise


def _is_of_own_source(request: BuildRequest) -> bool:
    """Whether a request is for a kernel that `inv fetch` has no flags for."""
    kernel = request.kernel if isinstance(request, HeadersRequest) else request
    return isinstance(kernel, KernelRequest) and bool(kernel.git or kernel.tree or kernel.patches or kernel.fragments)


def _lock_flags(rootfs: RootfsRequest) -> Iterator[str]:
    """Yield the flags with which `inv lock` locks what a request needs."""
    for name, value in (("distro", rootfs.distro), ("release", rootfs.release), ("arch", rootfs.arch)):
        if value is not None:
            yield from (f"--{name}", value)
    for flag, values in (("--package", rootfs.packages), ("--feature", rootfs.all_features)):
        for value in values:
            yield from (flag, value)


def _fetch_flags(request: BuildRequest) -> Iterator[str]:
    """Yield the flags with which `inv fetch` gets what a request needs."""
    flags: tuple[tuple[str, str | None], ...]
    options = NO_OPTIONS
    match request:
        case AgentRequest():
            flags = (("agent", request.agent), ("arch", request.arch))
            options = request.agent_options
        case KernelRequest() | HeadersRequest():
            kernel = request.kernel if isinstance(request, HeadersRequest) else request
            variant = kernel.variant if kernel.variant != "base" else None
            flags = (("kernel", kernel.line), ("variant", variant), ("arch", kernel.arch))
        case _:
            rootfs = rootfs_of(request)
            options = rootfs.agent_options
            flags = (
                ("distro", rootfs.distro),
                ("release", rootfs.release),
                ("arch", rootfs.arch),
                ("agent", rootfs.agent),
            )
    for name, value in flags:
        if value is not None:
            yield from (f"--{name}", value)
    for word in options.words():
        yield from ("--agent-option", word)
