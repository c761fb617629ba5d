from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from osbuilder.engine import namespaces
from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.engine.namespaces import IdRange
from osbuilder.engine.sandbox import SandboxEngine
from osbuilder.errors import EngineError, Interrupted

BUILDER = Builder(name="x", tar=Path("/builder.tar"), sha256="a" * 64)


def _words(command: Command, mounts: Mounts, *, devices: tuple[str, ...] = ()) -> list[str]:
    return shlex.split(SandboxEngine(trees=Path("/trees")).repeat_line(BUILDER, command, mounts, devices=devices))


def _mounts() -> Mounts:
    return Mounts(
        inputs={"b": Path("/host/b"), "a": Path("/host/a")},
        output=Path("/host/out"),
        work=Path("/host/work"),
        caches={"ccache": Path("/host/ccache")},
    )


def _after(words: list[str], option: str, count: int = 1) -> list[list[str]]:
    return [words[i + 1 : i + 1 + count] for i, word in enumerate(words) if word == option]


def test_a_command_sees_its_builder_and_its_files_and_nothing_else_of_the_host() -> None:
    words = _words(Command(argv=("true",)), _mounts())
    assert _after(words, "--ro-bind", 2) == [
        ["/trees/" + "a" * 64, "/"],
        ["/host/a", "/in/a"],
        ["/host/b", "/in/b"],
    ]
    assert _after(words, "--bind", 2) == [
        ["/host/ccache", "/cache/ccache"],
        ["/host/out", "/out"],
        ["/host/work", "/work"],
    ]
    assert "--unshare-net" in words
    assert "--cap-add" not in words
    assert _after(words, "--uid") == [["1000"]]


def test_only_a_command_with_a_network_shares_it_and_its_names() -> None:
    words = _words(Command(argv=("true",), network=True), _mounts())
    assert "--unshare-net" not in words
    assert [pair[1] for pair in _after(words, "--ro-bind-try", 2)][-2:] == ["/etc/resolv.conf", "/etc/hosts"]


def test_root_is_root_of_a_full_map_of_ids() -> None:
    words = _words(Command(argv=("true",), root=True), _mounts())
    assert words[:5] == ["unshare", "--user", "--map-root-user", "--map-auto", "bwrap"]
    assert "--unshare-user" not in words
    assert ["CAP_CHOWN"] in _after(words, "--cap-add")
    assert ["CAP_SYS_ADMIN"] not in _after(words, "--cap-add")


def test_the_kernels_settings_are_covered() -> None:
    words = _words(Command(argv=("true",)), _mounts())
    assert ["/proc/sys", "/proc/sys"] in _after(words, "--ro-bind-try", 2)


def test_a_device_is_shown_where_it_is() -> None:
    words = _words(Command(argv=("true",)), _mounts(), devices=("/dev/kvm",))
    assert _after(words, "--dev-bind", 2) == [["/dev/kvm", "/dev/kvm"]]


def test_a_builder_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    engine = SandboxEngine(trees=tmp_path)
    mounts = Mounts(inputs={}, output=tmp_path, work=tmp_path)
    with pytest.raises(EngineError, match="builder x is not prepared in the sandbox"):
        engine.run(BUILDER, Command(argv=("true",)), mounts, log=tmp_path / "log", label="x")


def test_a_stopped_engine_starts_nothing(tmp_path: Path) -> None:
    engine = SandboxEngine(trees=tmp_path)
    engine.stop()
    mounts = Mounts(inputs={}, output=tmp_path, work=tmp_path)
    with pytest.raises(Interrupted):
        engine.run(BUILDER, Command(argv=("true",)), mounts, log=tmp_path / "log", label="x")


def test_root_of_the_host_maps_ids_to_themselves() -> None:
    assert namespaces.root_map(0, None) == (IdRange(inside=0, outside=0, count=65536),)


def test_a_user_is_root_inside_and_has_subordinate_ids_for_the_rest() -> None:
    subordinate = IdRange(inside=1, outside=100000, count=65535)
    assert namespaces.root_map(1001, subordinate) == (IdRange(inside=0, outside=1001, count=1), subordinate)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("other:1:65536\nme:200000:65536\n", 200000),
        ("1001:300000:65536\n", 300000),
        ("me:200000:1000\nme:400000:131072\n", 400000),
        ("me:200000:1000\n", None),
        ("you:200000:65536\n", None),
        ("me:many:65536\nme\n\n", None),
        ("", None),
    ],
)
def test_the_first_range_that_is_large_enough_counts(tmp_path: Path, text: str, start: int | None) -> None:
    database = tmp_path / "subuid"
    database.write_text(text)
    expected = IdRange(inside=1, outside=start, count=65535) if start else None
    assert namespaces.subordinate_range(database, "me", 1001) == expected


def test_a_host_without_the_database_gives_no_range(tmp_path: Path) -> None:
    assert namespaces.subordinate_range(tmp_path / "none", "me", 1001) is None
