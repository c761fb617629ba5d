"""Alpine and its kin: packages from a signed repository become a root filesystem tar, in this process.

No apk, no builder, no root, nothing of a package runs. So the guest's architecture makes no difference.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from osbuilder.distro import keyring
from osbuilder.distro.apk import database, scripts
from osbuilder.distro.apk.accounts import Accounts
from osbuilder.distro.apk.declared import DeclaredScript, ScriptKind, SigningKey
from osbuilder.distro.apk.index import Catalogue, Package
from osbuilder.distro.apk.keys import TrustedKeys
from osbuilder.distro.apk.mirror import Repositories, fetch_indexes, fetch_keys, fetch_packages
from osbuilder.distro.apk.solver import solve
from osbuilder.distro.apk.unpack import Installation, Unpacked, unpack, written_folders
from osbuilder.distro.told import need_mirror
from osbuilder.errors import FetchError, PlanError, UsageError
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.distro.apk.archive import VerifiedPackage
    from osbuilder.distro.order import Order
    from osbuilder.step import Job, Json

ROOTFS_TAR: Final = "rootfs.tar"
_URL: Final = re.compile(r"(https?|file)://[^\s]+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Whom a repository may be signed by: `pinned` keys of the recipe, or those of the user's own file of that name."""

    pinned: tuple[SigningKey, ...] = ()
    url: str = dataclasses.field(default="", metadata=NOT_IN_KEY)
    file: keyring.Keyring | None = None
    file_name: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Keyring:
        """Return the keyring in a file of this host. Raises UsageError when it cannot be read."""
        return cls(file=keyring.Keyring.of_file(path), file_name=path.name)

    def load(self, job: Job) -> TrustedKeys:
        """Return the keys. Raises VerificationError when they are not what was planned with, FetchError."""
        if self.file is None:
            return fetch_keys(job, self.pinned, self.url)
        return TrustedKeys.of_file(self.file.read(), name=self.file_name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstallPackages:
    """Install Alpine packages into an empty root: leaves rootfs.tar. `arch` is Alpine's name of the architecture.

    `released` is the day of the release, `epoch` the latest time that a file bears (both seconds since 1970). Facts:
    packages (name, version, architecture), repositories (what the indexes say of themselves), the mirror that served
    them, and the scripts that were stood in for.
    """

    release: str
    arch: str
    components: tuple[str, ...]
    packages: tuple[str, ...]
    keyring: Keyring
    scripts: tuple[DeclaredScript, ...]
    mirrors: tuple[str, ...]
    released: int
    epoch: int
    ONLINE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for mirror in self.mirrors:
            if not _URL.fullmatch(mirror):
                raise UsageError(
                    f"not an Alpine mirror: {mirror!r}",
                    hint="Give the URL that has v<release>/ below it, such as https://HOST/alpine.",
                )

    def describe(self) -> tuple[str, ...]:
        keys = [key.name for key in self.keyring.pinned] or [f"{self.keyring.file_name} (the user's)"]
        return (
            *(f"fetch {url}/<package>.apk" for url in self._repository_urls(self.mirrors)),
            f"trust {', '.join(keys)}",
            f"install {' '.join(self.packages)}",
        )

    def run(self, job: Job) -> Mapping[str, Json]:
        keys = self.keyring.load(job)
        repositories = self.indexes(job, keys)
        packages = self.solve(repositories, self.packages)
        self._log(job, repositories, packages)
        verified = fetch_packages(job, packages, repositories, mirrors=self.mirrors, keys=keys)
        stood_in = self.install(job, packages, verified, keys=guest_keys(repositories, keys))
        return {
            "mirror": repositories.mirror,
            "repositories": [_repository_facts(repositories, number) for number in range(len(repositories.names))],
            "packages": package_facts(packages),
            "scripts": stood_in,
        }

    def indexes(self, job: Job, keys: TrustedKeys) -> Repositories:
        """Return what the mirrors have now. Raises FetchError, VerificationError."""
        return fetch_indexes(
            job,
            mirrors=self.mirrors,
            release=self.release,
            arch=self.arch,
            components=self.components,
            keys=keys,
            day=self.released,
        )

    def install(
        self,
        job: Job,
        packages: Sequence[Package],
        verified: Mapping[str, VerifiedPackage],
        *,
        keys: Mapping[str, bytes],
    ) -> list[list[str]]:
        """Write rootfs.tar with these packages, and `keys` for the guest to trust.

        Returns (package, kind) of each script that was stood in for.
        """
        with concurrent.futures.ThreadPoolExecutor(job.jobs, thread_name_prefix="apk") as pool:
            unpacked = tuple(pool.map(lambda package: unpack(package, verified[package.name]), packages))
        job.check_stopped()
        installation = Installation()
        for each in unpacked:
            installation.add(each)
        accounts = Accounts(installation.tree, epoch=self.epoch)
        stood_in = self._apply_scripts(installation, accounts)
        database.write_database(installation, accounts)
        # What the guest's own apk goes on with: what was asked for, where it comes from and whom to trust.
        database.write_configuration(
            installation.tree,
            arch=self.arch,
            world=self.packages,
            # The mirror that was asked for first, so that it does not show which of them was down.
            repositories=(url.rpartition("/")[0] for url in self._repository_urls(self.mirrors[:1])),
            keys=keys,
        )
        installation.tree.write(job.out / ROOTFS_TAR, epoch=self.epoch)
        return stood_in

    def _repository_urls(self, mirrors: Sequence[str]) -> list[str]:
        return [
            f"{mirror.rstrip('/')}/v{self.release}/{component}/{self.arch}"
            for mirror in mirrors
            for component in self.components
        ]

    def solve(self, repositories: Repositories, request: Sequence[str]) -> tuple[Package, ...]:
        """Return the packages that a request means, in the order of installation. Raises UsageError, FetchError."""
        catalogue = Catalogue(
            (index.text, name) for index, name in zip(repositories.indexes, repositories.names, strict=True)
        )
        packages = solve(catalogue, tuple(request), repositories=f"{self.release} ({', '.join(self.components)})")
        for package in packages:
            if package.arch not in (self.arch, "noarch"):
                raise FetchError(
                    f"{package} is for {package.arch}: expected {self.arch} from {repositories.mirror}",
                    hint="This mirror is mixed up. Name another one (setting mirrors).",
                )
        return packages

    def _log(self, job: Job, repositories: Repositories, packages: Sequence[Package]) -> None:
        with job.log.open("a", encoding="utf-8") as stream:
            stream.write(f"indexes: {', '.join(repositories.names)} of {repositories.mirror}\n")
            stream.writelines(
                f"install {package} ({package.file_name}, {package.size_bytes} bytes)\n" for package in packages
            )

    def _apply_scripts(self, installation: Installation, accounts: Accounts) -> list[list[str]]:
        """Do what the packages' scripts would do; return (package, kind) of each that was stood in for."""
        done: list[list[str]] = []
        folders = written_folders(installation.installed)
        for kind in ScriptKind:
            for each in installation.installed:
                if not _runs(each, kind, folders):
                    continue
                text = each.control.scripts[kind.value].decode("utf-8", "replace")
                script = scripts.Script(package=each.package.name, kind=kind, text=text)
                scripts.apply(installation.tree, accounts, scripts.effects_of(script, self.scripts))
                done.append([each.package.name, kind.value])
            if kind is ScriptKind.PRE_INSTALL:
                # Files belong to accounts by name, which those scripts add.
                installation.resolve_owners(accounts)
        return done


def guest_keys(repositories: Repositories, keys: TrustedKeys) -> dict[str, bytes]:
    """Return the keys that a guest is to trust, by name: those that signed the indexes, and all that have a name."""
    signers = {index.key.name or index.key_name: index.key.pem for index in repositories.indexes}
    return signers | {key.name: key.pem for key in keys.keys if key.name}


def package_facts(packages: Sequence[Package]) -> list[list[str]]:
    """Return (name, version, architecture) of packages, sorted."""
    return sorted([package.name, package.version, package.arch] for package in packages)


def _runs(unpacked: Unpacked, kind: ScriptKind, folders: set[str]) -> bool:
    if kind.value not in unpacked.control.scripts:
        return False
    patterns = [word for line in unpacked.control.all("triggers") for word in line.split()]
    return kind is not ScriptKind.TRIGGER or scripts.triggered(patterns, folders)


def _repository_facts(repositories: Repositories, number: int) -> dict[str, str]:
    index = repositories.indexes[number]
    digest = hashlib.sha256(index.text.encode()).hexdigest()
    return {"name": repositories.names[number], "key": index.key_name, "index_sha256": digest}


def bootstrap(order: Order) -> InstallPackages:
    """Return the action for an order (the adapter of package manager apk). Raises UsageError, PlanError, NoMirror."""
    choice = order.choice
    declared = choice.recipe.apk
    if declared is None:
        raise UsageError(f"the recipe of {choice.recipe.name} has no entry apk: its package manager needs one")
    arch = choice.arch.name
    pinned = tuple(key for key in declared.keys if key.arch == arch)
    if not pinned and order.keyring is None:
        raise PlanError(f"no key of {choice.recipe.name} for {arch} is pinned: nothing is installed unverified")
    need_mirror(order.mirrors, subject=f"{choice.recipe.name} {choice.release_name}", below=f"v{choice.release_name}")
    return InstallPackages(
        release=choice.release_name,
        arch=arch,
        components=order.components or choice.release.components,
        packages=order.packages.everything,
        keyring=Keyring.of_file(order.keyring) if order.keyring else Keyring(pinned=pinned, url=declared.keys_url),
        scripts=declared.scripts,
        mirrors=order.mirrors,
        released=choice.release.released.epoch,
        epoch=order.epoch,
    )
