"""The executor builds what is missing, once, in order, and publishes whole results or none."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from osbuilder.engine.base import Command, Engine, Mounts
from osbuilder.errors import CommandFailed, Interrupted, RootfsError, StoreError, ToolMissing, UsageError
from osbuilder.execute import Executor
from osbuilder.fetch import FetchSettings, Progress
from osbuilder.step import NOT_IN_KEY, Job, Json, Step
from osbuilder.store import Artifact, Store, remove_tree, runs_in
from tests.silence import SilentProgress


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.reused: list[str] = []
        self.failures: list[str] = []
        self.waited: list[str] = []
        self.stays: list[tuple[str, str]] = []

    @property
    def downloads(self) -> Progress:
        return SilentProgress()

    def waiting(self, step: Step) -> None:
        self.waited.append(step.name)

    def kept_out(self) -> None:
        self.waited.append("the store")

    def started(self, step: Step, log: Path) -> None:
        assert log.exists()

    def finished(self, step: Step, facts: Mapping[str, Json], *, seconds: float | None) -> None:
        (self.reused if seconds is None else self.built).append(step.name)

    def failed(self, step: Step) -> None:
        self.failures.append(step.name)

    def left(self, folder: Path, engine: str) -> None:
        self.stays.append((folder.name, engine))


def no_engine() -> NoReturn:
    raise AssertionError("no step of this test runs a command")


def executor(tmp_path: Path, heard: Heard, engine: Callable[[], Engine] = no_engine) -> Executor:
    return Executor(Store(tmp_path / "store"), engine=engine, reporter=heard, fetching=FetchSettings(), jobs=2)


def nothing(job: Job) -> None:
    pass


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    text: str
    hook: Callable[[Job], None] = dataclasses.field(default=nothing, metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return (f"write {self.text}",)

    def run(self, job: Job) -> dict[str, Json]:
        self.hook(job)
        above = "".join(artifact.path("file").read_text() for _, artifact in sorted(job.inputs.items()))
        (job.out / "file").write_text(above + self.text)
        return {"letters": len(self.text)}


def chain(*texts: str, hook: Callable[[Job], None] = nothing) -> Step:
    """Return the last of a row of steps, each of which reads the one before it; the last one has the hook."""
    step: Step | None = None
    for number, text in enumerate(texts):
        last = number == len(texts) - 1
        step = Step(
            name=f"s{number}",
            subject="row",
            action=Write(text=text, hook=hook if last else nothing),
            inputs=(("above", step),) if step else (),
        )
    assert step is not None
    return step


def test_a_plan_is_built_once_and_found_afterwards(tmp_path: Path) -> None:
    first, second = Heard(), Heard()
    artifact = executor(tmp_path, first).run(chain("a", "b", "c"))
    assert artifact.path("file").read_text() == "abc"
    assert first.built == ["s0", "s1", "s2"]
    executor(tmp_path, second).run(chain("a", "b", "c"))
    assert (second.built, second.reused) == ([], ["s0", "s1", "s2"])


def test_only_what_a_change_reaches_is_built_again(tmp_path: Path) -> None:
    executor(tmp_path, Heard()).run(chain("a", "b", "c"))
    heard = Heard()
    executor(tmp_path, heard).run(chain("a", "B", "c"))
    assert (heard.reused, heard.built) == (["s0"], ["s1", "s2"])


def test_an_input_rebuilt_to_the_same_bytes_changes_nothing_downstream(tmp_path: Path) -> None:
    executor(tmp_path, Heard()).run(chain("ab", "", "c"))
    heard = Heard()
    executor(tmp_path, heard).run(chain("a", "b", "c"))
    assert (heard.built, heard.reused) == (["s0", "s1"], ["s2"])


def test_a_damaged_artifact_is_built_again(tmp_path: Path) -> None:
    path = executor(tmp_path, Heard()).run(chain("a", "b")).path("file")
    path.chmod(0o644)
    path.write_text("xy")
    heard = Heard()
    assert executor(tmp_path, heard).run(chain("a", "b")).path("file").read_text() == "ab"
    assert heard.built == ["s1"]


def test_an_artifact_that_goes_while_it_is_looked_at_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor(tmp_path, Heard()).run(chain("a"))
    find, going = Store.find, iter([True])

    def find_last(store: Store, key: str) -> Artifact | None:
        found = find(store, key)
        if found and next(going, False):  # another process' `inv cache --gc`, or its rebuild
            remove_tree(found.folder)
        return found

    monkeypatch.setattr(Store, "find", find_last)
    heard = Heard()
    assert executor(tmp_path, heard).run(chain("a")).path("file").read_text() == "a"
    assert heard.built == ["s0"]


def test_a_failure_names_its_step_and_publishes_nothing(tmp_path: Path) -> None:
    def fail(job: Job) -> None:
        (job.out / "file").write_text("half")
        raise RootfsError("the cup is empty")

    heard = Heard()
    with pytest.raises(RootfsError, match="the cup is empty") as caught:
        executor(tmp_path, heard).run(chain("a", "b", hook=fail))
    assert "step: row/s1" in caught.value.__notes__
    assert heard.failures == ["s1"]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    assert [artifact.manifest["ident"] for artifact in Store(tmp_path / "store").artifacts()] == ["row/s0"]


def test_a_package_that_no_flag_names_is_looked_for_where_it_is_named(tmp_path: Path) -> None:
    def fail(job: Job) -> None:
        raise UsageError("package x does not exist", hint="Correct the name (--package).")

    wrong = dataclasses.replace(chain("a", hook=fail), packages_hint="Correct `tools: [x]`.")
    for step, hint in ((wrong, "Correct `tools: [x]`."), (chain("a", hook=fail), "Correct the name (--package).")):
        with pytest.raises(UsageError) as caught:
            executor(tmp_path, Heard()).run(step)
        assert caught.value.hint == hint


def test_an_operating_system_error_in_a_step_becomes_a_store_error(tmp_path: Path) -> None:
    def fail(job: Job) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"row/s0 failed .*: the disk is full"):
        executor(tmp_path, Heard()).run(chain("a", hook=fail))


def test_independent_steps_run_at_the_same_time(tmp_path: Path) -> None:
    meet = threading.Barrier(2, timeout=20)

    def wait(job: Job) -> None:
        meet.wait()

    left = Step(name="left", subject="pair", action=Write(text="l", hook=wait))
    right = Step(name="right", subject="pair", action=Write(text="r", hook=wait))
    top = Step(name="top", subject="pair", action=Write(text="t"), inputs=(("a", left), ("b", right)))
    assert executor(tmp_path, Heard()).run(top).path("file").read_text() == "lrt"


def test_two_executors_that_want_the_same_thing_build_it_once(tmp_path: Path) -> None:
    began = threading.Event()

    def slow(job: Job) -> None:
        began.set()
        threading.Event().wait(0.3)

    first, second = Heard(), Heard()
    other = threading.Thread(target=lambda: executor(tmp_path, first).run(chain("a", hook=slow)))
    other.start()
    assert began.wait(20)
    executor(tmp_path, second).run(chain("a"))
    other.join(20)
    assert (first.built, second.built, second.reused) == (["s0"], [], ["s0"])
    assert (first.waited, second.waited) == ([], ["s0"])


def test_a_build_that_waits_for_the_store_says_so(tmp_path: Path) -> None:
    with contextlib.ExitStack() as tidying:

        class Patient(Heard):
            def kept_out(self) -> None:
                super().kept_out()
                tidying.close()

        heard = Patient()
        tidying.enter_context(Store(tmp_path / "store").alone())
        executor(tmp_path, heard).run(chain("a"))
    assert (heard.waited, heard.built) == (["the store"], ["s0"])


def test_what_keeps_one_target_from_being_looked_at_is_an_error_of_that_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(store: Store, artifact: Artifact) -> bool:
        if artifact.manifest["ident"] == "row/s1":
            raise OSError(errno.EMFILE, "Too many open files", str(artifact.path("file")))
        return True

    executor(tmp_path, Heard()).run(chain("a", "b"))
    monkeypatch.setattr(Store, "intact", read)
    bad, good = executor(tmp_path, Heard()).run_each((chain("a", "b"), chain("c")))
    assert isinstance(bad, StoreError)
    assert bad.message.startswith("row/s1 failed")
    assert isinstance(good, Artifact)


def test_what_is_stopped_goes_on_with_no_other_target(tmp_path: Path) -> None:
    def stop(job: Job) -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        executor(tmp_path, Heard()).run_each((chain("a", hook=stop), chain("b")))


def test_peek_says_what_is_up_to_date_and_builds_nothing(tmp_path: Path) -> None:
    executor(tmp_path, Heard()).run(chain("a", "b"))
    found = executor(tmp_path, Heard()).peek(chain("a", "b", "c"))
    assert {ident: artifact is not None for ident, artifact in found.items()} == {
        "row/s0": True,
        "row/s1": True,
        "row/s2": False,
    }


class Refusing:
    """An engine whose every command fails."""

    name = "refusing"

    def prepare(self, builder: object) -> None:
        pass

    def run(self, builder: object, command: Command, mounts: object, *, log: Path, label: str) -> NoReturn:
        with log.open("a") as stream:
            stream.write("no such tea\n")
        raise CommandFailed("pour exited with status 3", status=3, tail="no such tea")

    def repeat_line(self, builder: object, command: Command, mounts: object) -> str:
        return "pour it yourself"

    def sweep(self, label: str, folder: Path) -> None:
        pass

    def stop(self) -> None:
        pass


@dataclasses.dataclass
class Leaving(Refusing):
    """An engine whose commands leave a link to a file of the user's, and then fail or not."""

    theirs: Path
    fails: bool

    def run(self, builder: object, command: Command, mounts: Mounts, *, log: Path, label: str) -> None:  # type: ignore[override]
        (mounts.output / "sub").mkdir()
        (mounts.output / "sub" / "policy").symlink_to(self.theirs)
        if self.fails:
            raise CommandFailed("pour exited with status 3", status=3)


