"""Patch series: kernel/patches/<series>/series and the patches that it names, applied in its order.

A series may lie elsewhere, too; then a path names its folder.

The series file is quilt's (quilt(1)): a patch a line, relative to the folder, `-pN` behind it where the paths in the
patch have other than one part to strip, `#` comments, blank lines. Context must match exactly, unless `--fuzz=N` stands
behind the patch, which is patch(1)'s own option; line numbers may differ. A patch begins with a header in the fields of
DEP-3 (https://dep-team.pages.debian.net/deps/dep3/) that says where it comes from and what for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed, PatchError, suggest
from osbuilder.kernel.archive import ARCHIVE
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

_SERIES: Final = "series"
_OPTION: Final = re.compile(r"-(?P<strip>p)(?P<count>[0-9])|--fuzz=(?P<fuzz>[12])")
_DIFF: Final = re.compile(r"^(--- \S|diff |Index: )", re.MULTILINE)
_FIELD: Final = re.compile(r"^(origin|description|subject)[ \t]*:[ \t]*(\S.*)$", re.MULTILINE | re.IGNORECASE)
_FUZZY: Final = re.compile(r"with fuzz (\d)")
_MARK: Final = "osbuilder: patch "
_REFUSED: Final = "osbuilder: refused"
_APPLIED_BEFORE: Final = "osbuilder: applied before"
_WITH_FUZZ: Final = "osbuilder: applies with fuzz"
_PATCHED: Final = "osbuilder: patched"

# Without fuzz a hunk whose surroundings changed is refused instead of put somewhere. New timestamps are clamped, so
# that the archive does not tell when it was made. What a refused patch has changed already is put back, to find out why
# it was refused.
_APPLY = """\
apply() {
  rm -rf /work/before
  if patch --strip="$1" --fuzz="$2" --force --backup --prefix=/work/before/ --reject-file=- --input="$3"; then
    return
  fi
  echo {{ refused | sh }}
  if [ -d /work/before ]; then
    cp --recursive /work/before/. .
  fi
  if patch --strip="$1" --fuzz=0 --force --reject-file=- --dry-run --reverse --input="$3" > /dev/null; then
    echo {{ applied_before | sh }}
  elif patch --strip="$1" --fuzz=2 --force --reject-file=- --dry-run --input="$3"; then
    echo {{ with_fuzz | sh }}
  fi
  exit 1
}
mkdir /work/linux
tar --extract --zstd --file=/in/source --directory=/work/linux --strip-components=1
cd /work/linux
{% for patch in patches %}
echo {{ (mark ~ patch.label) | sh }}
apply {{ patch.strip }} {{ patch.fuzz }} /in/patches/{{ loop.index }}
{% endfor %}
echo {{ patched | sh }}
tar --create --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --clamp-mtime --owner=0 --group=0 --numeric-owner \\
  --mode=u=rwX,go=rX --directory=/work linux | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One patch: the name of its series' folder, its own there, how many parts of its paths to strip, how many lines of
    context at the ends of a hunk need not match, and its text.
    """

    series: str
    name: str
    strip: int
    fuzz: int = 0
    sha256: str
    content: bytes = dataclasses.field(repr=False, metadata=NOT_IN_KEY)

    @property
    def label(self) -> str:
        """Its series and name, for people."""
        return f"{self.series}/{self.name}"

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return _header(self.content).get("description") or _header(self.content).get("subject", "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPatches:
    """Applies patches to the input `source`; the artifact is again a `source.tar.zst` with the source's facts."""

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
        return render(
            _APPLY,
            patches=self.patches,
            mark=_MARK,
            refused=_REFUSED,
            applied_before=_APPLIED_BEFORE,
            with_fuzz=_WITH_FUZZ,
            patched=_PATCHED,
        )

    def _explain(self, log: Path, version: str, error: CommandFailed) -> Exception:
        """Say which patch, file and hunk it was; an error before or after the patches stays what it is."""
        _, mark, said = log.read_text(encoding="utf-8", errors="replace").rpartition(_MARK)
        if not mark or _PATCHED in said:
            return error
        label, _, said = said.partition("\n")
        patch = next(each for each in self.patches if each.label == label)
        series = f"{patch.series}/{_SERIES}"
        said, _, reason = said.partition(_REFUSED)
        where = "\n".join(f"  {failure}" for failure in failures(said)) or f"  {said.strip()}"
        hint = f"Rebase it on {version}, or drop it from {series}. Log: {log}"
        if _APPLIED_BEFORE in reason:
            hint = "The source has it already: drop it from the series."
        elif _WITH_FUZZ in reason:
            fuzz = max(_FUZZY.findall(reason), default="2")
            hint = (
                f"Its context has changed: it applies only with fuzz {fuzz}. Rebase it on {version}, or say that it is "
                f"right as it is: {patch.name} --fuzz={fuzz} in {series}. Log: {log}"
            )
        return PatchError(f"{label} does not apply to {version}:\n{where}", hint=hint)


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


