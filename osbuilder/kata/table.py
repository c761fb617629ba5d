"""What users of Kata's osbuilder scripts gave them, and what that is here: one table of variables and options.

What a variable that is set does is osbuilder.kata.translate's business. docs/migrating-from-kata.md is made from this.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final

REPOSITORY: Final = "https://github.com/kata-containers/kata-containers"
"""Where their agent's versions are."""


CROSS_BUILD: Final = "CROSS_BUILD"
TARGET_ARCH: Final = "TARGET_ARCH"
POLICY: Final = "AGENT_POLICY"
POLICY_FILE: Final = "AGENT_POLICY_FILE"


class Script(enum.Enum):
    """Their scripts."""

    ROOTFS = "rootfs.sh"
    IMAGE = "image_builder.sh"
    INITRD = "initrd_builder.sh"
    KERNEL = "build-kernel.sh"


COMMANDS: Final[Mapping[str, tuple[Script, ...]]] = {
    "rootfs": (Script.ROOTFS,),
    "image": (Script.ROOTFS, Script.IMAGE),
    "initrd": (Script.ROOTFS, Script.INITRD),
    "kernel": (Script.KERNEL,),
}
"""Which of their scripts a command of ours stands for: the variables of these matter to it."""


class Fate(enum.Enum):
    """What becomes of something that they had."""

    SAME = "read by the settings under this very name"
    TAKEN = "becomes a flag or a setting"
    EXPLAINED = "has no effect, and a note says why"
    REFUSED = "is an error that says why"
    LATER = "is an error: not available yet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing of theirs: a `variable`, an `option` of their script, or both; `ours` is what to write here instead.

    A variable that is TAKEN becomes the flag `flag` or the setting `setting`. What its text is, `form` says: "text",
    "words", "list" (words, with commas between them), "number", "path", "paths" (for a flag that may be given several
    times), "options" (put into `template`, words again), or "switch": yes or no, each one of `values`. A setting's
    `template` may name "{distro}". A switch that is off where `values` says nothing of it asks for what is so here
    anyway, whatever the row's fate, and so does a text that is `accepted`. `secret` values are not shown. `agent` marks
    what is about the agent alone, `compiled` what is about one that is compiled here.
    """

    script: Script = Script.ROOTFS
    ours: str
    meaning: str
    variable: str = ""
    option: str = ""
    fate: Fate = Fate.TAKEN
    flag: str = ""
    setting: str = ""
    form: str = "text"
    values: Mapping[bool, object] | None = None
    template: str = "{value}"
    accepted: tuple[str, ...] = ()
    secret: bool = False
    agent: bool = False
    compiled: bool = False

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of ours that it matters to."""
        found = tuple(name for name, scripts in COMMANDS.items() if self.script in scripts)
        return (*found, "agent") if self.agent else found


def _option(option: str, meaning: str, ours: str) -> Row:
    return Row(option=option, meaning=meaning, ours=ours)


def _taken(variable: str, meaning: str, ours: str, **further: Any) -> Row:
    return Row(variable=variable, meaning=meaning, ours=ours, **further)


def _same(variable: str, meaning: str, ours: str) -> Row:
    return Row(variable=variable, meaning=meaning, ours=ours, fate=Fate.SAME)


def _explained(variable: str, meaning: str, ours: str, **further: Any) -> Row:
    return Row(variable=variable, meaning=meaning, ours=ours, fate=Fate.EXPLAINED, **further)


def _refused(variable: str, meaning: str, ours: str, **further: Any) -> Row:
    return Row(variable=variable, meaning=meaning, ours=ours, fate=Fate.REFUSED, **further)


def _later(variable: str, meaning: str, ours: str, **further: Any) -> Row:
    return Row(variable=variable, meaning=meaning, ours=ours, fate=Fate.LATER, **further)


def _switched(option: str) -> Mapping[str, Any]:
    return {**_COMPILED, "form": "switch", "values": {True: [f"{option}=yes"], False: [f"{option}=no"]}}


