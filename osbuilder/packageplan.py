"""The part of planning that is about a distribution's packages: a choice of a recipe to the step that installs them.

Pure, as osbuilder.plan is, which hands packages over to it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.arch import host_arch
from osbuilder.distro.adapters import adapter_of, locker_of, plan_bootstrap
from osbuilder.distro.choice import Selection, select_packages
from osbuilder.distro.lock import find_request, load_lock, lock_command
from osbuilder.distro.order import Order
from osbuilder.distro.pool import FetchPackages
from osbuilder.distro.recipe import find_recipe
from osbuilder.errors import UsageError
from osbuilder.rootfs.selinux import FEATURE as SELINUX
from osbuilder.step import Step
from osbuilder.userpath import parse_path

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.distro.choice import Choice
    from osbuilder.distro.lock import Lock
    from osbuilder.distro.recipe import Recipe
    from osbuilder.pid1 import Init
    from osbuilder.plan import Planner


def plan(planner: Planner, choice: Choice, packages: Selection, *, locked: bool = False) -> Step:
    """Return the step whose artifact has the packages installed. Raises PlanError, for a lock that lacks them too."""
    if locked:
        return _plan_locked(planner, choice, packages)
    subject = subject_of(choice.label, choice.arch, choice.init)
    installation = plan_bootstrap(order_of(planner, choice, packages))
    inputs = []
    if installation.twin:
        inputs.append(("twin", plan(planner, dataclasses.replace(choice, arch=host_arch()), packages)))
    if installation.first:
        name, before = installation.first
        inputs.append((name, Step(name=name, subject=subject, action=before)))
    return Step(
        name="packages",
        subject=subject,
        action=installation.action,
        inputs=tuple(inputs),
        builder=planner.builder(installation.builder) if installation.builder else None,
    )


def _plan_locked(planner: Planner, choice: Choice, packages: Selection) -> Step:
    order = order_of(planner, choice, packages)
    locker = locker_of(order)
    lock = load_lock(planner.distros, choice)
    found = find_request(lock, choice, packages.everything)
    install = locker.install(order, lock, found)
    given = plan_fetching(planner, choice, lock, packages.everything)
    if locker.repository:
        action = locker.repository(found)
        given = Step(name="repository", subject=given.subject, action=action, inputs=((given.name, given),))
    return Step(
        name="packages",
        subject=subject_of(choice.label, choice.arch, choice.init),
        action=install,
        inputs=((given.name, given),),
        builder=package_builder(planner, choice.recipe) if locker.in_builder else None,
    )


def plan_fetching(planner: Planner, choice: Choice, lock: Lock, request: tuple[str, ...]) -> Step:
    """Return the step that fetches what a lock has for a request. Raises PlanError when it has not that one."""
    order = order_of(planner, choice, Selection(default=request, extra=()))
    locker = locker_of(order)
    plain = FetchPackages(
        packages=find_request(lock, choice, request),
        mirrors=locker.mirrors(order),
        subject=f"the lock of {lock.subject}",
        remedy=lock_command(choice),
    )
    return Step(
        name="locked",
        # A lock serves several inits, which may ask for the same packages.
        subject="-".join((choice.label, lock.arch, str(lock.requests.index(request)))),
        action=locker.fetch(order, plain),
    )


def order_of(planner: Planner, choice: Choice, packages: Selection) -> Order:
    """Return what the adapter of a choice's package manager is asked for."""
    recipe, settings = choice.recipe, planner.settings
    _check_names(planner)
    return Order(
        choice=choice,
        packages=packages,
        epoch=planner.epoch(recipe, choice.release_name),
        mirrors=named(settings.mirrors, recipe) or recipe.mirrors,
        archives=named(settings.archives, recipe),
        components=named(settings.components, recipe),
        keyring=_keyring(named(settings.keyrings, recipe), recipe),
        foreign=settings.foreign,
        timeout_s=settings.read_timeout_s,
        attempts=settings.attempts,
    )


def package_builder(planner: Planner, recipe: Recipe) -> Step | None:
    """Return the builder that a recipe's package manager runs in, if it needs one."""
    name = adapter_of(recipe.package_manager).builder
    return planner.builder(name) if name else None


def has_policy(choice: Choice, packages: tuple[str, ...]) -> bool:
    """Return whether a request for these packages has the SELinux policy that labels are taken from."""
    if SELINUX not in choice.recipe.features:
        return False
    return {*select_packages(choice, features=(SELINUX,), extra=()).everything} <= {*packages}


@functools.cache
def _check_names(planner: Planner) -> None:
    """Refuse a setting that is about a distribution which there is not: it would be about none."""
    for setting in ("mirrors", "archives", "components", "keyrings"):
        for name in getattr(planner.settings, setting):
            try:
                find_recipe(name, planner.distros)
            except UsageError as error:
                raise UsageError(f"setting {setting}: {error.message}", hint=error.hint) from None


def named(setting: Mapping[str, tuple[str, ...]], recipe: Recipe) -> tuple[str, ...]:
    """Return what a setting has for a distribution, by its name or an alias."""
    return next((tuple(setting[name]) for name in (recipe.name, *recipe.aliases) if name in setting), ())


def _keyring(files: tuple[str, ...], recipe: Recipe) -> Path | None:
    """Return the user's own keyring for a distribution's mirrors, if there is one (setting keyrings)."""
    if len(files) > 1:
        raise UsageError(f"setting keyrings: expected one file for {recipe.name}, got {len(files)}")
    return parse_path(files[0], "setting keyrings") if files else None


def subject_of(name: str, arch: Arch, init: Init | None) -> str:
    """Return what the steps of a guest are about; an extension has no init."""
    return f"{name}-{arch.name}-{init.value if init else 'extension'}"
