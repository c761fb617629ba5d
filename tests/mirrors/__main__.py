"""Make a mirror in a folder, and serve it by hand: python -m tests.mirrors apk|apt|gentoo|oci FOLDER [--serve]."""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.mirrors.alpine import BUSYBOX, MUSL, alpine
from tests.mirrors.apk import SigningKey
from tests.mirrors.images import guest, push, registry
from tests.mirrors.stage3 import KEY, gentoo


def make_apk(options: argparse.Namespace) -> str:
    """Write an Alpine mirror and its key; return the settings that name them, with {url} for the mirror's address."""
    key = SigningKey.named()
    files = alpine(key, release=options.release, arch=options.arch, busybox=options.busybox, musl=options.musl)
    _write(files, options.folder / "alpine")
    (options.folder / key.name).write_bytes(key.public)
    return f"--setting mirrors=alpine={{url}}/alpine --setting keyrings=alpine={options.folder / key.name}"


def make_gentoo(options: argparse.Namespace) -> str:
    """Write a Gentoo mirror and its key; return the settings that name them."""
    _write(gentoo(), options.folder / "gentoo")
    (options.folder / "gentoo.gpg").write_bytes(KEY.public())
    return f"--setting mirrors=gentoo={{url}}/gentoo --setting keyrings=gentoo={options.folder / 'gentoo.gpg'}"


def serve_registry(options: argparse.Namespace) -> None:
    """Fill a registry with an image of this host's busybox; with --serve keep it running, and say how it is named."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with registry(options.folder, port=options.port) as url, contextlib.suppress(KeyboardInterrupt):
        push(url, "tests/toy", "1", guest(), guest("arm64"))
        print(f"--release {url.removeprefix('http://')}/tests/toy:1", flush=True)  # noqa: T201
        if options.serve:
            threading.Event().wait()


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_apt(options: argparse.Namespace) -> str:
    """Write a mirror of Ubuntu's suites and its key; return the settings that name them, as `make_apk` does."""
    from osbuilder.api import open_workbench
    from tests.mirrors import ubuntu

    ubuntu.lay_out(open_workbench((), stream=sys.stderr), options.folder / "ubuntu")
    return " ".join(f"--setting {setting}" for setting in ubuntu.settings_for("{url}/ubuntu", options.folder))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mirrors", description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    apk = kinds.add_parser("apk", help="a small Alpine, of this host's busybox-static and musl")
    apk.add_argument("folder", type=Path)
    apk.add_argument("--release", default="3.24")
    apk.add_argument("--arch", default="x86_64")
    apk.add_argument("--busybox", type=Path, default=BUSYBOX, help="a static busybox of that architecture")
    apk.add_argument("--musl", type=Path, default=MUSL, help="musl's loader of that architecture")
    apk.set_defaults(make=make_apk)
    stage3 = kinds.add_parser("gentoo", help="a small stage3 of this host's busybox-static, x86_64")
    stage3.add_argument("folder", type=Path)
    stage3.set_defaults(make=make_gentoo)
    images = kinds.add_parser("oci", help="a registry (Debian's docker-registry) with one image of busybox-static")
    images.add_argument("folder", type=Path)
    apt = kinds.add_parser("apt", help="a small Ubuntu, of Debian's packages (downloaded, then kept in the store)")
    apt.add_argument("folder", type=Path)
    apt.set_defaults(make=make_apt)
    for kind in kinds.choices.values():
        kind.add_argument("--serve", action="store_true", help="serve it over http until interrupted")
        kind.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    options.folder = options.folder.absolute()
    return options


def main() -> None:
    options = parse()
    if options.kind == "oci":
        serve_registry(options)
        return
    settings = options.make(options)
    if not options.serve:
        print(settings.format(url=f"file://{options.folder}"))  # noqa: T201
        return
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(options.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", options.port), handler) as server:
        print(settings.format(url=f"http://127.0.0.1:{server.server_address[1]}"), flush=True)  # noqa: T201
        server.serve_forever()


if __name__ == "__main__":
    main()
