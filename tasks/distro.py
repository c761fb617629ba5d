"""inv distro.new: the skeleton of a further distribution."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

from tasks.common import workbench
from tasks.flags import command


@command(
    positional=["name"],
    flags={
        "name": "the distribution's name, as --distro will have it",
        "package-manager": "how its packages come: apk, apt, archive, dnf or pacman",
        "dry": "print the recipe and where it would be, write nothing",
    },
)
def new(_: Context, name: str, package_manager: str = "apt", dry: bool = False) -> None:
    """Write distros/NAME/recipe.yaml, to fill in; docs/add-a-distro.md goes through it."""
    with workbench(()) as bench:
        path, text = bench.new_distro(name, package_manager=package_manager, dry=dry)
        print(f"would write {path}:\n\n{text}" if dry else path, end="" if dry else "\n")


commands = Collection("distro")
commands.add_task(new)
