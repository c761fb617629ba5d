"""What Kata's scripts took from the environment, given to `inv`: each becomes what the table says, or says why not.

docs/migrating-from-kata.md is made from the table: python -m tests.unit.test_kata
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from invoke.program import Program

from osbuilder.kata.table import COMMANDS, REPOSITORY, ROWS, VARIABLES, Fate, Row, Script
from osbuilder.settings import FALLBACK, EngineChoice, fields, load_settings
from osbuilder.tree import Tree
from tests.unit.test_rootfs_compose import elf

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/migrating-from-kata.md"
START, END = "<!-- made by tests/unit/test_kata.py -->\n", "<!-- end -->\n"
KATA = f"--agent kata --agent-option git={REPOSITORY} --agent-option ref={'b' * 40}"
FEDORA = "--distro fedora --setting mirrors=fedora=https://mirror.example.org/fedora"

# A value for each variable that is taken, the command that it is given to, and what the plan says then that it does not
# say without.
TAKEN: tuple[tuple[str, str, str, str], ...] = (
    ("AGENT_INIT", "yes", "image", "init agent"),
    ("AGENT_INIT", "no", "initrd", "init systemd"),
    ("AGENT_SOURCE_BIN", "my-agent", "rootfs", r"copy my-agent \(sha256"),
    ("AGENT_SOURCE_BIN", "./my-agent", "agent", r"copy my-agent \(sha256"),
    ("AGENT_TARBALL", "agent.tar", "rootfs", r"agent\.tar"),
    ("AGENT_VERSION", "a" * 40, "agent", rf"{REPOSITORY}.*\b{'a' * 40}|{'a' * 40}"),
    ("LIBC", "gnu", f"agent {KATA} --arch x86_64", "x86_64-unknown-linux-gnu"),
    ("SECCOMP", "no", f"agent {KATA}", "cargo"),
    ("AGENT_POLICY", "yes", f"agent {KATA}", "agent-policy"),
    ("AGENT_POLICY_FILE", "allow.rego", f"image {KATA} --agent-option policy=yes", r"copy allow\.rego \(sha256"),
    ("COCO_GUEST_COMPONENTS_TARBALL", "agent.tar", "image", r"agent\.tar"),
    ("PAUSE_IMAGE_TARBALL", "./agent.tar", "rootfs", r"agent\.tar"),
    ("GUEST_HOOKS_TARBALL", "agent.tar", "initrd", r"agent\.tar"),
    ("KERNEL_MODULES_DIR", "6.12.57", "image", r"read the folder 6\.12\.57"),
    ("DISTRO", "alpine", "image", r"alpine-3\.24-x86_64-agent"),
    ("DISTRO", "cbl-mariner", "rootfs", "azurelinux-3.0-x86_64-systemd"),
    ("EXTRA_PKGS", "strace  tcpdump", "rootfs", r"--include=\S*,strace,\S*tcpdump"),
    ("OS_VERSION", "bookworm", "rootfs", "debian-bookworm-"),
    ("REPO_URL", "http://mirror.example.org/debian", "rootfs", "mirror.example.org"),
    ("REPO_COMPONENTS", "main contrib", "rootfs", "--components=main,contrib"),
    ("SELINUX", "yes", f"image {FEDORA}", "ask libselinux for the label"),
    ("ROOTFS_ONLY", "yes", "image", "no agent, no init"),
    ("ROOT_FREE_SPACE", "7", "image", "7 MiB of free space"),
    ("FS_TYPE", "ext4", "image --align-mib 2", "multiple of 2 MiB"),
    ("IMAGE_SIZE_ALIGNMENT_MB", "4", "image", "multiple of 4 MiB"),
    ("SKIP_DAX_HEADER", "yes", "image", "write a partition table"),
    ("MEASURED_ROOTFS", "yes", "image", "write the dm-verity hash tree"),
    ("BUILD_VARIANT", "confidential", "image --measured", "hash tree"),
    ("KERNEL_DEBUG_ENABLED", "yes", "kernel", "variant debug|-debug"),
)
# The variables of the interface, by hand, so that none is lost from the table.
_INTERFACE = """
DISTRO AGENT_VERSION OSBUILDER_VERSION ROOTFS_DIR AGENT_BIN AGENT_INIT AGENT_SOURCE_BIN AGENT_TARBALL AGENT_POLICY
AGENT_POLICY_FILE COCO_GUEST_COMPONENTS_TARBALL PAUSE_IMAGE_TARBALL GUEST_HOOKS_TARBALL CONFIDENTIAL_GUEST
MEASURED_ROOTFS EXTRA_PKGS OS_VERSION REPO_URL REPO_COMPONENTS DISTRO_REPO DNF_CONF PKG_MANAGER KERNEL_MODULES_DIR
LIBC SECCOMP SELINUX USE_DOCKER USE_PODMAN DOCKER_RUNTIME IMAGE_REGISTRY http_proxy https_proxy GRACEFUL_EXIT
BUILD_CAN_FAIL KBUILD_SIGN_PIN ROOTFS_ONLY ROOT_FREE_SPACE FS_TYPE BLOCK_SIZE IMAGE_SIZE_ALIGNMENT_MB
SKIP_DAX_HEADER BUILD_VARIANT SKIP_ROOTFS_CHECK DESTDIR PREFIX KERNEL_DEBUG_ENABLED IMAGE INITRD_IMAGE NSDAX_BIN
DM_VERITY ARCH TARGET_ARCH CROSS_BUILD
"""
# Those that settings read under the same name: a value, and the setting.
SAME: tuple[tuple[str, str, str], ...] = (
    ("http_proxy", "http://proxy.example.org:3128", "http_proxy"),
    ("https_proxy", "http://proxy.example.org:3129", "https_proxy"),
    ("KBUILD_SIGN_PIN", "hunter2", "module_signing_pin"),
)
# Those that name where a copy goes, which no plan shows, and the command that they are given to.
OUTPUTS = {"IMAGE": "image", "INITRD_IMAGE": "initrd"}
SETTINGS = {"USE_DOCKER": "engine=docker", "USE_PODMAN": "engine=podman"}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, with a store that is not there and none of their variables set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OSBUILDER_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-agent").write_bytes(elf())
    (tmp_path / "allow.rego").write_text("package agent_policy\n")
    (tmp_path / "6.12.57").mkdir()
    (tmp_path / "6.12.57/modules.dep").touch()
    tree = Tree()
    tree.add_file("usr/bin/kata-agent", elf(), mode=0o755, parents_mode=0o755)
    tree.write(tmp_path / "agent.tar", epoch=0)
    return tmp_path


def inv(words: str, capsys: pytest.CaptureFixture[str], *further: str) -> tuple[str, str]:
    """Return what `inv` prints to standard output and to standard error."""
    import tasks

    capsys.readouterr()
    command, _, flags = words.partition(" ")
    dry = () if command == "settings" else ("--dry",)
    Program(namespace=tasks.namespace).run(["inv", command, *dry, *flags.split(), *further], exit=False)
    said = capsys.readouterr()
    return said.out, said.err


def rows(*fates: Fate) -> list[Row]:
    return [row for row in ROWS if row.variable and row.fate in fates]


def some_value(row: Row) -> str:
    return "yes" if row.form == "switch" else "3"


def command_of(row: Row) -> str:
    return row.commands[0] if row.script is not Script.INITRD else "initrd"


@pytest.mark.parametrize(("name", "value", "words", "expected"), TAKEN)
def test_a_variable_that_is_taken_shows_up_in_the_plan_and_in_a_note(
    name: str,
    value: str,
    words: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without, _ = inv(words, capsys)
    monkeypatch.setenv(name, value)
    plan, notes = inv(words, capsys)
    assert re.search(expected, plan), notes
    assert notes.startswith(f"note: {name}={value} (Kata's): ")
    # There is one filesystem to choose from, and a name is none of the plan's.
    assert plan != without or name in ("FS_TYPE", "BUILD_VARIANT")


def test_every_variable_that_is_taken_is_tried() -> None:
    tried = {name for name, *_ in TAKEN} | set(SETTINGS) | set(OUTPUTS) | {"TARGET_ARCH"}
    assert {row.variable for row in rows(Fate.TAKEN)} == tried


@pytest.mark.parametrize(("name", "setting"), SETTINGS.items())
def test_an_engine_is_a_setting_that_only_a_default_yields_to(
    name: str, setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "true")
    assert f"note: {name}=true (Kata's): the setting {setting}" in inv("rootfs", capsys)[1]
    key, _, value = setting.partition("=")
    settings = load_settings({}, fallbacks={key: value}, environment={}, folder=tmp_path)
    assert (settings.engine, settings.origins["engine"]) == (EngineChoice(value), FALLBACK)
    stronger = load_settings({}, fallbacks={key: value}, environment={"OSBUILDER_ENGINE": "sandbox"}, folder=tmp_path)
    assert stronger.engine is EngineChoice.SANDBOX


@pytest.mark.parametrize("row", rows(Fate.REFUSED, Fate.LATER), ids=lambda row: f"{row.script.value}-{row.variable}")
def test_a_variable_that_cannot_be_honoured_is_an_error_that_says_why(
    row: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(row.variable, some_value(row))
    plan, said = inv(command_of(row), capsys)
    assert plan == ""
    verdict = "is not available yet" if row.fate is Fate.LATER else "cannot be had here"
    assert re.search(rf"^error: {row.variable}=(yes|3|\*\*\*) \(Kata's\), .*: {verdict}\n  \S.* to go on\.$", said)


@pytest.mark.parametrize("row", rows(Fate.EXPLAINED), ids=lambda row: f"{row.script.value}-{row.variable}")
def test_a_variable_without_effect_is_explained(
    row: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without, _ = inv(command_of(row), capsys)
    monkeypatch.setenv(row.variable, some_value(row))
    plan, said = inv(command_of(row), capsys)
    assert plan == without
    shown = "***" if row.secret else some_value(row)
    assert f"note: {row.variable}={shown} (Kata's) has no effect: {row.ours}\n" in said


@pytest.mark.parametrize("row", [row for row in ROWS if row.form == "switch" and not (row.values or {}).get(False)])
def test_a_switch_that_is_off_asks_for_what_is_so_anyway(
    row: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(row.variable, "no")
    assert f"note: {row.variable}=no (Kata's): as it is here anyway" in inv(command_of(row), capsys)[1]


@pytest.mark.parametrize(("name", "value", "setting"), SAME)
def test_a_variable_of_the_same_name_is_read_by_the_settings(
    name: str, value: str, setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert (getattr(settings, setting), settings.origins[setting]) == (value, name)
    row = next(line for line in inv("settings", capsys)[0].splitlines() if line.startswith(f"{setting} "))
    shown = "***" if name == "KBUILD_SIGN_PIN" else value
    assert row.split()[1:3] == [shown, name]


def test_every_variable_of_the_same_name_is_tried() -> None:
    assert {row.variable for row in rows(Fate.SAME)} == {name for name, *_ in SAME}


@pytest.mark.parametrize(
    ("policy", "words", "why"),
    [
        ("", "image", "a policy is installed with AGENT_POLICY=yes only (here: --agent-policy)"),
        ("no", "image", "a policy is installed with AGENT_POLICY=yes only (here: --agent-policy)"),
        ("yes", "image --extension", "an extension has neither an agent nor an init"),
    ],
)
def test_a_policy_without_the_switch_is_not_installed_and_said_so(
    policy: str, words: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without, _ = inv(words, capsys)
    monkeypatch.setenv("AGENT_POLICY", policy)
    monkeypatch.setenv("AGENT_POLICY_FILE", "allow.rego")
    plan, notes = inv(words, capsys)
    assert plan == without
    assert f"note: AGENT_POLICY_FILE=allow.rego (Kata's) has no effect: {why}\n" in notes


def test_a_policy_goes_to_a_guest_whose_agent_is_built_already(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"AGENT_POLICY": "yes", "AGENT_POLICY_FILE": "allow.rego", "AGENT_TARBALL": "agent.tar"}.items():
        monkeypatch.setenv(name, value)
    plan, notes = inv("image", capsys)
    assert "install the agent's policy in /etc/kata-opa, as default-policy.rego" in plan
    assert "AGENT_POLICY_FILE=allow.rego (Kata's): taken as --agent-policy ./allow.rego\n" in notes
    assert "AGENT_POLICY=yes (Kata's) has no effect: the agent is not compiled here, it is ./agent.tar\n" in notes


def test_a_mirror_is_that_of_the_distribution_that_a_variable_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTRO", "cbl-mariner")
    monkeypatch.setenv("REPO_URL", "https://mirror.example.org/azl")
    assert "base: https://mirror.example.org/azl/3.0/prod/base/x86_64" in inv("rootfs", capsys)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DISTRO", "alpine"),
        ("OS_VERSION", "bookworm"),
        ("EXTRA_PKGS", "strace"),
        ("REPO_URL", "http://mirror.example.org/ubuntu"),
        ("REPO_COMPONENTS", "main universe"),
    ],
)
def test_a_distribution_means_nothing_to_a_tree_that_is_provisioned(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "image --provision agent.tar"
    without, _ = inv(words, capsys)
    monkeypatch.setenv(name, value)
    plan, notes = inv(words, capsys)
    assert plan == without != ""
    assert notes == (
        f"note: {name}={value} (Kata's) has no effect: "
        "the tree that is provisioned is no distribution's (--provision)\n"
    )


@pytest.mark.parametrize("command", ["rootfs", "initrd", "agent", "kernel"])
def test_a_target_architecture_counts_for_a_cross_build_alone(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without, _ = inv(command, capsys)
    monkeypatch.setenv("TARGET_ARCH", "s390x")
    for switch in ("", "false"):
        monkeypatch.setenv("CROSS_BUILD", switch)
        plan, notes = inv(command, capsys)
        assert plan == without
        assert "note: TARGET_ARCH=s390x (Kata's) has no effect: it names an architecture with CROSS_BUILD=" in notes
    monkeypatch.setenv("CROSS_BUILD", "true")
    plan, notes = inv(command, capsys)
    assert "note: TARGET_ARCH=s390x (Kata's): taken as --arch s390x\n" in notes
    assert plan == inv(f"{command} --arch s390x", capsys)[0] != without


@pytest.mark.parametrize(("name", "command"), OUTPUTS.items())
def test_where_a_copy_goes_is_checked_before_anything_is_built(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "my.result")
    assert f"note: {name}=my.result (Kata's): taken as --output ./my.result\n" in inv(command, capsys)[1]
    monkeypatch.setenv(name, "6.12.57")
    plan, said = inv(command, capsys)
    assert plan == ""
    assert "error: --output 6.12.57" in said


def test_where_a_copy_goes_is_nothing_that_why_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = inv("why image", capsys)
    monkeypatch.setenv("IMAGE", "my.img")
    assert inv("why image", capsys) == without != ("", "")


def test_a_flag_wins_and_the_note_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AGENT_INIT", "yes")
    monkeypatch.setenv("EXTRA_PKGS", "strace")
    plan, notes = inv("rootfs --init systemd --package less", capsys)
    assert "init systemd" in plan
    assert "strace" not in plan
    assert notes == (
        "note: AGENT_INIT=yes (Kata's) gives way to --init\nnote: EXTRA_PKGS=strace (Kata's) gives way to --package\n"
    )


def test_the_agent_alone_hears_of_nothing_but_agents(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISTRO_REPO", "EXTRA_PKGS", "SELINUX"):
        monkeypatch.setenv(name, "yes")
    assert inv("agent", capsys)[1] == ""


def test_all_that_a_pipeline_says_of_its_agent_comes_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"AGENT_VERSION": "c" * 40, "LIBC": "gnu", "SECCOMP": "yes", "AGENT_POLICY": "no"}.items():
        monkeypatch.setenv(name, value)
    plan, notes = inv("image --arch x86_64", capsys)
    words = f"image --arch x86_64 --agent kata --agent-option git={REPOSITORY} --agent-option ref={'c' * 40}"
    for name in ("AGENT_VERSION", "LIBC", "SECCOMP", "AGENT_POLICY"):
        monkeypatch.delenv(name)
    assert plan == inv(f"{words} --agent-option libc=gnu --agent-option seccomp=yes", capsys)[0]
    assert notes.splitlines()[0].endswith(
        f"taken as --agent kata --agent-option git={REPOSITORY} --agent-option ref={'c' * 40}"
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("image", "it is about an agent that is compiled here (--agent kata, or AGENT_VERSION)"),
        ("image --agent ./my-agent", "the agent is not compiled here, it is ./my-agent"),
        ("image --extension", "an extension has neither an agent nor an init"),
    ],
)
def test_how_an_agent_is_compiled_means_nothing_to_one_that_is_not(
    words: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without, _ = inv(words, capsys)
    monkeypatch.setenv("LIBC", "musl")
    plan, notes = inv(words, capsys)
    assert plan == without
    assert notes == f"note: LIBC=musl (Kata's) has no effect: {why}\n"


def test_an_option_of_the_agent_gives_way_to_the_same_one_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENT_VERSION", "d" * 40)
    monkeypatch.setenv("SECCOMP", "no")
    notes = inv(f"agent {KATA}", capsys)[1]
    assert f"AGENT_VERSION={'d' * 40} (Kata's) gives way to --agent-option\n" in notes
    assert "SECCOMP=no (Kata's): taken as --agent-option seccomp=no\n" in notes


@pytest.mark.parametrize(
    "names", [("AGENT_SOURCE_BIN", "AGENT_TARBALL"), ("USE_DOCKER", "USE_PODMAN")], ids=["agent", "engine"]
)
def test_two_variables_that_say_the_same_thing_exclude_each_other(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        monkeypatch.setenv(name, "yes")
    assert f"error: {names[0]} and {names[1]} (Kata's) exclude each other" in inv("rootfs", capsys)[1]


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KBUILD_SIGN_PIN", "hunter2")
    for command in ("rootfs", "kernel"):
        assert "hunter2" not in "".join(inv(command, capsys))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AGENT_INIT", "maybe", "AGENT_INIT: expected yes or no, got 'maybe'"),
        ("ROOT_FREE_SPACE", "1G", "ROOT_FREE_SPACE: expected a whole number, got '1G'"),
        ("OS_VERSION", "trixy", "unknown release 'trixy'"),
        ("BLOCK_SIZE", "1024", "BLOCK_SIZE=1024 .*: cannot be had here"),
    ],
)
def test_a_value_that_means_nothing_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    plan, said = inv("image", capsys)
    assert plan == ""
    assert re.search(f"^error: .*{message}", said, re.MULTILINE)


def test_an_empty_variable_is_one_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    for command in COMMANDS:
        assert inv(command, capsys)[1] == ""


def test_flags_and_settings_that_rows_name_exist() -> None:
    from tasks.flags import DEFAULTS

    taken = rows(Fate.TAKEN)
    assert {row.flag for row in taken if row.flag} <= set(DEFAULTS)
    assert {row.setting for row in taken if row.setting} <= {field.name for field in fields()}
    assert all(bool(row.flag) != bool(row.setting) for row in taken)


def test_the_interface_that_is_honoured_is_in_the_table() -> None:
    assert set(VARIABLES) == set(_INTERFACE.split())
    options = {(row.script, word[:2]) for row in ROWS for word in row.option.split(", ")}
    assert {(Script.ROOTFS, f"-{letter}") for letter in "adlort"} <= options
    assert {(Script.IMAGE, f"-{letter}") for letter in "orf"} <= options
    assert (Script.INITRD, "-o") in options
    assert {(Script.KERNEL, f"-{letter}") for letter in "abcefgHkmprstuvx"} <= options


def test_the_document_has_the_whole_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == tables(), "python -m tests.unit.test_kata"


def tables() -> str:
    """Return the table as the document has it, a part for each of their scripts."""
    return "\n".join(_table(script) for script in Script)


def _table(script: Script) -> str:
    lines = [f"### {script.value}", "", "| theirs | meaning | here | a variable that is set |", "|---|---|---|---|"]
    for row in (row for row in ROWS if row.script is script):
        theirs = ", ".join(f"`{name}`" for name in (row.option, row.variable) if name)
        lines.append(f"| {theirs} | {row.meaning} | {row.ours} | {row.fate.value if row.variable else ''} |")
    return "\n".join((*lines, ""))


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    DOCUMENT.write_text(head + START + tables() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