@pytest.mark.parametrize("fails", [False, True])
def test_a_link_in_the_output_of_a_command_is_refused_before_anything_reads_it(tmp_path: Path, fails: bool) -> None:
    theirs = tmp_path / "id_rsa"
    theirs.write_text("secret")
    read: list[str] = []

    def command(job: Job) -> None:
        output = job.work / "output"
        output.mkdir()
        with contextlib.suppress(CommandFailed):
            job.run(Command(argv=("pour",)), output=output)
        read.append((output / "sub" / "policy").read_text())

    base = Step(name="make", subject="builder", action=Builder())
    step = Step(name="s", subject="row", action=Write(text="a", hook=command), builder=base)
    refusal = r"refused \(.*/output/sub/policy\): expected a file or a folder, got a symbolic link"
    with pytest.raises(StoreError, match=refusal):
        executor(tmp_path, Heard(), lambda: Leaving(theirs, fails)).run(step)  # type: ignore[arg-type, return-value]
    assert read == []


def test_the_log_of_a_failed_command_is_named_and_kept(tmp_path: Path) -> None:
    def command(job: Job) -> None:
        job.run(Command(argv=("pour", "a cup")))

    base = Step(name="make", subject="builder", action=Builder())
    step = Step(name="s", subject="row", action=Write(text="a", hook=command), builder=base)
    with pytest.raises(CommandFailed) as caught:
        executor(tmp_path, Heard(), Refusing).run(step)  # type: ignore[arg-type]
    log = next(note.removeprefix("log: ") for note in caught.value.__notes__ if note.startswith("log: "))
    assert Path(log).read_text() == "$ pour 'a cup'\n# by hand: pour it yourself\nno such tea\n"


