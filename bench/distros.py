"""How long every distribution takes in one `inv rootfs --distro all`, beside the same ones built one after another.

    python -m bench.distros [--engine docker|sandbox]

Each comes from its mirror on loopback (Debian from this machine's own), installed and composed from nothing. Builders,
agent and mirrors come from the user's own store, results go into stores that are thrown away. One round: it
takes minutes.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from bench.speed import ROOT, Row, seconds
from osbuilder.api import Workbench, open_workbench
from osbuilder.request import RootfsRequest
from osbuilder.store import Store
from tests.mirrors.every import every_mirror

REQUEST = RootfsRequest(distro="all")
SHARED = ("builder", "agent")


def ground(users: Workbench, folder: Path, settings: tuple[str, ...]) -> Workbench:
    """Return a workbench on a store to throw away, with the builders and the agent of the user's."""
    made = open_workbench((*settings, f"store={folder}/store", f"build={folder}/build"), stream=sys.stderr, root=ROOT)
    store = Store(folder / "store")
    steps = {each.ident: each for step in made.plan_all(REQUEST).steps.values() for each in step.walk()}
    for step in steps.values():
        if step.name in SHARED:
            users.store.share(users.executor.run(step), store)
    for name in ("rootfs", "rpm", "pacman"):
        with made.builder(name):
            pass  # unpacked, ready to run in
    return made


def measure(engine: str) -> Row:
    """Build every distribution both ways. Raises OsbuilderError when one fails."""
    users = open_workbench((f"engine={engine}",), stream=io.StringIO(), root=ROOT)
    with tempfile.TemporaryDirectory(prefix="osbuilder-bench-") as name:
        folder = Path(name)
        with every_mirror(users, folder / "mirrors") as mirrors:
            settings = (f"engine={engine}", *mirrors)
            alone, together = (ground(users, folder / part, settings) for part in ("alone", "together"))
            steps = alone.plan_all(REQUEST).steps.values()
            alone_s = seconds(lambda: [alone.executor.run(step) for step in steps])
            together_s = seconds(lambda: together.build_all(REQUEST).check())
    return Row(name="distros", ours_s=together_s, reference_s=alone_s, against="one after another", aim=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="auto")
    print(measure(parser.parse_args().engine))


if __name__ == "__main__":
    main()
