"""A kernel's source from a commit of a git repository."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed, FetchError, SourceError
from osbuilder.kernel.archive import deliver

if TYPE_CHECKING:
    from osbuilder.step import Job

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

_GIT = """\
export GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=https:http:git
git init --quiet /work/git
cd /work/git
git fetch --quiet --no-tags --depth=1 -- {{ url | sh }} {{ ref | sh }}
git rev-parse --verify 'FETCH_HEAD^{commit}' > /out/commit
git archive --format=tar --prefix=linux/ FETCH_HEAD | zstd --quiet -3 -T1 -o /out/source.tar.zst
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """A commit of a repository. A branch or tag is resolved once, recorded, and kept as long as the artifact is.

    Only a full commit id is verified by its content; so anything else needs a transport that is (https, or this host).
    """

    url: str
    ref: str
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise ValueError("git: expected a https, http or git URL, got what is none") from None
        if "@" in parts.netloc:
            raise ValueError(
                f"git: expected a URL without a name and password, got {parts.scheme}://...@"
                f"{parts.netloc.rpartition('@')[2]}{parts.path}: they would stand in keys, logs and manifests; "
                "clone it by hand and name the clone (tree)"
            )
        if parts.scheme not in ("https", "http", "git") or not parts.hostname:
            raise ValueError(f"git: expected a https, http or git URL, got {self.url!r}; for a local one write tree:")
        if not _REF.fullmatch(self.ref) or ".." in self.ref:
            raise ValueError(f"ref: expected a branch, a tag or a full commit id, got {self.ref!r}")
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK and not _COMMIT.fullmatch(self.ref):
            raise ValueError(
                f"ref: {parts.scheme} does not protect what {self.ref!r} means: expected a full commit id, or https"
            )

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        output, commit = self.get(job)
        return deliver(job, output, origin=f"{self.url} at {self.ref}") | {"commit": commit}

    def get(self, job: Job) -> tuple[Path, str]:
        """Return a folder with the commit's archive, unchecked, and the commit's id. Raises SourceError, FetchError."""
        output = job.work / "git"
        output.mkdir()
        try:
            run_script(job, self._script(), output=output, network=True)
        except CommandFailed as error:
            if re.search(r"couldn't find remote ref|not our ref|unadvertised object", error.tail):
                raise SourceError(
                    f"{self.url} has no branch, tag or commit {self.ref!r}",
                    hint=f"List what it has: git ls-remote {self.url}. Commits need their full id.",
                ) from error
            raise FetchError(f"cannot get {self.ref} from {self.url}: {error}") from error
        commit = (output / "commit").read_text(encoding="utf-8").strip()
        if _COMMIT.fullmatch(self.ref) and commit != self.ref:
            raise SourceError(f"{self.url}: {self.ref!r} names the commit {commit} there: expected that very commit")
        return output, commit

    def _script(self) -> str:
        return render(_GIT, url=self.url, ref=self.ref)
