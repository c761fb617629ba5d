"""What the listings look like: plans, settings, distributions, pins and the store, as text for a person."""

from __future__ import annotations

import itertools
import json
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osbuilder.arch import ARCHES
from osbuilder.settings import fields, without_login
from osbuilder.store import total_bytes

if TYPE_CHECKING:
    from osbuilder.distro.recipe import Recipe
    from osbuilder.settings import Settings
    from osbuilder.step import Step
    from osbuilder.store import Artifact, Store
    from osbuilder.versions import BuilderPin, Versions


def plan_text(steps: Iterable[Step], found: Mapping[str, Artifact | None]) -> str:
    """Return a plan as text: for each step what it reads, where it runs, what it does, and whether it has to."""
    paragraphs = []
    for number, step in enumerate(steps, 1):
        artifact = found[step.ident]
        state = f"in the store, key {artifact.key[:12]}" if artifact else "would run"
        head = f"{number}. {step.ident} ({state})"
        where = [f"reads {', '.join(item.ident for _, item in step.inputs)}"] if step.inputs else []
        where += [f"runs in builder {step.builder.subject}"] if step.builder else []
        body = [*where, *step.action.describe()]
        paragraphs.append("\n".join([head, *(f"   {line}" for line in body)]))
    return "\n".join(paragraphs)


def settings_text(settings: Settings) -> str:
    """Return each setting: name, value, origin, and what it means."""
    rows = [
        (
            field.name,
            "***" if field.metadata["secret"] and getattr(settings, field.name) else _value(settings, field.name),
            settings.origins[field.name],
            field.metadata["doc"],
        )
        for field in fields()
    ]
    return columns(("SETTING", "VALUE", "FROM", "MEANING"), rows)


def _value(settings: Settings, name: str) -> str:
    value = settings.store_path if name == "store" else getattr(settings, name)
    if isinstance(value, Mapping):
        text = " ".join(f"{key}={','.join(items)}" for key, items in value.items())
        # A registry's name and password come with its address.
        return re.sub(r"(?<=//)[^/?#\s]*@", "***@", text) or "-"
    if name.endswith("_proxy") and value:
        return without_login(str(value), "***@")
    if isinstance(value, bool):
        return str(value).lower()
    return str(getattr(value, "value", value if value is not None else "-"))


def distros_text(recipes: Mapping[str, Recipe]) -> str:
    """Return the distributions: releases (the default first, with what else they may be called), architectures, inits.

    Below stands which are retired.
    """
    rows = [
        (
            recipe.name,
            " ".join(_release_text(recipe, name) for name in _releases(recipe)),
            " ".join(recipe.arches),
            " ".join(init.value for init in recipe.inits),
            recipe.package_manager.value,
        )
        for recipe in recipes.values()
    ]
    table = columns(("DISTRO", "RELEASES", "ARCHITECTURES", "INITS", "PACKAGES BY"), rows)
    notes = [f"{recipe.name}: {recipe.retired}" for recipe in recipes.values() if recipe.retired]
    return "\n".join([table, *([""] if notes else []), *notes])


def _releases(recipe: Recipe) -> list[str]:
    return sorted(recipe.releases, key=lambda name: name != recipe.default_release)


def _release_text(recipe: Recipe, name: str) -> str:
    others = [text for text in recipe.other_names(name) if recipe.canonical(text) == name]
    return f"{name} ({', '.join(others)})" if others else name


