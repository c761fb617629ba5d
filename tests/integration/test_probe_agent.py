"""The reference agent, compiled with this host's compiler and run as an ordinary process and as PID 1 of namespaces.

What only a guest can show (its own kernel's answers, powering off) is in tests/boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from osbuilder.guest.report import Report, Result, parse_console, parse_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "agents" / "probe"
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-Os", "-Wall", "-Wextra", "-Werror", "-static")
PT_LOAD, PT_INTERP = 1, 3
ANYWHERE = ("eventfd", "timerfd", "signalfd", "epoll", "unix-socket", "entropy", "memory", "clock")
"""Probes that pass on any Linux, in any container, for any user."""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host")


def run(*argv: str | Path, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
    return done


def compile_c(output: Path, *sources: str | Path, flags: tuple[str, ...] = ()) -> Path:
    run("gcc", *FLAGS, f"-I{SOURCE}", *flags, "-o", output, *sources)
    return output


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(tmp_path_factory.mktemp("agent") / "osbuilder-probe", *sorted(SOURCE.glob("*.c")))


@pytest.fixture(scope="module")
def namespaces() -> tuple[str, ...]:
    """The command that enters namespaces of one's own, with a proc of their own: root or not."""
    argv = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts")
    trial = subprocess.run([*argv, "--mount-proc", "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip(f"no user namespaces here: {trial.stderr.decode().strip()}")
    return argv


def ask(agent: Path, *arguments: str) -> Report:
    return parse_port(run(agent, "--report=stdout", *arguments).stdout)


def probe_names(agent: Path) -> list[str]:
    return [line.split()[0] for line in run(agent, "--list").stdout.decode().splitlines()]


def test_the_agent_is_static(agent: Path) -> None:
    elf = agent.read_bytes()
    (table,) = struct.unpack_from("=Q", elf, 32)  # e_phoff, e_phentsize, e_phnum of a 64-bit ELF header
    size, count = struct.unpack_from("=HH", elf, 54)
    types = {struct.unpack_from("=I", elf, table + at * size)[0] for at in range(count)}
    assert PT_LOAD in types
    assert PT_INTERP not in types


def test_two_compilations_give_the_same_bytes(agent: Path, tmp_path: Path) -> None:
    again = compile_c(tmp_path / "again", *sorted(SOURCE.glob("*.c")))
    assert again.read_bytes() == agent.read_bytes()


def test_every_probe_is_listed_once_and_explained_in_the_readme(agent: Path) -> None:
    names = probe_names(agent)
    assert len(names) == len(set(names)) > 50
    readme = (SOURCE / "README.md").read_text()
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_the_report_says_what_this_machine_says(agent: Path) -> None:
    report = ask(agent, "--probes=none")
    assert report.kernel.release == os.uname().release
    assert report.kernel.machine == os.uname().machine
    assert report.kernel.cmdline == Path("/proc/cmdline").read_text().rstrip("\n")
    assert not report.pid1
    assert 0 < report.uptime_s <= report.ready_s
    assert report.vcpus == os.sysconf("SC_NPROCESSORS_ONLN")
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert total
    assert report.memory.total_kib == int(total[1])
    assert report.root.fstype
    assert report.probes == ()


def test_probes_run_in_the_order_of_asking_and_pass(agent: Path) -> None:
    report = ask(agent, f"--probes={','.join(ANYWHERE)}")
    assert [probe.name for probe in report.probes] == list(ANYWHERE)
    assert report.gaps(ANYWHERE) == ()
    assert all(probe.duration_us > 0 for probe in report.probes)


def test_all_probes_but_some_run_in_the_agents_order(agent: Path) -> None:
    names = probe_names(agent)
    report = ask(agent, f"--probes=all,{','.join(f'-{name}' for name in names if name not in ANYWHERE)}")
    assert [probe.name for probe in report.probes] == [name for name in names if name in ANYWHERE]
    assert report.gaps(ANYWHERE) == ()


def test_a_probe_that_the_agent_does_not_know_is_a_failed_probe(agent: Path) -> None:
    report = ask(agent, "--probes=eventfd,telepathy,epoll")
    assert [(probe.name, probe.result) for probe in report.probes] == [
        ("eventfd", Result.PASS),
        ("telepathy", Result.FAIL),
        ("epoll", Result.PASS),
    ]
    assert "no probe of that name" in report.probes[1].detail


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--frobnicate", 'unknown argument "--frobnicate"'),
        ("--report=pigeon", 'report: unknown value "pigeon"'),
        ("--then=explode", 'then: unknown value "explode"'),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(agent: Path, argument: str, complaint: str) -> None:
    assert complaint in run(agent, argument, status=2).stderr.decode()


CRASHES = """
#include "probe.h"
#include "report.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int cleaned;
static FILE *undone;
static void crash(void) { raise(SIGSEGV); }
static void hang(void) { if (fork() == 0) for (;;) pause(); for (;;) pause(); }
static void quit(void) { _exit(7); }
static void come_back(void) { }
static void succeed(void) { pass("%d is %s", 42, "\\"quoted\\""); }
static void cleanup(void) { cleaned++; }
static void undo(void) { fputs(getpid() == getpgrp() ? "x" : "", undone); fflush(undone); for (;;) pause(); }
const struct probe PROBES[] = {
	{.name = "crash", .run = crash, .cleanup = cleanup, .undo = undo},
	{.name = "hang", .run = hang, .cleanup = cleanup, .undo = undo},
	{.name = "quit", .run = quit}, {.name = "come_back", .run = come_back},
	{.name = "succeed", .run = succeed, .cleanup = cleanup, .undo = undo},
};
int main(void)
{
	struct outcome outcomes[COUNT_OF(PROBES)];
	struct text text = {0};
	undone = tmpfile();
	runner_prepare();
	for (size_t i = 0; i < COUNT_OF(PROBES); i++)
		probe_run(&PROBES[i], &outcomes[i]);
	struct report report = {.outcomes = outcomes, .count = COUNT_OF(PROBES)};
	report.ready_us = 1000000 * (cleaned + 10 * lseek(fileno(undone), 0, SEEK_END));
	report_write(&text, &report);
	puts(text.data);
	return 0;
}
"""


def test_a_probe_that_crashes_hangs_or_says_nothing_is_a_failed_probe_and_the_next_one_runs(tmp_path: Path) -> None:
    main = tmp_path / "crashes.c"
    main.write_text(CRASHES)
    sources = [SOURCE / name for name in ("runner.c", "report.c", "facts.c", "util.c")]
    report = parse_port(run(compile_c(tmp_path / "crashes", main, *sources, flags=("-DLIMIT_MS=300",))).stdout)
    assert [(probe.name, probe.result) for probe in report.probes] == [
        ("crash", Result.FAIL),
        ("hang", Result.FAIL),
        ("quit", Result.FAIL),
        ("come_back", Result.FAIL),
        ("succeed", Result.PASS),
    ]
    details = [probe.detail for probe in report.probes]
    assert details[0].startswith("the probe died of signal 11")
    assert details[1:] == [
        "no verdict after 0.3 s",
        "the probe exited with status 7 and no verdict",
        "the probe returned without a verdict",
        '42 is "quoted"',
    ]
    assert report.probes[1].duration_us < 5_000_000
    # Each cleanup and each undoing ran, whatever became of its probe; the latter in children, whose end came by force.
    assert report.ready_s == 33


STRINGS = """
#include "report.h"
#include <stdio.h>
#include <string.h>
int main(int count, char **arguments)
{
	struct text text = {0};
	size_t length;
	const char *value = strcmp(arguments[1], "json") ? cmdline_value(arguments[2], arguments[1], &length) : NULL;
	if (strcmp(arguments[1], "json") == 0)
		json_string(&text, arguments[2]);
	else if (value)
		text_add_bytes(&text, value, length);
	else
		text_add(&text, "(none)");
	fputs(text.data ? text.data : "", stdout);
	return count == 3 ? 0 : 2;
}
"""


@pytest.fixture(scope="module")
def strings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strings")
    (folder / "strings.c").write_text(STRINGS)
    return compile_c(
        folder / "strings", folder / "strings.c", *(SOURCE / f"{n}.c" for n in ("report", "facts", "util"))
    )


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        (b'a "quote" and a \\', 'a "quote" and a \\'),
        (b"tab\tline\nescape\x1b\x7f", "tab\tline\nescape\x1b\x7f"),
        ("äß€😀".encode(), "äß€😀"),
        (b"\xff\xc3(\xe2\x82", "\ufffd\ufffd(\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd" * 3),  # a surrogate is no character
        (b"\xc0\x80", "\ufffd" * 2),  # nor is an overlong form
    ],
)
def test_any_bytes_become_strict_json_in_ascii(strings: Path, raw: bytes, text: str) -> None:
    done = subprocess.run([os.fsencode(strings), b"json", raw], capture_output=True, check=True)
    assert done.stdout.isascii()
    assert json.loads(done.stdout) == text


