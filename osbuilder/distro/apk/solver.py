"""Which packages a list of wishes means: dependencies, provided names, conflicts, install_if. Pure and deterministic.

Follows apk's rules (apk-world(5), apk-package(5)):

- a name is met by the package of that name or by one that provides it; of a name with a version there is one provider
- a name that is provided without a version is only chosen by itself where a provider_priority says so
- among several, the highest version of the name is taken, then the highest priority, then the first repository, then
  the first name
- a package with install_if comes when everything in it is there, if it can

Where a choice leads nowhere the next one is tried, so an order of preference never hides a solution.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Final

from osbuilder.distro.apk.index import Catalogue, Dependency, Package, Provide
from osbuilder.distro.apk.version import compare
from osbuilder.errors import UsageError, suggest

# Real repositories need a handful of second choices; this many means that two large groups exclude each other.
_MAX_DEAD_ENDS: Final = 2000

Chain = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Need:
    """A dependency, and who asks for it: the wish first."""

    dependency: Dependency
    chain: Chain


@dataclasses.dataclass(frozen=True, slots=True)
class _DeadEnd:
    """Why something cannot be had, and the chain that leads there; unless `final`, another package may yet help."""

    what: str
    chain: Chain
    final: bool = True


@dataclasses.dataclass(slots=True)
class _State:
    """What is decided so far: the packages in the order of their choice, who provides what, and who excludes what."""

    selected: dict[str, tuple[Package, Chain]] = dataclasses.field(default_factory=dict)
    provided: dict[str, tuple[tuple[Package, Provide], ...]] = dataclasses.field(default_factory=dict)
    excluded: dict[str, tuple[tuple[Package, Dependency], ...]] = dataclasses.field(default_factory=dict)
    queue: collections.deque[_Need] = dataclasses.field(default_factory=collections.deque)
    # Needs of names that nobody is chosen for by himself: something else may bring a provider yet.
    waiting: list[tuple[_Need, _DeadEnd]] = dataclasses.field(default_factory=list)

    def copy(self) -> _State:
        return _State(
            dict(self.selected),
            dict(self.provided),
            dict(self.excluded),
            collections.deque(self.queue),
            list(self.waiting),
        )

    def is_met(self, dependency: Dependency) -> bool:
        return any(dependency.is_met_by(provide) for _, provide in self.provided.get(dependency.name, ()))

    def clash(self, package: Package) -> str:
        """Return why a package cannot join what is selected, or ""."""
        for provide in (Provide(package.name, package.version), *package.provides):
            for other, theirs in self.provided.get(provide.name, ()):
                if theirs.version is not None and provide.version is not None and other is not package:
                    return f"{package} and {other} both provide {provide.name}"
            for other, conflict in self.excluded.get(provide.name, ()):
                if conflict.is_met_by(provide):
                    return f"{other} excludes {package} ({conflict})"
        for dependency in package.depends:
            for other, provide in self.provided.get(dependency.name, ()) if dependency.conflict else ():
                if dependency.is_met_by(provide):
                    return f"{package} excludes {other} ({dependency})"
        return ""

    def select(self, package: Package, chain: Chain) -> None:
        self.selected[package.name] = (package, chain)
        here = (*chain, str(package))
        for provide in (Provide(package.name, package.version), *package.provides):
            self.provided[provide.name] = (*self.provided.get(provide.name, ()), (package, provide))
        for dependency in package.depends:
            if dependency.conflict:
                self.excluded[dependency.name] = (*self.excluded.get(dependency.name, ()), (package, dependency))
            else:
                self.queue.append(_Need(dependency, here))


def solve(catalogue: Catalogue, wishes: Sequence[str], *, repositories: str) -> tuple[Package, ...]:
    """Return the packages to install, each after those that it depends on where that can be.

    `repositories` says in messages where was looked. Raises UsageError for a wish that does not exist or cannot be met,
    with the chain of dependencies that leads to the obstacle.
    """
    for wish in wishes:
        if wish not in catalogue:
            raise UsageError(
                f"package {wish} does not exist in {repositories}",
                hint=suggest(wish, _near(wish, catalogue))
                + " Correct the name (--package), or add the repository that "
                "holds it (setting components).",
            )
    search = _Search(catalogue, repositories)
    state = _State(queue=collections.deque(_Need(Dependency(wish), ()) for wish in sorted(wishes)))
    state = search.settle(state)
    state = _add_installed_if(search, catalogue, state)
    return _ordered(state)


class _Search:
    """Depth first, with the first dead end remembered: it is the one that the preferred choices ran into."""

    def __init__(self, catalogue: Catalogue, repositories: str) -> None:
        self._catalogue = catalogue
        self._repositories = repositories

    def settle(self, state: _State) -> _State:
        """Return the state with its queue worked off. Raises UsageError."""
        choices: list[tuple[_State, _Need, tuple[Package, ...]]] = []
        first: _DeadEnd | None = None
        for _ in range(_MAX_DEAD_ENDS):
            dead_end = self._work_off(state, choices)
            if dead_end is None:
                return state
            first = first or dead_end
            if not choices:
                break
            state, need, candidates = choices.pop()
            self._choose(state, need, candidates, choices)
        raise _explain(first or _DeadEnd("there are too many choices", ()), self._repositories)

    def _work_off(self, state: _State, choices: list[tuple[_State, _Need, tuple[Package, ...]]]) -> _DeadEnd | None:
        while state.queue:
            need = state.queue.popleft()
            if state.is_met(need.dependency):
                continue
            candidates, dead_end = self._candidates(state, need)
            if dead_end and dead_end.final:
                return dead_end
            if dead_end:
                state.waiting.append((need, dead_end))
            else:
                self._choose(state, need, candidates, choices)
        return next((dead_end for need, dead_end in state.waiting if not state.is_met(need.dependency)), None)

    def _choose(
        self,
        state: _State,
        need: _Need,
        candidates: tuple[Package, ...],
        choices: list[tuple[_State, _Need, tuple[Package, ...]]],
    ) -> None:
        """Select the first candidate, and remember the others for when that leads nowhere."""
        if len(candidates) > 1:
            choices.append((state.copy(), need, candidates[1:]))
        state.select(candidates[0], need.chain)

    def _candidates(self, state: _State, need: _Need) -> tuple[tuple[Package, ...], _DeadEnd | None]:
        """Return who could meet a need, the preferred one first, or why nobody can."""
        name = need.dependency.name
        known = self._catalogue.answering(name)
        fitting = [
            package for package in known if any(need.dependency.is_met_by(provide) for provide in package.answers(name))
        ]
        eligible = [package for package in fitting if _is_chosen_by_itself(package, name)]
        if not eligible:
            return (), _DeadEnd(_why_nobody(need.dependency, known, fitting), need.chain, final=not fitting)
        clashes = [state.clash(package) for package in eligible]
        free = [package for package, clash in zip(eligible, clashes, strict=True) if not clash]
        if not free:
            return (), _DeadEnd("; ".join(sorted(set(clashes))), need.chain)
        return tuple(sorted(free, key=functools.cmp_to_key(functools.partial(_prefer, name)))), None


def _is_chosen_by_itself(package: Package, name: str) -> bool:
    return package.priority > 0 or any(provide.version is not None for provide in package.answers(name))


def _prefer(name: str, left: Package, right: Package) -> int:
    """Order two packages that answer to a name, the better one first."""
    by_name = compare(_answered_version(right, name), _answered_version(left, name))
    by_version = compare(right.version, left.version) if left.name == right.name else 0
    rank, other = (-left.priority, left.repository, left.name), (-right.priority, right.repository, right.name)
    return by_name or by_version or (-1 if rank < other else 1)


def _answered_version(package: Package, name: str) -> str:
    versions = [provide.version for provide in package.answers(name) if provide.version is not None]
    return max(versions, key=functools.cmp_to_key(compare), default="0")


def _why_nobody(dependency: Dependency, known: Sequence[Package], fitting: Sequence[Package]) -> str:
    if fitting:
        names = ", ".join(sorted(str(package) for package in fitting))
        return f"{dependency} is only a name that others provide ({names}), and none of them is the default"
    if known:
        return f"{dependency} is asked for, there is {', '.join(sorted(str(package) for package in known))}"
    return f"nothing provides {dependency}"


def _explain(dead_end: _DeadEnd, repositories: str) -> UsageError:
    chain = " -> ".join(dead_end.chain)
    return UsageError(
        f"the packages cannot be installed together from {repositories}: {dead_end.what}"
        + (f" (needed by {chain})" if chain else ""),
        hint="Name the package that is meant or leave one out (--package), or name a mirror that is complete "
        "(setting mirrors).",
    )


def _add_installed_if(search: _Search, catalogue: Catalogue, state: _State) -> _State:
    """Add the packages whose install_if is met, until there are no more; one that cannot be had stays out."""
    refused: set[str] = set()
    while True:
        found = _next_installed_if(catalogue, state, refused)
        if found is None:
            return state
        trial = state.copy()
        trial.select(found, (f"install_if of {found.name}",))
        try:
            state = search.settle(trial)
        except UsageError:
            refused.add(found.name)


def _next_installed_if(catalogue: Catalogue, state: _State, refused: set[str]) -> Package | None:
    met = {
        package.name: package
        for name in state.provided
        for package in catalogue.installed_if(name)
        if package.name not in state.selected
        and package.name not in refused
        and all(_holds(state, dependency) for dependency in package.install_if)
        and not state.clash(package)
    }
    return met[min(met)] if met else None


def _holds(state: _State, dependency: Dependency) -> bool:
    return state.is_met(dependency) is not dependency.conflict


def _ordered(state: _State) -> tuple[Package, ...]:
    """Return the packages, dependencies before those that need them; a circle is cut where it was entered."""
    done: dict[str, Package] = {}
    for root in sorted(state.selected):
        stack: list[tuple[Package, Iterable[Package]]] = []
        seen = {root}
        package = state.selected[root][0]
        stack.append((package, iter(_needed(state, package))))
        while stack:
            package, needed = stack[-1]
            following = next((other for other in needed if other.name not in seen and other.name not in done), None)
            if following is None:
                done.setdefault(package.name, package)
                stack.pop()
            else:
                seen.add(following.name)
                stack.append((following, iter(_needed(state, following))))
    return tuple(done.values())


def _needed(state: _State, package: Package) -> list[Package]:
    found = {
        other.name: other
        for dependency in package.depends
        if not dependency.conflict
        for other, provide in state.provided.get(dependency.name, ())
        if dependency.is_met_by(provide)
    }
    return [found[name] for name in sorted(found)]


def _near(wish: str, catalogue: Catalogue) -> list[str]:
    """Return the names that a mistyped wish may have meant: a few, for a list of all would run over pages."""
    import difflib

    return difflib.get_close_matches(wish, [name for name in catalogue.names() if ":" not in name], n=3)
