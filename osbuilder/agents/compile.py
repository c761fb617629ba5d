"""Compiles an agent with cargo: static, stripped, the same bytes each time, without a network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osbuilder.agents.libraries import LIBRARIES, LIBRARIES_AT, STD, STD_AT
from osbuilder.agents.pin import Libc
from osbuilder.agents.source import CRATES, SOURCE, stale_lock
from osbuilder.arch import ARCHES
from osbuilder.engine.script import lines, render, run_script
from osbuilder.errors import CommandFailed, SourceError
from osbuilder.rootfs.agent import AGENT, VERSION, checked
from osbuilder.rootfs.archive import FILES
from osbuilder.rootfs.policy import install_policy
from osbuilder.tree import Tree

if TYPE_CHECKING:
    from osbuilder.step import Job

_UNITS: Final = "usr/lib/systemd/system"
_EPOCH: Final = 315532800  # of what the agent compiles in: a source has no date that every kind of it knows

_BUILD: Final = """\
mkdir -p /work/cargo /work/source /work/crates {{ libraries }} {{ std }} /out/units
zstd --quiet --decompress --stdout /in/source |
  tar --extract --no-same-owner --strip-components=1 --directory=/work/source
zstd --quiet --decompress --stdout /in/crates | tar --extract --directory=/work/crates
zstd --quiet --decompress --stdout /in/libraries | tar --extract --directory={{ libraries }}
{% if musl %}
zstd --quiet --decompress --stdout /in/std | tar --extract --directory={{ std }}
{% endif %}
cp /work/crates/config.toml /work/cargo/config.toml
cd /work/source/{{ folder | sh }}
{% if make %}
make {{ make | sh }} > /dev/null
{% endif %}
cargo build --release --locked --offline --bin={{ name | sh }} --target={{ target }} --target-dir=/work/target \\
  --features={{ features | sh }}
