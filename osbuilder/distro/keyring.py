"""Whom a distribution's repositories may be signed by: pinned keys of the builder, or a user's own."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from osbuilder.errors import NoMirror, UsageError, VerificationError
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.distro.order import Order


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Whom a repository may be signed by.

    `builder_path` is a keyring (or a folder of keys) in the builder, of which only the keys with `fingerprints` are
    trusted. Or `file` is the user's own keyring (binary or armoured) on this host, trusted as a whole; its sha256 (hex)
    is part of the key.
    """

    builder_path: str = ""
    fingerprints: tuple[str, ...] = ()
    file: Path | None = dataclasses.field(default=None, metadata=NOT_IN_KEY)
    file_sha256: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Keyring:
        """Return the keyring in a file of this host. Raises UsageError when it cannot be read."""
        try:
            return cls(file=path, file_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError as error:
            raise UsageError(f"setting keyrings: cannot read {path}: {error.strerror}") from error

    @classmethod
    def of_order(cls, order: Order) -> Keyring:
        """Return the keyring that an order names, else the keys that its recipe pins. Raises UsageError."""
        if order.keyring:
            return cls.of_file(order.keyring)
        recipe = order.choice.recipe
        if not recipe.keyring:
            raise NoMirror(
                f"no key of {recipe.name} is known: {recipe.retired}",
                hint=f"Name both: --setting mirrors={recipe.name}=URL --setting keyrings={recipe.name}=FILE",
            )
        return cls(
            builder_path=recipe.keyring,
            fingerprints=tuple(key.text for key in order.choice.release.signed_by),
        )

    def read(self) -> bytes:
        """Return the content of the user's file. Raises VerificationError when it is no longer what was planned."""
        content = self.file.read_bytes() if self.file else b""
        if hashlib.sha256(content).hexdigest() != self.file_sha256:
            raise VerificationError(f"the keyring changed during the build ({self.file})", hint="Try again.")
        return content
