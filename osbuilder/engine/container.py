"""One container as data: what the API is asked to create, and the command line that asks for the same by hand."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, Final

from docker.api.client import APIClient
from docker.types import LogConfig, Mount

from osbuilder.engine import base

# In a container every mount but these is read-only. `dev` lets a package's scripts use the /dev/null that was made for
# them in a target on tmpfs; the devices that can be opened stay the few of the container's cgroup.
_TMPFS_OPTIONS: Final = "rw,exec,dev,nosuid,mode=1777"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host path or a volume of the daemon, shown at `target`."""

    source: str
    target: str
    volume: bool = False
    read_only: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container to be: always with a read-only root, no capabilities but those named, no new privileges, removed.

    `uid` and `gid` are as seen inside. `labels` are key=value pairs by which it is found again.
    """

    name: str
    image: str
    argv: tuple[str, ...]
    uid: int = 0
    gid: int = 0
    workdir: str = "/"
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[str, ...] = base.SCRATCH
    capabilities: tuple[str, ...] = ()
    network: bool = False
    devices: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    init: bool = True
    host_ids: bool = False
    unlabelled: bool = False
    writable: bool = False

    @property
    def security(self) -> tuple[str, ...]:
        """Security options: setuid programs give nothing; SELinux does not refuse what is mounted."""
        return ("no-new-privileges", "label=disable") if self.unlabelled else ("no-new-privileges",)

    @property
    def device_groups(self) -> tuple[int, ...]:
        """The groups that own the devices: whoever runs the command must belong to them."""
        return tuple(sorted({Path(device).stat().st_gid for device in self.devices}))

    def create(self, client: APIClient) -> None:
        """Create it, without starting it. Raises what docker.errors has."""
        client.create_container(
            self.image,
            list(self.argv),
            name=self.name,
            hostname=base.HOSTNAME,
            user=f"{self.uid}:{self.gid}",
            working_dir=self.workdir,
            labels=dict(self.labels),
            host_config=client.create_host_config(**self._host_config()),
        )

    def _host_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "mounts": [
                # no_copy: an empty volume would take its owner and mode from the image's folder again.
                Mount(bind.target, bind.source, "volume", read_only=bind.read_only, no_copy=True)
                if bind.volume
                else Mount(bind.target, bind.source, "bind", read_only=bind.read_only)
                for bind in self.binds
            ],
            "tmpfs": dict.fromkeys(self.tmpfs, _TMPFS_OPTIONS),
            "read_only": not self.writable,
            "cap_drop": ["ALL"],
            "cap_add": list(self.capabilities),
            "security_opt": list(self.security),
            "network_mode": "default" if self.network else "none",
            "ipc_mode": "private",
            "init": self.init,
            "devices": [f"{device}:{device}:rw" for device in self.devices],
            "group_add": [str(group) for group in self.device_groups],
            "log_config": LogConfig(type="none"),
        }
        if self.host_ids:
            config["userns_mode"] = "host"
        return config

    def command_line(self, program: tuple[str, ...]) -> str:
        """Return the line for a shell: `program` is docker or podman, with the options that reach the daemon."""
        argv = [*program, "run", "--rm", "--init", "--hostname", base.HOSTNAME, "--user", f"{self.uid}:{self.gid}"]
        argv += ["--workdir", self.workdir, "--read-only", "--cap-drop", "ALL", "--ipc", "private"]
        argv += [word for name in self.capabilities for word in ("--cap-add", name)]
        argv += [word for option in self.security for word in ("--security-opt", option)]
        argv += [] if self.network else ["--network", "none"]
        argv += [word for path in self.tmpfs for word in ("--tmpfs", f"{path}:{_TMPFS_OPTIONS}")]
        argv += [word for device in self.devices for word in ("--device", device)]
        argv += [word for group in self.device_groups for word in ("--group-add", str(group))]
        argv += ["--userns", "host"] if self.host_ids else []
        for bind in self.binds:
            fields = f"type={'volume' if bind.volume else 'bind'},source={bind.source},target={bind.target}"
            argv += ["--mount", fields + (",readonly" if bind.read_only else "")]
        return shlex.join([*argv, self.image, *self.argv])
