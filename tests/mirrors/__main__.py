"""Make a mirror in a folder and serve it by hand: python -m tests.mirrors apk|apt|gentoo|oci|pacman|rpm|all FOLDER."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mirrors import every
from tests.mirrors.alpine import BUSYBOX, MUSL
from tests.mirrors.images import guest, push, registry
from tests.mirrors.rpm import served

if TYPE_CHECKING:
    from osbuilder.api import Workbench


def _bench() -> Workbench:
    from osbuilder.api import open_workbench

    return open_workbench((), stream=sys.stderr)


def _alpine(options: argparse.Namespace) -> tuple[str, ...]:
    chosen = {name: getattr(options, name) for name in ("release", "arch", "busybox", "musl")}
    return every.lay_out_alpine(options.folder, **chosen)


KINDS: Mapping[str, tuple[str, Callable[[argparse.Namespace], tuple[str, ...]]]] = {
    "apk": ("a small Alpine, of this host's busybox-static and musl", _alpine),
    "gentoo": (
        "a small stage3 of this host's busybox-static, x86_64",
        lambda options: every.lay_out_gentoo(options.folder),
    ),
    "apt": (
        "a small Ubuntu, of Debian's packages (downloaded, then kept in the store)",
        lambda options: every.lay_out_ubuntu(_bench(), options.folder),
    ),
    "rpm": (
        "fedora, centos, azurelinux, opensuse and clearlinux, of repackaged Debian files",
        lambda options: every.lay_out_rpm(_bench(), options.folder),
    ),
    "pacman": (
        "Arch Linux, of repackaged Debian files",
        lambda options: every.lay_out_pacman(_bench(), options.folder),
    ),
}


@contextlib.contextmanager
def _images(folder: Path, port: int) -> Iterator[str]:
    with registry(folder, port=port) as url:
        push(url, "tests/toy", "1", guest(), guest("arm64"))
        yield f"--release {url.removeprefix('http://')}/tests/toy:1"


@contextlib.contextmanager
def _all(folder: Path, port: int) -> Iterator[str]:
    with every.every_mirror(_bench(), folder, port) as settings:
        yield _flags(settings)


# These are processes: without --serve they only show that they start.
_SERVERS = {
    "oci": ("a registry (Debian's docker-registry) with one image of busybox-static", _images),
    "all": ("every distribution's at once, for inv rootfs --distro all", _all),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mirrors", description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, (what, _) in (*KINDS.items(), *_SERVERS.items()):
        kind = kinds.add_parser(name, help=what)
        kind.add_argument("folder", type=Path)
        kind.add_argument("--serve", action="store_true", help="serve it over http until interrupted")
        kind.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1 (default: any that is free)")
    apk = kinds.choices["apk"]
    apk.add_argument("--release", default="3.24")
    apk.add_argument("--arch", default="x86_64")
    apk.add_argument("--busybox", type=Path, default=BUSYBOX, help="a static busybox of that architecture")
    apk.add_argument("--musl", type=Path, default=MUSL, help="musl's loader of that architecture")
    options = parser.parse_args(arguments)
    options.folder = options.folder.absolute()
    return options


def _flags(settings: Iterable[str]) -> str:
    return " ".join(f"--setting {shlex.quote(setting)}" for setting in every.merged(settings))


def _wait(said: str, *, serve: bool) -> None:
    print(said, flush=True)  # noqa: T201 - for the person who serves it
    if serve:
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    if options.kind in _SERVERS:
        with _SERVERS[options.kind][1](options.folder, options.port) as said:
            _wait(said, serve=options.serve)
        return
    settings = KINDS[options.kind][1](options)
    if not options.serve:
        _wait(_flags(each.replace(every.URL, f"file://{options.folder}") for each in settings), serve=False)
        return
    with served(options.folder, options.port) as url:
        _wait(_flags(each.replace(every.URL, url) for each in settings), serve=True)


if __name__ == "__main__":
    main()
