"""Runs one command in an engine, in a process of its own: `python -m tests.integration.engine_driver ORDER.json`.

For what must happen to another user or to a process that is killed. The order is what `order` returns; the result goes
to stdout as JSON: {"error": class name or null, "message", "status", "tail"}.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from osbuilder.engine.base import Builder, Command, Mounts
from osbuilder.errors import CommandFailed, OsbuilderError

if TYPE_CHECKING:
    from osbuilder.engine.base import Engine


def make_engine(spec: Mapping[str, str]) -> Engine:
    """Return the engine of a spec: {"kind": "sandbox", "trees"} or {"kind": "api", "url", "transfer"}."""
    if spec["kind"] == "sandbox":
        from osbuilder.engine.sandbox import SandboxEngine

        return SandboxEngine(trees=Path(spec["trees"]))
    from osbuilder.engine.daemon import Endpoint
    from osbuilder.engine.docker import DockerEngine
    from osbuilder.settings import Transfer

    return DockerEngine(Endpoint(url=spec["url"]), store_id="tests", transfer=Transfer(spec["transfer"]))


def order(
    spec: Mapping[str, str], builder: Builder, command: Command, mounts: Mounts, *, log: Path, label: str, **more: Any
) -> dict[str, Any]:
    """Return an order as JSON data; `more`: timeout_s, or `sweep`, the folder to sweep instead."""
    return {
        "engine": dict(spec),
        "builder": {"name": builder.name, "tar": str(builder.tar), "sha256": builder.sha256},
        "command": dataclasses.asdict(command),
        "inputs": {name: str(path) for name, path in mounts.inputs.items()},
        "caches": {name: str(path) for name, path in mounts.caches.items()},
        "output": str(mounts.output),
        "work": str(mounts.work),
        "log": str(log),
        "label": label,
        **more,
    }


def obey(data: Mapping[str, Any], *, stop_on_sigterm: bool = False) -> dict[str, Any]:
    """Run what an order says and return the result."""
    engine = make_engine(data["engine"])

    def stop(number: int, frame: FrameType | None) -> None:
        engine.stop()

    if stop_on_sigterm:
        signal.signal(signal.SIGTERM, stop)
    builder = Builder(**{**data["builder"], "tar": Path(data["builder"]["tar"])})
    fields: dict[str, Any] = {
        name: tuple(map(_tuple, value)) if isinstance(value, list) else value for name, value in data["command"].items()
    }
    mounts = Mounts(
        inputs={name: Path(path) for name, path in data["inputs"].items()},
        caches={name: Path(path) for name, path in data["caches"].items()},
        output=Path(data["output"]),
        work=Path(data["work"]),
    )
    try:
        if "sweep" in data:
            engine.sweep(data["label"], Path(data["sweep"]))
            return {"error": None, "message": "", "status": 0, "tail": ""}
        engine.prepare(builder)
        engine.run(
            builder,
            Command(**fields),
            mounts,
            log=Path(data["log"]),
            label=data["label"],
            timeout_s=data.get("timeout_s"),
        )
    except OsbuilderError as error:
        failed = error if isinstance(error, CommandFailed) else None
        return {
            "error": type(error).__name__,
            "message": str(error),
            "status": failed.status if failed else None,
            "tail": failed.tail if failed else "",
        }
    return {"error": None, "message": "", "status": 0, "tail": ""}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    json.dump(obey(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), stop_on_sigterm=True), sys.stdout)
