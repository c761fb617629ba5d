"""Make a mirror in a folder, and serve it by hand: python -m tests.mirrors apk FOLDER [--serve]."""

from __future__ import annotations

import argparse
import functools
import http.server
from pathlib import Path

from tests.mirrors.alpine import BUSYBOX, MUSL, alpine
from tests.mirrors.apk import SigningKey


def make_apk(options: argparse.Namespace) -> str:
    """Write an Alpine mirror and its key; return the settings that name them, with {url} for the mirror's address."""
    key = SigningKey.named()
    files = alpine(key, release=options.release, arch=options.arch, busybox=options.busybox, musl=options.musl)
    for name, content in files.items():
        path = options.folder / "alpine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (options.folder / key.name).write_bytes(key.public)
    return f"--setting mirrors=alpine={{url}}/alpine --setting keyrings=alpine={options.folder / key.name}"


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
    for kind in kinds.choices.values():
        kind.add_argument("--serve", action="store_true", help="serve it over http until interrupted")
        kind.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    options.folder = options.folder.absolute()
    return options


def main() -> None:
    options = parse()
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
