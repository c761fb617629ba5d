"""What osbuilder.decode reads, and the exact words with which it refuses."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import pytest
import yaml

from osbuilder import decode
from osbuilder.errors import DecodeError, UsageError

WHERE = "versions.yaml"


class Init(enum.Enum):
    SYSTEMD = "systemd"
    AGENT = "agent"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    number: str

    @classmethod
    def parse(cls, text: str) -> Release:
        if not text.replace(".", "").isdigit():
            raise ValueError(f"expected a release such as 6.12, got {text!r}")
        return cls(text)


@dataclasses.dataclass(frozen=True, slots=True)
class Fussy:
    name: str

    @classmethod
    def parse(cls, text: str) -> Fussy:
        raise UsageError(f"unknown name {text!r}", hint="Choose another.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    release: str
    url: str
    size_bytes: int = 0
    when_arch: tuple[str, ...] = dataclasses.field(default=(), metadata={"key": "when-arch"})

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            raise ValueError(f"size_bytes: expected 0 or more, got {self.size_bytes}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    kernels: Mapping[str, Kernel]
    default: Kernel | None = None


def one(annotation: Any, **options: Any) -> type:
    """Make a model with one field `value` of that annotation."""
    return dataclasses.make_dataclass("One", [("value", annotation)], frozen=True, kw_only=True, **options)


def value_of(annotation: Any, text: str) -> Any:
    return decode.loads(f"value: {text}\n", one(annotation), where=WHERE).value


def refusal(text: str, cls: type) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode.loads(text, cls, where=WHERE)
    return caught.value


GOOD = """\
# pins
kernels:
  debian-6.12:
    release: "6.12"
    url: file:///linux.tar
    size_bytes: 42
    when-arch: [x86_64, arm64]
  alpha: {release: "6.10", url: x}