@pytest.mark.parametrize(
    ("cmdline", "value"),
    [
        ("quiet key=one", "one"),
        ("key=one key=two", "two"),
        ("monkey=one", "(none)"),
        ("key", "(none)"),
        ("key= quiet", ""),
        ('key="a b" quiet', "a b"),
        ('other="key=no" quiet', "(none)"),
        ("", "(none)"),
    ],
)
def test_a_kernel_line_is_read_as_the_kernel_reads_it(strings: Path, cmdline: str, value: str) -> None:
    assert run(strings, "key", cmdline).stdout.decode() == value


INSIDE = """
#include "probes_hardening.c"
#include "probes_virtio.c"
#include <stdlib.h>
int main(int count, char **arguments)
{
	if (count == 3 && strcmp(arguments[1], "s390x") == 0)
		puts(s390_moved(strtoull(arguments[2], NULL, 16)) ? "moved" : "where it always is");
	else if (count == 3)
		printf("%llu\\n", interrupts_of(arguments[2]));
	return count == 3 ? 0 : 2;
}
"""


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What probes make of what no kernel here says."""
    folder = tmp_path_factory.mktemp("inside")
    (folder / "inside.c").write_text(INSIDE)
    sources = (SOURCE / f"{name}.c" for name in ("bpf", "runner", "util", "virtio"))
    return compile_c(folder / "inside", folder / "inside.c", *sources)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("100000", "where it always is"),  # 6.1: the physical address
        ("7a84000", "moved"),
        ("3ffe0100000", "where it always is"),  # 6.12: CONFIG_KERNEL_IMAGE_BASE and TEXT_OFFSET
        ("3fffe9d4000", "where it always is"),  # the draw failed: at the end of the space
        ("1fffffff000000", "where it always is"),  # the same, with tables of four levels
        ("2c8e3f04000", "moved"),
        ("3ffdfffc000", "moved"),
    ],
)
def test_an_s390x_kernels_text_is_told_from_one_that_was_not_moved(inside: Path, text: str, verdict: str) -> None:
    assert run(inside, "s390x", text).stdout.decode().strip() == verdict


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("  5:          0          3  PCI-MSIX-0000:00:03.0   1-edge      virtio2-virtqueues", 3),
        (" 18:          1          2  XIVE-IRQ 4864 Edge      virtio2-virtqueues", 3),
        ("  8:         40  IO-APIC  8-edge      virtio1", 40),
        ("           CPU0       CPU1", 0),
        ("ERR:          0", 0),
    ],
)
def test_a_devices_interrupts_are_those_of_all_processors(inside: Path, line: str, count: int) -> None:
    assert run(inside, "interrupts", line).stdout.decode().strip() == str(count)


def test_the_console_gets_the_report_twice_between_markers(
    agent: Path, namespaces: tuple[str, ...], tmp_path: Path
) -> None:
    if not Path("/dev/console").exists():
        pytest.skip("no /dev/console to lay a file over")
    console = tmp_path / "console"
    console.touch()
    script = 'mount --bind "$1" /dev/console && exec "$0" --report=console --probes=eventfd'
    done = subprocess.run(
        [*namespaces, "sh", "-c", f"{script} & wait $!", agent, console], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    data = console.read_bytes()
    assert data.count(b"@osbuilder-report 1 ") == data.count(b" @osbuilder-end\n") == 2
    report = parse_console(data)
    assert report.gaps(["eventfd"]) == ()


AS_ROOT = ("sh", "-c", 'mount --bind "$0" "$0" && cd "$0" && exec chroot . /sbin/init "$@"')
"""Makes a folder the root, a mount of its own as a guest's is, and its /sbin/init this process."""


