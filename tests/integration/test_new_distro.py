"""A twelfth distribution, as docs/add-a-distro.md says: one folder, from the skeleton to a root filesystem."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuilder.api import Workbench, open_workbench
from osbuilder.distro.recipe import PackageManager, load_recipe
from osbuilder.distro.skeleton import write_skeleton
from osbuilder.errors import OsbuilderError, UsageError
from osbuilder.reporter import reporter_for
from osbuilder.request import RootfsRequest
from osbuilder.tree import Tree
from tests.mirrors.alpine import alpine
from tests.mirrors.apk import SigningKey
from tests.servers import FaultyServer, Reply

ROOT = Path(__file__).resolve().parents[2]
SKELETONS = [PackageManager(name) for name in ("apk", "apt", "archive", "dnf", "pacman")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose recipes and contract tests are copies; the rest is this one's."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("agents", "kernel", "versions.yaml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "distros", folder / "distros")
    (folder / "tests" / "contract").mkdir(parents=True)
    shutil.copyfile(ROOT / "tests/contract/test_recipes.py", folder / "tests/contract/test_recipes.py")
    return folder


def _state(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_skeleton_passes_the_contract_tests(checkout: Path) -> None:
    for manager in SKELETONS:
        write_skeleton(checkout / "distros", f"mine-{manager.value}", manager)
    argv = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/contract/test_recipes.py"]
    done = subprocess.run([*argv, "-k", "mine"], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(f"[mine-{manager.value}]" in done.stdout for manager in SKELETONS)


def test_a_twelfth_distribution_is_one_folder(checkout: Path, tmp_path: Path) -> None:
    """Follows docs/add-a-distro.md with a distribution of apk's, whose mirror is on loopback."""
    before = _state(checkout)
    bench = open_workbench((f"build={tmp_path}/build",), stream=sys.stderr, root=checkout)
    path, _ = bench.new_distro("twelfth", package_manager="apk")

    # What the skeleton marks FILL IN: this distribution's packages are those of the small Alpine.
    recipe = path.read_text().replace('default-release: "1"', 'default-release: "3.24"').replace('"1":', '"3.24":')
    scripts = (ROOT / "distros/alpine/recipe.yaml").read_text().partition("  # No script runs.")
    path.write_text(f"{recipe}{scripts[1]}{scripts[2]}")

    key = SigningKey.named()
    (tmp_path / key.name).write_bytes(key.public)
    with FaultyServer() as server:
        for name, content in alpine(key).items():
            server.serve(f"/{name}", Reply(body=content))
        settings = (f"mirrors=twelfth={server.url}", f"keyrings=twelfth={tmp_path / key.name}")
        bench = open_workbench((*settings, f"build={tmp_path}/build"), stream=sys.stderr, root=checkout)
        request = RootfsRequest(distro="twelfth", arch="x86_64", packages=("alpine-baselayout", "alpine-release"))
        built = bench.build(request)
    tree = Tree.read(built.artifact.path("rootfs.tar"))
    assert tree.resolve("sbin/init") == "usr/bin/osbuilder-probe"
    assert built.files[0].name == "kata-twelfth-3.24.rootfs.tar"
    after = _state(checkout)
    assert {name for name in after if after[name] != before.get(name)} == {"distros/twelfth/recipe.yaml"}


@pytest.mark.parametrize(
    ("name", "manager", "message"),
    [
        ("debian", PackageManager.APT, "there is a distribution 'debian' already"),
        ("mariner", PackageManager.APT, "'mariner' is an alias of the distribution azurelinux"),
        ("all", PackageManager.APT, "not a name for a distribution: 'all'"),
        ("../x", PackageManager.APT, r"not a name for a distribution: '\.\./x'"),
        ("mine", PackageManager.OCI, "a recipe for package manager oci has nothing to be filled in"),
    ],
)
def test_a_skeleton_that_cannot_be_is_refused(checkout: Path, name: str, manager: PackageManager, message: str) -> None:
    before = _state(checkout)
    with pytest.raises(UsageError, match=message):
        write_skeleton(checkout / "distros", name, manager)
    assert _state(checkout) == before


