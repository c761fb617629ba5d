"""Results made a second time, from the same inputs in a store of their own: are the bytes the same?"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from osbuilder.step import is_online
from osbuilder.store import Store

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Step


@contextlib.contextmanager
def building_again(bench: Workbench) -> Iterator[Callable[[Step], tuple[str, ...]]]:
    """Give a function that makes a step's result again and returns its files with other bytes; none: reproducible.

    What came from the network is an input. All that was made of it is made anew, in a store that is thrown away at the
    end; its caches are empty at first, and filled by nothing but what is made again. The function builds the step first
    if the workbench's store has it not, and raises whatever building it raises.
    """
    ours = bench.executor
    with ours.in_use(), bench.store.scratch(f"again-{secrets.token_hex(8)}", ours.forget) as folder:
        store = Store(folder)
        again = ours.beside(store)

        def differing(step: Step) -> tuple[str, ...]:
            first = ours.run(step)
            for each in step.walk():
                if is_online(each.action):
                    artifact = ours.run(each)
                    if store.find(artifact.key) is None:
                        bench.store.share(artifact, store)
            made = [artifact.manifest["outputs"] for artifact in (first, again.run(step))]
            one, other = ({name: entry["sha256"] for name, entry in outputs.items()} for outputs in made)
            return tuple(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))

        yield differing
