"""The steps of an agent that cargo compiles: source, (manifests,) crates, libraries, (std for musl,) agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

from osbuilder.agents.compile import BuildAgent
from osbuilder.agents.libraries import GuestLibraries, MuslStd
from osbuilder.agents.pin import AgentOptions, AgentPin, Libc, Recipe, choose
from osbuilder.agents.source import CratesTarball, Download, Manifests, Tree, VendorCrates
from osbuilder.arch import Arch, host_arch
from osbuilder.step import Action, Step
from osbuilder.userpath import parse_path

BUILDER: Final = "rust"
_SECCOMP: Final = "libseccomp-dev"
_STD: Final = "libstd-rust-web-dev"  # beside the builder's rustc-web


def plan_agent(
    name: str,
    pin: AgentPin,
    options: AgentOptions,
    arch: Arch,
    *,
    builder: Callable[[Arch], Step],
    root: Path,
) -> Step:
    """Return the step that makes an agent; a relative tree is looked up below `root`.

    `builder` gives the builder for an architecture of guests: what does not depend on one runs in the host's. Raises
    UsageError and PlanError for what cannot be, SourceError for a tree that is not there.
    """
    recipe = choose(name, pin, options, arch)
    host = host_arch()
    tools = builder(host)
    source = Step(name="agent-source", subject=name, action=_source(recipe, root), builder=tools)
    crates = _crates(name, recipe, source)
    musl = recipe.libc is Libc.MUSL
    foreign = arch is not host
    further = ("musl-dev",) if musl else (_STD,) if foreign else ()
    libraries = Step(
        name="agent-libraries",
        subject=f"{arch.name}-{recipe.libc.value}",
        action=GuestLibraries(arch=arch.name, native=host.debian, packages=(_SECCOMP, *further)),
        builder=tools,
    )
    compiler = builder(arch)
    inputs = [("source", source), ("crates", crates), ("libraries", libraries)]
    if musl:
        std = Step(
            name="agent-std",
            subject=arch.name,
            action=MuslStd(arch=arch.name),
            inputs=(("libraries", libraries),),
            builder=compiler,
        )
        inputs.append(("std", std))
    return Step(
        name="agent",
        subject=f"{name}-{arch.name}",
        action=BuildAgent(
            agent=name,
            install=recipe.install,
            arch=arch.name,
            libc=recipe.libc,
            folder=recipe.cargo.folder,
            features=recipe.features,
            seccomp=recipe.seccomp,
            sysroot=foreign and not musl,
            make=recipe.cargo.make,
            units=recipe.cargo.units,
            version_file=recipe.cargo.version_file,
            policy_file=recipe.policy_file,
        ),
        inputs=tuple(inputs),
        builder=compiler,
    )


def _source(recipe: Recipe, root: Path) -> Action:
    origin = recipe.source.download()
    if origin is not None:
        return Download(origin=origin)
    tree = (root / parse_path(recipe.source.tree or "", "tree")).resolve()
    return Tree.of_path(tree, recipe.cargo.folder)


def _crates(name: str, recipe: Recipe, source: Step) -> Step:
    crates = Step(
        name="agent-crates",
        subject=name,
        action=VendorCrates(agent=name, folder=recipe.cargo.folder),
        builder=source.builder,
    )
    if recipe.crates is not None:
        return dataclasses.replace(crates, action=CratesTarball(tarball=recipe.crates.tarball()))
    manifests = Step(
        name="agent-manifests",
        subject=name,
        action=Manifests(),
        inputs=(("source", source),),
        builder=source.builder,
    )
    return dataclasses.replace(crates, inputs=(("source", manifests),))