def test_the_folders_of_a_failed_command_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    def command(job: Job) -> None:
        (job.work / "script").write_text("pour")
        job.run(Command(argv=("pour",)))

    base = Step(name="make", subject="builder", action=Builder())
    step = Step(name="s", subject="row", action=Write(text="a", hook=command), builder=base)
    for keep in (False, True):
        runner = executor(tmp_path, Heard(), Refusing)  # type: ignore[arg-type]
        runner.keep_failed = keep
        with pytest.raises(CommandFailed) as caught:
            runner.run(step)
        kept = [note.split()[1].rstrip(",") for note in caught.value.__notes__ if note.startswith("kept: ")]
        assert [Path(folder, "work", "script").read_text() for folder in kept] == (["pour"] if keep else [])
        assert runner.store.kept() == tuple(map(Path, kept))


def test_the_folders_are_kept_where_the_action_tells_in_other_words_that_its_command_failed(tmp_path: Path) -> None:
    def command(job: Job) -> None:
        try:
            job.run(Command(argv=("pour",)))
        except CommandFailed as error:
            raise RootfsError("the cup is empty") from error

    base = Step(name="make", subject="builder", action=Builder())
    runner = executor(tmp_path, Heard(), Refusing)  # type: ignore[arg-type]
    runner.keep_failed = True
    with pytest.raises(RootfsError) as caught:
        runner.run(Step(name="s", subject="row", action=Write(text="a", hook=command), builder=base))
    (kept,) = runner.store.kept()
    assert f"kept: {kept}, for the line `# by hand:` in the log" in caught.value.__notes__


