"""Every engine shows a command the same world, gives the same bytes, and leaves nothing behind."""

# ruff: noqa: S607 - sh and unshare are taken from PATH

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from osbuilder.engine.authorities import trusting
from osbuilder.engine.base import ROOT_CAPABILITIES, Builder, Command, Mounts
from osbuilder.errors import EngineError, Interrupted, OsbuilderError
from tests.integration.engine_driver import make_engine
from tests.integration.engines import ENGINES, WITHOUT_PODMAN, Result, Room, left_over, make_room

_CONNECT = "use IO::Socket::INET; exit !IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 5)"

every_engine = pytest.mark.parametrize("engine_name", ENGINES, indirect=True)
without_podman = pytest.mark.parametrize("engine_name", WITHOUT_PODMAN, indirect=True)


def _tar_of_a_tree() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "home", "var"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, uid, mode, content in (
            ("bin/tool", 0, 0o4755, b"x" * 5000),
            ("home/\u00fcser", 1000, 0o600, b"secret\n"),
            ("var/empty", 7, 0o644, b""),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid = len(content), mode, uid, uid
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def digests() -> dict[str, tuple[str, str]]:
    """What earlier engines gave: {what: (engine, sha256)}."""
    return {}


def _same(digests: dict[str, tuple[str, str]], what: str, room: Room) -> None:
    sha256 = hashlib.sha256((room.output / what).read_bytes()).hexdigest()
    engine, expected = digests.setdefault(what, (room.name, sha256))
    assert sha256 == expected, f"{what}: {room.name} and {engine} differ"


@every_engine
def test_a_filesystem_has_the_same_bytes_under_every_engine(room: Room, digests: dict[str, tuple[str, str]]) -> None:
    room.write("tree.tar", _tar_of_a_tree())
    seed = "00000000-0000-4000-8000-000000000000"
    options = ("-q", "-F", "-t", "ext4", "-U", seed, "-E", f"hash_seed={seed}", "-d", "/in/tree.tar")
    result = room.run("mke2fs", *options, "/out/root.ext4", "8M", env=(("SOURCE_DATE_EPOCH", "1700000000"),))
    assert result.error is None, result.tail
    _same(digests, "root.ext4", room)


@every_engine
def test_root_packs_the_same_bytes_under_every_engine(room: Room, digests: dict[str, tuple[str, str]]) -> None:
    script = (
        "mkdir -p /target/a/b && cp /bin/true /target/a/t && chown 5:7 /target/a/t && chmod 4711 /target/a/t &&"
        "chown 65534:100 /target/a/b && ln -s x /target/l && ln /target/a/t /target/h &&"
        "tar --sort=name --mtime=@0 --numeric-owner --format=pax --pax-option=delete=atime,delete=ctime"
        " -cf /out/root.tar -C /target ."
    )
    assert room.run("sh", "-ec", script, root=True, tmpfs=("/target",)).error is None
    _same(digests, "root.tar", room)


@every_engine
def test_the_environment_is_the_same_to_the_letter(room: Room) -> None:
    result = room.run("sh", "-c", "env -0 | sort -z | tr '\\0' '\\n'; hostname; umask; pwd", env=(("A", "b c"),))
    assert result.error is None
    assert result.log.splitlines() == [
        "A=b c",
        "HOME=/tmp",
        "LANG=C.UTF-8",
        "LC_ALL=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/work",
        "TZ=UTC",
        "builder",
        "0022",
        "/work",
    ]


@every_engine
@pytest.mark.parametrize("root", [True, False], ids=["root", "user"])
def test_the_users_authorities_are_where_programs_look_for_them(room: Room, root: bool) -> None:
    room.write("authorities", b"a certificate\n")
    look = 'cat "$SSL_CERT_FILE"' + (" /etc/ssl/certs/ca-certificates.crt" if root else "")
    bundle = room.folder / "inputs" / "authorities"
    command, _ = trusting(Command(argv=("sh", "-c", look), root=root, network=True), {}, bundle)
    result = room.run(*command.argv, root=root, env=command.env, tmpfs=command.tmpfs)
    assert result.error is None, result.tail
    assert result.log == "a certificate\n" * (2 if root else 1)


def test_only_output_and_scratch_can_be_written(room: Room) -> None:
    room.write("file", b"data")
    forbidden = ("/x", "/usr/x", "/in/x", "/in/file", "/cache/x")
    allowed = ("/out/x", "/work/x", "/tmp/x", "/var/tmp/x", "/run/x", "/dev/shm/x", "/cache/kept/x")
    script = 'for path; do if (echo x >> "$path") 2>/dev/null; then echo "$path"; fi; done'
    result = room.run("sh", "-c", script, "sh", *forbidden, *allowed)
    assert result.log.split() == [*allowed], result.log
    assert [path.name for path in room.output.iterdir()] == ["x"]
    assert list(room.work.iterdir()) == []
    assert (room.folder / "inputs/file").read_bytes() == b"data"


@every_engine
def test_a_command_has_no_rights_and_root_only_the_listed_ones(room: Room) -> None:
    show = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status"
    plain = room.run("sh", "-c", show)
    assert plain.log.splitlines()[0] != "0"
    assert plain.log.split()[1:] == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    room.log.unlink()
    numbers = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7}
    numbers |= {"SYS_CHROOT": 18, "MKNOD": 27, "SETFCAP": 31}  # linux/capability.h
    mask = f"{sum(1 << numbers[name] for name in ROOT_CAPABILITIES):016x}"
    rooted = room.run("sh", "-c", show, root=True)
    assert rooted.log.split() == ["0", "CapEff:", mask, "CapBnd:", mask, "NoNewPrivs:", "1"]


