from __future__ import annotations

import shlex
from typing import Any

from osbuilder.engine.container import Bind, Container


class FakeClient:
    """Keeps what it is asked to create."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}

    def create_host_config(self, **config: Any) -> dict[str, Any]:
        self.config = config
        return config

    def create_container(self, image: str, argv: list[str], **fields: Any) -> None:
        self.fields = {"image": image, "argv": argv, **fields}


def _container(**changes: Any) -> Container:
    fields: dict[str, Any] = {
        "name": "osbuilder-x",
        "image": "osbuilder/builder-x:1",
        "argv": ("true",),
        "uid": 1000,
        "gid": 1000,
        "binds": (
            Bind(source="/host/in", target="/in/a", read_only=True),
            Bind(source="volume", target="/work", volume=True),
        ),
        "labels": (("osbuilder.label", "key"),),
    }
    return Container(**fields | changes)


def _created(container: Container) -> FakeClient:
    client = FakeClient()
    container.create(client)  # type: ignore[arg-type]
    return client


def test_a_container_is_closed_by_default() -> None:
    client = _created(_container())
    config = client.config
    assert config["read_only"] is True
    assert config["cap_drop"] == ["ALL"]
    assert config["cap_add"] == []
    assert config["security_opt"] == ["no-new-privileges"]
    assert config["network_mode"] == "none"
    assert config["ipc_mode"] == "private"
    assert "privileged" not in config
    assert "userns_mode" not in config
    assert client.fields["hostname"] == "builder"
    assert client.fields["user"] == "1000:1000"
    assert client.fields["labels"] == {"osbuilder.label": "key"}


def test_inputs_are_mounted_read_only_and_volumes_are_not_filled_from_the_image() -> None:
    bound, volume = _created(_container()).config["mounts"]
    assert (bound["Type"], bound["ReadOnly"]) == ("bind", True)
    assert (volume["Type"], volume["VolumeOptions"]) == ("volume", {"NoCopy": True})


def test_what_a_daemon_wants_is_given_to_it() -> None:
    config = _created(_container(host_ids=True, unlabelled=True, network=True, capabilities=("CHOWN",))).config
    assert config["userns_mode"] == "host"
    assert config["security_opt"] == ["no-new-privileges", "label=disable"]
    assert config["network_mode"] == "default"
    assert config["cap_add"] == ["CHOWN"]


def test_whoever_uses_a_device_belongs_to_its_group() -> None:
    config = _created(_container(devices=("/dev/null",))).config
    assert config["devices"] == ["/dev/null:/dev/null:rw"]
    assert config["group_add"] == ["0"]


def test_the_command_line_asks_for_the_same_container() -> None:
    line = _container(argv=("sh", "-c", "echo 'a b'"), tmpfs=("/tmp",)).command_line(("docker", "--host", "unix:///s"))
    assert shlex.split(line) == [
        *("docker", "--host", "unix:///s", "run", "--rm", "--init", "--hostname", "builder", "--user", "1000:1000"),
        *("--workdir", "/", "--read-only", "--cap-drop", "ALL", "--ipc", "private"),
        *("--security-opt", "no-new-privileges", "--network", "none"),
        *("--tmpfs", "/tmp:rw,exec,dev,nosuid,mode=1777"),
        *("--mount", "type=bind,source=/host/in,target=/in/a,readonly"),
        *("--mount", "type=volume,source=volume,target=/work"),
        *("osbuilder/builder-x:1", "sh", "-c", "echo 'a b'"),
    ]