def test_what_cannot_be_published_is_a_failure_of_its_step(tmp_path: Path) -> None:
    def leave(job: Job) -> None:
        (job.out / "cup").mkdir()

    heard = Heard()
    with pytest.raises(StoreError, match="expected a file, got a folder") as caught:
        executor(tmp_path, heard).run(chain("a", hook=leave))
    assert "step: row/s0" in caught.value.__notes__
    assert heard.failures == ["s0"]


def test_the_engine_that_a_killed_build_ran_in_sweeps_what_it_left(tmp_path: Path) -> None:
    swept: list[tuple[str, str]] = []

    class Named(Refusing):
        def __init__(self, name: str) -> None:
            self.name = name

        def sweep(self, label: str, folder: Path) -> None:
            swept.append((self.name, label))

    def named(name: str) -> Engine:
        if name == "gone":
            raise ToolMissing("gone does not answer")
        return Named(name)  # type: ignore[return-value]

    runner = executor(tmp_path, Heard(), lambda: Named("now"))  # type: ignore[arg-type, return-value]
    runner._choose_named = named
    for label, name in {"a": "now", "b": "then", "c": "gone", "d": ""}.items():
        (tmp_path / "store" / "tmp" / label).mkdir()
        runs_in(name, tmp_path / "store" / "tmp" / label)
    (tmp_path / "store" / "tmp" / "e").mkdir()
    runner.run(chain("a"))
    assert sorted(swept) == [("now", "a"), ("now", "d"), ("then", "b")]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_what_a_container_engine_may_run_still_stays_until_that_engine_answers(tmp_path: Path) -> None:
    swept: list[str] = []
    answering: list[str] = ["docker"]

    class Named(Refusing):
        def sweep(self, label: str, folder: Path) -> None:
            swept.append(label)

    def none_works() -> NoReturn:
        raise ToolMissing("no engine works on this host")

    def named(name: str) -> Engine:
        return Named() if name in answering else none_works()  # type: ignore[return-value]

    heard = Heard()
    runner = executor(tmp_path, heard, none_works)
    runner._choose_named = named
    folders = {label: tmp_path / "store" / "tmp" / label for label in ("a", "b", "c")}
    for name, folder in zip(("docker", "podman", "sandbox"), folders.values(), strict=True):
        folder.mkdir()
        runs_in(name, folder)
    for _ in range(2):
        runner.run(chain("a"))
        assert (swept, list((tmp_path / "store" / "tmp").iterdir())) == (["a"], [folders["b"]])
    assert heard.stays == [("b", "podman")]
    answering.append("podman")
    runner.run(chain("a"))
    assert (swept, list((tmp_path / "store" / "tmp").iterdir())) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://me:secret@proxy:3128/", "http://proxy:3128/"),
        ("me:secret@proxy:3128", "proxy:3128"),  # the scheme may be left out
        ("http://me:se[c/r@t@proxy:3128", "http://proxy:3128"),
    ],
)
def test_a_proxys_password_is_not_in_the_log(tmp_path: Path, proxy: str, shown: str) -> None:
    class Telling(Refusing):
        def repeat_line(self, builder: object, command: Command, mounts: object) -> str:
            return f"pour https_proxy={proxy}"

    def command(job: Job) -> None:
        job.run(Command(argv=("pour",)))

    base = Step(name="make", subject="builder", action=Builder())
    step = Step(name="s", subject="row", action=Write(text="a", hook=command), builder=base)
    runner = executor(tmp_path, Heard(), Telling)  # type: ignore[arg-type]
    runner.fetching = FetchSettings(proxies={"https_proxy": proxy})
    with pytest.raises(CommandFailed) as caught:
        runner.run(step)
    log = next(note.removeprefix("log: ") for note in caught.value.__notes__ if note.startswith("log: "))
    assert f"# by hand: pour https_proxy={shown}\n" in Path(log).read_text()


def test_after_a_failure_the_same_executor_builds_again(tmp_path: Path) -> None:
    def fail(job: Job) -> None:
        raise RootfsError("the cup is empty")

    runner = executor(tmp_path, Heard())
    with pytest.raises(RootfsError):
        runner.run(chain("a", "b", hook=fail))
    assert runner.run(chain("a", "b")).path("file").read_text() == "ab"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    def describe(self) -> tuple[str, ...]:
        return ()

    def run(self, job: Job) -> dict[str, Json]:
        (job.out / "builder.tar").write_bytes(b"")
        (job.out / "file").write_text("")
        return {}
