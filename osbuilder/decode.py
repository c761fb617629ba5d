"""Strict YAML -> frozen dataclasses. Every refusal is a DecodeError that names file:line and the key's path.

Owns the reading of every data file (versions.yaml, recipes, waivers, a user's osbuilder.yaml). What YAML would quietly
reinterpret is refused, not guessed: `6.10` where text is wanted, `no` for a name, a key given twice, anchors, tags.

What an annotation may be:

- a dataclass: a mapping. Each field is a key; a field with metadata {"key": "when-arch"} is called so in the file
- tuple[X, ...]: a list
- Mapping[K, X]: a mapping, read-only and in the file's order; K is str, an enum or a type with parse
- X | None: X, or nothing (`key:` or null)
- str, int, bool, float, Path, Literal[...], an enum (by value)
- any type with a classmethod `parse(text)` that raises ValueError or OsbuilderError: text (parse wins over the above);
  with a classmethod `of_texts(texts)` as well: text, or a list of texts

A dataclass may refuse values in __post_init__ by raising ValueError or OsbuilderError. Types of fields are read at run
time: a module that declares such dataclasses must not import their types under TYPE_CHECKING only.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import pathlib
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

from osbuilder.errors import DecodeError, OsbuilderError, suggest

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")

_TAG = "tag:yaml.org,2002:"
_DEPTH_MAX = 64  # no data file of ours nests deeper than ten; a hostile one must not exhaust the stack
_TOO_DEEP = f"expected at most {_DEPTH_MAX} levels, got more"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")


def load(path: pathlib.Path, cls: type[T]) -> T:
    """Read the YAML file at `path` as a `cls`. Raises DecodeError, also for a missing, unreadable or non-UTF-8 file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DecodeError(f"{path}: no such file", hint="Create it, or name another one.") from None
    except OSError as err:
        raise DecodeError(f"{path}: cannot be read: {err.strerror}") from err
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise DecodeError(
            f"{path}:{line}: expected UTF-8 text, got the byte 0x{data[err.start]:02x}", hint="Save the file as UTF-8."
        ) from None
    return loads(text, cls, where=str(path))


def loads(text: str, cls: type[T], *, where: str) -> T:
    """Read YAML `text` as a `cls`; `where` is the file's name in messages. Raises DecodeError."""
    root = _compose(text, where)
    decode: _Decoder = _decoder(cls)  # type: ignore[arg-type]  # a class is hashable, mypy sees a bare type[T]
    decoded: T = decode(root, _Place(where=where, path=""))
    return decoded


# --- text -> nodes -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands: the file, and the path of keys to it ("kernels.debian-6.12.url", "packages[2]")."""

    where: str
    path: str

    def key(self, name: str) -> _Place:
        return _Place(self.where, f"{self.path}.{name}" if self.path else name)

    def item(self, index: int) -> _Place:
        return _Place(self.where, f"{self.path}[{index}]")

    def error(self, node: yaml.Node, problem: str, *, hint: str = "") -> DecodeError:
        return DecodeError(f"{self.at(_line(node))}{problem}", hint=hint)

    def at(self, line: int) -> str:
        return f"{self.where}:{line}: {self.path}: " if self.path else f"{self.where}:{line}: "


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line


def _compose(text: str, where: str) -> yaml.Node:
    """Parse the one document in `text` to nodes.

    Works from parser events, not from PyYAML's own composer: only events still show anchors, aliases and tags.
    """
    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise DecodeError(f"{where}:{line}: expected text, got the control character {unprintable.group()!r}")
    loader = _Loader(text)
    try:
        return _compose_document(loader, where)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        line = mark.line + 1 if mark else 1
        # PyYAML's scanner, which reads ahead, has a bound of its own since 6.0.4.
        if "nesting depth" in (err.problem or ""):
            raise DecodeError(f"{where}:{line}: {_TOO_DEEP}") from None
        lines = text.splitlines()
        indent = re.match(r"\s*", lines[line - 1]) if line <= len(lines) else None
        hint = "YAML refuses tabs as indentation: use spaces." if indent and "\t" in indent.group() else ""
        context = f" ({err.context})" if err.context else ""
        raise DecodeError(f"{where}:{line}: not YAML: {err.problem}{context}", hint=hint) from None
    finally:
        loader.dispose()


def _compose_document(loader: Any, where: str) -> yaml.Node:
    loader.get_event()  # the start of the stream
    if loader.check_event(yaml.StreamEndEvent):
        raise DecodeError(f"{where}:1: the file is empty", hint="Write at least one key, or remove the file.")
    loader.get_event()  # the start of the document
    root = _compose_node(loader, _Place(where, ""), depth=0)
    loader.get_event()  # its end
    if not loader.check_event(yaml.StreamEndEvent):
        line = loader.peek_event().start_mark.line + 1
        raise DecodeError(f"{where}:{line}: expected one YAML document, got a second one", hint="Remove the `---`.")
    return root