@pytest.mark.parametrize("root", [False, True])
def test_the_kernels_settings_cannot_be_written(room: Room, root: bool) -> None:
    result = room.run("sh", "-c", "v=$(cat /proc/sys/vm/swappiness); echo $v > /proc/sys/vm/swappiness", root=root)
    assert result.error == "CommandFailed"


@every_engine
def test_output_belongs_to_the_caller_whoever_made_it(room: Room) -> None:
    assert room.run("sh", "-c", "echo a > /out/plain; ln -s plain /out/link").error is None
    script = "cat /out/plain; mkdir -m 755 /out/d; echo b > /out/d/f; chown -R 5:5 /out/d; mkdir -m 700 /work/x"
    assert room.run("sh", "-ec", script, root=True).error is None
    assert room.run("sh", "-ec", "echo c >> /out/plain; echo c >> /out/d/f").error is None
    assert (room.output / "plain").read_text() == "a\nc\n"
    assert (room.output / "d/f").read_text() == "b\nc\n"
    assert (room.output / "link").readlink() == Path("plain")
    for path in (room.output, *room.output.rglob("*")):
        assert path.lstat().st_uid == room.uid, path
    assert list(room.work.iterdir()) == []


@without_podman
def test_a_cache_is_kept_for_whoever_comes_next(room: Room) -> None:
    assert room.run("sh", "-c", "echo 1 > /cache/kept/plain").error is None
    assert room.run("sh", "-ec", "cat /cache/kept/plain; echo 2 > /cache/kept/root", root=True).error is None
    result = room.run("sh", "-ec", "cat /cache/kept/plain /cache/kept/root; echo 3 >> /cache/kept/root")
    assert result.error is None, result.tail


@pytest.mark.parametrize(("first", "second"), [("docker", "sandbox"), ("sandbox", "docker"), ("docker", "docker")])
def test_builds_in_two_engines_at_once_both_write_to_one_cache(
    first: str, second: str, engine_builder: Builder, ground: Path, request: pytest.FixtureRequest
) -> None:
    long = "for i in 1 2 3 4 5 6 7 8 9; do mkdir /cache/kept/first$i; echo > /cache/kept/first$i/a; sleep 0.3; done"
    results: list[Result] = []
    with (
        make_room(first, engine_builder, ground, request) as one,
        make_room(second, engine_builder, ground, request) as two,
    ):
        two.kept = one.folder / "cache"
        thread = threading.Thread(target=lambda: results.append(one.run("sh", "-ec", long)))
        thread.start()
        try:
            while thread.is_alive() and not (two.kept / "first1").exists():
                time.sleep(0.05)
            results.append(two.run("sh", "-ec", "echo > /cache/kept/first1/b; mkdir /cache/kept/second"))
        finally:
            thread.join()
    assert [(result.error, result.tail) for result in results] == [(None, "")] * 2


@without_podman
def test_holes_in_the_output_stay_holes(room: Room) -> None:
    assert room.run("sh", "-c", "truncate -s 64M /out/sparse; printf end >> /out/sparse").error is None
    facts = (room.output / "sparse").stat()
    assert facts.st_size == (64 << 20) + 3
    assert facts.st_blocks * 512 < 1 << 20