"""


# --- what is read --------------------------------------------------------------------------------------------------


def test_a_file_becomes_nested_frozen_models_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    versions = decode.load(path, Versions)
    assert versions == Versions(
        kernels=MappingProxyType(
            {
                "debian-6.12": Kernel(
                    release="6.12", url="file:///linux.tar", size_bytes=42, when_arch=("x86_64", "arm64")
                ),
                "alpha": Kernel(release="6.10", url="x"),
            }
        )
    )
    assert list(versions.kernels) == ["debian-6.12", "alpha"]
    assert isinstance(versions.kernels, MappingProxyType)


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (str, "plain words", "plain words"),
        (str, '"6.10"', "6.10"),
        (str, "'no'", "no"),
        (str, "|\n  two\n  lines", "two\nlines\n"),
        (int, "0", 0),
        (int, "-17", -17),
        (int, "0x1F", 31),
        (float, "1.5", 1.5),
        (float, "2", 2.0),
        (float, "1.0e+3", 1000.0),
        (bool, "true", True),
        (bool, "false", False),
        (str | None, "", None),
        (str | None, "~", None),
        (str | None, "text", "text"),
        (tuple[int, ...], "[]", ()),
        (tuple[tuple[int, ...], ...], "[[1], [2, 3]]", ((1,), (2, 3))),
        (Path, "a/b", Path("a/b")),
        (PurePosixPath, "/etc", PurePosixPath("/etc")),
        (Init, "agent", Init.AGENT),
        (Level, "2", Level.HIGH),
        (Literal["ext4", "xfs"], "xfs", "xfs"),
        (Literal[1, True], "true", True),
        (Literal["auto", False], "false", False),
        (Release, '"6.12"', Release("6.12")),
        (Mapping[Init, int], "{agent: 1}", {Init.AGENT: 1}),
        (Mapping[Release, int], '{"6.12": 1}', {Release("6.12"): 1}),
    ],
)
def test_each_annotation_reads_its_yaml(annotation: Any, text: str, expected: Any) -> None:
    value = value_of(annotation, text)
    assert value == expected
    assert type(value) is type(expected) or isinstance(value, MappingProxyType)


def test_a_self_referential_model_is_read() -> None:
    tree = decode.loads("child: {child: {child: }}", Tree, where=WHERE)
    assert tree == Tree(child=Tree(child=Tree(child=None)))


def test_the_pure_python_loader_reads_and_refuses_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = decode.loads(GOOD, Versions, where=WHERE)
    monkeypatch.setattr(decode, "_Loader", yaml.SafeLoader)
    assert decode.loads(GOOD, Versions, where=WHERE) == fast
    assert refusal("kernels:\n\tx: 1\n", Versions).message.startswith("versions.yaml:2: not YAML: ")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    child: Tree | None = None


# --- keys ----------------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_line_path_and_suggestion() -> None:
    error = refusal(GOOD.replace("size_bytes", "size_byte"), Versions)
    assert error.message == "versions.yaml:6: kernels.debian-6.12: unknown key 'size_byte'"
    assert error.hint == "Did you mean size_bytes? Known: release, size_bytes, url, when-arch."


def test_a_field_with_a_key_of_its_own_is_not_known_by_its_python_name() -> None:
    error = refusal(GOOD.replace("when-arch", "when_arch"), Versions)
    assert error.message == "versions.yaml:7: kernels.debian-6.12: unknown key 'when_arch'"
    assert error.hint.startswith("Did you mean when-arch?")


def test_a_missing_key_is_named_at_the_mapping_that_lacks_it() -> None:
    error = refusal("kernels:\n  a:\n    url: x\n", Versions)
    assert error.message == "versions.yaml:3: kernels.a: missing key 'release'"
    assert error.hint == "Its keys: release, url, size_bytes, when-arch."
    assert refusal("kernels: {a: {}}", Versions).message == "versions.yaml:1: kernels.a: missing keys 'release', 'url'"


def test_a_misspelt_key_is_reported_before_the_key_that_is_missing_for_it() -> None:
    assert "unknown key 'relaese'" in refusal('kernels: {a: {relaese: "1", url: x}}', Versions).message


def test_a_duplicate_key_names_both_lines() -> None:
    error = refusal("kernels: {}\ndefault:\nkernels: {}\n", Versions)
    assert error.message == "versions.yaml:3: kernels: this key is given twice, first in line 1"


def test_a_duplicate_key_deep_inside_is_found_even_when_quoted_differently() -> None:
    error = refusal("kernels:\n  a:\n    url: x\n    'url': y\n", Versions)
    assert error.message == "versions.yaml:4: kernels.a.url: this key is given twice, first in line 3"


def test_two_spellings_of_one_key_are_a_duplicate() -> None:
    @dataclasses.dataclass(frozen=True)
    class Folded:
        text: str

        @classmethod
        def parse(cls, text: str) -> Folded:
            return cls(text.lower())

    error = refusal("value:\n  a: 1\n  A: 2\n", one(Mapping[Folded, int]))
    assert error.message.startswith("versions.yaml:3: value.A: the same key as one above")


def test_a_key_that_is_a_list_is_refused() -> None:
    assert refusal("? [a]\n: 1\n", Versions).message == "versions.yaml:1: expected text as a key, got a list"


# --- text that YAML would turn into something else -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6.10", '6.10 is a number in YAML and would lose its zero; write it in quotes: "6.10"'),
        ("6.12", '6.12 is a number in YAML; write it in quotes: "6.12"'),
        ("12", '12 is a number in YAML; write it in quotes: "12"'),
        ("017", '017 is an octal number in YAML; write it in quotes: "017"'),
        ("12:30:45", '12:30:45 is a number to the base 60 in YAML; write it in quotes: "12:30:45"'),
        ("no", 'no is false in YAML; write it in quotes: "no"'),
        ("On", 'On is true in YAML; write it in quotes: "On"'),
        ("2026-11-22", '2026-11-22 is a date in YAML; write it in quotes: "2026-11-22"'),
        ("=", '= has a meaning of its own in YAML; write it in quotes: "="'),
        ("", "expected text, got nothing (null)"),
        ("[a]", "expected text, got a list"),
        ("{a: b}", "expected text, got a mapping"),
    ],
)
def test_unquoted_values_that_are_not_text_in_yaml_are_refused_where_text_is_wanted(text: str, message: str) -> None:
    assert refusal(f"value: {text}\n", one(str)).message == f"versions.yaml:1: value: {message}"


def test_a_number_as_the_key_of_a_mapping_is_refused_like_a_value() -> None:
    error = refusal("kernels:\n  6.10: {}\n", Versions)
    assert error.message == (
        'versions.yaml:2: kernels.6.10: 6.10 is a number in YAML and would lose its zero; write it in quotes: "6.10"'
    )


# --- wrong types ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "text", "message"),
    [
        (int, "abc", 'expected a whole number (decimal, or hexadecimal with 0x), got the text "abc"'),
        (int, '"5"', 'expected a whole number (decimal, or hexadecimal with 0x), got the text "5"'),
        (int, "017", "expected a whole number (decimal, or hexadecimal with 0x), got `017`"),
        (int, "1_000", "expected a whole number (decimal, or hexadecimal with 0x), got `1_000`"),
        (int, "1:30", "expected a whole number (decimal, or hexadecimal with 0x), got `1:30`"),
        (int, "1.0", "expected a whole number (decimal, or hexadecimal with 0x), got `1.0`"),
        (int, "true", "expected a whole number (decimal, or hexadecimal with 0x), got `true`"),
        (int, "9" * 5000, f"expected a whole number (decimal, or hexadecimal with 0x), got `{'9' * 57}...`"),
        (float, ".nan", "expected a number, got `.nan`"),
        (float, ".inf", "expected a number, got `.inf`"),
        (float, "1.0e+999", "expected a number, got `1.0e+999`"),
        (float, "'1.5'", 'expected a number, got the text "1.5"'),
        (bool, "yes", "expected true or false, got `yes`"),
        (bool, "1", "expected true or false, got `1`"),
        (bool, "'true'", 'expected true or false, got the text "true"'),
        (tuple[str, ...], "abc", 'expected a list, got the text "abc"'),
        (tuple[str, ...], "", "expected a list, got nothing (null)"),
        (Mapping[str, int], "[1]", "expected a mapping, got a list"),
        (Path, "''", 'expected a path, got the text ""'),
        (Kernel, "abc", 'expected a mapping, got the text "abc"'),
        (Init, "upstart", 'expected one of systemd, agent, got the text "upstart"'),
        (Init, "[systemd]", "expected one of systemd, agent, got a list"),
        (Level, "3", "expected one of 1, 2, got `3`"),
        (Literal["yes", "no"], "no", 'no is false in YAML; write it in quotes: "no"'),
        (Literal[1], "true", "expected one of 1, got `true`"),
    ],
)
def test_a_wrong_type_says_what_was_expected_and_what_came(annotation: Any, text: str, message: str) -> None:
    assert refusal(f"value: {text}\n", one(annotation)).message == f"versions.yaml:1: value: {message}"


def test_the_path_to_an_item_of_a_list_has_its_index_and_its_own_line() -> None:
    error = refusal("kernels:\n  a:\n    release: '1'\n    url: x\n    when-arch:\n    - one\n    - 2\n", Versions)
    assert error.message.startswith("versions.yaml:7: kernels.a.when-arch[1]: 2 is a number in YAML")


def test_an_unknown_enum_value_gets_a_suggestion() -> None:
    assert refusal("value: sytemd", one(Init)).hint == "Did you mean systemd? Known: agent, systemd."


def test_a_top_level_list_is_refused_with_the_keys_that_were_expected() -> None:
    error = refusal("- a\n", Versions)
    assert error.message == "versions.yaml:1: expected a mapping, got a list"
    assert error.hint == "Its keys: kernels, default."


def test_what_parse_refuses_gets_file_line_and_key() -> None:
    error = refusal("\nvalue: trixie\n", one(Release))
    assert error.message == "versions.yaml:2: value: expected a release such as 6.12, got 'trixie'"
    assert refusal("value: 6.10", one(Release)).message.endswith('write it in quotes: "6.10"')
    error = refusal("value: x", one(Fussy))
    assert (error.message, error.hint) == ("versions.yaml:1: value: unknown name 'x'", "Choose another.")


def test_what_post_init_refuses_gets_file_line_and_key() -> None:
    error = refusal(GOOD.replace("42", "-1"), Versions)
    assert error.message == "versions.yaml:4: kernels.debian-6.12: size_bytes: expected 0 or more, got -1"


def test_an_annotation_that_cannot_be_read_is_the_programmers_error() -> None:
    with pytest.raises(TypeError, match=r"cannot read a value of int \| str"):
        decode.loads("value: 1", one(int | str), where=WHERE)


# --- what YAML has and data files must not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "versions.yaml:1: the file is empty"),
        ("# only a comment\n", "versions.yaml:1: the file is empty"),
        ("---\n", "versions.yaml:2: expected a mapping, got nothing (null)"),
        ("kernels: {}\n---\nkernels: {}\n", "versions.yaml:2: expected one YAML document, got a second one"),
        ("kernels: &k {}\n", "versions.yaml:1: kernels: anchors and aliases are refused, got `&k`"),
        ("kernels: *k\n", "versions.yaml:1: kernels: anchors and aliases are refused, got `*k`"),
        ("kernels:\n  <<: {}\n", "versions.yaml:2: kernels: merge keys (`<<`) are refused"),
        (
            "kernels: !!python/object:os.system {}\n",
            "versions.yaml:1: kernels: tags are refused, got `tag:yaml.org,2002:python/object:os.system`",
        ),
        ("kernels: !secret x\n", "versions.yaml:1: kernels: tags are refused, got `!secret`"),
        ("kernels: ! x\n", "versions.yaml:1: kernels: tags are refused, got `!`"),
        ("a:\n  b: \x07\n", "versions.yaml:2: expected text, got the control character '\\x07'"),
    ],
)
def test_what_yaml_allows_and_data_files_do_not_is_refused(text: str, message: str) -> None:
    assert refusal(text, Versions).message == message


def test_a_tab_as_indentation_is_named() -> None:
    error = refusal("kernels:\n\ta: 1\n", Versions)
    assert error.message.startswith("versions.yaml:2: not YAML: found character")
    assert error.hint == "YAML refuses tabs as indentation: use spaces."


@pytest.mark.parametrize("text", ["a: [1\n", "a: 'x\n", "a: b: c\n", "a\nb: 1\n", "%YAML 9\n---\na: 1\n", "a: }\n"])
def test_bad_syntax_names_file_and_line(text: str) -> None:
    assert refusal(text, Versions).message.startswith(("versions.yaml:1: not YAML: ", "versions.yaml:2: not YAML: "))


@pytest.mark.parametrize("levels", [70, 200, 5000])
def test_hostile_nesting_is_refused_before_it_exhausts_the_stack(levels: int) -> None:
    assert "expected at most 64 levels, got more" in refusal("[" * levels + "]" * levels, Versions).message


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    with pytest.raises(DecodeError) as caught:
        decode.load(path, Versions)
    assert caught.value.message == f"{path}: no such file"
    assert caught.value.hint


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="cannot be read: Is a directory"):
        decode.load(tmp_path, Versions)


def test_a_file_that_is_not_utf8_names_the_line_and_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(DecodeError, match=r"versions.yaml:2: expected UTF-8 text, got the byte 0xe9"):
        decode.load(path, Versions)
