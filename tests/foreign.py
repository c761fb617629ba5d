"""Roots of other architectures, installed anew whatever the store has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.foreign import CarryOver
from osbuilder.request import RootfsRequest
from osbuilder.step import Step

if TYPE_CHECKING:
    from osbuilder.api import Workbench

# What dpkg and dpkg-divert keep of the state before their last change; no root filesystem has them in the end.
BACKUPS: Final = frozenset({"var/lib/dpkg/diversions-old", "var/lib/dpkg/status-old"})


def anew(bench: Workbench, request: RootfsRequest, nonce: str, packages: tuple[str, ...] | None = None) -> Step:
    """Return the step that installs a request's packages (or others), under a key that no other nonce has."""
    step = next(each for each in bench.planner.plan(request).walk() if each.name == "packages" and _asked(each, bench))
    return _again(step, nonce, packages)


def _asked(step: Step, bench: Workbench) -> bool:
    """Say whether a step is what the setting asks for, and no twin."""
    return isinstance(step.action, CarryOver) is (bench.planner.settings.foreign.value == "carried")


def _again(step: Step, nonce: str, packages: tuple[str, ...] | None) -> Step:
    action = step.action
    spec = action.of if isinstance(action, CarryOver) else action
    assert isinstance(spec, Bootstrap)
    # The comment reaches no file.
    spec = dataclasses.replace(spec, hook=f"{spec.hook}# {nonce}\n", packages=packages or spec.packages)
    return dataclasses.replace(
        step,
        subject=f"test-{step.subject}",
        action=dataclasses.replace(action, of=spec) if isinstance(action, CarryOver) else spec,
        inputs=tuple((name, _again(each, nonce, packages)) for name, each in step.inputs),
    )
