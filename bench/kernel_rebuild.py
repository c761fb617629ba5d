"""What compiling a kernel again costs after a fragment got one more line, beside the first time with an empty ccache.

    python -m bench.kernel_rebuild [--variant NAME] [--line CONFIG_NAME=VALUE]

Both in one run, in the sandbox, in a store that is thrown away: CPU seconds of the step that compiles, all of its
processes. The line goes into a copy of kernel/configs; the default switches on a driver that nothing else needs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bench.kernel_build import lend
from osbuilder.api import open_workbench
from osbuilder.request import KernelRequest
from osbuilder.store import Store

ROOT = Path(__file__).resolve().parents[1]
FRAGMENT = Path("kernel", "configs", "common", "net.conf")
LINE = "CONFIG_DUMMY=y"
AIM = 0.25


def make_checkout(folder: Path) -> Path:
    """Make a checkout in a folder, whose configurations are its own, and return the fragment that gets the line."""
    for name in ("agents", "distros", "versions.yaml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "kernel").mkdir()
    (folder / "kernel" / "patches").symlink_to(ROOT / "kernel" / "patches")
    shutil.copytree(ROOT / "kernel" / "configs", folder / "kernel" / "configs")
    return folder / FRAGMENT


def compiled(checkout: Path, store: Path, request: KernelRequest) -> tuple[float, int, int]:
    """Return the CPU seconds of a kernel's compilation, and how many objects came from ccache, of how many."""
    settings = (f"store={store}", f"build={checkout}/build", "engine=sandbox")
    facts = open_workbench(settings, stream=sys.stderr, root=checkout).build(request).artifact.facts
    return facts["cpu_s"], facts["ccache"].get("hits", 0), sum(facts["ccache"].values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_rebuild", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="base")
    parser.add_argument("--line", default=LINE, help=f"what the fragment gets (default: {LINE})")
    options = parser.parse_args()
    request = KernelRequest(arch="x86_64", variant=options.variant)
    users = open_workbench(("engine=sandbox",), stream=sys.stderr, root=ROOT)
    with tempfile.TemporaryDirectory(dir=users.store.root) as name:
        checkout, store = Path(name, "checkout"), Path(name, "store")
        checkout.mkdir()
        fragment = make_checkout(checkout)
        # What depends on the configuration is not among it.
        lend(users, (users.planner.plan(request),), Store(store), without=("config", "kernel"))
        first, _, objects = compiled(checkout, store, request)
        print(f"{options.variant}: {first:.0f} s of CPU, {objects} objects", flush=True)
        with fragment.open("a", encoding="utf-8") as stream:
            stream.write(f"{options.line}\n")
        again, hits, objects = compiled(checkout, store, request)
        print(f"and with {options.line}: {again:.0f} s of CPU, {hits} of {objects} objects from ccache")
        print(f"{again / first:.2f}x; aim {AIM:.2f}x")


if __name__ == "__main__":
    main()