cp /work/target/{{ target }}/release/{{ name | sh }} /out/agent
{% if version_file %}
head -n 1 /work/source/{{ version_file | sh }} > /out/version
{% else %}
cargo pkgid --locked --offline | sed 's/.*[#@]//' > /out/version
{% endif %}
{% for unit in units %}
cp {{ unit | sh }} /out/units/
{% endfor %}
{% if policy_file %}
[ ! -f /work/source/{{ policy_file | sh }} ] || cp /work/source/{{ policy_file | sh }} /out/policy
{% endif %}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuildAgent:
    """Compile an agent: inputs source, crates, libraries, and std for musl -> agent, files.tar, version.

    `sysroot` says that the standard library is that of the guest's architecture among the libraries, not the
    builder's. `policy_file` of the source, if it is there, is installed as a policy. Facts: version, libc, features,
    size_bytes, policy (its name, or None).
    """

    agent: str
    install: str
    arch: str
    libc: Libc
    folder: str
    features: tuple[str, ...]
    seccomp: bool
    sysroot: bool
    make: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    version_file: str | None = None
    policy_file: str | None = None

    def describe(self) -> tuple[str, ...]:
        return (*(f"{name}={value}" for name, value in sorted(self._environment().items())), *lines(self._script()))

    def run(self, job: Job) -> Mapping[str, Any]:
        output = job.work / "output"
        output.mkdir()
        files = {"source": SOURCE, "crates": CRATES, "libraries": LIBRARIES, "std": STD}
        inputs = {name: job.inputs[name].path(file) for name, file in files.items() if name in job.inputs}
        environment = self._environment() | {"CARGO_BUILD_JOBS": str(job.jobs)}
        try:
            run_script(job, self._script(), inputs=inputs, env=environment, output=output)
        except CommandFailed as error:
            if explained := self._explained(error.tail):
                raise explained from error
            raise
        elf = checked(output / AGENT, ARCHES[self.arch])
        if elf.interpreter:
            raise SourceError(
                f"agent {self.agent} is not static: it asks for {elf.interpreter}",
                hint="Look for `crate-type`, `rustflags` or a build script of its source that links dynamically.",
            )
        version = (output / VERSION).read_text(encoding="utf-8").strip()
        commit = job.inputs["source"].facts.get("commit")
        version = f"{version}-{commit}" if commit else version
        (job.out / VERSION).write_text(version, encoding="utf-8")
        (output / AGENT).rename(job.out / AGENT)
        policy = self._policy(output)
        self._write_files(output, job.out / FILES, policy)
        return {
            "version": version,
            "libc": self.libc.value,
            "features": list(self.features),
            "size_bytes": (job.out / AGENT).stat().st_size,
            "policy": policy,
        }

    def _policy(self, output: Path) -> str | None:
        """Return the name of the policy that the source had."""
        return Path(self.policy_file).name if self.policy_file and (output / "policy").exists() else None

    def _write_files(self, output: Path, target: Path, policy: str | None) -> None:
        """Write what comes with the agent: its units, and the policy."""
        tree = Tree()
        for unit in self.units:
            tree.add_file(f"{_UNITS}/{unit}", output / "units" / unit, parents_mode=0o755)
        if policy:
            install_policy(tree, policy, (output / "policy").read_bytes())
        tree.write(target, epoch=_EPOCH)

    def _explained(self, tail: str) -> SourceError | None:
        if stale := stale_lock(self.agent, tail):
            return stale
        if re.search(r"no matching package|unable to update|failed to (load|get|select)", tail):
            return SourceError(
                f"agent {self.agent}: its crates lack one that Cargo.lock names, or have another version of it:\n"
                + tail,
                hint="Make the tarball of crates from the same source (`cargo vendor --locked --versioned-dirs`).",
            )
        if "E0514" in tail:
            return SourceError(
                f"agent {self.agent}: Rust's standard library is of another version than the compiler",
                hint="Debian's archive moved on since the builder was made: `inv cache --gc`, and build again.",
            )
        return None

    def _environment(self) -> dict[str, str]:
        """Return what cargo, rustc and build scripts are told. Flags reach the guest's code, never build scripts."""
        arch = ARCHES[self.arch]
        target = arch.rust_triple(self.libc.value)
        musl = self.libc is Libc.MUSL
        word = target.replace("-", "_")
        compiler = f"{STD_AT}/cc" if musl else f"{arch.triplet}-gcc"
        libraries = f"{LIBRARIES_AT}/usr/lib/{arch.triplet}"
        sysroot = STD_AT if musl else f"{LIBRARIES_AT}/usr"
        flags = (
            *((f"--sysroot={sysroot}",) if musl or self.sysroot else ()),
            *("-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-Clink-arg=-Wl,--build-id=none"),
            *("--remap-path-prefix=/work/crates=crates", "--remap-path-prefix=/work/source=."),
            *("--remap-path-prefix=/work/target=target",),
        )
        environment = {
            "CARGO_HOME": "/work/cargo",
            "CARGO_INCREMENTAL": "0",
            "CARGO_NET_OFFLINE": "true",
            "SOURCE_DATE_EPOCH": str(_EPOCH),
            "LIBC": self.libc.value,
            "RUSTFLAGS": " ".join(flags),
            f"CARGO_TARGET_{word.upper()}_LINKER": f"{arch.triplet}-gcc",
            f"CC_{word}": compiler,
            f"AR_{word}": f"{arch.triplet}-ar",
            f"CFLAGS_{word}": "-ffile-prefix-map=/work=.",
            "PKG_CONFIG_ALLOW_CROSS": "1",
            "PKG_CONFIG_LIBDIR": f"{libraries}/pkgconfig",
            # Else a build script would add the folder of the builder's own libc.
            "PKG_CONFIG_SYSROOT_DIR": LIBRARIES_AT,
        }
        if self.seccomp:
            environment["LIBSECCOMP_LINK_TYPE"] = "static"
            environment["LIBSECCOMP_LIB_PATH"] = f"{STD_AT}/seccomp" if musl else libraries
        return environment

    def _script(self) -> str:
        return render(
            _BUILD,
            name=self.install,
            target=ARCHES[self.arch].rust_triple(self.libc.value),
            musl=self.libc is Libc.MUSL,
            folder=self.folder,
            features=",".join(self.features),
            make=self.make,
            units=self.units,
            version_file=self.version_file,
            policy_file=self.policy_file,
            libraries=LIBRARIES_AT,
            std=STD_AT,
        )
