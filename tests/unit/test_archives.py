"""What stands beside a mirror: the recipe's archives, a user's own, and what a person is told of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.distro.apt import Bootstrap, addresses
from osbuilder.distro.apt_errors import explain
from osbuilder.distro.apt_lock import InstallLocked
from osbuilder.distro.apt_releases import refuse_another_suite, release_time
from osbuilder.distro.archives import Archive, Archives, find_archives
from osbuilder.distro.choice import Selection
from osbuilder.distro.foreign import CarryOver
from osbuilder.distro.keyring import Keyring
from osbuilder.distro.lock import LockedPackage
from osbuilder.distro.recipe import find_recipe
from osbuilder.engine.builder import BootstrapBuilder
from osbuilder.errors import FetchError, ToolMissing, UsageError, VerificationError
from osbuilder.packageplan import order_of
from osbuilder.plan import Planner
from osbuilder.reporter import LineReporter
from osbuilder.request import RootfsRequest
from osbuilder.settings import load_settings
from osbuilder.step import Step, notes_of, parameters
from tests.jobs import RecordingJob, refuse
from tests.openpgp import Key

ROOT = Path(__file__).resolve().parents[2]
MIRROR = "https://mirror.example/debian"
SECURITY = "http://security.debian.org/debian-security"
COMPANY = "https://mirror.example/debian-security"


def found(*named: str, distro: str = "debian", release: str = "trixie", own_keys: bool = False) -> Archives:
    recipe = find_recipe(distro, ROOT / "distros")
    return find_archives(recipe, release, named, components=("main",), mirrors=(MIRROR,), own_keys=own_keys)


def lines(archives: Archives) -> list[str]:
    return [archive.line(MIRROR) for archive in archives.everything]


def packages(*arguments: str, arch: str = "x86_64", distro: str = "debian") -> Step:
    given = dict(argument.split("=", 1) for argument in arguments)
    settings = load_settings(given, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent"))
    target = Planner(ROOT, settings).plan(RootfsRequest(distro=distro, arch=arch))
    return dict(target.inputs)["rootfs"]


def test_a_mirror_of_debian_has_the_updates_and_debian_has_the_security_archive_which_is_told() -> None:
    archives = found()
    assert lines(archives) == [f"deb {MIRROR} trixie-updates main", f"deb {SECURITY} trixie-security main"]
    (note,) = archives.notes
    assert note.startswith(f"trixie-security is taken from {SECURITY}, which no setting names")
    assert "debian=URL trixie-security" in note
    assert "debian=none" in note


def test_a_mirror_of_ubuntu_has_all_of_it() -> None:
    archives = found(distro="ubuntu", release="noble")
    assert lines(archives) == [f"deb {MIRROR} noble-updates main", f"deb {MIRROR} noble-security main"]
    assert archives.notes == ()


def test_a_line_with_the_suite_of_an_archive_takes_its_place_for_every_release() -> None:
    for release in ("trixie", "bookworm"):
        archives = found(f"{COMPANY} {{release}}-security", release=release)
        assert lines(archives) == [f"deb {MIRROR} {release}-updates main", f"deb {COMPANY} {release}-security main"]
        assert archives.notes == ()


def test_two_lines_with_the_suite_of_an_archive_are_both_used() -> None:
    archives = found(f"{COMPANY} trixie-security", "https://second.example/debian-security trixie-security")
    assert lines(archives)[1:] == [
        f"deb {COMPANY} trixie-security main",
        "deb https://second.example/debian-security trixie-security main",
    ]
    assert archives.further == ()


def test_another_line_stands_beside_the_recipes() -> None:
    archives = found("https://tools.example/apt stable main extra")
    assert lines(archives)[2:] == ["deb https://tools.example/apt stable main extra"]
    assert [archive.suite for archive in archives.release] == ["trixie-updates", "trixie-security"]
    assert len(archives.notes) == 1


def test_none_leaves_the_recipes_out_without_a_word_but_not_what_is_named() -> None:
    assert found("none") == Archives()
    assert lines(found("none", f"{COMPANY} trixie-security main")) == [f"deb {COMPANY} trixie-security main"]


def test_what_other_keys_sign_is_left_out_and_told_unless_it_is_named() -> None:
    archives = found(own_keys=True)
    assert lines(archives) == [f"deb {MIRROR} trixie-updates main"]
    (note,) = archives.notes
    assert note.startswith(f"trixie-security is NOT used: it lies at {SECURITY}, signed by other keys than")
    named = found(f"{SECURITY} trixie-security", own_keys=True)
    assert (lines(named)[1], named.notes) == (f"deb {SECURITY} trixie-security main", ())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nothing", "expected URL SUITE [COMPONENT...] or none, got 'nothing'"),
        ("ftp://m/x trixie", "expected a URL that has dists/ below it, got 'ftp://m/x'"),
        ("http://m/[x] trixie", "expected a URL that has dists/ below it"),
        ("http://m/x ./", "expected the name of a suite or component, got './'"),
        ("http://m/x trixie [trusted=yes]", "got '[trusted=yes]'"),
    ],
)
def test_what_is_no_line_of_an_archive_is_refused(line: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        found(line)
    assert why in caught.value.message
    assert "archives=debian=https://HOST/debian-security {release}-security main" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"mirrors": "debian=https://bob:secret@mirror.corp/debian"},
        {"mirrors": f"debian={MIRROR}", "archives": "debian=https://bob:secret@mirror.corp/debian trixie-security"},
        {"mirrors": f"debian={MIRROR}", "archives": "debian=https://bob:secret@mirror.corp/debian"},
    ],
)
def test_a_password_is_refused_for_guests_and_for_builders_and_is_not_shown(given: dict[str, object]) -> None:
    planner = Planner(ROOT, load_settings(given, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent")))
    plans: tuple[Callable[[], Step], ...] = (
        lambda: planner.plan(RootfsRequest(distro="debian")),
        lambda: planner.builder("rootfs"),
    )
    for plan in plans:
        with pytest.raises(
            UsageError, match=r"setting (mirrors|archives): debian: expected an address without"
        ) as caught:
            plan()
        assert "https://...@mirror.corp/debian" in caught.value.message
        assert "secret" not in str(caught.value)


def test_archives_without_a_mirror_are_refused() -> None:
    with pytest.raises(UsageError, match="setting archives: debian has no mirror that they stand beside"):
        packages("archives=debian=none")


def test_without_settings_mmdebstrap_is_told_of_no_mirror_at_all() -> None:
    action = packages().action
    assert isinstance(action, Bootstrap)
    assert (action.mirrors, action.archives, action.notes) == ((), (), ())
    assert action.describe()[-1].endswith(" trixie /out/rootfs.tar")


def test_every_mirror_has_the_archives_in_its_command_and_they_are_part_of_the_key() -> None:
    mirrors = f"mirrors=debian={MIRROR},http://two.example/debian"
    step = packages(mirrors, f"archives=debian={COMPANY} {{release}}-security,https://t.example/x stable main")
    commands = [command for command in step.action.describe() if command.startswith("mmdebstrap")]
    assert [command.partition("/out/rootfs.tar ")[2] for command in commands] == [
        f"{mirror} 'deb {mirror} trixie-updates main' 'deb {COMPANY} trixie-security main' "
        "'deb https://t.example/x stable main'"
        for mirror in (MIRROR, "http://two.example/debian")
    ]
    assert parameters(step.action) != parameters(packages(mirrors).action)


def test_builders_have_the_releases_archives_and_not_a_users_own() -> None:
    step = packages(f"mirrors=debian={MIRROR}", "archives=debian=https://t.example/x stable main")
    assert step.builder
    assert isinstance(step.builder.action, BootstrapBuilder)
    (command,) = step.builder.action.describe()
    assert command.endswith(f"{MIRROR} 'deb {MIRROR} trixie-updates main' 'deb {SECURITY} trixie-security main'")


def test_a_carried_root_has_the_same_archives_and_notes_as_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("plan", "distro.adapters", "distro.foreign"):
        monkeypatch.setattr(f"osbuilder.{module}.host_arch", lambda: parse_arch("x86_64"))
    step = packages(f"mirrors=debian={MIRROR}", arch="s390x")
    assert isinstance(step.action, CarryOver)
    assert [archive.suite for archive in step.action.of.archives] == ["trixie-updates", "trixie-security"]
    assert notes_of(step.action, {}) == notes_of(dict(step.inputs)["twin"].action, {}) != ()


def test_a_note_is_told_whenever_its_step_is_done_or_in_the_store(tmp_path: Path) -> None:
    step = packages(f"mirrors=debian={MIRROR}")
    for seconds in (1.5, None):
        stream = io.StringIO()
        LineReporter(stream).finished(step, {}, seconds=seconds)
        _, note = stream.getvalue().splitlines()
        assert f": note: trixie-security is taken from {SECURITY}" in note


def test_locked_packages_are_looked_for_on_the_mirrors_and_beside_them() -> None:
    settings = load_settings(
        {"mirrors": f"debian={MIRROR}"}, environment={"HOME": "/nowhere"}, folder=Path("/nonexistent")
    )
    planner = Planner(ROOT, settings)
    order = order_of(planner, planner.choice(RootfsRequest(distro="debian")), Selection(default=(), extra=()))
    assert addresses(order) == (MIRROR, SECURITY)


# --- what apt says of them

ARCHIVES = (
    Archive(suite="trixie-updates", components=("main",)),
    Archive(suite="trixie-security", url=SECURITY, components=("main",)),
)


@pytest.mark.parametrize(
    ("line", "kind", "text", "next_mirror"),
    [
        (
            f"E: Failed to fetch {SECURITY}/dists/trixie-security/InRelease  Temporary failure resolving 'security'",
            FetchError,
            f"the archive {SECURITY} (trixie-security) cannot be found",
            False,
        ),
        (
            f"E: Failed to fetch {SECURITY}/pool/updates/x.deb  503  Busy [IP: ::1 80]",
            FetchError,
            "answered 503 (Busy) for http://security",
            False,
        ),
        (
            f"E: Release file for {SECURITY}/dists/trixie-security/InRelease is expired (invalid since 2d).",
            VerificationError,
            "serves an outdated or future index of trixie-security",
            False,
        ),
        (
            f"E: The repository '{MIRROR} trixie-updates Release' does not have a Release file.",
            FetchError,
            f"the mirror {MIRROR} has no trixie-updates",
            True,
        ),
    ],
)
def test_a_failing_archive_is_told_by_its_name_with_the_setting(
    line: str, kind: type, text: str, next_mirror: bool
) -> None:
    problem = explain(f"{line}\n", mirror=MIRROR, suite="trixie", components=("main",), archives=ARCHIVES)
    assert problem is not None
    assert (problem.kind, problem.next_mirror) == (kind, next_mirror)
    assert text in problem.text
    assert "In the setting archives `URL trixie-" in problem.hint
    assert "`none` does without" in problem.hint


def test_a_line_that_names_no_address_is_told_of_the_archive_that_failed() -> None:
    log = f"Err:2 {SECURITY} trixie-security InRelease\n  Connection timed out [IP: ::1 80]\n"
    problem = explain(log, mirror=MIRROR, suite="trixie", components=("main",), archives=ARCHIVES)
    assert problem is not None
    assert problem.text.startswith(f"the archive {SECURITY} (trixie-security) does not answer")


def test_a_mirrors_own_fault_says_nothing_of_archives() -> None:
    log = f"E: Failed to fetch {MIRROR}/dists/trixie/InRelease  Could not connect - connect (111: Connection refused)\n"
    problem = explain(log, mirror=f"{MIRROR}/", suite="trixie", components=("main",), archives=ARCHIVES)
    assert problem is not None
    assert (problem.text, problem.next_mirror) == (f"the mirror {MIRROR}/ refuses connections", True)
    assert "archives" not in problem.hint


def test_the_date_of_a_release_file_is_read_where_it_has_one() -> None:
    assert release_time(Key.of_seed(1).clearsign("Suite: s\nDate: Sat, 09 Aug 2025 00:00:00 UTC\n")) == 1754697600
    assert release_time("Suite: s\n") is None
    assert release_time("Date: yesterday\n") is None


# As the archives call themselves: Suite, Codename.
TRIXIE, TRIXIE_UPDATES = ("stable", "trixie"), ("stable-updates", "trixie-updates")
TRIXIE_SECURITY = ("stable-security", "trixie-security")
NOBLE, NOBLE_SECURITY, JAMMY_SECURITY = ("noble", "noble"), ("noble-security", "noble"), ("jammy-security", "jammy")


def release_of(names: tuple[str, str]) -> str:
    fields = [f"{field}: {name}\n" for field, name in zip(("Suite", "Codename"), names, strict=True) if name]
    return Key.of_seed(1).clearsign("".join(("Origin: Test\n", *fields)))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("trixie", TRIXIE),
        ("stable", TRIXIE),
        ("trixie-updates", TRIXIE_UPDATES),
        ("trixie-security", TRIXIE_SECURITY),
        ("stable-security", TRIXIE_SECURITY),
        ("bookworm-security", ("oldstable-security", "bookworm-security")),
        ("trixie-backports", ("stable-backports", "trixie-backports")),
        ("sid", ("unstable", "sid")),
        ("noble", NOBLE),
        ("noble-security", NOBLE_SECURITY),
        ("focal/tool/7.0", ("focal", "focal/tool")),
        ("tools", ("tools", "")),
        ("tools", ("", "tools")),
        ("tools", ("", "")),
    ],
)
def test_an_index_may_have_any_of_its_suites_names(asked: str, names: tuple[str, str]) -> None:
    refuse_another_suite(release_of(names), url=f"mirror.example/debian/dists/{asked}/InRelease")


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("trixie-security", TRIXIE),
        ("trixie-security", TRIXIE_UPDATES),
        ("trixie", TRIXIE_SECURITY),
        ("bookworm-security", TRIXIE_SECURITY),
        ("noble-security", JAMMY_SECURITY),
        ("noble-security", NOBLE),
        ("noble", NOBLE_SECURITY),
        ("tools", ("", "trixie")),
    ],
)
def test_an_index_of_another_suite_is_refused(asked: str, names: tuple[str, str]) -> None:
    url = f"mirror.example/debian/dists/{asked}/InRelease"
    with pytest.raises(VerificationError) as caught:
        refuse_another_suite(release_of(names), url=url)
    suite, codename = (name or "(none)" for name in names)
    assert f"another suite's index came ({url}): expected Suite or Codename {asked}" in caught.value.message
    assert f"got Suite {suite}, Codename {codename}" in caught.value.message
    assert "settings mirrors, archives" in caught.value.hint


def test_what_stands_before_what_was_signed_does_not_name_the_suite() -> None:
    forged = f"Suite: trixie-security\n{release_of(TRIXIE)}"
    with pytest.raises(VerificationError, match="another suite's index came"):
        refuse_another_suite(forged, url="m/dists/trixie-security/InRelease")


def test_a_locked_foreign_root_says_that_its_programs_have_to_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osbuilder.binfmt.emulates", lambda arch, mount: False)
    package = LockedPackage(
        name="a", version="1", arch="s390x", path="pool/a.deb", sha256="0" * 64, size_bytes=1, installed_bytes=1
    )
    action = InstallLocked(
        bootstrap=Bootstrap(
            suite="trixie",
            architecture="s390x",
            components=("main",),
            packages=(),
            keyring=Keyring(),
            epoch=1754697600,
        ),
        locked=(package,),
        sources="",
    )
    with pytest.raises(ToolMissing, match="programs of s390x do not run here") as caught:
        action.run(RecordingJob(tmp_path, refuse))
    assert "inv doctor --fix --setting foreign=emulated" in caught.value.hint
    assert "Or build without --locked" in caught.value.hint
