"""The skeleton of a recipe: whole, so that every check passes, with made-up values where only its writer knows.

Keys are all zeros: nothing can be installed before they are the distribution's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from osbuilder.arch import ARCHES
from osbuilder.distro.recipe import RECIPE, PackageManager, load_recipe, load_recipes
from osbuilder.errors import UsageError, suggest
from osbuilder.outfile import replacing
from osbuilder.template import render

_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")
_RESERVED: Final = "all"

_TEXT: Final = """\
# {{ name }} as a guest. What an entry means: osbuilder/distro/recipe.py, and docs/add-a-distro.md.
# FILL IN what is marked so; then: inv test --select recipe, inv boot --distro {{ name }}
name: {{ name }}
title: {{ name }}  # FILL IN: for people
package-manager: {{ manager }}
default-release: "1"
{% if mirror %}

# FILL IN: the distribution's own, for when the setting mirrors names none; and where that is written.
mirrors: [https://mirror.example.org/{{ name }}]
{% endif %}
{% if keyring %}

# FILL IN: where the builder has the distribution's keys. Only the keys named under signed-by are taken from it.
keyring: {{ keyring }}
{% endif %}

releases:
  "1":  # FILL IN: as the package manager calls it
    version: "1"
    released: "2026-01-01"  # FILL IN: no file of a guest is younger
{{ release }}
arches: [x86_64]
excluded:  # FILL IN: every architecture is offered or has a reason, which is printed
{% for arch in others %}
  - {arch: {{ arch }}, why: nobody has tried it}
{% endfor %}

inits: [{{ inits }}]  # the first is the default
{% if packages %}

features:
  debug: tools to look around with on a guest's debug console

# What the guest is for. FILL IN: names as the distribution has them.
packages:
  always:
    - chrony
    - cryptsetup
    - e2fsprogs
    - iproute2
    - iptables
    - kmod
    - nftables
  when:
{% if "systemd" in inits %}
    - init: systemd
      packages: [dbus, systemd]
{% endif %}
    - feature: debug
      packages: [strace, tcpdump]
{% else %}

packages:
  always: []  # what is in the tarball is what there is
{% endif %}
{{ rest }}"""

_SIGNED: Final = f'    signed-by: ["{"0" * 40}"]  # FILL IN\n'
_APK: Final = f"""
apk:
  keys-url: https://mirror.example.org/keys  # FILL IN
  keys:
    - {{arch: x86_64, name: builder@example.org-0000.rsa.pub, sha512: "{"0" * 128}"}}  # FILL IN
"""
_ARCHIVE: Final = f"""
archive:
  tarballs:
    - {{arch: x86_64, path: "root-{{release}}.tar.xz", sha256: "{"0" * 64}"}}  # FILL IN
"""


def _repository(name: str, path: str) -> str:
    row = f'{{name: {name}, path: "{path}", signed-index: false}}'
    return f"    repositories:  # FILL IN: below a mirror\n      - {row}\n"


# keyring, what else a release has, inits, what stands at the end.
_KINDS: Final[Mapping[PackageManager, tuple[str, str, str, str]]] = {
    PackageManager.APK: ("", "    components: [main]\n", "agent", _APK),
    PackageManager.APT: (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        f"    components: [main]\n{_SIGNED}",
        "systemd, agent",
        "",
    ),
    PackageManager.ARCHIVE: ("", "", "agent", _ARCHIVE),
    PackageManager.DNF: (
        "/usr/share/distribution-gpg-keys",
        f"{_repository('base', '{release}/base/{arch}')}    rpm-database: /usr/lib/sysimage/rpm\n{_SIGNED}",
        "systemd, agent",
        "",
    ),
    PackageManager.PACMAN: (
        "/usr/share/keyrings/archlinux",
        f"{_repository('core', '{release}/core/os/{arch}')}{_SIGNED}",
        "systemd, agent",
        "",
    ),
}


def write_skeleton(folder: Path, name: str, manager: PackageManager) -> Path:
    """Write folder/NAME/recipe.yaml and return it. Raises UsageError: a name that is taken or cannot be one."""
    path, text = render_skeleton(folder, name, manager)
    path.parent.mkdir()
    with replacing(path, UsageError) as descriptor, open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    load_recipe(path)
    return path


def render_skeleton(folder: Path, name: str, manager: PackageManager) -> tuple[Path, str]:
    """Return what `write_skeleton` would write, and where; writes nothing. Raises UsageError as it does."""
    if not _NAME.fullmatch(name) or name == _RESERVED:
        raise UsageError(
            f"not a name for a distribution: {name!r}", hint="Use small letters, digits and dashes; `all` means all."
        )
    if manager not in _KINDS:
        raise UsageError(
            f"a recipe for package manager {manager.value} has nothing to be filled in",
            hint=suggest(manager.value, (each.value for each in _KINDS)),
        )
    path = folder / name / RECIPE
    if path.parent.exists():
        raise UsageError(f"there is a distribution {name!r} already ({path.parent})", hint="Choose another name.")
    for recipe in load_recipes(folder).values():
        if name in recipe.aliases:
            raise UsageError(f"{name!r} is an alias of the distribution {recipe.name}", hint="Choose another name.")
    keyring, release, inits, rest = _KINDS[manager]
    text = render(
        _TEXT,
        name=name,
        manager=manager.value,
        mirror=manager is not PackageManager.APT,
        keyring=keyring,
        others=[arch for arch in ARCHES if arch != "x86_64"],
        release=release,
        inits=inits,
        packages=manager.installs_packages,
        rest=rest,
    )
    return path, text
