"""A kernel's source from a tarball that is pinned by its sha256, and by who signed it where that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from osbuilder.engine.script import render, run_script
from osbuilder.errors import CommandFailed, SourceError
from osbuilder.fetch import Source
from osbuilder.kernel.archive import UNPACKED_MAX_BYTES, deliver, too_large
from osbuilder.kernel.signature import VERIFY, Signature
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

_UNPACKERS: Final[Mapping[bytes, str]] = {
    b"\xfd7zXZ\0": "xz",
    b"\x1f\x8b": "gzip",
    b"(\xb5/\xfd": "zstd",
}
_TOO_LARGE: Final = "osbuilder: too large"

# head ends a bomb: a few kilobytes may unpack to any size. The unpacker is then killed by a signal (SIGPIPE, 128 + 13).
_RECOMPRESS: Final = """\
status=0
{{ unpack | sh }} --decompress --stdout < /in/tarball | head --bytes={{ max_bytes }} |
  zstd --quiet -3 -T1 -o /out/source.tar.zst || status=$?
if [ $status = 141 ]; then
  echo {{ too_large | sh }}
fi
if [ $status != 0 ]; then
  exit $status
fi
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tarball:
    """A tarball (xz, gzip or zstd) with one top folder, from the first of `urls` that has it.

    `signature`, where it is asked for, is checked besides the sha256, on the tar that will be used.
    """

    urls: tuple[str, ...] = dataclasses.field(metadata=NOT_IN_KEY)
    sha256: str
    signature: Signature | None = None
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._source()

    def describe(self) -> tuple[str, ...]:
        plan = [f"fetch {url} (sha256 {self.sha256})" for url in self.urls]
        if self.signature:
            plan += [f"fetch {url}" for url in self.signature.urls]
        plan.append("recompress it with zstd -3")
        if self.signature:
            plan.append(f"check with gpgv that one of {', '.join(self.signature.signed_by)} signed the tar")
        return tuple(plan)

    def run(self, job: Job) -> Mapping[str, Any]:
        """Deliver the source. Raises FetchError, VerificationError, SourceError."""
        output = self.get(job)
        facts = {"sha256": self.sha256}
        if self.signature:
            inputs = self.signature.inputs(job, self._name)
            run_script(job, render(VERIFY, signature=self.signature), inputs=inputs, output=output)
            verdict = (output / "verdict").read_text(encoding="utf-8", errors="replace")
            facts["signed_by"] = self.signature.check(verdict, origin=self._name)
        return deliver(job, output, origin=self._name) | facts

    def get(self, job: Job) -> Path:
        """Return a folder with the verified tarball's archive, recompressed but not looked into. Raises as `run`."""
        path = job.fetch(self._source())
        output = job.work / "tarball"
        output.mkdir()
        inputs = {"tarball": path}
        unpack = _unpacker(path, self._name)
        script = render(_RECOMPRESS, unpack=unpack, max_bytes=UNPACKED_MAX_BYTES, too_large=_TOO_LARGE)
        try:
            run_script(job, script, inputs=inputs, output=output)
        except CommandFailed as error:
            if _TOO_LARGE in error.tail:
                raise too_large(self._name) from error
            raise
        return output

    @property
    def _name(self) -> str:
        return PurePosixPath(urlsplit(self.urls[0]).path).name if self.urls else ""

    def _source(self) -> Source:
        return Source(name=self._name or "linux.tar", urls=self.urls, sha256=self.sha256)


def _unpacker(path: Path, origin: str) -> str:
    with path.open("rb") as stream:
        magic = stream.read(6)
    for start, program in _UNPACKERS.items():
        if magic.startswith(start):
            return program
    raise SourceError(
        f"{origin}: expected a tarball in xz, gzip or zstd, got a file that begins with {magic!r}",
        hint="Check its URL and its sha256 in versions.yaml.",
    )
