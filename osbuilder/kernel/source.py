"""Where a kernel's source comes from: the kinds of source, and the lines of versions.yaml that name one.

Each kind is an action, in a module of its own, whose artifact is one file, `source.tar.zst`: a tar with one top folder,
as it came but recompressed (zstd unpacks in a fifth of xz's time, and each source is unpacked at least twice). Every
archive is walked before anything is unpacked from it (see archive.py). Facts: `version`, `epoch` (the newest timestamp
in it) and what identifies the source exactly (`package_version`, `sha256`, `commit`).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from osbuilder.errors import UsageError
from osbuilder.fetch import Source
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.debian import DebianPackage
from osbuilder.kernel.git import Git
from osbuilder.kernel.localtree import LocalTree
from osbuilder.kernel.series import SeriesNames
from osbuilder.kernel.signature import PublicKeys, Signature
from osbuilder.kernel.tarball import Tarball
from osbuilder.openpgp import Fingerprint
from osbuilder.userpath import parse_path

AnySource = DebianPackage | Tarball | Git | LocalTree

# How names of packages, tags and tarballs tell a kernel's version: linux-source-6.12, v6.18, .../linux-6.18.5.tar.xz.
_TELLS_VERSION: Final = re.compile(r"(?:linux-source-|v|.*/linux-)?(\d+\.\d+(?:\.\d+)?)(?:-.*|\.tar\..*)?")

_WORD: Final = re.compile(r"[a-z0-9][a-z0-9.+-]+")  # a Debian package's name (deb-control(5)), or a suite's
_PACKAGE_VERSION: Final = re.compile(r"[0-9][A-Za-z0-9.+~:-]*")

# The key that makes a kernel line of one kind -> (the keys that it needs besides, those that it may have).
_KINDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "package": (("suite",), ("version",)),
    "urls": (("sha256",), ("signature", "signed_by")),
    "git": (("ref",), ()),
    "tree": ((), ()),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelLine:
    """One entry of `kernels` in versions.yaml: exactly one kind of source, and the patch series for it.

    Kinds: package + suite (+ version), urls + sha256 (+ signature and signed-by: where the tar's detached signature is,
    and the fingerprints of who may have made it), git + ref, tree (relative to the checkout's folder). `patches` are
    the series that it gets (a relative path is below the checkout); by default its own, which need not be there.
    """

    package: str | None = None
    suite: str | None = None
    version: str | None = None
    urls: tuple[str, ...] | None = None
    sha256: str | None = None
    signature: tuple[str, ...] | None = None
    signed_by: tuple[Fingerprint, ...] | None = dataclasses.field(default=None, metadata={"key": "signed-by"})
    git: str | None = None
    ref: str | None = None
    tree: str | None = None
    patches: SeriesNames | None = None

    def __post_init__(self) -> None:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none of them"
            raise ValueError(f"expected exactly one of {', '.join(_KINDS)}, got {got}")
        needed, allowed = _KINDS[kinds[0]]
        for name in ("suite", "version", "sha256", "signature", "signed_by", "ref"):
            given = getattr(self, name) is not None
            if given and name not in needed + allowed:
                raise ValueError(f"{name.replace('_', '-')} does not go with {kinds[0]}")
            if not given and name in needed:
                raise ValueError(f"{kinds[0]} needs {name} beside it")
        if bool(self.signature) != bool(self.signed_by):
            raise ValueError("signature and signed-by go together: where the signature is, and who may have made it")
        for name, pattern in (("package", _WORD), ("suite", _WORD), ("version", _PACKAGE_VERSION)):
            text = getattr(self, name)
            if text is not None and not pattern.fullmatch(text):
                raise ValueError(f"{name}: malformed: {text!r}")
        if self.signature:
            Source(name="the signature", urls=self.signature, sha256=None)
        if self.tree is None:
            self.source(Path())

    def __str__(self) -> str:
        """What it is made from, for `inv versions`."""
        parts = (self.package, self.suite, self.version, *(self.urls or ()), self.git, self.ref, self.tree)
        return " ".join(part for part in parts if part)

    @property
    def span(self) -> tuple[KernelVersion, ...]:
        """The first and the last version that it can be, as far as its pins tell; none where they do not."""
        for text in (self.version, self.package, *(self.urls or ()), self.ref):
            if found := _TELLS_VERSION.fullmatch(text or ""):
                first = KernelVersion.parse(found[1])
                exact = found[1].count(".") == 2
                return (first, first if exact else KernelVersion((*first.numbers[:2], sys.maxsize)))
        return ()

    def source(self, root: Path, *, keys: PublicKeys | None = None) -> AnySource:
        """Return the action that gets the source; a relative tree is looked up below `root`.

        With `keys` the signature of a tarball is checked too. Raises ValueError for a malformed pin, SourceError for a
        tree that cannot be used, UsageError for a tarball that should be checked and names no signer.
        """
        if self.package is not None and self.suite is not None:
            return DebianPackage(package=self.package, suite=self.suite, version=self.version)
        if self.urls is not None and self.sha256 is not None:
            return Tarball(urls=self.urls, sha256=self.sha256, signature=self._signature(keys))
        if self.git is not None and self.ref is not None:
            return Git(url=self.git, ref=self.ref)
        return LocalTree.of_path((root / parse_path(self.tree or "", "tree")).resolve())

    def _signature(self, keys: PublicKeys | None) -> Signature | None:
        if keys is None:
            return None
        if not (self.signature and self.signed_by):
            raise UsageError(
                f"the signature of {(self.urls or ('',))[0]} cannot be checked: its kernel line names no signer",
                hint="Add signature and signed-by to it in versions.yaml, or unset kernel_keys: the sha256 is checked.",
            )
        return Signature(urls=self.signature, signed_by=tuple(each.text for each in self.signed_by), keys=keys)