def all_text(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return what became of each distribution: its name, "built", "failed" or "left out", seconds or size, and why."""
    return columns(("DISTRO", "RESULT", "SIZE", "FILE, OR WHAT IS WRONG"), rows)


def distros_json(recipes: Mapping[str, Recipe]) -> str:
    """Return the distributions as JSON, with the pairs of release and architecture that do not exist, and why."""
    found = {
        recipe.name: {
            "title": recipe.title,
            "package_manager": recipe.package_manager.value,
            "default_release": recipe.default_release,
            "releases": sorted(recipe.releases),
            "release_names": {name: list(recipe.other_names(name)) for name in sorted(recipe.releases)},
            "arches": list(recipe.arches),
            "excluded": [
                {"release": release, "arch": arch, "why": why}
                for release in sorted(recipe.releases)
                for arch in ARCHES
                if (why := recipe.why_excluded(release, arch))
            ],
            "aliases": list(recipe.aliases),
            "mirrors": list(recipe.mirrors),
            "inits": [init.value for init in recipe.inits],
            "features": dict(recipe.features),
        }
        for recipe in recipes.values()
    }
    return json.dumps(found, indent=1, sort_keys=True)


def versions_text(versions: Versions) -> str:
    """Return kernels, agents and builders with what they are made from; the defaults are marked."""
    rows = [("kernel", _marked(name, versions.defaults.kernel), str(line)) for name, line in versions.kernels.items()]
    rows += [("agent", _marked(name, versions.defaults.agent), str(pin)) for name, pin in versions.agents.items()]
    rows += [("builder", name, _builder_text(pin)) for name, pin in versions.builders.items()]
    return columns(("KIND", "NAME", "FROM"), rows)


def _builder_text(pin: BuilderPin) -> str:
    words = [f"{pin.suite}:", *pin.packages]
    return " ".join([*words, f"(+ {pin.for_guest.value})"] if pin.for_guest else words)


def options_text(kernels: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> str:
    """Return a table of kernels, by variant and architecture, from the facts of their configurations (None: no such).

    A cell is the number of options =y, and that of options =m where there are any; `-` where there is no such kernel.
    """
    variants, arches = (list(dict.fromkeys(pair[part] for pair in kernels)) for part in (0, 1))
    rows = [(name, *(_options(kernels.get((name, arch))) for arch in arches)) for name in variants]
    return columns(("VARIANT", *arches), rows)


def _options(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "-"
    return f"{facts['options_y']} =y" + (f", {facts['options_m']} =m" if facts["options_m"] else "")


def store_text(store: Store) -> str:
    """Return the store's artifacts by target with what they take on disk, and its other folders."""
    by_target: dict[str, tuple[int, int]] = {}
    for artifact in store.artifacts():
        count, size = by_target.get(artifact.manifest["ident"], (0, 0))
        by_target[artifact.manifest["ident"]] = (count + 1, size + disk_bytes(artifact.folder))
    rows = [(name, str(count), _mib(size)) for name, (count, size) in sorted(by_target.items())]
    for name in ("caches", "downloads", "logs", "trees"):
        folder = store.folder(name)
        rows.append((f"{name}/", str(len(list(folder.iterdir()))), _mib(disk_bytes(folder))))
    return columns(("TARGET", "COUNT", "DISK"), rows) + f"\n{store.root}"


def sizes_text(facts: Mapping[str, Any]) -> str:
    """Return a root filesystem's contents by folder, before and after it was made a guest's, and what was trimmed."""
    before, after = facts["before"], facts["after"]
    sizes = [{folder["path"]: folder["content_bytes"] for folder in report["folders"]} for report in (before, after)]
    names = sorted({*sizes[0], *sizes[1]}, key=lambda name: (-max(size.get(name, 0) for size in sizes), name))
    # Most of the root's folders are mount points: nothing in them, nothing to say.
    rows = [
        (name, *(_mib(size.get(name, 0)) for size in sizes)) for name in names if any(size.get(name) for size in sizes)
    ]
    total = ("total", _mib(before["content_bytes"]), _mib(after["content_bytes"]))
    trimmed = ", ".join(f"{group['what']} {_mib(group['content_bytes'])}" for group in facts["trimmed"])
    return columns(("FOLDER", "BEFORE", "AFTER"), [*rows, total]) + f"\ntrimmed: {trimmed}"


def disk_bytes(folder: Path) -> int:
    """Return the disk space that the files below a folder take, in bytes. Others may write to it meanwhile."""
    return total_bytes(Path(top, name) for top, _, names in os.walk(folder) for name in names)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def _marked(name: str, default: str) -> str:
    return f"{name} (default)" if name == default else name


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as text: each column as wide as its widest cell."""
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def wrapped(head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> str:
    """Return a table as text whose cells go on below, between blanks, where they are wider than `widths`."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) or [""]
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.extend(itertools.zip_longest(*cells, fillvalue=""))
    return columns(head, lines)