@every_engine
def test_a_failure_tells_its_status_and_the_end_of_its_output(room: Room) -> None:
    result = room.run("sh", "-c", "seq 99; echo broken >&2; echo 100; echo for good >&2; exit 7")
    assert (result.error, result.status) == ("CommandFailed", 7)
    assert result.message.startswith(f"sh exited with status 7 (builder tests, log {room.log})")
    assert result.tail.splitlines()[-4:] == ["99", "broken", "100", "for good"]  # in the order it was written


def test_a_program_that_is_not_there_is_a_failure_that_names_it(room: Room) -> None:
    result = room.run("no-such-program")
    assert (result.error, result.status) == ("CommandFailed", 127)
    assert "no-such-program" in result.tail


def test_a_command_that_takes_too_long_is_ended(room: Room) -> None:
    began = time.monotonic()
    result = room.run("sleep", "300", timeout_s=2)
    assert (result.error, result.message.splitlines()[0]) == ("TimeLimit", "sleep took longer than 2 s")
    assert time.monotonic() - began < 60
    assert left_over(room) == []


@pytest.mark.parametrize("engine_name", ["docker-archive", "sandbox"])
def test_what_a_command_left_is_there_however_it_ended(room: Room) -> None:
    assert room.run("sh", "-c", "echo first > /out/console; exit 3").error == "CommandFailed"
    assert (room.output / "console").read_text() == "first\n"
    assert room.run("sh", "-c", "echo last > /out/console; sleep 300", timeout_s=5).error == "TimeLimit"
    assert (room.output / "console").read_text() == "last\n"
    assert left_over(room) == []


@pytest.fixture
def listener() -> Iterator[str]:
    """HOST:PORT of something on this machine that accepts connections."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - containers reach it from their bridge
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            host = probe.getsockname()[0]
        yield f"{host}:{server.getsockname()[1]}"


@without_podman
def test_there_is_no_network_unless_asked_for(room: Room, listener: str) -> None:
    assert room.run("perl", "-e", _CONNECT, listener).error == "CommandFailed"
    result = room.run("perl", "-e", _CONNECT, listener, network=True)
    assert result.error is None, result.message


def test_stop_ends_a_running_command_and_refuses_the_next(room: Room) -> None:
    if room.user:
        process = _started(room)
        process.send_signal(signal.SIGTERM)  # the driver calls stop()
        stdout, _ = process.communicate(timeout=60)
        assert b'"Interrupted"' in stdout
        assert left_over(room) == []
        return
    engine = make_engine(room.spec)
    engine.prepare(room.builder)
    mounts = Mounts(inputs={}, output=room.output, work=room.work)
    timer = threading.Timer(2, engine.stop)
    timer.start()
    for _ in range(2):
        with pytest.raises(Interrupted):
            engine.run(room.builder, Command(argv=("sleep", "300")), mounts, log=room.log, label=room.label)
    timer.join()
    assert left_over(room) == []
    assert list(room.work.iterdir()) == []


def _started(room: Room, *, root: bool = False, first: str = "true") -> subprocess.Popen[bytes]:
    """Start a command that does something `first`, says that it runs and sleeps, and wait until it has said so."""
    script = f"{first} && echo {room.label} && sleep 987"
    process = room.start(room.order(Command(argv=("sh", "-c", script), root=root)))
    deadline = time.monotonic() + 120
    while room.label not in (room.log.read_text() if room.log.exists() else ""):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def _settled(room: Room) -> list[str]:
    """What is left over once the kernel had a moment to end what died."""
    deadline = time.monotonic() + 10
    while (left := left_over(room)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _sweep(room: Room) -> None:
    """Have the room's engine, in a process of its own, sweep what was left there."""
    stdout, _ = room.start(room.order(Command(argv=()), sweep=str(room.folder))).communicate(timeout=120)
    assert json.loads(stdout)["error"] is None, stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_container_and_no_process(room: Room, number: signal.Signals) -> None:
    process = _started(room, root=True)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert _settled(room) == []
    assert list(room.work.iterdir()) == []


# A folder that nobody but its owner can enter, with a file of a third one in it.
_OTHERS: Final = "mkdir -m 700 /out/a && touch /out/a/b && chown 44:44 /out/a/b && chown 33:33 /out/a"


