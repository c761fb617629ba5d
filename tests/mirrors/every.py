"""Mirrors of every distribution at once, in one folder and behind one address, and a registry for images.

Debian has none here: it comes from this machine's own mirror, of which builders are made too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.distro.recipe import find_recipe
from tests.mirrors import pacman, rpm, ubuntu
from tests.mirrors.alpine import alpine
from tests.mirrors.apk import SigningKey
from tests.mirrors.images import guest, push, registry
from tests.mirrors.rpm_guest import guest_step
from tests.mirrors.stage3 import KEY, gentoo

if TYPE_CHECKING:
    from osbuilder.api import Workbench

URL: Final = "{url}"
"""What stands in settings for the address that a folder of mirrors is served at."""


def lay_out_alpine(folder: Path, **options: Any) -> tuple[str, ...]:
    """Write a mirror and its key into a folder; return the settings that name them, as all of these functions do.

    `options` are those of tests.mirrors.alpine.
    """
    key = SigningKey.named()
    write(alpine(key, **options), folder / "alpine")
    (folder / key.name).write_bytes(key.public)
    return (f"mirrors=alpine={URL}/alpine", f"keyrings=alpine={folder / key.name}")


def lay_out_gentoo(folder: Path) -> tuple[str, ...]:
    write(gentoo(), folder / "gentoo")
    (folder / "gentoo.gpg").write_bytes(KEY.public())
    return (f"mirrors=gentoo={URL}/gentoo", f"keyrings=gentoo={folder / 'gentoo.gpg'}")


def lay_out_ubuntu(bench: Workbench, folder: Path) -> tuple[str, ...]:
    ubuntu.lay_out(bench, folder / "ubuntu")
    return ubuntu.settings_for(f"{URL}/ubuntu", folder)


def lay_out_rpm(bench: Workbench, folder: Path) -> tuple[str, ...]:
    recipes = rpm.family().values()
    rpm.lay_out(bench, guest_step(bench), recipes, folder / "rpm")
    return tuple(setting for recipe in recipes for setting in rpm.settings_for(recipe, f"{URL}/rpm", folder))


def lay_out_pacman(bench: Workbench, folder: Path) -> tuple[str, ...]:
    recipe = find_recipe("archlinux", bench.planner.distros)
    pacman.lay_out(pacman.repository(pacman.guest(bench)), recipe, folder / "pacman")
    return pacman.settings_for(f"{URL}/pacman", folder)


@contextlib.contextmanager
def every_mirror(bench: Workbench, folder: Path, port: int = 0) -> Iterator[tuple[str, ...]]:
    """Make a mirror of every distribution in a folder, serve them on 127.0.0.1, and yield the settings for them."""
    folder.mkdir(exist_ok=True)
    settings = (
        *lay_out_alpine(folder),
        *lay_out_gentoo(folder),
        *lay_out_ubuntu(bench, folder),
        *lay_out_rpm(bench, folder),
        *lay_out_pacman(bench, folder),
    )
    with rpm.served(folder, port) as url, registry(folder / "registry") as images:
        push(images, "library/alpine", "3.24", guest())  # what the recipe's own release names
        yield merged((*(each.replace(URL, url) for each in settings), f"mirrors=oci={images}"))


def merged(settings: Iterable[str]) -> tuple[str, ...]:
    """Return settings with the values of each name put together, as --setting takes a name once."""
    values: dict[str, list[str]] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        values.setdefault(name, []).append(value)
    return tuple(f"{name}={' '.join(given)}" for name, given in values.items())


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files by their names below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
