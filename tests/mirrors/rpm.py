"""Real rpm repositories, made in a builder: rpmbuild, rpmsign and createrepo_c, served on 127.0.0.1.

    python -m tests.mirrors rpm FOLDER --serve     # makes the mirror, serves it, prints the settings for it

A repository is a step like any other: it stays in the store until what it is made from changes. What guests are
installed from is in tests.mirrors.rpm_guest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.arch import host_arch
from osbuilder.distro.recipe import PackageManager, Recipe, load_recipes
from osbuilder.engine.base import Command
from osbuilder.engine.builder import BootstrapBuilder
from osbuilder.engine.script import lines, render
from osbuilder.step import Step
from tests.openpgp import Key

if TYPE_CHECKING:
    from osbuilder.api import Workbench
    from osbuilder.step import Job, Json

REPOSITORY: Final = "repository.tar"
EPOCH: Final = 1735689600  # 2025-01-01: when everything in a repository was made
KEY: Final = Key.of_seed(11, "Test Distribution <rpm@example.org>")

_BUILDER: Final = ("createrepo-c", "gpg", "gpg-agent", "rpm", "zstd")

# Names of files are simple on purpose: their tests replace some of them.
_SCRIPT: Final = """\
export GNUPGHOME=/tmp/gnupg SOURCE_DATE_EPOCH={{ epoch }}
mkdir -m 0700 "$GNUPGHOME"
gpg --batch --quiet --import /in/sources/key.asc
for spec in /in/sources/*.spec; do
  rpmbuild -bb --quiet --define "_topdir /work/top" --define "_sourcedir /in/sources" --define "_dbpath /work/db" \\
    --define "_rpmdir /work/rpms" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \\
    --define "_buildhost reproducible" --define "use_source_date_epoch_as_buildtime 1" \\
    --define "build_mtime_policy clamp_to_source_date_epoch" --define "_binary_payload w1.zstdio" \\
    --define "debug_package %{nil}" --define "__os_install_post %{nil}" "$spec"
done
mkdir -p /work/repository/Packages
mv /work/rpms/*.rpm /work/repository/Packages/
{% for package in unsigned %}
mv /work/repository/Packages/{{ package | sh }}-* /work/
{% endfor %}
rpmsign --addsign --define {{ ("_gpg_name " ~ signer) | sh }} /work/repository/Packages/*.rpm
{% for package in unsigned %}
mv /work/{{ package | sh }}-*.rpm /work/repository/Packages/
{% endfor %}
cd /work/repository
createrepo_c --quiet --revision={{ epoch }} --set-timestamp-to-revision --general-compress-type=gz \\
  --simple-md-filenames --no-database --workers=1 .
gpg --batch --local-user {{ signer | sh }} --armor --detach-sign repodata/repomd.xml
tar --create --file=/out/{{ tar | sh }} --sort=name .
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MakeRepository:
    """Build packages from specs and put them into a signed repository: leaves repository.tar.

    `specs` are (name, text). An input `sources` brings further specs and the files that they name. Packages named in
    `unsigned` stay without a signature.
    """

    specs: tuple[tuple[str, str], ...]
    secret_key: str
    signer: str
    unsigned: tuple[str, ...] = ()
    script: str = _SCRIPT

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Json]:
        sources = job.work / "sources"
        sources.mkdir()
        (sources / "key.asc").write_text(self.secret_key)
        for name, text in self.specs:
            (sources / f"{name}.spec").write_text(text)
        for artifact in job.inputs.values():
            for name in artifact.manifest["outputs"] if artifact is not job.inputs["builder"] else ():
                (sources / name).hardlink_to(artifact.path(name))
        (job.work / "script").write_text(self._script())
        command = Command(argv=("bash", "/in/script"))
        job.run(command, inputs={"sources": sources, "script": job.work / "script"})
        return {}

    def _script(self) -> str:
        return render(self.script, epoch=EPOCH, signer=self.signer, unsigned=self.unsigned, tar=REPOSITORY)


def repository_step(
    bench: Workbench,
    name: str,
    specs: Mapping[str, str],
    *,
    key: Key = KEY,
    unsigned: tuple[str, ...] = (),
    sources: Step | None = None,
) -> Step:
    """Return the step that builds a repository from specs, signed by a key."""
    builder = bench.planner.builder("rootfs").action
    assert isinstance(builder, BootstrapBuilder)
    return Step(
        name="repository",
        subject=f"test-rpm-{name}",
        action=MakeRepository(
            specs=tuple(sorted(specs.items())),
            secret_key=key.secret(),
            signer=key.fingerprint,
            unsigned=unsigned,
        ),
        inputs=(("sources", sources),) if sources else (),
        builder=Step(name="builder", subject="test-rpm", action=dataclasses.replace(builder, packages=_BUILDER)),
    )


def files(bench: Workbench, step: Step) -> dict[str, bytes]:
    """Return every file of a small repository by its path."""
    with tarfile.open(bench.executor.run(step).path(REPOSITORY)) as archive:
        found = {}
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                found[member.name.removeprefix("./")] = content.read()
        return found


def lay_out(bench: Workbench, step: Step, recipes: Iterable[Recipe], folder: Path) -> None:
    """Unpack a repository into a new folder that is a mirror of every recipe: it is at each address that they name."""
    with tarfile.open(bench.executor.run(step).path(REPOSITORY)) as archive:
        archive.extractall(folder / "all", filter="data")
    for path in addresses(recipes):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder / "all")


def addresses(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """Return the paths below a mirror at which recipes look for repositories on this machine's architecture."""
    found = {
        each.below(release=name, arch=host_arch().name)
        for recipe in recipes
        for name, release in recipe.releases.items()
        for each in release.repositories
    }
    return tuple(sorted(found))


def family() -> dict[str, Recipe]:
    """Return the recipes whose package manager is dnf, by name."""
    recipes = load_recipes(Path(__file__).resolve().parents[2] / "distros")
    return {name: recipe for name, recipe in recipes.items() if recipe.package_manager is PackageManager.DNF}


def settings_for(recipe: Recipe, url: str, folder: Path) -> tuple[str, ...]:
    """Return the settings that name a mirror and its key, whose file is written into a folder."""
    key = folder / "mirror-key.gpg"
    key.write_bytes(KEY.public())
    return (f"mirrors={recipe.name}={url}", f"keyrings={recipe.name}={key}")


@contextlib.contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve a folder on 127.0.0.1 and yield its address."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server calls
            """Say nothing: a mirror's log is dnf's."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
