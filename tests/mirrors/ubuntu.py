"""A small Ubuntu: its suites and components, signed by a key of ours, with Debian's own packages in them.

What a guest is installed from and made of is real; only the names of the suites are Ubuntu's. The mirror is a step like
any other: it stays in the store until what it is made from changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.distro import debs
from osbuilder.distro.apt import Bootstrap
from osbuilder.distro.apt_releases import take_releases
from osbuilder.distro.choice import select_packages
from osbuilder.distro.deb import Deb, read_deb
from osbuilder.distro.recipe import find_recipe
from osbuilder.pid1 import Init
from osbuilder.request import RootfsRequest
from osbuilder.step import NOT_IN_KEY, Step
from tests.mirrors.apt import EPOCH, Repository
from tests.openpgp import Key

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Job, Json

MIRROR: Final = "mirror.tar"
KEY: Final = Key.of_seed(21, "Test Ubuntu <ubuntu@example.org>")
# Not in Ubuntu's, but a guest that has it was installed from both components.
UNIVERSE: Final = frozenset({"nftables"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """A package whose .deb file is in the pool."""

    paragraph: str
    component: str
    path: str
    size_bytes: int
    sha256: str

    @property
    def record(self) -> str:
        """Its paragraph in an index."""
        return f"{self.paragraph}Filename: {self.path}\nSize: {self.size_bytes}\nSHA256: {self.sha256}\n\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeMirror:
    """Download Debian's packages (`of`) and list them in signed suites: leaves mirror.tar."""

    of: Bootstrap
    suites: tuple[str, ...]
    components: tuple[str, ...]
    revision: str
    key: Key = dataclasses.field(default=KEY, metadata=NOT_IN_KEY)

    def describe(self) -> tuple[str, ...]:
        return self.of.describe_with(debs.OPTIONS)

    def run(self, job: Job) -> Mapping[str, Json]:
        mirror, paths = debs.download(job, self.of)
        files = {f"pool/{path.name.replace('%3a', '.')}": path.read_bytes() for path in paths}
        packages = tuple(real(name, read_deb(path), files[name]) for name, path in zip(files, paths, strict=True))
        for suite in self.suites:
            repository = Repository(
                key=self.key, packages=packages, suite=suite, components=self.components, origin="Ubuntu"
            )
            files |= repository.files()
        with tarfile.open(job.out / MIRROR, "w") as archive:
            for name, content in sorted(files.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), EPOCH
                archive.addfile(member, io.BytesIO(content))
        return {"mirror": mirror, "repositories": take_releases(job.out)}


def real(path: str, deb: Deb, content: bytes) -> Real:
    """Return a package of the pool."""
    return Real(
        paragraph=deb.paragraph,
        component="universe" if deb.name in UNIVERSE else "main",
        path=path,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def mirror_step(bench: Workbench) -> Step:
    """Return the step of a mirror from which every release of the recipe can be installed, with either init."""
    ubuntu = find_recipe("ubuntu", bench.planner.distros)
    target = bench.planner.plan(RootfsRequest(distro="debian", release="trixie", init=Init.SYSTEMD))
    packages = next(step for step in target.walk() if step.name == "packages")
    assert isinstance(packages.action, Bootstrap)
    wanted = select_packages(bench.planner.choice(RootfsRequest(distro="ubuntu", init=Init.SYSTEMD))).everything
    action = MakeMirror(
        of=dataclasses.replace(packages.action, packages=wanted),
        suites=tuple(sorted(ubuntu.releases)),
        components=ubuntu.releases[ubuntu.default_release].components,
        revision=hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    )
    return Step(name="mirror", subject="test-ubuntu", action=action, builder=packages.builder)


def lay_out(bench: Workbench, folder: Path) -> None:
    """Unpack the mirror into a folder."""
    with tarfile.open(bench.executor.run(mirror_step(bench)).path(MIRROR)) as archive:
        archive.extractall(folder, filter="data")


def settings_for(url: str, folder: Path) -> tuple[str, ...]:
    """Return the settings that name a mirror and its key, whose file is written into a folder."""
    key = folder / "ubuntu-key.gpg"
    key.write_bytes(KEY.public())
    return (f"mirrors=ubuntu={url}", f"keyrings=ubuntu={key}", "archives=ubuntu=none")
