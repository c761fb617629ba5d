"""A result made a second time, from the same inputs in a store of its own: are the bytes the same?"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from osbuilder.execute import Executor
from osbuilder.step import is_online
from osbuilder.store import Store

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Step


def build_again(bench: Workbench, step: Step) -> tuple[str, ...]:
    """Return the files of a step's result that have other bytes when it is made again; none: it is reproducible.

    What came from the network is an input. All that was made of it is made anew, with empty caches, in a store that is
    thrown away. The step is built first if the workbench's store has it not. Raises whatever building it raises.
    """
    first = bench.executor.run(step)
    with bench.store.in_use(), bench.store.scratch(f"again-{secrets.token_hex(8)}") as folder:
        store = Store(folder)
        for each in step.walk():
            if is_online(each.action):
                bench.store.share(bench.executor.run(each), store)
        ours = bench.executor
        again = Executor(
            store, engine=lambda: ours.engine, reporter=ours.reporter, fetching=ours.fetching, jobs=ours.jobs
        )
        made = [artifact.manifest["outputs"] for artifact in (first, again.run(step))]
    one, other = ({name: entry["sha256"] for name, entry in outputs.items()} for outputs in made)
    return tuple(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))
