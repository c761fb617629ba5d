"""What the headers of a kernel come as."""

from __future__ import annotations

import enum


class PackageFormat(enum.Enum):
    """A package of Debian's or RPM's, or the tar that both are made of."""

    DEB = "deb"
    RPM = "rpm"
    TAR = "tar"