def test_a_skeleton_installs_nothing_before_its_keys_are_filled_in(checkout: Path) -> None:
    recipe = load_recipe(write_skeleton(checkout / "distros", "mine", PackageManager.DNF))
    assert {key.text for key in recipe.releases["1"].signed_by} == {"0" * 40}


# --- every distribution at once


@pytest.fixture
def several(
    alpine_settings: tuple[str, ...], gentoo_settings: tuple[str, ...], checkout: Path, tmp_path: Path
) -> Iterator[tuple[Workbench, FaultyServer]]:
    """A workbench of some recipes: three that can be built, one whose mirror is broken, one whose nobody named.

    Debian is there for the builders, and says that it has no architecture of this test.
    """
    for path in (checkout / "distros").iterdir():
        if path.name not in ("alpine", "clearlinux", "debian", "gentoo", "oci", "scratch"):
            shutil.rmtree(path)
    # An image that no other test puts into the store.
    oci = checkout / "distros/oci/recipe.yaml"
    oci.write_text(oci.read_text().replace("docker.io/library/alpine:3.24", "docker.io/library/nowhere:1"))
    debian = checkout / "distros/debian/recipe.yaml"
    debian.write_text(re.sub(r"(?m)^arches: .*$", "arches: [ppc64le]", debian.read_text()))
    with FaultyServer() as server:
        values: dict[str, list[str]] = {}
        for setting in (*alpine_settings, *gentoo_settings, f"mirrors=oci={server.url}"):
            name, _, value = setting.partition("=")
            values.setdefault(name, []).append(value)
        settings = tuple(f"{name}={' '.join(given)}" for name, given in values.items())
        arguments = ("engine=sandbox", "attempts=1", f"build={tmp_path}/build", *settings)
        yield open_workbench(arguments, stream=sys.stderr, root=checkout), server


@pytest.mark.usefixtures("builders")
def test_one_that_fails_stops_no_other_and_fails_the_whole(several: tuple[Workbench, FaultyServer]) -> None:
    bench, server = several
    everything = bench.build_all(RootfsRequest(distro="all", arch="x86_64"))
    assert list(everything.built) == ["alpine", "gentoo", "scratch"]
    assert list(everything.failed) == ["oci"]
    assert list(everything.left_out) == ["clearlinux", "debian"]
    rows = {line.split()[0]: line for line in everything.table().splitlines()}
    assert "built" in rows["gentoo"]
    assert rows["gentoo"].endswith("kata-gentoo-openrc.rootfs.tar")
    assert "Intel ended Clear Linux OS" in rows["clearlinux"]
    assert "FAILED" in rows["oci"]
    with pytest.raises(Exception, match=rf"(?s)1 of 4 failed.*oci: error: {server.url} has no manifests/1"):
        everything.check()


def test_what_lacks_an_architecture_is_left_out(several: tuple[Workbench, FaultyServer]) -> None:
    bench, _ = several
    everything = bench.build_all(RootfsRequest(distro="all", arch="riscv64", agent="/nowhere/agent"))
    assert "alpine 3.24 is not offered for riscv64: " in str(everything.left_out["alpine"])
    assert "Clear Linux OS was made for x86_64 alone" in str(everything.left_out["clearlinux"])
    assert set(everything.failed) == {"gentoo", "oci", "scratch"}


