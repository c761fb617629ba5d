"""`inv` as a person uses it: what it refuses, how it says so, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from osbuilder import __version__
from tests.kernel_sources import write_tree
from tests.prerequisites import program

ROOT = Path(__file__).resolve().parents[2]


def inv(
    *arguments: str, folder: Path, under: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ./inv in a folder with a store of its own; `under` is what starts it."""
    return subprocess.run(
        [*under, str(ROOT / "inv"), *arguments],
        cwd=folder,
        env={**os.environ, "OSBUILDER_STORE": str(folder / "store"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (("rootfs", "--distro", "debain"), ("unknown distro 'debain'", "Did you mean debian?")),
        (("rootfs", "--release", "trixy"), ("unknown release 'trixy' of debian", "Did you mean trixie?")),
        (("rootfs", "--arch", "x86-64"), ("unknown architecture 'x86-64'", "Did you mean x86_64?")),
        (("rootfs", "--init", "sysv"), ("unknown init 'sysv'", "agent, systemd")),
        (("rootfs", "--package", "--force"), ("not a package name: '--force'",)),
        (("rootfs", "--agent", "prob"), ("unknown agent 'prob'", "Did you mean probe?")),
        (("rootfs", "--agent", "./nothing"), ("no such agent (nothing)",)),
        (("image", "--distro", "scratch", "--locked"), ("scratch has nothing to lock", "none")),
        (("lock", "--distro", "debain"), ("unknown distro 'debain'", "Did you mean debian?")),
        (("kernel", "--setting", "offline=true"), ("compiler/builder, debian-6.12/source", "inv fetch")),
        (("kernel", "--offline"), ("compiler/builder, debian-6.12/source", "inv fetch")),
        (
            ("kernel", "--offline", "--git", "https://a.example/linux.git", "--ref", "v6.12"),
            ("git/source", "Run the same once with a network: without --offline."),
        ),
        (("image", "--setting", "jobs=1", "--setting", "jobs=2"), ("--setting jobs: expected it once, got it twice",)),
        (("image", "--setting", "mirrors=alpine=https://[x"), ("setting mirrors (flag): expected URLs for alpine",)),
        (("kernel", "--output", "vmlinux"), ("--output vmlinux: expected a folder",)),
        (("lock", "--distro", "scratch"), ("scratch has nothing to lock",)),
        (
            ("image", "--offline", "--distro", "alpine"),
            ("is not in the store: ", "inv fetch --distro alpine", "inv lock"),
        ),
        (("image", "--setting", "offline=maybe"), ("setting offline (flag): expected true or false, got 'maybe'",)),
        (("image", "--fs", "ext5"), ("unknown fs 'ext5'", "Did you mean ext4?")),
        (("image", "--align-mib", "100"), ("--align-mib: expected a power of two, got 100",)),
        (("image", "--free-space-mib", "2097152"), ("--free-space-mib: expected less than 2 TiB", "got 2097152")),
        (("image", "--align-mib", "4194304"), ("--align-mib: expected less than 2 TiB",)),
        (("image", "--free-space-mib", "-1"), ("--free-space-mib: expected 0 or more, got -1",)),
        (("image", "--output", "."), ("--output . is a folder", "Name a file in it.")),
        (("image", "--output", "no/where.img"), ("there is no folder",)),
        (("image", "--output", ".", "--dry"), ("--output . is a folder", "Name a file in it.")),
        (("kernel.headers", "--output", "no/where.deb", "--dry"), ("there is no folder",)),
        (("kernel.config", "--output", "no/where.config", "--dry"), ("there is no folder",)),
        (("initrd", "--compression", "zst"), ("unknown compression 'zst'", "Did you mean zstd?")),
        (("kernel", "--kernel", "debian-6.122"), ("unknown kernel 'debian-6.122'", "Did you mean debian-6.12?")),
        (("kernel", "--git", "https://a.example/l.git"), ("--git and --ref go together",)),
        (("kernel", "--git", "/srv/linux", "--ref", "v6.12"), ("--git: expected a https, http or git URL",)),
        (("kernel", "--tree", "."), ("--tree ", "not a kernel source: it has no Makefile")),
        (("kernel", "--tree", "/nope", "--dry"), ("error: --tree /nope: no such folder",)),
        (("why", "kernel", "--tree", "/nope"), ("error: --tree /nope: no such folder",)),
        (("kernel", "--patches", "nope", "--dry"), ("error: --patches nope: no such folder of kernel/patches",)),
        (("kernel", "--fragment", "nope", "--dry"), ("error: --fragment nope: cannot be read",)),
        (("boot", "--fragment", "nope", "--dry"), ("error: --fragment nope: cannot be read",)),
        (
            ("agent", "--agent", "kata", "--agent-option", "tree=/nope", "--dry"),
            ("error: --agent-option tree=/nope: no such folder",),
        ),
        (("kernel", "-c", "my.conf", "--dry"), ("unknown flag -c of inv kernel", "`--fragment FILE`")),
        (("kernel", "--config", "my.conf", "--dry"), ("unknown flag --config of inv kernel", "`--fragment FILE`")),
        (("kernel", "--kernel", "6.12", "--kernel", "6.18"), ("--kernel is given twice",)),
        (("kernel", "--tree", ".", "--kernel", "6.12"), ("--kernel and --tree exclude each other",)),
        (("kernel", "--patches", "linux-6.13"), ("linux-6.13: no such folder", "Did you mean linux-6.12?")),
        (("kernel", "--kernel", "6.12", "--setting", "kernel_keys=none"), ("setting kernel_keys: cannot read none",)),
        (("kernel.patches", "--check", "--kernel", "6.13"), ("unknown kernel '6.13'",)),
        (("kernel.patches", "--kernel", "6.13"), ("unknown kernel '6.13'",)),
        (("verify", "--distro", "debian", "--kernel", "6.13", "--dry"), ("unknown kernel '6.13'",)),
        (("cache", "--verify", "--dry"), ("--dry says what --gc would remove",)),
        (
            ("image", "--setting", "mirrors=debain=https://m.example/debian"),
            ("setting mirrors: unknown distro 'debain'", "Did you mean debian?"),
        ),
        (
            ("boot", "--kernel", "./nothing"),
            ("--kernel nothing: expected a file, it is missing", "`inv kernel` makes one."),
        ),
        (("kernel.menuconfig", "--output", "no/where.conf"), ("there is no folder",)),
        (("kernel", "--variant", "minmal"), ("unknown kernel variant 'minmal'", "Did you mean minimal?")),
        (
            ("kernel.size", "--save", "--patches", "linux-6.12"),
            ("--save keeps the budget", "not of --git, --tree, --patches"),
        ),
        (("kernel.config", "--output", "."), ("--output . is a folder",)),
        (("kernel.contract", "--kernel", "debian-6.2"), ("unknown kernel 'debian-6.2'", "Did you mean debian-6.12?")),
        (("kernel.explain", "FUSE-DAX"), ("expected a configuration symbol such as FUSE_DAX, got 'FUSE-DAX'",)),
        (("kernel.diff", "base", "minmal"), ("unknown kernel or variant 'minmal'", "Did you mean minimal?")),
        (("kernel.capabilities", "--variant", "minmal"), ("unknown kernel variant 'minmal'",)),
        (("kernel.contract", "--variant", "minmal"), ("unknown kernel variant 'minmal'",)),
        (("kernel.contract", "--variant", "minimal", "--arch", "s390x"), ("minimal is not for s390x",)),
        (("boot", "--variant", "minimal", "--machine", "q35"), ("no drivers for the devices of q35", "microvm")),
        (("boot", "--variant", "debug", "--kernel", "./vmlinux"), ("--variant does not go with a kernel's file",)),
        (("boot", "--image", "missing.img"), ("--image missing.img: expected a file",)),
        (("boot", "--offline", "--distro", "scratch"), ("compiler/builder, debian-6.12/source", "inv fetch")),
        (("boot", "--image", "a", "--locked"), ("--locked and --image exclude each other",)),
        (("boot", "--image", "a", "--initrd", "b"), ("--image and --initrd exclude each other",)),
        (("boot", "--distro", "debian", "--machine", "q53"), ("unknown machine 'q53' for x86_64", "Did you mean q35?")),
        (("boot", "--distro", "debian", "--machine", "microvm", "--root", "pmem", "--dry"), ("takes no NVDIMM",)),
        (("why", "kernle"), ("unknown target 'kernle'", "Did you mean kernel?")),
        (("image", "--setting", "engin=docker"), ("unknown setting engin", "Did you mean engine?")),
        (("image", "--setting", "jobs"), ("--setting jobs: expected NAME=VALUE",)),
        (("image", "--setting", "mirrors=debian=ftp://x/"), ("not a mirror of apt packages: 'ftp://x/'",)),
        (("inspect", "nothing.img"), ("nothing.img",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_bad_request_says_what_is_wrong_and_exits_with_the_status_of_all_of_them(
    tmp_path: Path, arguments: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    ran = inv(*arguments, folder=tmp_path)
    # What is not in the store is no mistake of who asks.
    offline = {"--offline", "offline=true"} & {*arguments}
    assert ran.returncode == (1 if offline else 2)
    assert ran.stderr.startswith("error: ")
    assert "Traceback" not in ran.stderr
    for message in messages:
        assert message in ran.stderr
    assert not (tmp_path / "build").exists()


def test_a_dry_run_prints_each_command_and_writes_nothing(tmp_path: Path) -> None:
    for arguments in (("image",), ("initrd",), ("kernel",), ("agent",), ("rootfs",), ("boot",), ("quickstart",)):
        ran = inv(*arguments, "--dry", folder=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert "mmdebstrap" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_only_looks_takes_dry_and_its_help_says_what_it_is_worth(tmp_path: Path) -> None:
    ran = inv("why", "image", "--dry", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "debian-trixie-x86_64-systemd/image: would run" in ran.stdout
    assert ran.stdout == inv("why", "image", folder=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []
    for name in ("inspect", "why", "settings", "distros", "versions"):
        assert "changes nothing here: this command only looks" in inv(name, "--help", folder=tmp_path).stdout


def test_every_command_has_help(tmp_path: Path) -> None:
    listed = inv("--list", "--list-format=json", folder=tmp_path)
    told = json.loads(listed.stdout)
    names = [entry["name"] for entry in told["tasks"]]
    names += [f"{group['name']}.{entry['name']}" for group in told["collections"] for entry in group["tasks"]]
    assert {"rootfs", "image", "initrd", "agent", "boot", "inspect", "why", "settings", "doctor"} <= {*names}
    assert {"kernel.build", "kernel.patches", "kernel.config", "kernel.contract", "kernel.explain", "kernel.diff"} <= {
        *names
    }
    for name in [*names, "kernel"]:
        told = inv(name, "--help", folder=tmp_path)
        assert told.returncode == 0
        assert "none" not in told.stdout.split("Docstring:")[1].split("Options:")[0]


def test_the_patches_that_we_carry_are_listed_with_what_they_are_for(tmp_path: Path) -> None:
    ran = inv("kernel.patches", folder=tmp_path)
    assert "linux-6.12/x86-apic-calibrate-guests-quickly.patch: x86/apic: calibrate" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_patches_of_one_source_are_listed_in_the_order_in_which_it_gets_them(tmp_path: Path) -> None:
    header = "Description: Mine\nOrigin: own\n\n--- a/README\n+++ b/README\n@@ -1 +1 @@\n-a\n+b\n"
    write_tree(tmp_path / "mine", {"series": "a.patch\n", "a.patch": header})
    ran = inv("kernel.patches", "--patches", "linux-6.12,./mine", folder=tmp_path)
    lines = ran.stdout.splitlines()
    assert lines[0] == f"debian-6.12: {len(lines) - 1} patches"
    assert lines[1].startswith("  linux-6.12/")
    assert lines[-1] == "  mine/a.patch: Mine"


def test_patches_that_are_left_out_are_said_to_be(tmp_path: Path) -> None:
    write_tree(tmp_path / "mine", {"series": "", "README": "x\n"})
    ran = inv("kernel", "--patches", "./mine", "--arch", "x86_64", "--dry", folder=tmp_path)
    assert "osbuilder: patch" not in ran.stdout
    assert ran.stderr == (
        "note: without the patches of linux-6.12, which debian-6.12 has otherwise; "
        "with both: --patches linux-6.12,./mine\n"
    )


def test_settings_tell_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "osbuilder.yaml").write_text("attempts: 7\n")
    ran = inv("settings", "--setting", "jobs=1", folder=tmp_path, OSBUILDER_ENGINE="sandbox")
    rows = {line.split()[0]: line.split()[1:3] for line in ran.stdout.splitlines()}
    assert rows["jobs"] == ["1", "flag"]
    assert rows["engine"] == ["sandbox", "OSBUILDER_ENGINE"]
    assert rows["attempts"] == ["7", "osbuilder.yaml"]
    assert rows["qemu"] == ["auto", "default"]


def test_a_store_that_cannot_be_used_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = inv("agent", folder=tmp_path, OSBUILDER_STORE=str(tmp_path / "file" / "store"))
    assert ran.returncode == 1
    assert "the store cannot be used" in ran.stderr
    assert "OSBUILDER_STORE" in ran.stderr


@pytest.mark.parametrize("made", [False, True], ids=["an empty folder", "a store"])
def test_a_store_that_may_not_be_written_is_an_error_with_a_way_out(tmp_path: Path, made: bool) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if made:
        inv("cache", folder=tmp_path)
    folders = [store, *store.iterdir()]
    for folder in folders:
        folder.chmod(0o555)
    # Whom permissions are no obstacle for, root, goes without that privilege.
    under = (program("setpriv"), "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    ran = inv("agent", folder=tmp_path, under=under)
    for folder in folders:
        folder.chmod(0o755)
    refused, why = (store, "not writable") if made else (store / "objects", "Permission denied")
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        f"error: the store cannot be used ({refused}): {why}",
        "  Set OSBUILDER_STORE to a folder that you own and can write to.",
    ]
    assert ran.stdout == ""


def test_an_engine_that_is_not_there_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    ran = inv(
        "agent", "--setting", "engine=docker", "--setting", f"engine_url=unix://{tmp_path}/none.sock", folder=tmp_path
    )
    assert ran.returncode == 3
    assert "no engine works on this host" in ran.stderr


def test_clean_removes_results_and_nothing_else(tmp_path: Path) -> None:
    for name in ("build/x86_64/kata.image", "build/notes/keep", "other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert "would remove" in inv("clean", "--dry", folder=tmp_path).stdout
    inv("clean", folder=tmp_path)
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == ["notes"]
    assert (tmp_path / "other").exists()


def test_what_fetch_would_get_and_what_the_cache_would_lose_is_said_and_not_done(tmp_path: Path) -> None:
    ran = inv("fetch", "--dry", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "compiler/builder (would run)\n" in ran.stdout
    assert "debian-6.12/source (would run)\n" in ran.stdout
    assert not (tmp_path / "store").exists()
    ran = inv("cache", "--gc", "--dry", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "removed" not in ran.stdout


def test_it_names_itself_and_its_reader_may_stop(tmp_path: Path) -> None:
    assert inv("--version", folder=tmp_path).stdout == f"osbuilder {__version__}\n"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([str(ROOT / "inv"), "--help"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
