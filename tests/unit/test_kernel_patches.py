"""A series says which patches apply in which order; whatever is unclear about it is an error with its line."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from osbuilder.errors import CommandFailed, PatchError, StoreError
from osbuilder.kernel.patches import ApplyPatches, Patch, failures, load_series
from osbuilder.kernel.series import SeriesNames
from osbuilder.step import parameters
from tests.jobs import Ran, RecordingJob, artifact

HEADER = "Description: Eat soup\n With more words.\nOrigin: own\n"
DIFF = "--- a/kernel/fork.c\n+++ b/kernel/fork.c\n@@ -1 +1 @@\n-int fork;\n+int spoon;\n"
PATCH = HEADER + DIFF
FACTS = {"version": "6.12.57", "epoch": 1_700_000_000, "origin": "linux.tar.xz"}


def write_series(root: Path, series: str, *names: str) -> Path:
    folder = root / "patches" / "debian-6.12"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(PATCH)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "series").write_text(series)
    return root / "patches"


def refusal(root: Path) -> str:
    with pytest.raises(PatchError) as caught:
        load_series(root, "debian-6.12")
    return str(caught.value)


def test_a_line_without_a_folder_of_patches_has_none(tmp_path: Path) -> None:
    assert load_series(tmp_path, "debian-6.12") is None


def test_an_empty_series_is_no_step(tmp_path: Path) -> None:
    assert load_series(write_series(tmp_path, "# nothing yet\n\n"), "debian-6.12") is None


def test_patches_come_in_the_order_of_the_series_with_their_strip_counts(tmp_path: Path) -> None:
    series = "# first the fix\nz-fix.patch   # why\n\nsub/a.patch -p0\nm.patch -p1"
    root = write_series(tmp_path, series, "z-fix.patch", "sub/a.patch", "m.patch")
    action = load_series(root, "debian-6.12")
    assert action is not None
    assert [(patch.name, patch.strip) for patch in action.patches] == [
        ("z-fix.patch", 1),
        ("sub/a.patch", 0),
        ("m.patch", 1),
    ]


def test_a_patch_is_known_by_its_digest_and_its_text_stays_out_of_the_manifest(tmp_path: Path) -> None:
    action = load_series(write_series(tmp_path, "a.patch\n", "a.patch"), "debian-6.12")
    digest = hashlib.sha256(PATCH.encode()).hexdigest()
    assert parameters(action) == {
        "patches": [{"series": "debian-6.12", "name": "a.patch", "strip": 1, "fuzz": 0, "sha256": digest}],
    }


@pytest.mark.parametrize(
    ("series", "problem"),
    [
        ("a.patch\nmissing.patch\n", "patches/debian-6.12/series:2: cannot read missing.patch: No such file"),
        ("a.patch\n\na.patch\n", "patches/debian-6.12/series:3: a.patch stands there twice"),
        (
            "a.patch -R\n",
            "patches/debian-6.12/series:1: expected -pN, --fuzz=1, --fuzz=2 or nothing behind a.patch, got '-R'",
        ),
        ("a.patch -p1 -R\n", "or nothing behind a.patch, got '-p1 -R'"),
        ("a.patch -p1 -p1\n", "or nothing behind a.patch, got '-p1 -p1'"),
        ("a.patch --fuzz=3\n", "or nothing behind a.patch, got '--fuzz=3'"),
        ("../a.patch\n", "expected a patch in this folder, got '../a.patch'"),
        ("/etc/passwd\n", "expected a patch in this folder, got '/etc/passwd'"),
        ("# a.patch\n", "patches/debian-6.12/series: does not name a.patch"),
    ],
)
def test_a_series_that_is_unclear_is_refused_with_its_line(tmp_path: Path, series: str, problem: str) -> None:
    assert problem in refusal(write_series(tmp_path, series, "a.patch"))


def test_a_folder_without_a_series_is_refused(tmp_path: Path) -> None:
    root = write_series(tmp_path, "", "a.patch")
    (root / "debian-6.12" / "series").unlink()
    assert "patches/debian-6.12/series: no such file" in refusal(root)


def test_a_patch_with_any_name_is_one_word_of_the_script() -> None:
    patch = Patch(series="s", name="a; $(rm -rf x) 'b'.patch", strip=2, sha256="0", content=b"")
    lines = ApplyPatches(patches=(patch,)).describe()
    assert "echo 'osbuilder: patch s/a; $(rm -rf x) '\"'\"'b'\"'\"'.patch'" in lines
    assert "apply 2 0 /in/patches/1" in lines


def test_fuzz_is_allowed_to_the_patch_that_says_so_and_to_no_other(tmp_path: Path) -> None:
    root = write_series(tmp_path, "a.patch --fuzz=1 -p0\nb.patch\n", "a.patch", "b.patch")
    action = load_series(root, "debian-6.12")
    assert action is not None
    assert [(patch.strip, patch.fuzz) for patch in action.patches] == [(0, 1), (1, 0)]
    assert {"apply 0 1 /in/patches/1", "apply 1 0 /in/patches/2"} <= set(action.describe())


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("", "its header has no Origin (where it comes from) and no Description (what it is for)"),
        ("Origin: own\n", "its header has no Description (what it is for)"),
        ("Subject: Eat soup\n", "its header has no Origin (where it comes from)"),
        ("Origin:\nDescription: Eat soup\n", "its header has no Origin (where it comes from)"),
    ],
)
def test_a_patch_that_does_not_say_whence_and_why_is_refused(tmp_path: Path, header: str, problem: str) -> None:
    root = write_series(tmp_path, "a.patch\n", "a.patch")
    (root / "debian-6.12" / "a.patch").write_text(header + DIFF + "Origin: too late\nDescription: below the change\n")
    assert f"patches/debian-6.12/series:1: a.patch: {problem}" in refusal(root)


def test_what_a_patch_is_for_is_told_by_its_description_or_its_subject(tmp_path: Path) -> None:
    root = write_series(tmp_path, "a.patch\nb.patch\n", "a.patch", "b.patch")
    mail = "From: a@a.example\nSubject: Eat soup slowly\n\nBecause.\n\nOrigin: upstream, 0123456789ab\n---\n"
    (root / "debian-6.12" / "b.patch").write_text(mail + DIFF)
    action = load_series(root, "debian-6.12")
    assert action is not None
    assert [patch.summary for patch in action.patches] == ["Eat soup", "Eat soup slowly"]


def test_a_folder_that_somebody_named_has_to_be_there(tmp_path: Path) -> None:
    root = write_series(tmp_path, "a.patch\n", "a.patch")
    with pytest.raises(PatchError, match=r"patches/debian-6\.13: no such folder of patches") as caught:
        load_series(root, "debian-6.13", required=True)
    assert caught.value.hint.startswith("Did you mean debian-6.12?")


def test_several_series_are_applied_one_after_the_other_and_each_patch_is_told_with_its_own(tmp_path: Path) -> None:
    root = write_series(tmp_path, "a.patch\n", "a.patch")
    elsewhere = tmp_path / "far" / "mine"
    elsewhere.mkdir(parents=True)
    (elsewhere / "series").write_text("a.patch --fuzz=1\n")
    (elsewhere / "a.patch").write_text(PATCH)
    action = load_series(root, "debian-6.12", str(elsewhere), required=True)
    assert action is not None
    assert [(patch.label, patch.fuzz) for patch in action.patches] == [("debian-6.12/a.patch", 0), ("mine/a.patch", 1)]
    assert load_series(root, str(elsewhere), "debian-6.12") != action
    said = "osbuilder: patch debian-6.12/a.patch\npatching file x.c\nosbuilder: patch mine/a.patch\n" + SAID
    with pytest.raises(PatchError, match=r"^mine/a\.patch does not apply") as caught:
        action.run(job_that_says(tmp_path, said))
    assert "drop it from mine/series" in caught.value.hint


def test_a_series_elsewhere_is_read_as_strictly_and_named_by_its_path(tmp_path: Path) -> None:
    root = write_series(tmp_path, "", "a.patch")
    (root / "debian-6.12").rename(tmp_path / "mine")
    with pytest.raises(PatchError, match=rf"^{tmp_path}/mine/series: does not name a\.patch"):
        load_series(root, f"{tmp_path}/mine")
    (tmp_path / "mine" / "series").write_text("b.patch\n")
    with pytest.raises(PatchError, match=rf"^{tmp_path}/mine/series:1: cannot read b\.patch"):
        load_series(root, f"{tmp_path}/mine")
    with pytest.raises(PatchError, match=rf"^{tmp_path}/gone: no such folder of patches"):
        load_series(root, f"{tmp_path}/gone", required=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("linux-6.12, mine", ("linux-6.12", "mine")),
        ("./mine,/srv/theirs,~/x", ("/here/mine", "/srv/theirs", str(Path.home() / "x"))),
    ],
)
def test_series_are_named_in_their_order_with_commas_between_them(text: str, names: tuple[str, ...]) -> None:
    assert SeriesNames.parse(text).below(Path("/here")).names == names


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mine,none", "none does not go with other series"),
        ("mine,mine", "mine stands there twice"),
        ("mine,", "malformed: ''"),
        ("-x", "malformed: '-x': expected a folder of kernel/patches, or a path (with a slash)"),
    ],
)
def test_what_names_no_series_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        SeriesNames.parse(text)


# What GNU patch 2.7.6 says with --force --fuzz=0 --reject-file=-.
SAID = """\
patching file kernel/fork.c
Hunk #1 succeeded at 12 (offset 3 lines).
Hunk #2 FAILED at 17.
1 out of 2 hunks FAILED
can't find file to patch at input line 14
Perhaps you used the wrong -p or --strip option?
The text leading up to this was:
--------------------------
|diff --git a/fs/gone.c b/fs/gone.c
|--- a/fs/gone.c
|+++ b/fs/gone.c
--------------------------
No file to patch.  Skipping patch.
1 out of 1 hunk ignored
"""


def test_every_failed_hunk_and_missing_file_is_found_in_what_patch_said() -> None:
    assert failures(SAID) == (
        "kernel/fork.c: hunk 2 (line 17)",
        "b/fs/gone.c: no such file (line 14 of the patch)",
    )
    assert failures("patch: **** Only garbage was found in the patch input.\n") == (
        "Only garbage was found in the patch input.",
    )


def job_that_says(base: Path, said: str) -> RecordingJob:
    folder = base / "source"
    folder.mkdir(parents=True)
    (folder / "source.tar.zst").touch()

    def act(ran: Ran) -> None:
        job.log.write_text(said)
        raise CommandFailed("bash failed with status 1", status=1, tail=said)

    job = RecordingJob(base / "job", act, source=artifact(folder, FACTS))
    return job


def test_a_patch_that_does_not_apply_is_named_with_file_and_hunk(tmp_path: Path) -> None:
    action = load_series(write_series(tmp_path, "a.patch\nb.patch\n", "a.patch", "b.patch"), "debian-6.12")
    assert action is not None
    said = "$ bash /in/script\nosbuilder: patch debian-6.12/a.patch\npatching file x.c\n"
    said += f"osbuilder: patch debian-6.12/b.patch\n{SAID}"
    with pytest.raises(PatchError) as caught:
        action.run(job_that_says(tmp_path, said))
    assert caught.value.message == (
        "debian-6.12/b.patch does not apply to 6.12.57:\n"
        "  kernel/fork.c: hunk 2 (line 17)\n"
        "  b/fs/gone.c: no such file (line 14 of the patch)"
    )
    assert "Rebase it on 6.12.57" in caught.value.hint


def test_a_patch_that_the_source_has_already_says_so(tmp_path: Path) -> None:
    action = load_series(write_series(tmp_path, "a.patch\n", "a.patch"), "debian-6.12")
    assert action is not None
    said = "osbuilder: patch debian-6.12/a.patch\npatching file x.c\nHunk #1 FAILED at 1.\n"
    said += "osbuilder: refused\nosbuilder: applied before\n"
    with pytest.raises(PatchError, match=r"x\.c: hunk 1") as caught:
        action.run(job_that_says(tmp_path, said))
    assert caught.value.hint == "The source has it already: drop it from the series."


def test_a_patch_that_would_apply_with_fuzz_says_how_to_accept_it(tmp_path: Path) -> None:
    action = load_series(write_series(tmp_path, "a.patch\n", "a.patch"), "debian-6.12")
    assert action is not None
    said = (
        "osbuilder: patch debian-6.12/a.patch\npatching file x.c\nHunk #2 FAILED at 17.\n"
        "osbuilder: refused\npatching file x.c\n"
        "Hunk #1 succeeded at 1 with fuzz 1.\nHunk #2 succeeded at 17 with fuzz 2.\nosbuilder: applies with fuzz\n"
    )
    with pytest.raises(PatchError) as caught:
        action.run(job_that_says(tmp_path, said))
    assert caught.value.message == "debian-6.12/a.patch does not apply to 6.12.57:\n  x.c: hunk 2 (line 17)"
    assert "it applies only with fuzz 2" in caught.value.hint
    assert "a.patch --fuzz=2 in debian-6.12/series" in caught.value.hint


def test_a_failure_that_no_patch_made_is_not_blamed_on_one(tmp_path: Path) -> None:
    action = ApplyPatches(patches=(Patch(series="s", name="a", strip=1, sha256="0", content=b""),))
    with pytest.raises(CommandFailed):
        action.run(job_that_says(tmp_path / "1", "tar: damaged\n"))
    with pytest.raises(CommandFailed):
        action.run(job_that_says(tmp_path / "3", "osbuilder: patch s/a\nosbuilder: patched\ntar: failed\n"))
    with pytest.raises(StoreError, match="the disk is full"):
        action.run(job_that_says(tmp_path / "2", "tar: Cannot write: No space left on device\n"))


def test_the_facts_of_the_source_are_kept_and_the_patches_added(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        assert (ran.inputs["patches"] / "1").read_text() == PATCH
        assert dict(ran.command.env) == {"SOURCE_DATE_EPOCH": "1700000000"}
        assert not ran.command.network

    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "source.tar.zst").touch()
    action = load_series(write_series(tmp_path, "a.patch\n", "a.patch"), "debian-6.12")
    assert action is not None
    job = RecordingJob(tmp_path / "job", act, source=artifact(folder, FACTS))
    assert action.run(job) == {**FACTS, "patches": ["a.patch"]}
