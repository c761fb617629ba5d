"""The detached OpenPGP signature of a kernel tarball, checked by gpgv in the builder.

kernel.org signs the tar, not what compresses it: `linux-6.12.64.tar.sign` is the signature of `linux-6.12.64.tar`
(https://www.kernel.org/signature.html). Only the keys whose fingerprints versions.yaml names are trusted, and only from
a file of the user's: whatever else is in it counts for nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.errors import UsageError, VerificationError
from osbuilder.fetch import Source
from osbuilder.openpgp import read_verdict
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

_SIGNATURE_MAX_BYTES: Final = 1 << 20
_KEYS_MAX_BYTES: Final = 16 << 20
_SUFFIXES: Final = (".asc", ".gpg", ".pgp")

VERIFY: Final = """\
mkdir --mode=700 /work/gnupg
pgp() { gpg --batch --no-options --no-autostart --homedir /work/gnupg "$@"; }
pgp --quiet --import /in/keys/* || true
pgp --export {{ signature.signed_by | sh }} > /work/trusted.gpg
zstd --decompress --stdout --quiet /out/source.tar.zst |
  gpgv --homedir /work/gnupg --keyring /work/trusted.gpg --status-fd 3 /in/signature - 3> /out/verdict || true
"""
"""Checks /out/source.tar.zst, which is what will be used; the verdict is in /out/verdict, and none is a refusal."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """Files with public keys, armoured or binary. Make one with `of_path`."""

    files: tuple[bytes, ...] = dataclasses.field(repr=False, metadata=NOT_IN_KEY)
    sha256: str

    @classmethod
    def of_path(cls, path: Path) -> PublicKeys:
        """Read a file, or the .asc, .gpg and .pgp files of a folder. Raises UsageError."""
        paths = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES) if path.is_dir() else [path]
        if not paths:
            raise UsageError(
                f"setting kernel_keys: {path} has no {', '.join(_SUFFIXES)} file",
                hint="Export the signers' keys into it: gpg --export --armor FINGERPRINT > NAME.asc",
            )
        try:
            files = tuple(each.read_bytes() for each in paths)
        except OSError as error:
            raise UsageError(f"setting kernel_keys: cannot read {path}: {error.strerror}") from error
        if sum(map(len, files)) > _KEYS_MAX_BYTES:
            raise UsageError(f"setting kernel_keys: {path}: expected at most {_KEYS_MAX_BYTES >> 20} MiB of keys")
        return cls(files=files, sha256=hashlib.sha256(b"".join(files)).hexdigest())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A detached signature, from the first of `urls` that has it, and the fingerprints of who may have made it."""

    urls: tuple[str, ...] = dataclasses.field(metadata=NOT_IN_KEY)
    signed_by: tuple[str, ...]
    keys: PublicKeys

    def inputs(self, job: Job, name: str) -> dict[str, Path]:
        """Download the signature of the tarball `name` and lay the keys beside it, as VERIFY wants them in /in."""
        source = Source(name=f"{name}.sign", urls=self.urls, sha256=None, max_bytes=_SIGNATURE_MAX_BYTES)
        signature = job.work / "signature"
        shutil.copyfile(job.fetch(source), signature)
        folder = job.work / "keys"
        folder.mkdir()
        for number, content in enumerate(self.keys.files, start=1):
            (folder / str(number)).write_bytes(content)
        return {"signature": signature, "keys": folder}

    def check(self, verdict: str, *, origin: str) -> str:
        """Return the fingerprint of the pinned key that signed. Raises VerificationError unless there is one.

        `verdict` is what gpgv wrote to its status descriptor; `origin` is the tarball's name in messages.
        """
        found = read_verdict(verdict, trusted=self.signed_by, keys="kernel_keys")
        if found.signer:
            return found.signer
        raise VerificationError(
            f"{origin}: {found.problem}\n  expected a good signature by {' or '.join(self.signed_by)}",
            hint="Nothing of it was used. A key that is missing or expired: put a fresh one where kernel_keys points.",
        )
