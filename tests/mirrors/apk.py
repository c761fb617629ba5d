"""Real apk packages and repositories, version 2, signed: gzip streams, cut tar segments, APKINDEX. No apk, no abuild.

    key = SigningKey.named()
    musl = Package(name="musl", files=(File("lib/ld-musl.so.1", b"..."),), provides=("so:libc.musl-x86_64.so.1=1",))
    files = Repository(key=key, packages=(musl,), path="v3.23/main/x86_64").files()

Source: apk-package(5); abuild 3 (abuild-sign, abuild-tar) and apk-tools 2.14 for what they write.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

BUILT = 1790000000  # 2026-09-21: after the day of the releases that the repositories stand for
_HASHES: Mapping[str, Callable[[], hashes.HashAlgorithm]] = {
    "RSA": hashes.SHA1,
    "RSA256": hashes.SHA256,
    "RSA512": hashes.SHA512,
}


@dataclasses.dataclass(frozen=True, slots=True)
class SigningKey:
    """A builder's key."""

    name: str
    private: rsa.RSAPrivateKey

    @classmethod
    @functools.cache
    def named(cls, name: str = "builder@example.org-0000.rsa.pub") -> SigningKey:
        """Return this process' key of that name, which signatures and /etc/apk/keys call it by."""
        return cls(name, rsa.generate_private_key(public_exponent=65537, key_size=2048))

    @property
    def public(self) -> bytes:
        """The public key's file."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def segment(self, data: bytes, method: str = "RSA") -> bytes:
        """Return the signature segment that goes in front of `data`; `method` is RSA, RSA256 or RSA512."""
        signature = self.private.sign(data, padding.PKCS1v15(), _HASHES[method]())
        return segment({f".SIGN.{method}.{self.name}": signature})


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file of a package: a folder without `content`, a symlink when it is text. `owner`: names, then numbers."""

    path: str
    content: bytes | str | None = b""
    mode: int = 0o644
    owner: tuple[str, str, int, int] = ("root", "root", 0, 0)

    def member(self) -> tarfile.TarInfo:
        """Return the header, with the checksum that abuild-tar adds."""
        member = tarfile.TarInfo(self.path)
        member.mtime, member.mode = BUILT, self.mode
        member.uname, member.gname, member.uid, member.gid = self.owner
        if self.content is None:
            member.type = tarfile.DIRTYPE
            return member
        if isinstance(self.content, str):
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, self.content, 0o777
        else:
            member.size = len(self.content)
        data = self.content.encode() if isinstance(self.content, str) else self.content
        member.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
        return member


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package. `scripts` are texts by kind (post-install, trigger, ...); `triggers` the folders that are watched."""

    name: str
    version: str = "1.0-r0"
    arch: str = "x86_64"
    files: tuple[File, ...] = ()
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    replaces_priority: int = 0
    install_if: tuple[str, ...] = ()
    priority: int = 0
    origin: str = ""
    scripts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    triggers: tuple[str, ...] = ()
    built: int = BUILT

    @property
    def file_name(self) -> str:
        """Its name in the repository."""
        return f"{self.name}-{self.version}.apk"

    def data(self) -> bytes:
        """Return the data segment: a whole tar archive, compressed."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for file in self._with_folders():
                content = io.BytesIO(file.content) if isinstance(file.content, bytes) else None
                archive.addfile(file.member(), content)
        return gzip.compress(buffer.getvalue(), mtime=0)

    def control(self, data: bytes) -> bytes:
        """Return the control segment for a data segment."""
        lines = [
            ("pkgname", self.name),
            ("pkgver", self.version),
            ("pkgdesc", f"{self.name} of a test"),
            ("builddate", str(self.built)),
            ("size", str(self.installed_size)),
            ("arch", self.arch),
            ("origin", self.origin or self.name),
            *(("depend", each) for each in self.depends),
            *(("provides", each) for each in self.provides),
            *(("replaces", each) for each in self.replaces),
            *([("replaces_priority", str(self.replaces_priority))] if self.replaces_priority else []),
            *([("provider_priority", str(self.priority))] if self.priority else []),
            *([("install_if", " ".join(self.install_if))] if self.install_if else []),
            *([("triggers", " ".join(self.triggers))] if self.triggers else []),
            ("datahash", hashlib.sha256(data).hexdigest()),
        ]
        info = "# Generated for a test\n" + "".join(f"{name} = {value}\n" for name, value in lines)
        scripts = {f".{kind}": text.encode() for kind, text in self.scripts.items()}
        return segment({".PKGINFO": info.encode(), **scripts})

    @property
    def installed_size(self) -> int:
        """The bytes of its files."""
        return sum(len(file.content) for file in self.files if isinstance(file.content, bytes))

    def apk(self, key: SigningKey) -> tuple[bytes, str]:
        """Return the package file and its record in an index."""
        data = self.data()
        control = self.control(data)
        package = key.segment(control) + control + data
        fields = {
            "C": checksum(control),
            "P": self.name,
            "V": self.version,
            "A": self.arch,
            "S": str(len(package)),
            "I": str(self.installed_size),
            "T": f"{self.name} of a test",
            "U": "https://example.org/",
            "L": "MIT",
            "o": self.origin or self.name,
            "t": str(self.built),
            "k": str(self.priority or ""),
            "D": " ".join(self.depends),
            "p": " ".join(self.provides),
            "i": " ".join(self.install_if),
        }
        return package, "".join(f"{letter}:{value}\n" for letter, value in fields.items() if value)

    def _with_folders(self) -> Iterable[File]:
        """Yield the files, with the folders that they lie in where the package does not name them itself."""
        named = {file.path for file in self.files}
        for file in sorted(self.files, key=lambda each: each.path.split("/")):
            parts = file.path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in named:
                    named.add(folder)
                    yield File(folder, None, 0o755)
            yield file


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A signed repository for one architecture; `path` is its folder below the mirror's address.

    It describes itself as Alpine's of that release do, where `description` says nothing else; "" leaves that file out.
    """

    key: SigningKey
    packages: tuple[Package, ...]
    path: str = "v3.23/main/x86_64"
    method: str = "RSA"
    description: str | None = None

    @property
    def index(self) -> str:
        """The index's place below the mirror's address."""
        return f"{self.path}/APKINDEX.tar.gz"

    def files(self) -> dict[str, bytes]:
        """Return every file by its path below the mirror's address."""
        built = {package.file_name: package.apk(self.key) for package in self.packages}
        return {
            **{f"{self.path}/{name}": content for name, (content, _) in built.items()},
            self.index: self.sign("\n".join(record for _, record in built.values()) + "\n"),
        }

    def sign(self, text: str) -> bytes:
        """Return an index file with this text."""
        description = f"{self.path.split('/')[0]}.2-113-g0123abcd" if self.description is None else self.description
        described = {"DESCRIPTION": description.encode()} if description else {}
        body = segment({**described, "APKINDEX": text.encode()}, cut=False)
        return self.key.segment(body, self.method) + body


def checksum(data: bytes) -> str:
    """Return the SHA-1 of bytes as apk writes it."""
    return f"Q1{base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()}"


def streams(data: bytes) -> list[bytes]:
    """Return the gzip streams that a file is made of, as they lie in it."""
    found = []
    while data:
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        inflater.decompress(data)
        found.append(data[: len(data) - len(inflater.unused_data)])
        data = inflater.unused_data
    return found


def segment(files: Mapping[str, bytes], *, cut: bool = True) -> bytes:
    """Return a compressed tar archive, without its end mark where it is `cut` (as abuild-tar --cut does)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), BUILT
            archive.addfile(member, io.BytesIO(content))
        end = archive.offset
    return gzip.compress(buffer.getvalue()[:end] if cut else buffer.getvalue(), mtime=0)
