"""Kernel modules of the user's that go into a root filesystem: a tar, as kernels with modules come with, or a folder.

Owns what such a tar may hold: lib/modules/<release>/, each with the lists of depmod(8), and nothing else. A folder may
also be that of one release itself, as Kata's KERNEL_MODULES_DIR is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.errors import TreeError, UsageError
from osbuilder.rootfs.provision import EPOCH, ROOTFS_TAR, ProvidedFolder, ProvidedTar, provide
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

if TYPE_CHECKING:
    from osbuilder.step import Job, Json

OPTION: Final = "--modules"
MODULES: Final = "modules.tar"
_PLACE: Final = "lib/modules"
_MERGED_PLACE: Final = "usr/lib/modules"
_LIST: Final = "modules.dep"
# Links to where the kernel was built, which no guest has.
_LINKS: Final = ("build", "source")
_HOW: Final = "Name the modules-*.tar.zst of a kernel that has modules (`inv kernel --variant nvidia-gpu`)."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakeModules:
    """Makes modules.tar, with the modules at lib/modules/, of what a user brings.

    `name` is that of the file or folder.
    """

    source: ProvidedTar | ProvidedFolder
    name: str

    @classmethod
    def of_path(cls, path: Path) -> TakeModules:
        """Return the action for a tar or a folder; reads it once. Raises UsageError for what can be neither."""
        places = (path / _LIST, path / _PLACE, path / _MERGED_PLACE)
        if path.is_dir() and not any(place.exists() for place in places):
            raise UsageError(
                f"{OPTION} {path}: expected {_PLACE}/RELEASE/{_LIST} or {_LIST}, got a folder with neither", hint=_HOW
            )
        return cls(source=provide(path, epoch=EPOCH, option=OPTION), name=path.absolute().name)

    def describe(self) -> tuple[str, ...]:
        return (*self.source.describe(), f"check that it holds /{_PLACE}/<release>/{_LIST}, write {MODULES}")

    def run(self, job: Job) -> Mapping[str, Json]:
        try:
            self.source.run(job)
        except TreeError as error:
            # It tells of the copy, which nobody named.
            why = error.message.replace(str(job.work / "provided"), self.name)
            raise UsageError(
                f"{OPTION} {self.source.path}: expected a tar or a folder of modules: {why}", hint=_HOW
            ) from error
        provided = job.out / ROOTFS_TAR
        tree = Tree.read(provided)
        self._set_right(tree)
        releases = self._check(tree)
        for release in releases:
            for link in _LINKS:
                path = f"{_PLACE}/{release}/{link}"
                if tree.exists(path) and tree.get(path).kind is Kind.SYMLINK:
                    tree.remove(path)
        tree.write(job.out / MODULES, epoch=EPOCH)
        provided.unlink()
        return {"name": self.name, "releases": list(releases), "entries": len(tree) - 1}

    def _set_right(self, tree: Tree) -> None:
        """Move the modules to lib/modules, from where a merged /usr has them or a folder of one release."""
        if tree.exists(_LIST):
            children = tree.children("")
            tree.add_dir(f"{_PLACE}/{self.name}", parents_mode=0o755)
            for child in children:
                tree.move(child, f"{_PLACE}/{self.name}/{child}")
        elif tree.exists(_MERGED_PLACE) and not tree.exists("lib"):
            tree.move(_MERGED_PLACE, "usr/modules")
            tree.add_dir("lib")
            tree.move("usr/modules", _PLACE)
            for folder in ("usr/lib", "usr"):
                if not tree.children(folder):
                    tree.remove(folder)

    def _check(self, tree: Tree) -> tuple[str, ...]:
        """Return the releases that there are modules for. Raises UsageError for what modprobe would not find."""
        for name in tree.names():
            if name not in ("", "lib", _PLACE) and not name.startswith(f"{_PLACE}/"):
                raise self._refused(f"{_PLACE}/ alone", f"{name} too", "Lay the rest over the root: --overlay FILE.")
        releases = tree.children(_PLACE) if tree.exists(_PLACE) else ()
        if not releases:
            raise self._refused(f"{_PLACE}/RELEASE/", "nothing there", _HOW)
        for release in releases:
            found = tree.find(f"{_PLACE}/{release}/{_LIST}")
            if found is None or found.kind is not Kind.FILE:
                raise self._refused(
                    f"{_PLACE}/{release}/{_LIST}",
                    "modules without it, which modprobe does not find",
                    f"Make it where the modules are: depmod -b FOLDER {release}",
                )
            self._check_list(tree, release)
        return releases

    def _check_list(self, tree: Tree, release: str) -> None:
        """Refuse a modules.dep that names no module, or one that is not there (modules.dep(5))."""
        place = f"{_PLACE}/{release}"
        hint = f"Make it where the modules are: depmod -b FOLDER {release}"
        named = [
            line.partition(":")[0].strip()
            for line in tree.read_bytes(f"{place}/{_LIST}").decode("utf-8", "replace").splitlines()
            if line.strip()
        ]
        if not named:
            raise self._refused(f"modules in {place}/{_LIST}", "a list that names none", hint)
        for module in named:
            if not tree.exists(f"{place}/{module}"):
                raise self._refused(f"{place}/{module}, which {_LIST} names", "modules without it", hint)

    def _refused(self, expected: str, got: str, hint: str) -> UsageError:
        return UsageError(f"{OPTION} {self.name}: expected {expected}, got {got}", hint=hint)
