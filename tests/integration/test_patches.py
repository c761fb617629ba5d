"""Series are applied by the real patch(1): exactly, in order, and a failure names patch, file and hunk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard

from osbuilder.api import Workbench
from osbuilder.errors import PatchError
from osbuilder.kernel.patches import load_series
from osbuilder.store import Artifact
from tests.jobs import artifact
from tests.kernel_bench import Compiler, Outcome
from tests.kernel_sources import EPOCH, FILES, members, pack, write_archive

LINES = [f"line {number}" for number in range(1, 31)]
SOURCE = {**FILES, "fs/file.c": "\n".join(LINES) + "\n", "fs/old.c": "old\n"}


@pytest.fixture
def compiler(bench: Workbench, tmp_path: Path) -> Compiler:
    return Compiler(bench, tmp_path / "compiler")


def source(tmp_path: Path) -> Artifact:
    folder = tmp_path / "source"
    folder.mkdir(parents=True)
    write_archive(folder / "source.tar.zst", pack(members(SOURCE)))
    return artifact(folder, {"version": "6.12.57", "epoch": EPOCH, "origin": "linux.tar.xz"})


def hunk(first: int, change: int, text: str, *, at: int | None = None) -> str:
    """Return a hunk that replaces one line, with three lines of context; `at` is where it says that it is."""
    shown = [f" {line}\n" for line in LINES[first - 1 : first + 6]]
    shown[change - first] = f"-{LINES[change - 1]}\n+{text}\n"
    return f"@@ -{at or first},7 +{at or first},7 @@\n{''.join(shown)}"


def diff(*hunks: str, name: str = "fs/file.c") -> str:
    return f"--- a/{name}\n+++ b/{name}\n{''.join(hunks)}"


def apply(compiler: Compiler, tmp_path: Path, patches: Mapping[str, str], *, options: str = "") -> Outcome:
    folder = tmp_path / "patches" / "mine"
    folder.mkdir(parents=True)
    for name, text in patches.items():
        (folder / name).write_text(f"Description: A change\nOrigin: own\n\n{text}")
    (folder / "series").write_text("".join(f"{name} {options}\n" for name in patches))
    action = load_series(tmp_path / "patches", "mine")
    assert action is not None
    return compiler.run(action, source=source(tmp_path))


def files(outcome: Outcome) -> dict[str, str]:
    packed = (outcome.folder / "source.tar.zst").read_bytes()
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
    found = {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for info in tar:
            stream = tar.extractfile(info)
            assert info.mtime <= EPOCH
            if stream:
                found[info.name] = stream.read().decode()
    return found


def refusal(compiler: Compiler, tmp_path: Path, patches: Mapping[str, str]) -> PatchError:
    with pytest.raises(PatchError) as caught:
        apply(compiler, tmp_path, patches)
    return caught.value


def test_patches_build_upon_each_other_and_may_add_and_remove_files(compiler: Compiler, tmp_path: Path) -> None:
    second = diff(hunk(2, 5, "changed")).replace("changed", "changed again").replace("-line 5", "-changed")
    new = "--- /dev/null\n+++ b/fs/new.c\n@@ -0,0 +1 @@\n+new\n"
    old = "--- a/fs/old.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"
    found = files(apply(compiler, tmp_path, {"z.patch": diff(hunk(2, 5, "changed")), "a.patch": second + new + old}))
    assert found["linux/fs/file.c"].splitlines()[4] == "changed again"
    assert found["linux/fs/new.c"] == "new\n"
    assert "linux/fs/old.c" not in found


def test_the_patched_source_is_the_same_each_time(compiler: Compiler, tmp_path: Path) -> None:
    one, two = (apply(compiler, tmp_path / name, {"a.patch": diff(hunk(2, 5, "changed"))}) for name in ("one", "two"))
    assert (one.folder / "source.tar.zst").read_bytes() == (two.folder / "source.tar.zst").read_bytes()


def test_lines_that_moved_are_found_where_they_are_now(compiler: Compiler, tmp_path: Path) -> None:
    outcome = apply(compiler, tmp_path, {"a.patch": diff(hunk(12, 15, "changed", at=9))})
    assert files(outcome)["linux/fs/file.c"].splitlines()[14] == "changed"
    assert "Hunk #1 succeeded at 12 (offset 3 lines)" in outcome.log.read_text()


def test_context_that_changed_is_refused_with_file_and_hunk(compiler: Compiler, tmp_path: Path) -> None:
    fuzzy = hunk(12, 15, "changed").replace(" line 12\n", " line twelve\n")
    error = refusal(compiler, tmp_path, {"good.patch": diff(hunk(2, 5, "x")), "b.patch": diff(hunk(2, 6, "y"), fuzzy)})
    assert error.message.startswith("mine/b.patch does not apply to 6.12.57:\n")
    assert "  fs/file.c: hunk 2 (line 12)" in error.message.splitlines()
    assert "Rebase it on 6.12.57" in error.hint


def test_a_patch_that_would_apply_with_fuzz_is_refused_and_says_how_much(compiler: Compiler, tmp_path: Path) -> None:
    fuzzy = hunk(12, 15, "changed").replace(" line 12\n", " line twelve\n")
    error = refusal(compiler, tmp_path, {"a.patch": diff(hunk(2, 5, "x"), fuzzy)})
    assert error.message == "mine/a.patch does not apply to 6.12.57:\n  fs/file.c: hunk 2 (line 12)"
    assert "it applies only with fuzz 1." in error.hint
    assert "a.patch --fuzz=1 in mine/series" in error.hint


def test_context_that_changed_is_accepted_where_the_series_says_so(compiler: Compiler, tmp_path: Path) -> None:
    fuzzy = diff(hunk(12, 15, "changed").replace(" line 12\n", " line twelve\n"))
    found = files(apply(compiler, tmp_path, {"a.patch": fuzzy}, options="--fuzz=1"))
    assert found["linux/fs/file.c"].splitlines()[14] == "changed"
    assert not any(name.endswith(".orig") for name in found)


def test_more_fuzz_than_was_stated_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    context = hunk(12, 15, "changed").replace(" line 12\n", " line twelve\n").replace(" line 13\n", " thirteen\n")
    with pytest.raises(PatchError, match=r"fs/file\.c: hunk 1 \(line 12\)") as caught:
        apply(compiler, tmp_path, {"a.patch": diff(context)}, options="--fuzz=1")
    assert "it applies only with fuzz 2." in caught.value.hint


def test_a_file_that_is_not_there_is_named(compiler: Compiler, tmp_path: Path) -> None:
    error = refusal(compiler, tmp_path, {"a.patch": diff(hunk(2, 5, "x"), name="fs/gone.c")})
    assert error.message == (
        "mine/a.patch does not apply to 6.12.57:\n  b/fs/gone.c: no such file (line 6 of the patch)"
    )


def test_a_patch_that_the_source_has_already_says_so(compiler: Compiler, tmp_path: Path) -> None:
    reverse = diff(hunk(2, 5, "x")).replace("-line 5\n+x", "-x\n+line 5")
    error = refusal(compiler, tmp_path, {"a.patch": reverse})
    assert "fs/file.c: hunk 1" in error.message
    assert error.hint == "The source has it already: drop it from the series."


def test_a_patch_that_leads_out_of_the_source_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    error = refusal(compiler, tmp_path, {"a.patch": "--- /dev/null\n+++ b/../../evil\n@@ -0,0 +1 @@\n+x\n"})
    assert "mine/a.patch does not apply" in error.message


def test_what_is_no_patch_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    error = refusal(compiler, tmp_path, {"a.patch": "<html>not found</html>\n"})
    assert "Only garbage was found in the patch input." in error.message


def test_another_strip_count_is_honoured(compiler: Compiler, tmp_path: Path) -> None:
    text = diff(hunk(2, 5, "changed")).replace("a/fs", "fs").replace("b/fs", "fs")
    outcome = apply(compiler, tmp_path, {"a.patch": text}, options="-p0")
    assert files(outcome)["linux/fs/file.c"].splitlines()[4] == "changed"