def test_a_missing_lock_is_a_failure_and_so_is_a_stale_one(
    several: tuple[Workbench, FaultyServer], checkout: Path
) -> None:
    bench, _ = several
    request = RootfsRequest(distro="all", arch="x86_64", locked=True)
    plans = bench.plan_all(request)
    assert plans.steps == {}
    assert set(plans.left_out) == {"clearlinux", "debian", "scratch"}  # which has nothing to lock
    assert set(plans.failed) == {"alpine", "gentoo", "oci"}
    assert "alpine 3.24 has no lock for x86_64" in str(plans.failed["alpine"])

    bench.locks.write(RootfsRequest(distro="gentoo", arch="x86_64"))
    recipe = checkout / "distros/gentoo/recipe.yaml"
    assert set(bench.plan_all(request).steps) == {"gentoo"}
    recipe.write_text(recipe.read_text().replace("keys-url: https://", "keys-url: https://other."))
    # What has been planned is not planned again.
    everything = Workbench(bench.settings, root=checkout, reporter=reporter_for(sys.stderr)).build_all(request)
    assert "the lock of gentoo openrc for x86_64 is stale" in str(everything.failed["gentoo"])
    with pytest.raises(OsbuilderError, match=r"(?s)3 of 3 failed.*has no lock.*is stale"):
        everything.check()


def test_it_is_a_failure_when_nothing_is_built(several: tuple[Workbench, FaultyServer], checkout: Path) -> None:
    bench, _ = several
    for name in ("alpine", "gentoo", "oci", "scratch"):
        shutil.rmtree(checkout / "distros" / name)
    # A mirror of a distribution that there is not would be refused.
    settings = dataclasses.replace(bench.settings, mirrors={}, keyrings={})
    again = Workbench(settings, root=checkout, reporter=reporter_for(sys.stderr))
    everything = again.build_all(RootfsRequest(distro="all", arch="x86_64"))
    assert (everything.built, everything.failed) == ({}, {})
    with pytest.raises(OsbuilderError, match="nothing to build: 2 distributions, and each is left out"):
        everything.check()


def test_a_dry_run_of_all_prints_every_plan_and_runs_nothing(several: tuple[Workbench, FaultyServer]) -> None:
    bench, server = several
    plans = bench.plan_all(RootfsRequest(distro="all", arch="x86_64"))
    text = plans.text(bench.peek)
    assert [line for line in text.splitlines() if line.startswith("# ")] == [
        f"# {name}" for name in ("alpine", "clearlinux", "debian", "gentoo", "oci", "scratch")
    ]
    assert "# alpine\n1. " in text
    assert "oci-docker.io-library-nowhere-1-x86_64-agent/reference (would run)" in text
    assert "# clearlinux\nleft out: no key of clearlinux is known" in text
    plans.check()
    assert server.seen("/v2/library/nowhere/manifests/1") == []


def test_a_release_goes_with_no_distribution_in_particular(several: tuple[Workbench, FaultyServer]) -> None:
    with pytest.raises(UsageError, match="--release does not go with --distro all"):
        several[0].build_all(RootfsRequest(distro="all", release="1"))


def test_the_command_prints_the_table_and_its_exit_code_tells() -> None:
    argv = ["./inv", "rootfs", "--distro", "all", "--arch", "s390x", "--agent", "/nowhere/agent"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "FAILED" in rows["scratch"]
    assert "left out" in rows["clearlinux"]
    assert "failed\n" in done.stderr
    assert done.returncode == 1


def test_the_command_without_a_lock_fails_and_a_dry_run_of_all_says_so_too() -> None:
    for further in ((), ("--dry",)):
        argv = ["./inv", "rootfs", "--distro", "all", "--locked", *further]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
        assert "debian trixie has no lock for x86_64" in done.stdout
        assert re.search(r"error: (\d+) of \1 failed", done.stderr)
        assert done.returncode == 1


def test_a_skeleton_can_be_looked_at_first() -> None:
    argv = ["./inv", "distro.new", "mine", "--package-manager", "dnf", "--dry"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.startswith(f"would write {ROOT}/distros/mine/recipe.yaml:\n\n# mine as a guest.")
    assert not (ROOT / "distros/mine").exists()


def test_one_file_is_not_written_for_many() -> None:
    argv = ["./inv", "rootfs", "--distro", "all", "--output", "one.tar"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert "--output does not go with --distro all" in done.stderr
    assert done.returncode == 2