@every_engine
def test_what_a_killed_process_left_is_swept(room: Room) -> None:
    process = _started(room, root=True, first=_OTHERS)
    process.kill()
    process.communicate()
    if room.spec["kind"] == "api":
        assert left_over(room) != []
    _sweep(room)
    assert _settled(room) == []
    if room.name != "docker-archive":  # there it stays in a volume
        assert (room.output / "a" / "b").exists()
        if room.uid:  # root may remove what is others'
            assert {path.stat().st_uid for path in (room.output, *room.output.rglob("*"))} == {room.uid}


@pytest.mark.parametrize("engine_name", ["sandbox", "sandbox-user"], indirect=True)
def test_a_sandbox_that_lost_its_caller_while_it_was_set_up_is_swept(room: Room) -> None:
    status, status_end = os.pipe()
    gate, gate_end = os.pipe()
    argv = ["bwrap", "--unshare-user", "--unshare-pid", "--die-with-parent", "--ro-bind", "/", "/"]
    argv += ["--bind", str(room.work), "/tmp", "--json-status-fd", str(status_end)]
    # As long as it waits for its map of ids it has not asked to die with its parent.
    argv += ["--userns-block-fd", str(gate), "--info-fd", "2", "sleep", "1000"]
    whose: dict[str, Any] = {"user": room.user.uid, "group": room.user.gid, "extra_groups": ()} if room.user else {}
    outer = subprocess.Popen(argv, pass_fds=(status_end, gate), stderr=subprocess.DEVNULL, **whose)
    with os.fdopen(status, encoding="utf-8") as lines:
        child = int(json.loads(lines.readline())["child-pid"])
    outer.kill()
    outer.wait()
    for end in (status_end, gate, gate_end):
        os.close(end)
    assert str(room.work) in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")
    _sweep(room)
    assert _settled(room) == []


def test_a_builder_that_is_not_what_its_checksum_says_is_refused(room: Room, ground: Path) -> None:
    tar = ground / "damaged.tar"
    tar.write_bytes(_tar_of_a_tree())
    tar.chmod(0o644)
    sha256 = hashlib.sha256(b"something else").hexdigest()
    room.builder = Builder(name="damaged", tar=tar, sha256=sha256)
    result = room.run("true")
    assert result.error == "EngineError"
    assert f"expected sha256 {sha256}, got" in result.message


def test_two_prepares_at_once_both_succeed(engine_name: str, room: Room, ground: Path) -> None:
    if room.user:
        processes = [room.start(room.order(Command(argv=("true",)))) for _ in range(2)]
        assert [b'"error": null' in process.communicate()[0] for process in processes] == [True, True]
        return
    tar = ground / f"{engine_name}.tar"
    tar.write_bytes(_tar_of_a_tree() + bytes(10240) + engine_name.encode())
    builder = Builder(name="twice", tar=tar, sha256=hashlib.sha256(tar.read_bytes()).hexdigest())
    engines = [make_engine(room.spec) for _ in range(2)]
    threads = [threading.Thread(target=engine.prepare, args=(builder,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mounts = Mounts(inputs={}, output=room.output, work=room.work)
    for engine in engines:
        engine.prepare(builder)
        # It is there, but has no program: an error of the engine, or of the command.
        with pytest.raises(OsbuilderError, match=r"/usr/bin/env|status 127"):
            engine.run(builder, Command(argv=("true",)), mounts, log=room.log, label=room.label)


def test_a_builder_that_was_not_prepared_is_told(room: Room) -> None:
    if room.user:
        return
    builder = dataclasses.replace(room.builder, name="never", sha256="0" * 64)
    mounts = Mounts(inputs={}, output=room.output, work=room.work)
    with pytest.raises(EngineError, match="builder never is not prepared"):
        make_engine(room.spec).run(builder, Command(argv=("true",)), mounts, log=room.log, label=room.label)


def test_the_repeat_line_repeats_the_command(room: Room) -> None:
    if room.name != "docker" and room.name != "sandbox":
        return
    if room.name == "docker" and not _has_docker_client():
        pytest.skip("the docker command is not installed")
    engine = make_engine(room.spec)
    engine.prepare(room.builder)
    room.output.chmod(0o777)
    room.write("word", b"again\n")
    mounts = Mounts(inputs={"word": room.folder / "inputs/word"}, output=room.output, work=room.work)
    line = engine.repeat_line(room.builder, Command(argv=("cp", "/in/word", "/out/word")), mounts)
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    assert (room.output / "word").read_bytes() == b"again\n"


def _has_docker_client() -> bool:
    return any(Path(folder, "docker").exists() for folder in ("/usr/bin", "/usr/local/bin"))
