"""A folder like kernel/configs, with what a test puts into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from osbuilder.arch import parse_arch
from osbuilder.kernel.catalogue import load_catalogue
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.selection import Selection, select

_X86_64 = parse_arch("x86_64")
_FILES = {
    "capabilities.yaml": "capabilities: {speed: {purpose: To be fast, probes: [fast]}}\n",
    "consumers.yaml": "consumers: {anyone: {purpose: Whoever boots it, requires: []}}\n",
    "history.yaml": "symbols: {}\n",
    "waivers.yaml": "waivers: []\n",
    "variant/base/variant.yaml": "{purpose: The usual, consumers: [anyone]}\n",
}


def write_configs(root: Path, files: Mapping[str, str]) -> Path:
    """Write `files` below `root`, and what every such folder has where they have none of it. Returns `root`."""
    for name, text in {**_FILES, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def capabilities(*names: str, extra: str = "") -> str:
    """Return a capabilities.yaml; `extra` are further lines of each capability, indented by four."""
    return "capabilities:\n" + "".join(f"  {name}:\n    purpose: p\n    probes: [p]\n{extra}" for name in names)


def chosen(root: Path, files: Mapping[str, str], version: str = "6.12.117", variant: str = "base") -> Selection:
    """Return what an x86_64 kernel is asked for by such a folder."""
    return select(load_catalogue(write_configs(root, files)), _X86_64, KernelVersion.parse(version), variant)


def asked(selection: Selection) -> list[str]:
    """Return the requests of a kernel, in their order."""
    return [str(request) for request in selection.requests]
