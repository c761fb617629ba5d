"""Packs what modules for a kernel are built with: as Debian's package, as an RPM, or as the tar that it is.

What is in it, kbuild's own install-extmod-build says (modules.HEADERS); names and places are those of kbuild's packages
(scripts/package/builddeb, kernel.spec). The packages hold no build and no script: they are written here, because kbuild
would compile the kernel again for each of them.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.kernel.modules import HEADERS
from osbuilder.kernel.packageformat import PackageFormat

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.step import Job

PACKAGE: Final = "headers"

_DEB: Final = """\
tree=/work/tree
mkdir -p "$tree/DEBIAN" "$tree/lib/modules/$1"
tar --extract --zstd --file=/in/headers --directory="$tree"
ln -s "/usr/src/linux-headers-$1" "$tree/lib/modules/$1/build"
cd "$tree"
find usr -type f -print0 | sort -z | xargs -0 md5sum > DEBIAN/md5sums
cat > DEBIAN/control <<END
Package: linux-headers-$1
Version: $2-1
Architecture: {{ arch }}
Maintainer: osbuilder <osbuilder@localhost>
Installed-Size: $(find usr -type f -printf '%s\\n' | awk '{ sum += $1 } END { print int(sum / 1024) + 1 }')
Section: kernel
Priority: optional
Description: Headers of the guest kernel $1
 What modules for this kernel are built with: headers, makefiles, symbol versions, programs that the build runs.
END
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$tree" /out/{{ package }}
"""

_RPM: Final = """\
version=$(echo "$1" | tr - _)
# As uname tells it, as far as an RPM can say it: a version and a release have one dash between them (rpm-version(7)).
uname_r=$(echo "$1" | sed 's/-/_/2g')
cat > /work/kernel-devel.spec <<END
Name: kernel-devel
Version: $version
Release: 1
Summary: Headers of the guest kernel $1
License: GPL-2.0-only
AutoReqProv: no
Provides: kernel-devel-uname-r = $uname_r

%description
What modules for this kernel are built with: headers, makefiles, symbol versions, programs that the build runs.

%install
mkdir -p %{buildroot}/usr/src/kernels/$1 %{buildroot}/lib/modules/$1
tar --extract --zstd --file=/in/headers --directory=%{buildroot}/usr/src/kernels/$1 --strip-components=3
ln -s /usr/src/kernels/$1 %{buildroot}/lib/modules/$1/build

%files
%defattr(-, root, root)
/usr/src/kernels/$1
/lib/modules/$1/build
END
rpmbuild -bb --quiet --target {{ arch }}-linux --define '_topdir /work/rpm' --define '_buildhost osbuilder' \\
  --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \\
  --define '__spec_install_post %{nil}' --define 'debug_package %{nil}' --define '_binary_payload w6.xzdio' \\
  /work/kernel-devel.spec
cp /work/rpm/RPMS/*/*.rpm /out/{{ package }}
"""


TOOLS: Final[Mapping[PackageFormat, tuple[str, ...]]] = {PackageFormat.RPM: ("rpm",)}
"""Debian packages that a format takes, on top of the builder's."""

_SCRIPTS: Final = {PackageFormat.DEB: _DEB, PackageFormat.RPM: _RPM}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackHeaders:
    """Makes the file `headers` of the input `kernel`, which has modules; `arch` is as the format calls it."""

    format: PackageFormat
    arch: str

    @classmethod
    def for_arch(cls, format_: PackageFormat, arch: Arch) -> PackHeaders:
        """Return the action for an architecture."""
        return cls(format=format_, arch=arch.debian if format_ is PackageFormat.DEB else arch.name)

    def describe(self) -> tuple[str, ...]:
        return lines(self._script()) if self.format in _SCRIPTS else (f"copy {HEADERS}",)

    def run(self, job: Job) -> Mapping[str, Any]:
        kernel = job.inputs["kernel"]
        release, version = str(kernel.facts["release"]), str(kernel.facts["version"])
        if self.format in _SCRIPTS:
            env = {"SOURCE_DATE_EPOCH": str(int(kernel.facts["epoch"]))}
            run_script(job, self._script(), release, version, inputs={"headers": kernel.path(HEADERS)}, env=env)
        else:
            shutil.copyfile(kernel.path(HEADERS), job.out / PACKAGE)
        return {"file": self._file(release, version), "release": release, "version": version}

    def _script(self) -> str:
        return render(_SCRIPTS[self.format], arch=self.arch, package=PACKAGE)

    def _file(self, release: str, version: str) -> str:
        """Return what the package is called where packages lie: as kbuild calls it."""
        match self.format:
            case PackageFormat.DEB:
                return f"linux-headers-{release}_{version}-1_{self.arch}.deb"
            case PackageFormat.RPM:
                return f"kernel-devel-{release.replace('-', '_')}-1.{self.arch}.rpm"
            case PackageFormat.TAR:
                return f"linux-headers-{release}.{self.arch}.tar.zst"
