"""Patch series: kernel/patches/<series>/series and the patches that it names, applied in its order.

The series file is quilt's (quilt(1)): a patch a line, relative to the folder, `-pN` behind it where the paths in the
patch have other than one part to strip, `#` comments, blank lines. Context must match exactly; line numbers may differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from osbuilder.errors import CommandFailed, PatchError
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.kernel.script import lines, render, run_script
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

_SERIES: Final = "series"
_STRIP: Final = re.compile(r"-p([0-9])")
_MARK: Final = "osbuilder: patch "
_APPLIED_BEFORE: Final = "osbuilder: applied before"
_PATCHED: Final = "osbuilder: patched"

# Without fuzz a hunk whose surroundings changed is refused instead of put somewhere. New timestamps are clamped, so
# that the archive does not tell when it was made.
_APPLY = """\
apply() {
  if ! patch --strip="$1" --fuzz=0 --force --no-backup-if-mismatch --reject-file=- --input="$2"; then
    if patch --strip="$1" --fuzz=0 --force --reject-file=- --dry-run --reverse --input="$2" > /dev/null; then
      echo {{ applied_before | sh }}
    fi
    exit 1
  fi
}
mkdir /work/linux
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1
cd /work/linux
{% for patch in patches %}
echo {{ (mark ~ patch.name) | sh }}
apply {{ patch.strip }} /in/patches/{{ loop.index }}
{% endfor %}
echo {{ patched | sh }}
tar --create --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --clamp-mtime --owner=0 --group=0 --numeric-owner \\
  --mode=u=rwX,go=rX --directory=/work linux | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One patch of a series: its name there, how many parts of its paths to strip, and its text."""

    name: str
    strip: int
    sha256: str
    content: bytes = dataclasses.field(repr=False, metadata=NOT_IN_KEY)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPatches:
    """Applies a series to the input `source`; the artifact is again a `source.tar.zst` with the source's facts."""

    series: str
    patches: tuple[Patch, ...]

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        source = job.inputs["source"]
        folder = job.work / "patches"
        folder.mkdir()
        for number, patch in enumerate(self.patches, start=1):
            (folder / str(number)).write_bytes(patch.content)
        try:
            run_script(
                job,
                self._script(),
                inputs={"source": source.path(ARCHIVE), "patches": folder},
                env={"SOURCE_DATE_EPOCH": str(source.facts["epoch"])},
            )
        except CommandFailed as error:
            raise self._explain(job.log, str(source.facts["version"]), error) from error
        return dict(source.facts) | {"patches": [patch.name for patch in self.patches]}

    def _script(self) -> str:
        return render(_APPLY, patches=self.patches, mark=_MARK, applied_before=_APPLIED_BEFORE, patched=_PATCHED)

    def _explain(self, log: Path, version: str, error: CommandFailed) -> Exception:
        """Say which patch, file and hunk it was; an error before or after the patches stays what it is."""
        _, mark, said = log.read_text(encoding="utf-8", errors="replace").rpartition(_MARK)
        if not mark or _PATCHED in said:
            return error
        name, _, said = said.partition("\n")
        where = "\n".join(f"  {failure}" for failure in failures(said)) or f"  {said.strip()}"
        hint = (
            "The source has it already: drop it from the series."
            if _APPLIED_BEFORE in said
            else f"Rebase it on {version}, or drop it from {self.series}/{_SERIES}. Log: {log}"
        )
        return PatchError(f"{self.series}/{name} does not apply to {version}:\n{where}", hint=hint)


def failures(said: str) -> tuple[str, ...]:
    """Return what GNU patch could not do, a line each ("fs/file.c: hunk 2 (line 17)"), from what it said."""
    found: list[str] = []
    target = missing = ""
    for line in said.splitlines():
        if match := re.match(r"patching (?:file|symbolic link) '?(.+?)'?(?: \(.*\))?$", line):
            target = match[1]
        elif match := re.match(r"Hunk #(\d+) FAILED at (\d+)", line):
            found.append(f"{target}: hunk {match[1]} (line {match[2]})")
        elif match := re.match(r"can't find file to patch at input line (\d+)", line):
            missing = match[1]
        elif missing and (match := re.match(r"\|\+\+\+ ([^\t]+)", line)):
            found.append(f"{match[1]}: no such file (line {missing} of the patch)")
            missing = ""
        elif match := re.match(r"patch: \*+ (.*)", line):
            found.append(match[1])
        elif match := re.match(r"File (.+): (git binary diffs are not supported)", line):
            found.append(f"{match[1]}: {match[2]}")
    return tuple(found)


def load_series(root: Path, series: str) -> ApplyPatches | None:
    """Read the folder `series` below `root` (kernel/patches); None if there is none, or its series is empty.

    Raises PatchError, with file:line, for a line that is malformed, stands twice or names no file, and for a *.patch
    that no line names.
    """
    folder = root / series
    if not folder.is_dir():
        return None
    where = f"{folder.parent.name}/{series}/{_SERIES}"
    try:
        text = (folder / _SERIES).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PatchError(f"{where}: no such file", hint="List the folder's patches there, in order.") from None
    except UnicodeDecodeError:
        raise PatchError(f"{where}: expected UTF-8 text") from None
    patches: dict[str, Patch] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        patch = _load_patch(folder, words, f"{where}:{number}")
        if patch.name in patches:
            raise PatchError(f"{where}:{number}: {patch.name} stands there twice", hint="Remove one of the lines.")
        patches[patch.name] = patch
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.patch")}
    if forgotten := sorted(present - patches.keys()):
        raise PatchError(
            f"{where}: does not name {', '.join(forgotten)}", hint="Add it where it belongs, or remove it."
        )
    return ApplyPatches(series=series, patches=tuple(patches.values())) if patches else None


def _load_patch(folder: Path, words: list[str], where: str) -> Patch:
    name, options = PurePosixPath(words[0]), words[1:]
    if name.is_absolute() or ".." in name.parts:
        raise PatchError(f"{where}: expected a patch in this folder, got {words[0]!r}")
    strip = _STRIP.fullmatch(options[0]) if len(options) == 1 else None
    if options and not strip:
        raise PatchError(f"{where}: expected -pN or nothing behind {name}, got {' '.join(options)!r}")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise PatchError(f"{where}: cannot read {name}: {error.strerror}", hint="Correct the name.") from error
    return Patch(
        name=str(name),
        strip=int(strip[1]) if strip else 1,
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
    )
