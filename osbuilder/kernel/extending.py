"""Variants that extend another one: what they have of it, and what they may not say.

Everything that a variant.yaml says adds to what is extended. It takes nothing away, says nothing twice, and only
`consumers` and `lines` are instead of those that it would inherit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.arch import ARCHES
from osbuilder.errors import FragmentError, OsbuilderError, UsageError, suggest
from osbuilder.kernel.conditions import ArchName
from osbuilder.kernel.placement import VARIANT_FILE, declaration

if TYPE_CHECKING:
    from osbuilder.kernel.catalogue import UsualLine, Variant


def lineage(written: Mapping[str, Variant], name: str) -> tuple[str, ...]:
    """Return a variant's name after those that it extends, the first of which extends none."""
    found = [name]
    while (further := written[found[0]].extends) is not None:
        found.insert(0, further)
    return tuple(found)


def flattened(
    written: Mapping[str, Variant], unfinished: Mapping[str, OsbuilderError], root: Path
) -> tuple[dict[str, Variant], dict[str, OsbuilderError]]:
    """Return each variant with all that it has of those that it extends, and what is wrong with those that cannot be.

    `unfinished` are others that cannot be used, so that what extends them cannot, either; `root` is kernel/configs.
    Wrong, with file:line, are an unknown name, a circle, a contradiction, and what is said twice.
    """
    variants: dict[str, Variant] = {}
    wrong = dict(unfinished)
    for name in written:
        try:
            _add(variants, written, unfinished, _Place(root, name), ())
        except (FragmentError, UsageError) as error:
            wrong[name] = error
    return {name: variants[name] for name in written if name in variants}, wrong


def _add(
    variants: dict[str, Variant],
    written: Mapping[str, Variant],
    unfinished: Mapping[str, OsbuilderError],
    where: _Place,
    way: tuple[str, ...],
) -> Variant:
    """Return a variant with all that it has, put into `variants`; `way` are those that extend it, in order."""
    own, way = written[where.name], (*way, where.name)
    if where.name in variants or own.extends is None:
        return variants.setdefault(where.name, own)
    if own.extends in unfinished:
        raise unfinished[own.extends]
    if own.extends not in written:
        hint = suggest(own.extends, (*written, *unfinished))
        raise where.error("extends", f"unknown kernel variant {own.extends!r}", hint=hint)
    if own.extends in way:
        raise where.error("extends", f"it goes in a circle: {' -> '.join((*way, own.extends))}")
    base = _add(variants, written, unfinished, _Place(where.root, own.extends), way)
    variants[where.name] = _merged(base, own, where)
    return variants[where.name]


def _merged(base: Variant, own: Variant, where: _Place) -> Variant:
    if own.only and not base.only:
        raise where.error("only", f"{own.extends} has all of the base", hint="Name what is to be without under drops.")
    dropped = {each.capability: each.reason for each in (*base.drops, *own.drops)}
    for each in (*base.brings, *own.brings):
        if each in dropped:
            key, other = ("brings", "drops") if each in own.brings else ("drops", "brings")
            raise where.error(key, f"{own.extends} {other} {each}", hint="Extend another variant, or leave it out.")
    for key, mine, there in (
        ("brings", own.brings, base.brings),
        ("only", own.only, base.only),
        ("drops", [each.capability for each in own.drops], [each.capability for each in base.drops]),
        ("capabilities", own.capabilities, base.capabilities),
        ("tools", own.tools, base.tools),
    ):
        where.check_new(key, mine, there, str(own.extends))
    excluded = (*base.excluded, *own.excluded)
    try:
        return dataclasses.replace(
            own,
            consumers=own.consumers or base.consumers,
            excluded=excluded,
            brings=(*base.brings, *own.brings),
            only=(*base.only, *own.only),
            drops=(*base.drops, *own.drops),
            capabilities={**base.capabilities, **own.capabilities},
            tools=(*base.tools, *own.tools),
            debug_info=base.debug_info or own.debug_info,
            modules=base.modules or own.modules,
            lines=own.lines or tuple(_lines_left(base, own)),
        )
    except ValueError as error:
        raise where.error("extends", str(error)) from error


def _lines_left(base: Variant, own: Variant) -> Iterator[UsualLine]:
    """Yield the lines that are inherited, without the architectures that the variant itself excludes."""
    gone = {arch for each in (*base.excluded, *own.excluded) if not each.kernel.bounds for arch in each.arches}
    for line in base.lines:
        left = tuple(arch for arch in line.arches or map(ArchName, ARCHES) if arch not in gone)
        if left:
            yield line if not gone else dataclasses.replace(line, arches=left)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """The declaration of one variant, for messages."""

    root: Path
    name: str

    def error(self, key: str, problem: str, *, hint: str = "") -> FragmentError:
        """Return an error about one of its keys, with the line."""
        text = (self.root / "variant" / self.name / VARIANT_FILE).read_text("utf-8-sig")
        found = re.search(rf"(?:^|[{{,])\s*{key}\s*:", text, re.MULTILINE)
        line = text.count("\n", 0, found.end()) + 1 if found else 1
        return FragmentError(f"{declaration(self.name)}:{line}: {key}: {problem}", hint=hint)

    def check_new(self, key: str, mine: Collection[str], there: Collection[str], base: str) -> None:
        """Refuse what is said again."""
        for each in mine:
            if each in there:
                raise self.error(key, f"{base} has {each} already", hint="Leave it out: what is extended is there.")