_COMPILED: Final[Mapping[str, Any]] = {"flag": "agent_option", "form": "options", "agent": True, "compiled": True}
_MEASURED: Final[Mapping[str, Any]] = {"flag": "measured", "form": "switch", "values": {True: True}}
_OVERLAY: Final[Mapping[str, Any]] = {"flag": "overlay", "form": "paths"}
_OUTPUT: Final[Mapping[str, Any]] = {"option": "-o", "flag": "output", "form": "path"}

_ARCH: Final = (
    _taken(TARGET_ARCH, f"architecture (with {CROSS_BUILD}=true)", "`--arch ARCH`", flag="arch", agent=True),
    _explained(
        CROSS_BUILD,
        "build for another architecture",
        f"nothing is switched for that: --arch, or {TARGET_ARCH} beside it, names the architecture",
        form="switch",
        agent=True,
    ),
    _explained(
        "ARCH", "architecture of the build", "a guest is this machine's, unless --arch names another one", agent=True
    ),
)

_TABLE: Final[Mapping[Script, tuple[Row, ...]]] = {
    Script.ROOTFS: (
        *_ARCH,
        _taken(
            "ROOTFS_ONLY",
            "no agent, no init set-up (extension images)",
            "`--extension`",
            flag="extension",
            form="switch",
            values={True: True},
        ),
        _taken("AGENT_SOURCE_BIN", "the agent, a file", "`--agent PATH`", flag="agent", form="path", agent=True),
        _taken("AGENT_TARBALL", "the agent, a tarball", "`--agent PATH`", flag="agent", form="path", agent=True),
        _taken(
            "AGENT_VERSION",
            "git ref of the agent",
            "`--agent kata --agent-option git=URL --agent-option ref=REF`",
            option="-a",
            flag="agent_option",
            form="options",
            template=f"git={REPOSITORY} ref={{value}}",
            agent=True,
            compiled=True,
        ),
        _taken("LIBC", "C library of the agent", "`--agent-option libc=NAME`", template="libc={value}", **_COMPILED),
        _taken("SECCOMP", "agent with seccomp", "`--agent-option seccomp=no`", **_switched("seccomp")),
        _taken(
            POLICY,
            "agent with policies, and the source's own as /etc/kata-opa/default-policy.rego",
            "`--agent-option policy=yes`",
            **_switched("policy"),
        ),
        _taken(
            POLICY_FILE,
            f"the policy that is installed instead (with {POLICY}=yes)",
            "`--agent-policy FILE`",
            flag="agent_policy",
            form="path",
        ),
        _taken("COCO_GUEST_COMPONENTS_TARBALL", "tarball over the rootfs", "`--overlay FILE`", **_OVERLAY),
        _taken("PAUSE_IMAGE_TARBALL", "tarball over the rootfs", "`--overlay FILE`", **_OVERLAY),
        _taken("GUEST_HOOKS_TARBALL", "tarball over the rootfs", "`--overlay FILE`", **_OVERLAY),
        _taken(
            "KERNEL_MODULES_DIR", "kernel modules", "`--modules PATH`, a folder or a tar", flag="modules", form="path"
        ),
        _option("-d", "delete unneeded systemd units", "always; `--keep units` keeps them"),
        _option("-l", "list distributions", "`inv distros`"),
        _explained(
            "OSBUILDER_VERSION",
            "version written into the summary",
            "the summary names the version of this project",
            option="-o",
        ),
        _explained(
            "ROOTFS_DIR",
            "folder that the rootfs is made in",
            "the result is a tar (--output FILE); to start from a folder of yours: --provision DIR",
            option="-r",
        ),
        _option("-t DISTRO", "print its test configuration", "`inv distros --json`"),
        _taken("DISTRO", "the distribution", "`--distro NAME`", option="DISTRO", flag="distro"),
        _option(
            "(no DISTRO)",
            "provision an existing tree",
            "`--provision DIR_OR_TAR`, also for `inv image` and `inv initrd`",
        ),
        _explained(
            "AGENT_BIN", "name of the agent's binary", "the agent keeps the name of its file, or that of versions.yaml"
        ),
        _taken(
            "AGENT_INIT",
            "the agent is PID 1",
            "`--init agent`; no: `--init systemd`",
            flag="init",
            form="switch",
            values={True: "agent", False: "systemd"},
        ),
        _later("CONFIDENTIAL_GUEST", "/run gets half of the memory", "/run has systemd's default size.", form="switch"),
        _taken("EXTRA_PKGS", "further packages", "`--package NAME`, once for each", flag="package", form="words"),
        _taken("OS_VERSION", "release of the distribution", "`--release NAME`", flag="release"),
        _taken(
            "REPO_URL",
            "mirror of the distribution",
            "`--setting mirrors=DISTRO=URL`; Debian's and Ubuntu's updates and security archives are used beside it"
            " (`--setting archives=DISTRO=...`)",
            setting="mirrors",
            template="{distro}={value}",
        ),
        _taken(
            "REPO_COMPONENTS",
            "components of the repository",
            "`--setting components=DISTRO=main,contrib`",
            setting="components",
            form="list",
            template="{distro}={value}",
        ),
        _refused(
            "DISTRO_REPO",
            "repositories of the host",
            "A guest does not depend on its builder: name mirrors (--setting mirrors=DISTRO=URL).",
        ),
        _refused(
            "DNF_CONF",
            "configuration of dnf",
            "Repositories and keys are the recipe's, mirrors are settings (--setting mirrors=DISTRO=URL).",
        ),
        _explained("PKG_MANAGER", "package manager for rpm distributions", "the recipe names its package manager"),
        _taken("SELINUX", "label the rootfs", "`--selinux`", flag="selinux", form="switch", values={True: True}),
        _taken(
            "USE_DOCKER",
            "build in Docker",
            "`--setting engine=docker`",
            setting="engine",
            form="switch",
            values={True: "docker"},
        ),
        _taken(
            "USE_PODMAN",
            "build in Podman",
            "`--setting engine=podman`",
            setting="engine",
            form="switch",
            values={True: "podman"},
        ),
        _explained(
            "DOCKER_RUNTIME",
            "container runtime of the builder",
            "the engine's own default is used; the sandbox needs none (--setting engine=sandbox)",
        ),
        _explained(
            "IMAGE_REGISTRY",
            "registry of the builder's image",
            "builders are made of signed packages, not of images (see the setting base_image)",
        ),
        _same("http_proxy", "proxy", "the same, or `--setting http_proxy=URL`"),
        _same("https_proxy", "proxy", "the same, or `--setting https_proxy=URL`"),
        _explained(
            "GRACEFUL_EXIT",
            "tolerate a distribution that fails",
            "a build that fails says so by its exit code; `|| true` tolerates it",
            form="switch",
        ),
        _explained(
            "BUILD_CAN_FAIL",
            "tolerate a distribution that fails",
            "a build that fails says so by its exit code; `|| true` tolerates it",
            form="switch",
        ),
        _explained(
            "KBUILD_SIGN_PIN",
            "PIN of the key that signs modules",
            "modules are signed when their kernel is built (`inv kernel`), not when they are put into a rootfs",
            secret=True,
        ),
    ),
    Script.IMAGE: (
        _taken("IMAGE", "the result", "`--output FILE`; always in build/ARCH/ too", **_OUTPUT),
        _option("ROOTFS_DIR", "folder of the rootfs", "`--provision DIR_OR_TAR`"),
        _taken(
            "ROOT_FREE_SPACE",
            "free space, MiB",
            "`--free-space-mib N`",
            option="-r",
            flag="free_space_mib",
            form="number",
        ),
        _taken(
            "FS_TYPE",
            "filesystem",
            "`--fs ext4` or `--fs erofs`; xfs is an error that says why",
            option="-f",
            flag="fs",
        ),
        _refused(
            "BLOCK_SIZE",
            "block size of the filesystem",
            "Blocks are of 4096 bytes, the page size that DAX maps.",
            accepted=("4096",),
        ),
        _taken(
            "IMAGE_SIZE_ALIGNMENT_MB",
            "alignment of the image's size, MiB",
            "`--align-mib N`",
            flag="align_mib",
            form="number",
        ),
        _taken("SKIP_DAX_HEADER", "no DAX header", "`--no-dax`", flag="dax", form="switch", values={True: False}),
        _explained("NSDAX_BIN", "the program that writes the DAX header", "the header is written without one"),
        _taken("MEASURED_ROOTFS", "dm-verity hash partition", "`--measured`", **_MEASURED),
        _explained(
            "DM_VERITY",
            "keep udev, for a root that systemd verifies",
            "the kernel verifies a measured root before systemd starts; --keep units keeps udev",
            form="switch",
        ),
        _taken("BUILD_VARIANT", "names the root hash file", "`--build-variant NAME`", flag="build_variant"),
        _explained(
            "SKIP_ROOTFS_CHECK",
            "do not check the rootfs",
            "a root filesystem is checked in any case: a guest that cannot start is an error; see --extension",
            form="switch",
        ),
    ),
    Script.INITRD: (
        _taken("INITRD_IMAGE", "the result", "`--output FILE`; always in build/ARCH/ too", **_OUTPUT),
        _option("ROOTFS_DIR", "folder of the rootfs", "`--provision DIR_OR_TAR`"),
    ),
    Script.KERNEL: (
        _option("setup, build, install", "one after the other", "`inv kernel`, one command: nothing is done twice"),
        _option("build-headers, -H", "headers, deb or rpm", "`inv kernel.headers --format deb` (or rpm, tar)"),
        _option("-a ARCH", "architecture", "`--arch ARCH`"),
        *_ARCH,
        _option("-b TYPE", "build type", "`--variant NAME`"),
        _option(
            "-c FILE",
            "configuration file",
            "`--fragment FILE` for what to add (`inv kernel.menuconfig` writes one); for the rest a variant",
        ),
        _option("-e", "experimental", "`--variant experimental`, or `--kernel LINE` of versions.yaml"),
        _option("-f", "regenerate", "not needed: what changed is made again"),
        _option("-g VENDOR", "GPU", "`--variant nvidia-gpu`; for Intel's there is none"),
        _option("-k TREE", "existing tree", "`--tree DIR`"),
        _option("-m", "measured rootfs", "`--variant measured`"),
        _option("-p DIR", "patches", "`--patches NAME`, a folder of kernel/patches, or `--patches ./DIR`"),
        _option("-r REF", "git ref", "`--git URL --ref REF`"),
        _option(
            "-s",
            "skip checks",
            "not possible: a symbol that was dropped is an error, or has a waiver (kernel/configs/waivers.yaml)",
        ),
        _option("-t HYPERVISOR", "hypervisor", "not needed: one kernel serves all of them (`inv kernel.capabilities`)"),
        _option("-u URL", "source", "`urls:` of a kernel line in versions.yaml"),
        _option("-v VERSION", "version", "`--kernel LINE` of versions.yaml"),
        _option("-x", "confidential", "`--variant confidential`"),
        _explained("DESTDIR", "where `install` puts kernels", "kernels are put into build/ARCH/ (--setting build=DIR)"),
        _explained("PREFIX", "where `install` puts kernels", "kernels are put into build/ARCH/ (--setting build=DIR)"),
        _same(
            "KBUILD_SIGN_PIN",
            "PIN of the key that signs modules",
            "the same, with `--setting module_signing_key=FILE`",
        ),
        _taken(
            "KERNEL_DEBUG_ENABLED",
            "debug kernel",
            "`--variant debug`",
            flag="variant",
            form="switch",
            values={True: "debug"},
        ),
    ),
}

ROWS: Final = tuple(dataclasses.replace(row, script=script) for script, rows in _TABLE.items() for row in rows)
"""All that they had."""

VARIABLES: Final = tuple(dict.fromkeys(row.variable for row in ROWS if row.variable))
"""The names of their variables."""


def options_of(command: str) -> Mapping[str, Mapping[Script, str]]:
    """Return what the options and subcommands of the scripts that a command of ours stands for are here.

    By what is typed (`-c`, `setup`); two scripts may mean different things by a letter.
    """
    found: dict[str, dict[Script, str]] = {}
    for row in ROWS:
        if command not in row.commands:
            continue
        for typed in (part.split()[0] for part in row.option.split(", ") if part):
            # DISTRO, ROOTFS_DIR: these stand for what is typed.
            if typed.startswith("-") or typed == typed.lower():
                found.setdefault(typed, {})[row.script] = row.ours
    return found
