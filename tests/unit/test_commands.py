"""What commands make of their flags, of signals, and of what a person answers or does not."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

import tasks
from osbuilder.api import Workbench
from osbuilder.kernel.compile import CONFIG, SYSTEM_MAP, VMLINUX, VMLINUZ
from osbuilder.locks import Locks
from osbuilder.plan import Planner
from osbuilder.record import Record
from osbuilder.request import BootRequest
from osbuilder.step import Job, Json, Step
from osbuilder.verdict import Verdict
from osbuilder.verify import Proof
from tasks.common import workbench
from tasks.flags import command
from tasks.program import Inv

HOME = Path("/home/ann")


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a store that is not there."""
    monkeypatch.setenv("OSBUILDER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(HOME))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What commands ask of the workbench, which does nothing."""
    seen: list[Any] = []

    def note(_: object, request: object, **options: object) -> str:
        seen.append(request)
        return ""

    for name in ("describe", "describe_boot", "why", "inspect"):
        monkeypatch.setattr(Workbench, name, note)
    for name in ("describe", "describe_fetch", "difference"):
        monkeypatch.setattr(Locks, name, note)
    return seen


def inv(line: str) -> int:
    """Run a command line and return its exit status."""
    try:
        Inv(namespace=tasks.namespace).run(["inv", *line.split()])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# Signals


@pytest.fixture
def dispositions() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("dispositions")
def test_what_nohup_keeps_running_is_not_stopped_by_a_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with workbench(()):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("dispositions")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_command_and_means_afterwards_what_it_meant_before(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(Exit, match=f"stopped by {number.name}") as caught, workbench(()):
        os.kill(os.getpid(), number)
    assert caught.value.code == 130
    assert signal.getsignal(number) is signal.SIG_DFL


# Paths


@pytest.mark.parametrize(
    ("flag", "field"), [("image", "image"), ("initrd", "initrd"), ("root-hash --image=a", "root_hash")]
)
def test_a_path_of_a_boot_may_begin_with_the_home_folder(asked: list[Any], flag: str, field: str) -> None:
    name, _, further = flag.partition(" ")
    assert inv(f"boot --{name}=~/a.file {further} --dry") == 0
    assert getattr(asked[0], field) == HOME / "a.file"


def test_a_name_or_a_path_may_begin_with_the_home_folder_and_a_name_stays_one(asked: list[Any]) -> None:
    assert inv("boot --kernel=~/vmlinux --agent=~/my-agent --dry") == 0
    assert inv("boot --kernel=6.12 --agent=kata --dry") == 0
    assert inv("rootfs --agent=~/my-agent --dry") == 0
    assert inv("agent --agent=~/my-agent --dry") == 0
    path, name, *agents = asked
    assert isinstance(path, BootRequest)
    assert (path.kernel_file, path.agent) == (HOME / "vmlinux", str(HOME / "my-agent"))
    assert (name.kernel, name.agent) == ("6.12", "kata")
    assert [each.agent for each in agents] == [str(HOME / "my-agent")] * 2


def test_a_path_of_what_is_built_may_begin_with_the_home_folder(asked: list[Any]) -> None:
    assert inv("rootfs --provision=~/tree --modules=~/modules --agent-policy=~/policy --dry") == 0
    assert inv("kernel --tree=~/linux --dry") == 0
    assert inv("inspect ~/file") == 0
    rootfs, kernel, file = asked
    assert (rootfs.provision, rootfs.modules, rootfs.agent_policy) == (HOME / "tree", HOME / "modules", HOME / "policy")
    assert (kernel.tree, file) == (HOME / "linux", HOME / "file")


def test_a_home_folder_that_there_is_not_is_refused(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert inv("boot --image=~nobody-of-that-name/a --dry") == 2
    assert "~nobody-of-that-name/a: there is no home folder ~nobody-of-that-name" in capsys.readouterr().err
    assert asked == []


def test_words_of_the_kernel_line_are_told_apart_as_the_kernel_tells_them(asked: list[Any]) -> None:
    Inv(namespace=tasks.namespace).run(["inv", "boot", '--append=quiet dyndbg="file a.c +p"', "--dry"], exit=False)
    assert asked[0].append == ("quiet", 'dyndbg="file a.c +p"')


@pytest.mark.parametrize(
    "line",
    [
        "rootfs --overlay=~nobody-of-that-name/a.tar",
        f"rootfs --overlay=~nobody-of-that-name/a.tar,sha256={'0' * 64}",
        "rootfs --agent=oci:~nobody-of-that-name/image",
        "rootfs --distro=oci --release=~nobody-of-that-name/image:latest",
        "agent --agent=kata --agent-option=tree=~nobody-of-that-name/kata",
    ],
)
def test_a_home_folder_that_there_is_not_is_refused_wherever_a_path_stands(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inv(f"{line} --dry") == 2
    assert ": there is no home folder ~nobody-of-that-name\n" in capsys.readouterr().err


# Flags that are another's, or that contradict each other


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("why kernel --package foo --distro nonesuch", "--distro is no flag of inv kernel"),
        ("why agent --without-unit a.service", "--without-unit is no flag of inv agent"),
        ("why initrd --measured", "--measured is no flag of inv initrd"),
        ("why rootfs --variant debug", "--variant is no flag of inv rootfs"),
        ("fetch --all --distro debian --arch aarch64", "--all does not go with --distro and --arch"),
        ("fetch --all --release trixie", "--all does not go with --release"),
        ("lock --distro debian --dry --diff", "--dry asks no mirror, and --diff says what they have now"),
        ("verify --dry --record=a.record", "--dry does not go with --record"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(
    asked: list[Any], line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inv(line) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert asked == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "--record .: expected a file that can be read and written: Is a directory"),
        (
            "none/record",
            "--record none/record: expected a file that can be read and written: No such file or directory",
        ),
        ("a.image", "--record a.image: expected a record of `inv verify` (JSON lines), got b'no record'"),
    ],
)
def test_what_cannot_be_a_record_is_refused_before_it_is_known_what_to_verify(
    room: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(*_: object, **__: object) -> NoReturn:
        raise AssertionError("something was looked for already")

    monkeypatch.setattr(Proof, "of_kernels", plan)
    (room / "a.image").write_bytes(b"no record")
    assert inv(f"verify --record {path}") == 2
    assert capsys.readouterr().err.startswith(f"error: {message}\n")


def test_a_record_is_read_where_it_is_named_and_nothing_is_left_of_one_without_a_guest(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def run(_: Proof, trials: object, *, record: Record | None, **__: object) -> Verdict:
        seen.append(record is not None)
        return Verdict(kernels={}, tried=[])

    monkeypatch.setattr(Proof, "of_kernels", lambda *_, **__: ())
    monkeypatch.setattr(Proof, "run", run)
    monkeypatch.setenv("HOME", str(room))
    assert inv("verify") == inv("verify --record ~/a.record") == 0
    assert seen == [False, True]
    assert not (room / "a.record").exists()


def test_what_builds_can_do_it_offline() -> None:
    contexts = {context.name: context for context in tasks.namespace.to_contexts()}
    building = ("rootfs", "image", "initrd", "kernel.build", "kernel.headers", "agent", "boot")
    assert [name for name in building if "--offline" not in contexts[name].flags] == []


@pytest.mark.parametrize("line", ["kernel", "agent", "kernel.headers --variant nvidia-gpu"])
def test_offline_means_so_to_every_command_that_has_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def note(bench: Workbench, _: object, **options: object) -> str:
        seen.append(bench.settings.offline)
        return ""

    monkeypatch.setattr(Workbench, "describe", note)
    assert inv(f"{line} --offline --dry") == 0
    assert inv(f"{line} --dry") == 0
    assert seen == [True, False]


# A kernel's copies


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """Leaves what the compilation of a kernel leaves, in small."""

    def describe(self) -> tuple[str, ...]:
        return ()

    def run(self, job: Job) -> dict[str, Json]:
        for name in (VMLINUX, VMLINUZ, CONFIG, SYSTEM_MAP):
            (job.out / name).write_text(name)
        return {"version": "6.12.1"}


@pytest.fixture
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "plan", lambda *_: Step(name="kernel", subject="it", action=Kernel()))


@pytest.mark.usefixtures("_kernels")
def test_all_files_of_a_kernel_are_copied_under_their_names_each_with_its_manifest(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (room / "out").mkdir()
    assert inv(f"kernel --output out --setting build={room}/build") == 0
    published = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert published[0] == Path("out")
    names = {path.name for path in published[1:]}
    assert {name.partition("-")[0] for name in names} == {VMLINUX, VMLINUZ, CONFIG, SYSTEM_MAP}
    assert {path.name for path in (room / "out").iterdir()} == names | {f"{name}.manifest.json" for name in names}
    for path in published[1:]:
        assert (room / "out" / path.name).read_bytes() == path.read_bytes()
        assert not (room / "out" / path.name).samefile(path)


@pytest.mark.parametrize("dry", ["", "--dry"])
@pytest.mark.usefixtures("_kernels")
def test_a_kernel_is_not_copied_into_what_is_no_folder(
    room: Path, dry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (room / "file").touch()
    for name in ("file", "none"):
        assert inv(f"kernel --output {name} {dry}") == 2
        told = f"error: --output {name}: expected a folder: a kernel is several files\n  Make it first.\n"
        assert capsys.readouterr().err == told
    assert not (room / "build").exists()


# Answers


@pytest.mark.parametrize(("answer", "expected"), [("y", True), ("YES", True), ("", False), ("n", False), (None, False)])
def test_the_end_of_the_input_means_no_as_does_all_but_yes(
    answer: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: str) -> str:
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", read)
    assert tasks._ask("Install?") is expected


# Errors that are not the user's, and one that is


@command()
def broken(_: Context) -> None:
    """Fail as nobody thought that it could."""
    with workbench(()):
        raise KeyError("a\nkey")


def test_a_bug_is_one_line_that_names_a_file_with_its_traceback(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(room))
    program = Inv(namespace=Collection(broken))
    with pytest.raises(SystemExit) as caught:
        program.run(["inv", "broken"])
    assert caught.value.code == 1
    (file,) = room.glob("osbuilder-bug-*.txt")
    told = r"error: this is a bug of osbuilder: KeyError: 'a\nkey'"
    assert capsys.readouterr().err == f"{told} (traceback: {file})\n"
    assert 'raise KeyError("a\\nkey")' in file.read_text()


def test_a_test_that_runs_a_command_sees_its_exceptions() -> None:
    with pytest.raises(KeyError):
        Inv(namespace=Collection(broken)).run(["inv", "broken"], exit=False)


def test_a_setting_that_does_not_fit_is_told_by_the_tests_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSBUILDER_JOBS", "abc")
    monkeypatch.setattr(Context, "run", lambda *_, **options: None)
    assert inv("test") == 2
    assert capsys.readouterr().err == "error: setting jobs (OSBUILDER_JOBS): expected a whole number, got 'abc'\n"


@pytest.mark.parametrize(("flags", "name"), [("", "vmlinux.container"), ("--variant debug", "vmlinux-debug.container")])
def test_a_boot_that_is_only_described_names_the_kernel_of_its_variant(
    flags: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inv(f"boot --distro scratch --arch x86_64 {flags} --dry") == 0
    assert f" -kernel {name} " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["kernel.config", "kernel.explain VIRTIO_FS", "kernel", "boot --distro scratch"])
def test_what_a_kernel_lacks_offline_is_told_with_the_flags_that_get_it(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = "--kernel debian-6.1 --variant debug --arch aarch64"
    assert inv(f"{command} {kernel} --setting offline=true") == 1
    assert f"inv fetch {kernel}\n" in capsys.readouterr().err
