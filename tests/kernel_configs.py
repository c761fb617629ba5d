"""A folder like kernel/configs, with what a test puts into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
