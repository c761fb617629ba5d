"""`inv kernel` that cannot go on: stopped by Ctrl-C, on a disk that is full, without a compiler. The next one can."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench
from osbuilder.errors import ToolMissing
from osbuilder.kernel.answers import TOOLS
from osbuilder.kernel.resolver import MakeResolver
from tests.jobs import artifact
from tests.kernel_bench import Compiler
from tests.kernel_checkout import LONG_ONE, Checkout
from tests.kernel_sources import EPOCH, SMALL_KERNEL, members, pack, write_archive

# What is compiled last takes its time, or 48 MB of disk. Its name finds the compiler among all processes.
LAST = f"kernel/last-{os.getpid()}.c"
MAKEFILE = SMALL_KERNEL["Makefile"].replace(
    "vmlinux: $(O)/version.o\n", f"$(O)/last.o: $(O)/version.o\n\t$(CC) -c -o $@ {LAST}\nvmlinux: $(O)/last.o\n"
)
LARGE = "char large[48 << 20] = {1};\n"


def checkout(folder: Path, bench: Workbench, last: str) -> Checkout:
    if bench.executor.engine.name != "sandbox":
        pytest.skip("the builder is lent unpacked, which only the sandbox takes")
    return Checkout(folder, bench, {**SMALL_KERNEL, "Makefile": MAKEFILE, LAST: last})


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def processes(*needles: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text(errors="replace")
            if any(needle in words for needle in needles):
                found.append(words)
    return found


def test_a_kernel_that_ctrl_c_stopped_is_gone_and_the_next_goes_on_from_what_was_compiled(
    bench: Workbench, tmp_path: Path
) -> None:
    stopped = checkout(tmp_path, bench, LONG_ONE)
    stopped.lend()
    process = stopped.start()
    wait_for(lambda: processes(LAST) != [])
    status, err = stopped.interrupt(process)
    assert (status, err.splitlines()[-1]) == (130, "interrupted"), err
    assert "Traceback" not in err
    assert processes(LAST, str(tmp_path)) == []
    assert stopped.leftovers() == []
    assert stopped.kernels() == []

    status, _, err = stopped.run()
    assert status == 0, err
    (facts,) = stopped.kernels()
    assert facts["ccache"] == {"hits": 2, "misses": 1}
    assert stopped.leftovers() == []


@contextlib.contextmanager
def small_disk(folder: Path, *, size_mib: int) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Mount a disk at a folder, for those that a command starts with the words that come first.

    The path is where others see it.
    """
    mount = f"mount -t tmpfs -o size={size_mib}m none {shlex.quote(str(folder))} && echo mounted && exec sleep 600"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", mount], stdout=subprocess.PIPE, text=True)  # noqa: S607
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n"
        yield ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"), Path(f"/proc/{holder.pid}/root{folder}")
    finally:
        holder.kill()
        holder.communicate()


def test_a_disk_that_is_full_while_a_kernel_is_compiled_is_named_and_with_room_it_is_built(
    bench: Workbench, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk in a namespace of its own")
    full = checkout(tmp_path, bench, LARGE)
    full.store.mkdir()
    with small_disk(full.store, size_mib=24) as (enter, seen):
        full.enter, full.seen = enter, seen
        full.lend()
        status, _, err = full.run()
        assert status == 1, err
        assert re.search(f"disk: the store's, {full.store}, has [0-9]+ MiB left", err), err
        assert "free some space (a kernel build needs about 4 GB; `inv cache --gc` drops old artifacts), or set" in err
        assert "Traceback" not in err
        assert LAST in full.logs("kernel")
        assert full.leftovers() == []
        assert full.kernels() == []

        subprocess.run([*enter, "mount", "-o", "remount,size=1g", str(full.store)], check=True)
        status, _, err = full.run()
        assert status == 0, err
        (facts,) = full.kernels()
        assert facts["ccache"]["hits"] == 2
        assert full.leftovers() == []


def test_a_builder_without_a_compiler_is_told_of_before_anything_is_unpacked(bench: Workbench, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write_archive(folder / "source.tar.zst", pack(members(SMALL_KERNEL)))
    source = artifact(folder, {"version": "6.12.57", "epoch": EPOCH, "origin": "small"})
    rootfs = Compiler(bench, tmp_path / "rootfs", "rootfs")
    with pytest.raises(ToolMissing) as caught:
        rootfs.run(MakeResolver(), source=source)
    missing = "bc, bison, ccache, flex, gcc, make"
    assert caught.value.message == (
        f"builder rootfs lacks {missing}, without which no kernel is compiled, for whatever architecture"
    )
    assert caught.value.hint == f"Add {missing} to the packages of builders.compiler in versions.yaml."


def test_a_compiler_that_is_missing_for_an_architecture_is_named_with_the_line_that_adds_it(
    bench: Workbench, tmp_path: Path
) -> None:
    lacking = checkout(tmp_path, bench, "int last;\n")
    lacking.lend()
    pins = lacking.root / "versions.yaml"
    text = pins.read_text()
    assert text.count("    for-guest: cross-compiler\n") == 2
    pins.write_text(text.replace("    for-guest: cross-compiler\n", ""))
    status, _, err = lacking.run("--arch", "aarch64")
    assert status == 3, err
    tools = ", ".join(f"aarch64-linux-gnu-{tool}" for tool in TOOLS)
    assert f"error: builder compiler lacks {tools}, without which no kernel for aarch64 is compiled\n" in err
    assert "step: tree-aarch64/answers" in err
    assert "give builders.compiler the line `for-guest: cross-compiler`, which adds gcc-aarch64-linux-gnu" in err
    assert "Traceback" not in err
    assert lacking.leftovers() == []


def test_a_plan_of_a_variant_that_is_not_for_the_version_is_refused_once_the_source_is_there(
    bench: Workbench, tmp_path: Path
) -> None:
    dry = checkout(tmp_path, bench, "int last;\n")
    (dry.root / "kernel" / "configs" / "variant" / "late").mkdir()
    (dry.root / "kernel" / "configs" / "variant" / "late" / "variant.yaml").write_text(
        'purpose: For later kernels\nconsumers: [anyone]\nexcluded: [{kernel: "<6.13", reason: it came in 6.13}]\n'
    )
    dry.lend()
    told = "Whether the variant late is for this kernel's version, its source will tell."
    status, plan, err = dry.run("--variant", "late", "--dry")
    assert (status, plan.splitlines()[-1]) == (0, told), err
    assert "Whether" not in dry.run("--dry")[1]

    misfit = "error: there is no kernel variant late of 6.12.57 for x86_64: it came in 6.13\n"
    for flags in ((), ("--dry",)):
        status, plan, err = dry.run("--arch", "x86_64", "--variant", "late", *flags)
        assert (status, plan) == (2, ""), err
        assert misfit in err
    assert dry.kernels() == []
