"""Whom a command in a builder trusts on the network: the user's certificate authorities in the place of Debian's.

For every command that has a network, whatever it runs, like the proxies: no action has to know. Root sees them as
Debian's own bundle, which is what dnf, pacman and apt look at; others cannot have anything mounted there that they may
write to, and are told by variables. None of it is part of a key: who vouches for a server changes no byte of what is
verified by a signature or a sha256.

Sources: SSL_CERT_FILE of OpenSSL (SSL_CTX_set_default_verify_paths(3)), which apt is linked with; git(1); the Cargo
book, "Environment Variables". libcurl reads no variable, so that dnf and pacman need the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from osbuilder.engine.base import Command
from osbuilder.errors import UsageError

_INPUT: Final = "authorities"
_PATH: Final = f"/in/{_INPUT}"
_CERTIFICATES: Final = "/etc/ssl/certs"
_VARIABLES: Final = tuple((name, _PATH) for name in ("CARGO_HTTP_CAINFO", "GIT_SSL_CAINFO", "SSL_CERT_FILE"))
_INSTALL: Final = f'cp {_PATH} {_CERTIFICATES}/ca-certificates.crt && exec "$@"'


def trusting(command: Command, inputs: Mapping[str, Path], bundle: Path) -> tuple[Command, Mapping[str, Path]]:
    """Return a command that trusts the authorities in `bundle` (PEM) and no others, and the inputs that it needs.

    Raises UsageError for a bundle that is not there.
    """
    if not bundle.is_file():
        raise UsageError(f"ca_bundle: no such file: {bundle}", hint="Name a PEM file of certificates.")
    command = dataclasses.replace(command, env=(*_VARIABLES, *command.env))
    if command.root:
        command = dataclasses.replace(
            command,
            argv=("sh", "-c", _INSTALL, command.argv[0], *command.argv),
            tmpfs=(*command.tmpfs, _CERTIFICATES),
        )
    return command, {**inputs, _INPUT: bundle.resolve()}
