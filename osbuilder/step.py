"""What a build is made of: Steps, their Actions, and the key that identifies a step's result.

A Step is data: an Action (a frozen dataclass whose fields are its parameters), the steps whose artifacts it reads and
the builder that it runs in. Its key is the sha256 of everything that can change its output:

- the action's name and parameters (a field marked NOT_IN_KEY, such as a host path, stays out),
- the content digest of every input, so an input that was rebuilt to the same bytes changes nothing downstream,
- the source text of the module that defines the action and of every osbuilder module that it imports.

Nobody bumps a number by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from osbuilder.engine.base import Command, Engine
    from osbuilder.fetch import Source
    from osbuilder.store import Artifact

Json = Any

NOT_IN_KEY: Final[Mapping[str, bool]] = {"in_key": False}
"""Metadata for a dataclass field that helps to run an action but cannot change its output."""

PACKAGE: Final = Path(__file__).resolve().parent

# Modules whose text cannot reach an artifact: messages of errors, and this one, which only describes steps.
_INERT: Final = frozenset({"osbuilder.errors", "osbuilder.step"})


class Job(Protocol):
    """What an action has while it runs. Implemented by osbuilder.execute."""

    @property
    def key(self) -> str:
        """The step's key: the label of whatever an engine makes for it."""

    @property
    def inputs(self) -> Mapping[str, Artifact]:
        """The artifacts of the step's inputs, by name."""

    @property
    def out(self) -> Path:
        """An empty folder: what is in it when the action returns is the artifact."""

    @property
    def work(self) -> Path:
        """An empty scratch folder on the store's disk, removed afterwards."""

    @property
    def log(self) -> Path:
        """The step's log file; commands append to it."""

    @property
    def jobs(self) -> int:
        """How many processes may run at once; never changes the output."""

    def run(
        self,
        command: Command,
        *,
        inputs: Mapping[str, Path] | None = None,
        caches: tuple[str, ...] = (),
        output: Path | None = None,
    ) -> None:
        """Run a command in the step's builder. `output` is what it sees as /out (default: `out`)."""

    def fetch(self, source: Source, *, into: Path | None = None) -> Path:
        """Return a verified download, kept between builds unless `into` names a folder. Threads may call it at once."""

    def cache(self, name: str) -> Path:
        """Return a folder that is kept between builds and is never an input of the result."""

    @property
    def proxies(self) -> Mapping[str, str]:
        """Proxy variables for what reaches the network outside of a builder."""

    @property
    def ca_bundle(self) -> Path | None:
        """The user's certificate authorities (PEM) for what reaches the network outside of a builder."""

    @property
    def engine(self) -> Engine:
        """The engine, for an action that needs more of it than `run`. Raises ToolMissing when none works."""

    def check_stopped(self) -> None:
        """Raise Interrupted if the build is being stopped; for an action that waits for something outside an engine."""


class Action(Protocol):
    """The work of a step: a frozen dataclass. Its fields are its parameters.

    One that reaches the network says so by a class variable ONLINE = True (see `is_online`). What a person should know
    of its result it says by `notes`, and where only the facts tell it by `notes_on(facts)` (see `notes_of`).
    """

    def describe(self) -> tuple[str, ...]:
        """Return what it would do, a line each; commands as they would be run (for --dry)."""

    def run(self, job: Job) -> Mapping[str, Json]:
        """Write the outputs into job.out; return facts for the manifest (JSON values). Raises OsbuilderError."""


def is_online(action: Action) -> bool:
    """Whether an action reaches the network: then `inv fetch` runs its step, and an offline build never does."""
    return bool(getattr(action, "ONLINE", False))