def _compose_node(loader: Any, place: _Place, *, depth: int) -> yaml.Node:
    event = loader.get_event()
    start: yaml.Mark = event.start_mark
    line = start.line + 1
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
        raise DecodeError(
            f"{place.at(line)}anchors and aliases are refused, got `{mark}{event.anchor}`", hint="Write the value out."
        )
    if event.tag is not None:
        raise DecodeError(f"{place.at(line)}tags are refused, got `{event.tag}`", hint="Quote a value to make it text.")
    if depth > _DEPTH_MAX:
        raise DecodeError(f"{place.at(line)}{_TOO_DEEP}")
    if isinstance(event, yaml.ScalarEvent):
        tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        return yaml.ScalarNode(tag, event.value, start)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[yaml.Node] = []
        while not loader.check_event(yaml.SequenceEndEvent):
            items.append(_compose_node(loader, place.item(len(items)), depth=depth + 1))
        loader.get_event()
        return yaml.SequenceNode(f"{_TAG}seq", items, start)
    return _compose_mapping(loader, place, start, depth=depth)


def _compose_mapping(loader: Any, place: _Place, mark: yaml.Mark, *, depth: int) -> yaml.MappingNode:
    entries: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    while not loader.check_event(yaml.MappingEndEvent):
        key = _compose_node(loader, place, depth=depth + 1)
        if not isinstance(key, yaml.ScalarNode):
            raise place.error(key, f"expected text as a key, got {_describe(key)}")
        if key.tag == f"{_TAG}merge":
            raise place.error(key, "merge keys (`<<`) are refused", hint="Write the keys out.")
        if key.value in entries:
            first = _line(entries[key.value][0])
            raise place.key(key.value).error(
                key, f"this key is given twice, first in line {first}", hint="Remove one of them."
            )
        entries[key.value] = (key, _compose_node(loader, place.key(key.value), depth=depth + 1))
    loader.get_event()
    return yaml.MappingNode(f"{_TAG}map", list(entries.values()), mark)


# --- nodes -> values -----------------------------------------------------------------------------------------------

_Decoder = Callable[[yaml.Node, _Place], Any]


@functools.cache
def _decoder(annotation: Any) -> _Decoder:
    """Return what turns a node into a value of `annotation`. Raises TypeError where that is not supported."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if isinstance(annotation, type) and callable(getattr(annotation, "parse", None)):
        return functools.partial(_decode_parsed, annotation)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return functools.partial(_decode_dataclass, annotation)
    if isinstance(annotation, type) and issubclass(annotation, pathlib.PurePath):
        return functools.partial(_decode_path, annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return functools.partial(_decode_choice, {(type(member.value), member.value): member for member in annotation})
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return functools.partial(_decode_choice, {(type(value), value): value for value in arguments})
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return functools.partial(_decode_tuple, _decoder(arguments[0]))
    if origin is Mapping:
        return functools.partial(_decode_mapping, _decoder(arguments[0]), _decoder(arguments[1]))
    if origin in (typing.Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return functools.partial(_decode_optional, _decoder(inner))
    raise TypeError(f"osbuilder.decode cannot read a value of {annotation!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    decode: _Decoder
    required: bool


@functools.cache
def _fields(cls: type) -> Mapping[str, _Field]:
    """Return the fields of a dataclass by their key in the file, in the order of their declaration."""
    hints = typing.get_type_hints(cls)
    return {
        field.metadata.get("key", field.name): _Field(
            field.name,
            _decoder(hints[field.name]),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def _decode_dataclass(cls: type, node: yaml.Node, place: _Place) -> Any:
    fields = _fields(cls)
    if not isinstance(node, yaml.MappingNode):
        raise place.error(node, f"expected a mapping, got {_describe(node)}", hint=f"Its keys: {', '.join(fields)}.")
    # Unknown keys before missing ones: a key that is missing is often one that is misspelt.
    for key, _ in node.value:
        if key.value not in fields:
            raise place.error(key, f"unknown key {key.value!r}", hint=suggest(key.value, fields))
    values = {
        fields[key.value].name: fields[key.value].decode(value, place.key(key.value)) for key, value in node.value
    }
    missing = [key for key, field in fields.items() if field.required and field.name not in values]
    if missing:
        noun = "key" if len(missing) == 1 else "keys"
        raise place.error(
            node, f"missing {noun} {', '.join(map(repr, missing))}", hint=f"Its keys: {', '.join(fields)}."
        )
    return _guard(lambda: cls(**values), node, place)


def _decode_parsed(cls: Any, node: yaml.Node, place: _Place) -> Any:
    if isinstance(node, yaml.SequenceNode) and callable(getattr(cls, "of_texts", None)):
        texts = _decode_tuple(_decode_str, node, place)
        return _guard(lambda: cls.of_texts(texts), node, place)
    text = _decode_str(node, place)
    return _guard(lambda: cls.parse(text), node, place)


def _guard(make: Callable[[], Any], node: yaml.Node, place: _Place) -> Any:
    """Run a check of the model's own; what it refuses gets the file, line and key that it cannot know."""
    try:
        return make()
    except OsbuilderError as err:
        raise DecodeError(f"{place.at(_line(node))}{err.message}", hint=err.hint) from err
    except ValueError as err:
        raise DecodeError(f"{place.at(_line(node))}{err}") from err


