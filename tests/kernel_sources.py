"""Small kernel sources for tests: as folders, and as tar archives whose members are chosen one by one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import zstandard

EPOCH: Final = 1_700_000_000

MAKEFILE: Final = """\
# SPDX-License-Identifier: GPL-2.0
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 57
EXTRAVERSION =
NAME = A small one
"""

FILES: Final[Mapping[str, str]] = {
    "Makefile": MAKEFILE,
    "Kconfig": 'mainmenu "Linux/$(ARCH) Kernel Configuration"\n',
    "scripts/kconfig/Makefile": "# conf\n",
    "kernel/fork.c": "int fork;\n",
}


def member(
    name: str, content: str = "", *, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """Return one member of an archive, with its content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime, info.size = kind, link, EPOCH, len(content.encode())
    return info, content.encode()


def members(files: Mapping[str, str] = FILES, *, top: str = "linux-6.12.57") -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the members of a source with its top folder."""
    return [member(top, kind=tarfile.DIRTYPE), *(member(f"{top}/{name}", text) for name, text in files.items())]


def pack(contents: Iterable[tuple[tarfile.TarInfo, bytes]], *, format: int = tarfile.GNU_FORMAT) -> bytes:  # noqa: A002
    """Return a plain tar of those members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for info, content in contents:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return stream.getvalue()


def write_archive(path: Path, plain: bytes) -> Path:
    """Write a tar compressed with zstd."""
    path.write_bytes(zstandard.compress(plain))
    return path


def write_tree(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """Write the files of a source into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read_tree(folder: Path) -> dict[str, str]:
    """Return the text of each file below a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


# A kernel in few lines: it has the targets that osbuilder calls, really compiles, and records who built it when, as a
# kernel does. CONFIG_GONE is not of this kernel; CONFIG_LATE shows only where drivers/late.c is.
SMALL_KERNEL: Final[Mapping[str, str]] = {
    "Makefile": MAKEFILE
    + """\
O := .
allnoconfig: $(O)/scripts/kconfig/conf
	cd $(O) && scripts/kconfig/conf --allnoconfig Kconfig
$(O)/scripts/kconfig/conf:
	mkdir -p $(@D)
	printf '#!/bin/sh\\nsed /CONFIG_GONE=/d "$${KCONFIG_ALLCONFIG:-/dev/null}" > .config\\n' > $@
	chmod +x $@
olddefconfig:
	if [ -n "$$(find drivers -name 'late.[c]')" ]; then echo CONFIG_LATE=y >> $(O)/.config; fi
$(O)/fork.o: kernel/fork.c
	$(CC) -c -o $@ $<
$(O)/version.o: $(O)/fork.o
	echo "const char *f = __FILE__;" > $(O)/version.c
	echo "const char *v = \\"$(KBUILD_BUILD_USER)@$(KBUILD_BUILD_HOST) #$(KBUILD_BUILD_VERSION)\\"" >> $(O)/version.c
	echo "\\" $(KBUILD_BUILD_TIMESTAMP)\\";" >> $(O)/version.c
	$(CC) -g -c -o $@ $(O)/version.c
vmlinux: $(O)/version.o
	$(CROSS_COMPILE)ld -e 0 -o $(O)/vmlinux $(O)/fork.o $(O)/version.o
	$(CROSS_COMPILE)ar rcD $(O)/vmlinux.a $(O)/fork.o $(O)/version.o
	nm $(O)/vmlinux > $(O)/System.map
	mkdir -p $(O)/include/config && echo 6.12.57 > $(O)/include/config/kernel.release
bzImage: vmlinux
	mkdir -p $(O)/arch/x86/boot && gzip -n < $(O)/vmlinux > $(O)/arch/x86/boot/bzImage
""",
    "Kconfig": 'mainmenu "Small"\nconfig FAST\n\tbool "Fast"\nconfig GONE\n\tbool "Gone"\n\tdepends on SLOW\n',
    "scripts/kconfig/Makefile": "# conf\n",
    "kernel/fork.c": "int fork = 1;\n",
    "drivers/Kconfig": "# nothing\n",
}

# The same with a module, and the script that says what others are built with; as kbuild does, it leaves a link to where
# it was built.
SMALL_KERNEL_WITH_MODULES: Final[Mapping[str, str]] = {
    **SMALL_KERNEL,
    "Makefile": SMALL_KERNEL["Makefile"].replace("6.12.57 >", "6.12.57-small >")
    + """\
modules:
	$(CC) -g -c -o $(O)/a.ko drivers/a.c
	echo "0x0 fork vmlinux EXPORT_SYMBOL" > $(O)/Module.symvers
modules_install:
	mkdir -p $(INSTALL_MOD_PATH)/lib/modules/6.12.57-small/kernel/drivers
	ln -s $(CURDIR) $(INSTALL_MOD_PATH)/lib/modules/6.12.57-small/build
	$(CROSS_COMPILE)strip --strip-debug -o $(INSTALL_MOD_PATH)/lib/modules/6.12.57-small/kernel/drivers/a.ko $(O)/a.ko
	depmod -b $(INSTALL_MOD_PATH) 6.12.57-small
""",
    "drivers/a.c": """\
static const char license[] __attribute__((section(".modinfo"), used)) = "license=GPL";
int init_module(void) { return 0; }
""",
    "scripts/package/install-extmod-build": """\
cp Module.symvers "$1/"
cp "$srctree/Makefile" "$1/Makefile.$SRCARCH"
""",
}
