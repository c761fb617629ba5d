"""A kernel's source as a Debian package, and a mirror of it in the place of the one that a builder came from."""

from __future__ import annotations

import base64
import gzip
import lzma

from tests.kernel_sources import FILES
from tests.mirrors.apt import Toy, ar, tar
from tests.openpgp import Key


class SourcePackage(Toy):
    """The package of a kernel's source, with a small kernel in it."""

    def deb(self) -> bytes:
        """Return the .deb file."""
        top = {f"linux-source-6.12/{name}": text.encode() for name, text in FILES.items()}
        data = tar({f"./usr/src/{self.name}.tar.xz": lzma.compress(tar(top))})
        return ar(
            {
                "debian-binary": b"2.0\n",
                "control.tar.gz": gzip.compress(tar({"./control": self.control.encode()}), mtime=0),
                "data.tar.gz": gzip.compress(data, mtime=0),
            }
        )


def with_mirror(script: str, key: Key, url: str, *suites: str) -> str:
    """Return the script that gets a kernel's package (osbuilder.kernel.debian), for a mirror whose key is `key`.

    A builder's sources.list names the mirrors that it was bootstrapped from: here one of its own stands for it.
    """
    lines = "\n".join(f"deb [signed-by=/work/own/key.gpg] {url} {suite} main" for suite in suites)
    return f"""\
mkdir /work/own
base64 --decode > /work/own/key.gpg <<'END'
{base64.b64encode(key.public()).decode()}
END
cat > /work/own/sources.list <<'END'
{lines}
END
{script.replace("/etc/apt/", "/work/own/")}"""