def notes_of(action: Action, facts: Mapping[str, Json]) -> tuple[str, ...]:
    """Return what a person should know of an action's result with these facts, a line each."""
    told = getattr(action, "notes_on", None)
    return (*getattr(action, "notes", ()), *(told(facts) if told else ()))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of a plan. `subject` says what it is about: with `name` it is the step's stable identity for people.

    `packages_hint` is what to do about a package that cannot be installed, where no --package names it.
    """

    name: str
    subject: str
    action: Action
    inputs: tuple[tuple[str, Step], ...] = ()
    builder: Step | None = None
    packages_hint: str = ""

    @property
    def ident(self) -> str:
        """subject/name: under this the store remembers the last build (`inv why`)."""
        return f"{self.subject}/{self.name}"

    def dependencies(self) -> tuple[tuple[str, Step], ...]:
        """Return the inputs, and the builder under the name "builder"."""
        return (*self.inputs, ("builder", self.builder)) if self.builder else self.inputs

    def ingredients(self, digests: Mapping[str, str]) -> dict[str, Json]:
        """Return everything that can change the output, as JSON data; `digests`: the dependencies' content digests."""
        action = type(self.action)
        return {
            "action": f"{action.__module__}.{action.__qualname__}",
            "parameters": parameters(self.action),
            "inputs": {name: digests[name] for name, _ in self.dependencies()},
            "source": source_digests(action.__module__),
        }

    def walk(self) -> Iterator[Step]:
        """Yield every step that this one needs and itself, dependencies first, each once."""
        seen: set[int] = set()

        def visit(step: Step) -> Iterator[Step]:
            if id(step) in seen:
                return
            seen.add(id(step))
            for _, dependency in step.dependencies():
                yield from visit(dependency)
            yield step

        yield from visit(self)


def with_shared(step: Step, shared: dict[bytes, Step]) -> Step:
    """Return a step that is one with those of `shared` that do the same of the same; what is new is put there.

    So what several steps need is one, and they do not wait for it in a job slot each.
    """
    inputs = tuple((name, with_shared(each, shared)) for name, each in step.inputs)
    builder = step.builder and with_shared(step.builder, shared)
    merged = dataclasses.replace(step, inputs=inputs, builder=builder)
    # Not by its name alone: two kernels of one line may have other patches.
    alike = canonical([step.ident, merged.ingredients({name: str(id(each)) for name, each in merged.dependencies()})])
    return shared.setdefault(alike, merged)


def canonical(value: Json) -> bytes:
    """Return the one JSON text of a value: sorted keys, no blanks, UTF-8 (surrogates escaped)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def key_of(ingredients: Mapping[str, Json]) -> str:
    """Return the key (64 hex digits) of a step's ingredients."""
    return hashlib.sha256(canonical(ingredients)).hexdigest()


def parameters(action: object) -> Json:
    """Return a dataclass as JSON data, without its NOT_IN_KEY fields.

    Raises TypeError for what has no stable text (floats, paths, sets): a programming error, not the user's.
    """
    return _jsonable(action)


def _jsonable(value: object) -> Json:
    match value:
        case enum.Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case bytes():
            return {"bytes": value.hex()}
        case tuple() | list():
            return [_jsonable(item) for item in value]
        case Mapping():
            return {str(name): _jsonable(item) for name, item in value.items()}
        case PurePath() | float():
            raise TypeError(f"{value!r} cannot be part of a key")
        case _ if dataclasses.is_dataclass(value):
            return {
                field.name: _jsonable(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if field.metadata.get("in_key", True)
            }
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


_PARSING: Final = threading.Lock()


def source_digests(module: str) -> Mapping[str, str]:
    """Return {module: sha256 of its text} for a module and every osbuilder module that it imports, however deep.

    Imports under `if TYPE_CHECKING` do not run and do not count.
    """
    found: dict[str, str] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        if name in found or name in _INERT:
            continue
        module_source = read_module(name)
        if module_source is None:
            continue
        found[name], imports = module_source
        queue.extend(imports)
    return dict(sorted(found.items()))


@functools.cache
def read_module(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the sha256 of a module's text and what it imports; None for a name that is no module of ours.

    Most modules stand below several actions, and parsing them is most of what finding nothing to do takes.
    """
    path = _module_path(name)
    if path is None:
        return None
    text = path.read_bytes()
    # Two threads that parse at once make Python 3.11 say "AST constructor recursion depth mismatch".
    with _PARSING:
        return hashlib.sha256(text).hexdigest(), tuple(_imports(text))


def _module_path(name: str) -> Path | None:
    relative = Path(*name.split(".")[1:]) if "." in name else Path()
    for candidate in (
        PACKAGE / relative.with_suffix(".py") if "." in name else None,
        PACKAGE / relative / "__init__.py",
    ):
        if candidate is not None and candidate.is_file():
            return candidate
    return None


def _imports(text: bytes) -> Iterator[str]:
    for node in _running_nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "osbuilder")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "osbuilder":
            yield node.module
            # `from osbuilder.image import mbr` imports the module osbuilder.image.mbr
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below a node and can run: all but the bodies of `if TYPE_CHECKING`. Expressions hold no import."""
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        children = node.orelse
    for child in children:
        if not isinstance(child, ast.expr):
            yield child
            yield from _running_nodes(child)