@pytest.fixture
def guest_root(agent: Path, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("proc", "sys", "dev", "run", "tmp", "sbin"):
        (root / name).mkdir(parents=True)
    shutil.copy(agent, root / "sbin" / "init")
    return root


def test_as_pid_1_it_mounts_what_an_init_must_and_asks_for_the_end(
    guest_root: Path, namespaces: tuple[str, ...]
) -> None:
    argv = [*namespaces, *AS_ROOT, str(guest_root), "--report=stdout", "--then=poweroff", "--probes=tmpfs", "quiet"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    report = parse_port(done.stdout)
    assert report.pid1
    assert report.init == "init"
    assert report.gaps(["tmpfs"]) == ()
    # In a PID namespace reboot(2) ends its init: by SIGINT where it would power off, by SIGHUP where it would restart.
    assert done.returncode in {128 + signal.SIGINT, 128 + signal.SIGHUP, -signal.SIGINT, -signal.SIGHUP}, done.stderr
    assert sorted(path.name for path in guest_root.iterdir()) == ["dev", "proc", "run", "sbin", "sys", "tmp"]
    assert [path for name in ("dev", "run", "tmp") for path in (guest_root / name).iterdir()] == []


def children(pid: int) -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                yield int(status.parent.name)


def test_as_pid_1_it_stays_until_it_is_told_to_end(guest_root: Path, namespaces: tuple[str, ...]) -> None:
    argv = [*namespaces, *AS_ROOT, str(guest_root), "--report=stdout", "--probes=none"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout
            assert parse_port(process.stdout.readline()).pid1
            time.sleep(0.2)
            assert process.poll() is None
            (init,) = children(process.pid)
            os.kill(init, signal.SIGTERM)
            assert process.wait(timeout=30) != 0
        finally:
            process.kill()
