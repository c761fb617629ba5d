"""Debian packages downloaded by apt without being installed.

Source: apt-get(8) for --download-only, mmdebstrap(1) on hooks.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.engine.script import render

if TYPE_CHECKING:
    from osbuilder.distro.apt import Bootstrap
    from osbuilder.step import Job

# mmdebstrap has verified the indexes, and runs this with the target's path instead of installing anything: apt chooses
# as it would for an installation, essential packages first.
_DOWNLOAD: Final = """\
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get --yes --download-only install '?essential' {{ packages | sh }}
mkdir -m 0777 /out/debs /out/releases
mv "$1"/var/cache/apt/archives/*.deb /out/debs/
cp "$1"/var/lib/apt/lists/*Release /out/releases/
"""
OPTIONS: Final = ("--format=null", "--variant=extract", "--extract-hook=/in/hook", "/dev/null")


def download(job: Job, spec: Bootstrap) -> tuple[str | None, tuple[Path, ...]]:
    """Download what an installation would install; return the mirror that served and the .deb files, below job.work.

    The signed Release files are left in job.out/releases. Raises as Bootstrap.serve.
    """
    mirror = spec.serve(job, OPTIONS, hook(spec))
    folder = job.work / "debs"
    shutil.move(job.out / "debs", folder)
    return mirror, tuple(sorted(folder.iterdir()))


def hook(spec: Bootstrap) -> str:
    """Return the script that mmdebstrap runs to download the packages."""
    return "#!/bin/bash\n" + render(_DOWNLOAD, packages=spec.packages)
