"""A kernel's source from a tree on this host, as it is now.

What a build left behind must not get into another one. A tree that git looks after is taken without what git ignores,
and refused while it holds files that git does not know. Any other tree is taken whole, and refused if it was built in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import SourceError
from osbuilder.kernel.archive import deliver, parse_version
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

# A tree of the user's has no date of its own: its files' are those of the checkout. 1980 is the first year that every
# archive format can tell.
_TREE_EPOCH: Final = 315532800

# What the kernel's own Makefile looks for before it builds in another folder, and what kbuild leaves beside each file
# that it compiled.
_PRODUCT: Final = re.compile(r"^(\.config$|include/config/|arch/[^/]+/include/generated/)|\.k?o$|(^|/)\.[^/]*\.cmd$")
_SHOWN: Final = 10

# The list of what is left out is one of literal names; git ends the name of a folder with a slash, tar does not.
_TREE = """\
: > /out/untracked
: > /out/ignored
{% if tracked %}
list() {
  git --git-dir=/in/linux/.git --work-tree=/in/linux -c core.fsmonitor=false -c core.untrackedCache=false \\
    ls-files -z --others --exclude-standard --directory "$@" | tr '\\0' '\\n' | sed 's,/$,,' | sort
}
cd /in/linux
list --no-empty-directory > /out/untracked
list --ignored > /out/ignored
if [ -s /out/untracked ]; then
  exit 0
fi
{% endif %}
sed 's,^,linux/,' /out/ignored > /work/left-out
tar --create --format=gnu --sort=name --mtime=@{{ epoch }} --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \\
  --hard-dereference --anchored --no-wildcards --exclude=linux/.git --exclude-from=/work/left-out \\
  --directory=/in linux |
  zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalTree:
    """A kernel tree on this host, as it is now (without .git). Make one with `of_path`.

    `tracked` says that git looks after it. `fingerprint` stands for its content as git's index does: names, modes,
    sizes, inodes and both timestamps of every file. A tree that was only touched is read again; its archive comes out
    the same, so nothing is built again.
    """

    path: Path = dataclasses.field(metadata=NOT_IN_KEY)
    fingerprint: str
    tracked: bool = False

    @classmethod
    def of_path(cls, path: Path) -> LocalTree:
        """Look at the tree. Raises SourceError when it is none, or holds what an earlier build left in it."""
        _check_tree(path)
        return cls(path=path, fingerprint=_fingerprint(path), tracked=_is_tracked(path))

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "tree"
        output.mkdir()
        run_script(job, self._script(), inputs={"linux": self.path}, output=output)
        if unknown := _names(output / "untracked"):
            raise SourceError(
                f"{self.path}: git does not know {_some(unknown)}",
                hint="Add them (git add), let git ignore them (.gitignore, .git/info/exclude), or remove them.",
            )
        ignored = _names(output / "ignored")
        if _fingerprint(self.path) != self.fingerprint:
            raise SourceError(f"{self.path} changed while it was read", hint="Run again when it is at rest.")
        # A manifest tells what went in, not where this host keeps it.
        facts = deliver(job, output, origin=str(self.path)) | {"origin": f"the tree {self.path.name}"}
        return facts | ({"left_out": f"what git ignores: {_some(ignored)}"} if ignored else {})

    def _script(self) -> str:
        return render(_TREE, epoch=_TREE_EPOCH, tracked=self.tracked)


def _check_tree(path: Path) -> None:
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder", hint="Name the top folder of a kernel source with tree:.")
    makefile = path / "Makefile"
    if not makefile.is_file():
        raise SourceError(
            f"{path}: not a kernel source: it has no Makefile", hint="Name the top folder of a kernel source."
        )
    parse_version(makefile.read_text(encoding="utf-8", errors="replace"), origin=str(path))


def _is_tracked(path: Path) -> bool:
    """Whether git looks after the tree itself; a linked worktree, whose .git is a file, cannot be asked elsewhere."""
    return (path / ".git" / "index").is_file()


def _fingerprint(path: Path) -> str:
    """Return the digest of how the tree looks. Raises SourceError for a build's product, unless git leaves it out."""
    digest = hashlib.sha256()
    tracked = _is_tracked(path)
    for name in ("index", "info/exclude") if tracked else ():
        with contextlib.suppress(FileNotFoundError):
            digest.update(hashlib.sha256((path / ".git" / name).read_bytes()).digest())
    for name, status in walk(path, ""):
        if not tracked and _PRODUCT.search(name):
            raise SourceError(
                f"{path}: was built in before: {name} exists",
                hint=f"Save your .config and clean the tree: make -C {path} mrproper",
            )
        values = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(b"%b\0%d %d %d %d %d\n" % (os.fsencode(name), *values))
    return digest.hexdigest()


def _names(listing: Path) -> list[str]:
    return listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _some(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def walk(folder: Path, prefix: str, *, without: tuple[str, ...] = (".git",)) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder but what `without` names (by their paths in it), sorted, links not followed."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = prefix + entry.name
        if name in without:
            continue
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            # A folder's own timestamps tell of names, and those are listed.
            yield from walk(Path(entry.path), f"{name}/", without=without)
        else:
            yield name, status
