"""The engines' fixtures, once for all modules: a user and a Podman service are made one time a session."""

from tests.integration.engines import docker_url, engine_builder, engine_name, ground, podman_url, room, stranger

__all__ = ["docker_url", "engine_builder", "engine_name", "ground", "podman_url", "room", "stranger"]