def _decode_tuple(decode: _Decoder, node: yaml.Node, place: _Place) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise place.error(node, f"expected a list, got {_describe(node)}")
    return tuple(decode(item, place.item(index)) for index, item in enumerate(node.value))


def _decode_mapping(decode_key: _Decoder, decode: _Decoder, node: yaml.Node, place: _Place) -> Mapping[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise place.error(node, f"expected a mapping, got {_describe(node)}")
    values: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        here = place.key(key_node.value)
        key = decode_key(key_node, here)
        if key in values:
            raise here.error(key_node, f"the same key as one above, in other words: {key}", hint="Remove one of them.")
        values[key] = decode(value_node, here)
    return types.MappingProxyType(values)


def _decode_optional(decode: _Decoder, node: yaml.Node, place: _Place) -> Any:
    return None if node.tag == f"{_TAG}null" else decode(node, place)


def _decode_choice(choices: Mapping[tuple[type, Any], Any], node: yaml.Node, place: _Place) -> Any:
    """Decode one of a closed set. Keyed by type and value: to Python 1 == True, in a file they differ."""
    kind = _KINDS.get(node.tag)
    if isinstance(node, yaml.ScalarNode) and (str, node.value) in choices:
        kind = str  # `no` without quotes is then refused with the advice to quote it
    if kind and any(kind is known for known, _ in choices):
        key = (kind, _SCALARS[kind](node, place))
        if key in choices:
            return choices[key]
    known = [_spell(value) for _, value in choices]
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    raise place.error(node, f"expected one of {', '.join(known)}, got {_describe(node)}", hint=suggest(text, known))


def _decode_str(node: yaml.Node, place: _Place) -> str:
    if node.tag == f"{_TAG}str":
        text: str = node.value
        return text
    if not isinstance(node, yaml.ScalarNode) or node.tag == f"{_TAG}null":
        raise place.error(node, f"expected text, got {_describe(node)}")
    raise place.error(node, f'{_surprise(node)}; write it in quotes: "{node.value}"')


def _decode_path(cls: type[pathlib.PurePath], node: yaml.Node, place: _Place) -> pathlib.PurePath:
    text = _decode_str(node, place)
    if not text or "\0" in text:
        raise place.error(node, f"expected a path, got {_describe(node)}")
    return cls(text)


def _decode_bool(node: yaml.Node, place: _Place) -> bool:
    if node.value not in ("true", "false") or node.tag != f"{_TAG}bool":
        raise place.error(node, f"expected true or false, got {_describe(node)}")
    return bool(node.value == "true")


def _decode_int(node: yaml.Node, place: _Place) -> int:
    if node.tag == f"{_TAG}int":
        if _DECIMAL.fullmatch(node.value):
            return int(node.value)
        if _HEXADECIMAL.fullmatch(node.value):
            return int(node.value, 16)
    raise place.error(node, f"expected a whole number (decimal, or hexadecimal with 0x), got {_describe(node)}")


def _decode_float(node: yaml.Node, place: _Place) -> float:
    if node.tag in (f"{_TAG}float", f"{_TAG}int") and _FLOAT.fullmatch(node.value):
        number = float(node.value)
        if math.isfinite(number):
            return number
    raise place.error(node, f"expected a number, got {_describe(node)}")


_SCALARS: Mapping[Any, _Decoder] = {str: _decode_str, int: _decode_int, bool: _decode_bool, float: _decode_float}
_KINDS: Mapping[str, type] = {f"{_TAG}str": str, f"{_TAG}int": int, f"{_TAG}bool": bool}


# --- words for messages --------------------------------------------------------------------------------------------


def _describe(node: yaml.Node) -> str:
    """Name what stands in the file, for "got ..."."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == f"{_TAG}null":
        return "nothing (null)"
    text = node.value if len(node.value) <= 60 else f"{node.value[:57]}..."
    return f'the text "{text}"' if node.tag == f"{_TAG}str" else f"`{text}`"


def _surprise(node: yaml.ScalarNode) -> str:
    """Say what YAML makes of an unquoted value that was meant as text."""
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "bool":
            truth = text.lower() in ("yes", "true", "on")
            return f"{text} is {str(truth).lower()} in YAML"
        case "timestamp":
            return f"{text} is a date in YAML"
        case "int":
            digits = text.lstrip("+-")
            if ":" in text:
                return f"{text} is a number to the base 60 in YAML"
            if digits[:1] == "0" and digits[1:].replace("_", "").isdigit():
                return f"{text} is an octal number in YAML"
            return f"{text} is a number in YAML"
        case "float":
            loses = "." in text and text.endswith("0") and _FLOAT.fullmatch(text)
            return f"{text} is a number in YAML" + (" and would lose its zero" if loses else "")
    return f"{text} has a meaning of its own in YAML"


def _spell(choice: object) -> str:
    """Write a value as it stands in YAML."""
    return str(choice).lower() if isinstance(choice, bool) else str(choice)
