"""Debian's kin for another architecture than this machine's, without running anything of it but ldconfig.

The packages are downloaded and unpacked here; their configuration is carried over from a twin, the same packages
installed for this machine's own architecture (osbuilder.distro.carry). The one command that is emulated writes
ld.so.cache, in the foreign byte order: qemu-user of the builder runs it, so nothing has to be set up on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.arch import host_arch
from osbuilder.distro import debs
from osbuilder.distro.apt import ROOTFS_TAR, Bootstrap, bootstrap
from osbuilder.distro.apt_releases import take_releases
from osbuilder.distro.carry import Names, carry
from osbuilder.distro.deb import read_debs
from osbuilder.distro.dpkg import read_packages
from osbuilder.distro.dpkg_records import ADMIN, NORMALISE
from osbuilder.engine.base import Command
from osbuilder.engine.script import lines, render
from osbuilder.rootfs.elf import parse_elf
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind
from osbuilder.tree.tarread import Member

if TYPE_CHECKING:
    from osbuilder.distro.deb import Deb
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

_REMADE: Final = ("etc/ld.so.cache", f"{ADMIN}/status", f"{ADMIN}/diversions")

# chroot is all that ldconfig needs of root. Its own cache of what it looked at is no use to a guest.
_SCRIPT: Final = """\
root=/tmp/root
admin="$root/{{ admin }}"
mkdir "$root"
tar --extract --file=/in/records.tar --directory="$root"
{{ emulator | sh }} "$root"/{{ ldconfig | sh }} -r "$root"
{{ normalise }}
{% for name in remade %}
cp "$root"/{{ name | sh }} /out/
{% endfor %}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CarryOver:
    """Install packages for another architecture as a twin (input `twin`) has them: leaves rootfs.tar.

    `of` is the foreign installation. `architectures` (Debian's names) and `triplets` are those of the twin and the
    foreign one; `emulator` is qemu-user's program for it. Facts as Bootstrap's.
    """

    of: Bootstrap
    architectures: tuple[str, str]
    triplets: tuple[str, str]
    emulator: str
    ONLINE: ClassVar[bool] = True

    @property
    def notes(self) -> tuple[str, ...]:
        """As the Bootstrap's."""
        return self.of.notes

    def describe(self) -> tuple[str, ...]:
        script = lines(self._script("usr/sbin/ldconfig"))
        carried = "unpack the packages, carry their configuration over from the twin"
        return (*self.of.describe_with(debs.OPTIONS), *lines(debs.hook(self.of)), carried, *script)

    def run(self, job: Job) -> Mapping[str, Json]:
        mirror, paths = debs.download(job, self.of)
        packages = read_debs(paths, jobs=job.jobs, scratch=job.work)
        twin = Tree.read(job.inputs["twin"].path(ROOTFS_TAR))
        names = Names(
            debian=self.architectures,
            triplet=self.triplets,
            loader=(loader(twin), loader_of(packages)),
        )
        tree = carry(packages, twin, names)
        self._finish(job, tree)
        tree.write(job.out / ROOTFS_TAR, epoch=self.of.epoch)
        return {
            **self.of.origin(mirror),
            "repositories": take_releases(job.out),
            "packages": [list(package) for package in read_packages(tree)],
        }

    def _finish(self, job: Job, tree: Tree) -> None:
        """Let the foreign ldconfig write ld.so.cache, and dpkg its records in its own form."""
        ldconfig = next(name for name in ("usr/sbin/ldconfig.real", "usr/sbin/ldconfig") if tree.exists(name))
        wanted = {*tree.glob("etc/ld.so.conf", "etc/ld.so.conf.d/*", "**/*.so", "**/*.so.*", ldconfig, f"{ADMIN}/*")}
        part = Tree.of_members(
            (
                Member(name=name, offset=0, entry=entry)
                for name, entry in tree.items()
                if name in wanted or ("/" not in name and entry.kind is Kind.SYMLINK)
            ),
            "what ldconfig and dpkg read",
        )
        part.write(job.work / "records.tar", epoch=self.of.epoch)
        (job.work / "script").write_text(self._script(ldconfig), "utf-8")
        remade = job.work / "remade"
        remade.mkdir()
        job.run(
            Command(argv=("bash", "/in/script"), root=True),
            inputs={"records.tar": job.work / "records.tar", "script": job.work / "script"},
            output=remade,
        )
        for name in _REMADE:
            tree.add_file(name, (remade / Path(name).name).read_bytes(), replace=True)

    def _script(self, ldconfig: str) -> str:
        return render(
            _SCRIPT, admin=ADMIN, emulator=self.emulator, ldconfig=ldconfig, normalise=NORMALISE, remade=_REMADE
        )


def carry_over(order: Order) -> CarryOver:
    """Return the action for an order of another architecture than this machine's (the adapter of apt, carried)."""
    here, there = host_arch(), order.choice.arch
    return CarryOver(
        of=bootstrap(order),
        architectures=(here.debian, there.debian),
        triplets=(here.triplet, there.triplet),
        emulator=f"qemu-{there.name}",
    )


def loader(tree: Tree) -> str:
    """Return the dynamic loader that a tree's programs ask for."""
    return parse_elf(tree.read_bytes("usr/bin/dpkg")).interpreter


def loader_of(packages: tuple[Deb, ...]) -> str:
    """Return the dynamic loader that the programs of packages ask for."""
    (dpkg,) = [deb for deb in packages if deb.name == "dpkg"]
    (program,) = [each.entry for each in dpkg.members() if each.name in ("usr/bin/dpkg", "bin/dpkg") and each.entry]
    return parse_elf(program.content.read()).interpreter