def load_series(root: Path, *names: str, required: bool = False) -> ApplyPatches | None:
    """Return what applies the series `names` in their order, as `read_series` reads each; None if they are empty."""
    patches = tuple(patch for name in names for patch in read_series(root, name, required=required) or ())
    return ApplyPatches(patches=patches) if patches else None


def read_series(root: Path, name: str, *, required: bool = False) -> tuple[Patch, ...] | None:
    """Read the folder `name` below `root` (kernel/patches), or at that path, if it has a slash; None if there is none.

    `required` says that somebody named the folder, so that it has to be there. Raises PatchError, with file:line, for
    a line that is malformed, stands twice or names no file, for a *.patch that no line names, and for a patch that
    does not say where it comes from and what for.
    """
    folder = root / name
    if not folder.is_dir():
        if required:
            elsewhere = "" if "/" in name else f" One that lies elsewhere has a slash: ./{name}."
            raise PatchError(f"{folder}: no such folder of patches", hint=suggest(name, known_series(root)) + elsewhere)
        return None
    where = str(folder / _SERIES) if "/" in name else f"{root.name}/{name}/{_SERIES}"
    patches: dict[str, Patch] = {}
    for number, line in enumerate(_series_text(folder, where).splitlines(), start=1):
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
    return tuple(patches.values())


def _series_text(folder: Path, where: str) -> str:
    try:
        return (folder / _SERIES).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PatchError(f"{where}: no such file", hint="List the folder's patches there, in order.") from None
    except UnicodeDecodeError:
        raise PatchError(f"{where}: expected UTF-8 text") from None


def known_series(root: Path) -> tuple[str, ...]:
    """Return the names of the folders below `root` (kernel/patches), sorted."""
    return tuple(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ()


def _load_patch(folder: Path, words: list[str], where: str) -> Patch:
    name = PurePosixPath(words[0])
    if name.is_absolute() or ".." in name.parts:
        raise PatchError(f"{where}: expected a patch in this folder, got {words[0]!r}")
    options: dict[str, int] = {}
    for word in words[1:]:
        match = _OPTION.fullmatch(word)
        option = "strip" if match and match["strip"] else "fuzz"
        if not match or option in options:
            raise PatchError(
                f"{where}: expected -pN, --fuzz=1, --fuzz=2 or nothing behind {name}, got {' '.join(words[1:])!r}"
            )
        options[option] = int(match["count"] or match["fuzz"])
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise PatchError(f"{where}: cannot read {name}: {error.strerror}", hint="Correct the name.") from error
    _check_header(content, f"{where}: {name}")
    return Patch(
        series=folder.resolve().name,
        name=str(name),
        strip=options.get("strip", 1),
        fuzz=options.get("fuzz", 0),
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
    )


def _header(content: bytes) -> dict[str, str]:
    """Return the fields above the first change of a patch that tell where it comes from and what for."""
    text = content.decode("utf-8", "replace")
    diff = _DIFF.search(text)
    return {match[1].lower(): match[2] for match in _FIELD.finditer(text, 0, diff.start() if diff else len(text))}


def _check_header(content: bytes, where: str) -> None:
    fields = _header(content)
    missing = [] if "origin" in fields else ["Origin (where it comes from)"]
    missing += [] if fields.keys() & {"description", "subject"} else ["Description (what it is for)"]
    if missing:
        raise PatchError(
            f"{where}: its header has no {' and no '.join(missing)}",
            hint="Write them above its first change, in the form of DEP-3: `Origin: own`, `Description: ...`.",
        )
