"""Signs a kernel's modules with a key of the user's, by the kernel's own sign-file, after everything is compiled.

The private key is read when it signs, by that one step, and leaves it in nothing: what is part of the step's key, of
the kernel and of manifests is the certificate. An RSA signature (PKCS #1 v1.5) depends on key and content alone, so the
certificate stands for all that decides the result. One with elliptic curves has a random number in it, and is refused.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import UsageError, VerificationError
from osbuilder.kernel.compile import CONFIG, timestamp
from osbuilder.kernel.modules import HEADERS, MODULES, PACK
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.step import Job

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)-----END CERTIFICATE-----", re.ASCII)
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN (?:RSA |EC |ENCRYPTED )?PRIVATE KEY-----", re.ASCII)
_ENCRYPTED: Final = re.compile(
    r"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.ASCII | re.MULTILINE
)
# The object identifier rsaEncryption (1.2.840.113549.1.1.1) in DER, as a certificate names the kind of its key.
_RSA: Final = bytes.fromhex("06092a864886f70d010101")

_SIGN: Final = """\
mkdir /work/installed /work/tools
tar --extract --zstd --file=/in/modules --directory=/work/installed
tar --extract --zstd --file=/in/headers --directory=/work/tools --strip-components=3 --wildcards '*/scripts/sign-file'
hash=$(sed -n 's/^CONFIG_MODULE_SIG_HASH="\\(.*\\)"$/\\1/p' /in/config)
KBUILD_SIGN_PIN=$(cat /in/pin)
export KBUILD_SIGN_PIN
find /work/installed -name '*.ko' -print0 | sort -z |
  xargs -0 -n 1 /work/tools/scripts/sign-file "$hash" /in/key /in/certificate
pack /work/installed lib/modules /out/{{ modules }}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key of the user's with its certificate. `certificate` is PEM; `pin` opens the key, if it is closed."""

    certificate: str
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)
    pin: str | None = dataclasses.field(default=None, repr=False, metadata=NOT_IN_KEY)

    @classmethod
    def of_path(cls, path: Path, *, pin: str | None = None) -> SigningKey:
        """Return the key in a PEM file. Raises UsageError for one that cannot sign, without a word of what is in it."""
        text = _read(path)
        certificates = [found[1] for found in _CERTIFICATE.finditer(text)]
        if len(certificates) != 1 or len(_PRIVATE_KEY.findall(text)) != 1:
            raise _refused(
                path,
                "one certificate and one private key (PEM)",
                f"{len(certificates)} and {len(_PRIVATE_KEY.findall(text))}",
                hint="Put both into the file: cat key.pem certificate.pem. A key of an HSM cannot be used.",
            )
        if _RSA not in _decoded(certificates[0], path):
            raise _refused(path, "an RSA key", "another one", hint="Signatures of others are not the same twice.")
        if pin is None and _ENCRYPTED.search(text):
            raise _refused(path, "the PIN of a private key that is encrypted", "none", hint="Set KBUILD_SIGN_PIN.")
        body = "\n".join(certificates[0].split())
        pem = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"
        return cls(certificate=pem, path=path, pin=pin)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignModules:
    """Makes a kernel with signed modules of one without: input `kernel` (see modules.CompileWithModules)."""

    key: SigningKey

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        kernel = job.inputs["kernel"]
        certificate = job.work / "certificate"
        certificate.write_text(f"{self.key.certificate}\n", encoding="ascii")
        files = {"modules": MODULES, "headers": HEADERS, "config": CONFIG}
        inputs = {name: kernel.path(file) for name, file in files.items()}
        with self._secrets(job.work / "secret") as secret:
            run_script(
                job,
                self._script(),
                inputs={"certificate": certificate, **inputs, **secret},
                env={"KBUILD_BUILD_TIMESTAMP": timestamp(int(kernel.facts["epoch"]))},
            )
        for name in kernel.manifest["outputs"]:
            if name != MODULES:
                shutil.copyfile(kernel.path(name), job.out / name)
        return {**kernel.facts, "modules_signed": True}

    @contextlib.contextmanager
    def _secrets(self, folder: Path) -> Iterator[Mapping[str, Path]]:
        """Yield the files of key and PIN: anybody in the builder may read them, and nobody else on this host."""
        if SigningKey.of_path(self.key.path, pin=self.key.pin) != self.key:
            raise VerificationError(f"{self.key.path} changed during the build", hint="Build again when it is at rest.")
        paths = {name: folder / name for name in ("key", "pin")}
        folder.mkdir(mode=0o700)
        try:
            paths["key"].write_text(_read(self.key.path), encoding="ascii")
            paths["pin"].write_text(self.key.pin or "", encoding="utf-8")
            yield paths
        finally:
            shutil.rmtree(folder)

    def _script(self) -> str:
        return render(PACK + _SIGN, modules=MODULES)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").replace("\r\n", "\n")
    except OSError as error:
        raise _refused(path, "a file", str(error.strerror).lower()) from error
    except UnicodeDecodeError:
        raise _refused(path, "PEM, which is text", "something else") from None


def _decoded(body: str, path: Path) -> bytes:
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error:
        raise _refused(path, "a certificate in base64", "something else") from None


def _refused(path: Path, expected: str, got: str, *, hint: str = "") -> UsageError:
    return UsageError(f"setting module_signing_key ({path}): expected {expected}, got {got}", hint=hint)
