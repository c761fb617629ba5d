"""A mirror inside of a builder, for engines whose containers do not see this host's 127.0.0.1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from osbuilder.execute import BUILDER_TAR
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

URL: Final = "http://127.0.0.1:18080"
# Serves the mirror in the builder's own loopback until the command ends. The builder needs python3.
SERVE: Final = "python3 -m http.server --bind 127.0.0.1 --directory /srv/mirror 18080 2> /tmp/mirror &\nsleep 2\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WithMirror:
    """A builder (input `tools`) with a mirror: leaves builder.tar.

    The tar `archive` of the input `repository` is in /srv/all, and /srv/mirror has a link to it at each address (none:
    it is the mirror itself). Programs named in `serving` are started with the mirror being served.
    """

    archive: str
    addresses: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()
    epoch: int

    def describe(self) -> tuple[str, ...]:
        return ("put a mirror into the builder",)

    def run(self, job: Job) -> Mapping[str, Json]:
        tree = Tree.read(job.inputs["tools"].path(BUILDER_TAR))
        repository = Tree.read(job.inputs["repository"].path(self.archive))
        for name, entry in repository.items():
            if entry.kind is Kind.FILE:
                tree.add_file(f"srv/all/{name}", entry.content.read(), parents_mode=0o755)
        for address in self.addresses:
            tree.add_symlink(f"srv/mirror/{address}", "/srv/all", parents_mode=0o755)
        if not self.addresses:
            tree.add_symlink("srv/mirror", "/srv/all")
        for program in self.serving:
            text = f'#!/bin/sh\n{SERVE}exec /usr/bin/{program} "$@"\n'
            tree.add_file(f"usr/local/bin/{program}", text.encode(), mode=0o755, parents_mode=0o755)
        tree.write(job.out / BUILDER_TAR, epoch=self.epoch)
        return {}
