"""What can be done with locks beside building from them: make one, compare it with the mirrors, fetch what it needs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder import decode, packageplan, show
from osbuilder.agents.pin import NO_OPTIONS, AgentOptions
from osbuilder.arch import host_arch, parse_arch
from osbuilder.distro.adapters import locker_of
from osbuilder.distro.choice import Selection, choose, select_packages
from osbuilder.distro.lock import (
    FOLDER,
    RESOLVED,
    Difference,
    Lock,
    Resolved,
    find_request,
    load_lock,
    lock_path,
    read_lock,
    write_lock,
)
from osbuilder.distro.recipe import PackageManager
from osbuilder.errors import Interrupted, LockMoved, OsbuilderError, UsageError
from osbuilder.launch import emulator
from osbuilder.request import AgentRequest, BuildRequest, HeadersRequest, KernelRequest, RootfsRequest
from osbuilder.rootfs.selinux import FEATURE as SELINUX
from osbuilder.step import Step, is_online

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from osbuilder.api import Workbench
    from osbuilder.distro.choice import Choice


class Locks:
    """The locks of one workbench's checkout."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def write(self, request: RootfsRequest) -> tuple[Path, Lock]:
        """Lock what the mirrors have now for a request; without an init, for each that the distribution offers.

        Raises PlanError for a distribution that cannot be locked, and whatever resolving its packages raises.
        """
        choice = self._bench.planner.choice(request)
        path = lock_path(self._bench.planner.distros, choice)
        lock = self._resolve(choice, self._requests(request))
        write_lock(path, lock)
        return path, lock

    def difference(self, request: RootfsRequest) -> Difference:
        """Return what `write` would change in the lock there is. Raises PlanError when there is none."""
        planner = self._bench.planner
        choice = planner.choice(request)
        lock = read_lock(planner.distros, choice)
        return Difference.between(lock.packages, self._resolve(choice, self._requests(request)).packages)

    def describe(self, request: RootfsRequest) -> str:
        """Return what would be asked of which mirrors; runs nothing."""
        choice = self._bench.planner.choice(request)
        step = self._step(choice, self._requests(request))
        return "\n".join((lock_path(self._bench.planner.distros, choice).name, *step.action.describe()))

    def explained(self, request: RootfsRequest, moved: LockMoved) -> LockMoved:
        """Return the error of packages that moved with what the mirrors have instead, where they can say it.

        `request` is the root filesystem's as it was built. Raises Interrupted.
        """
        planner = self._bench.planner
        choice = planner.choice(request)
        packages = select_packages(choice, features=request.all_features, extra=request.packages).everything
        try:
            lock = find_request(load_lock(planner.distros, choice), choice, packages)
            now = self._resolve(choice, (packages,)).packages
        except Interrupted:
            raise
        except OsbuilderError:
            # The mirrors say no more: what moved is told as it is.
            return moved
        rows = [row for row in Difference.between(lock, now).rows if row[0] in moved.packages]
        told = [
            f"\n  {name} is {new.version} there now" if new else f"\n  {name} is not needed any more"
            for name, _, new in rows
        ]
        return LockMoved(moved.message + "".join(told), packages=moved.packages, hint=moved.hint)

    # -- fetching --------------------------------------------------------------------------------------------------

    def fetch(self, requests: Iterable[BuildRequest]) -> tuple[str, ...]:
        """Put into the store what needs a network: all that these requests take from outside; returns what that is.

        Of a distribution it is what locked builds take; with a kernel comes what boots it. Raises PlanError for a
        distribution without a lock, and whatever getting it raises.
        """
        needed = self._online(requests)
        for step in needed.values():
            self._bench.executor.run(step)
        return tuple(needed)

    def describe_fetch(self, requests: Iterable[BuildRequest]) -> str:
        """Return what `fetch` would do, a step and its commands after the other; runs nothing."""
        steps = self._online(requests).values()
        return show.plan_text(
            steps, {ident: known for step in steps for ident, known in self._bench.peek(step).items()}
        )

    def _online(self, requests: Iterable[BuildRequest]) -> dict[str, Step]:
        """Return the steps of these requests that need a network, by what they make."""
        steps = (step for request in requests for step in self._needed(request))
        return {step.ident: step for step in steps if is_online(step.action)}

    def locked_requests(
        self, agent: str | None = None, options: AgentOptions = NO_OPTIONS
    ) -> tuple[RootfsRequest, ...]:
        """Return a request for each lock of the checkout. Raises UsageError for none, DecodeError for a bad file."""
        distros = self._bench.planner.distros
        locks = [decode.load(path, Lock) for path in sorted(distros.glob(f"*/{FOLDER}/*.json"))]
        if not locks:
            raise UsageError(
                f"nothing is locked ({distros}/*/{FOLDER})", hint="Lock a distribution: inv lock --distro NAME"
            )
        return tuple(
            RootfsRequest(
                distro=each.distro,
                release=each.release,
                arch=each.arch,
                agent=agent,
                agent_options=options,
                locked=True,
            )
            for each in locks
        )

    def _needed(self, request: BuildRequest) -> Iterator[Step]:
        planner = self._bench.planner
        if isinstance(request, KernelRequest | HeadersRequest | AgentRequest):
            yield from planner.plan(request).walk()
            if isinstance(request, KernelRequest) and (step := self._emulator(request)):
                yield step
            return
        rootfs = request if isinstance(request, RootfsRequest) else request.rootfs
        choice = planner.choice(rootfs)
        for supply in planner.supplies(rootfs):
            yield from supply.walk()
        if choice.recipe.package_manager is not PackageManager.NONE:
            lock = load_lock(planner.distros, choice)
            for packages in lock.requests:
                yield packageplan.plan_fetching(planner, choice, lock, packages)
                if packageplan.has_policy(choice, packages):
                    yield planner.builder(SELINUX)

    def _emulator(self, request: KernelRequest) -> Step | None:
        return emulator(self._bench, parse_arch(request.arch) if request.arch else host_arch())

    # -- resolving -------------------------------------------------------------------------------------------------

    def _requests(self, request: RootfsRequest) -> tuple[tuple[str, ...], ...]:
        """Return the packages that a request names, for each init."""
        planner = self._bench.planner
        choice = planner.choice(request)
        inits = (choice.init,) if request.init else choice.recipe.inits
        choices = [choose(choice.recipe, release=choice.release_name, arch=choice.arch, init=init) for init in inits]
        found = (
            select_packages(each, features=request.all_features, extra=request.packages).everything for each in choices
        )
        return tuple(dict.fromkeys(found))

    def _resolve(self, choice: Choice, requests: tuple[tuple[str, ...], ...]) -> Lock:
        artifact = self._bench.executor.run(self._step(choice, requests))
        return Lock.of(choice, requests, Resolved.read(artifact.path(RESOLVED)))

    def _step(self, choice: Choice, requests: tuple[tuple[str, ...], ...]) -> Step:
        planner = self._bench.planner
        order = packageplan.order_of(planner, choice, Selection(default=(), extra=()))
        return Step(
            name="lock",
            subject=f"{choice.label}-{choice.arch.name}",
            action=locker_of(order).resolve(order, requests, secrets.token_hex(8)),
            builder=packageplan.package_builder(planner, choice.recipe),
        )
