"""What must hold before a tree becomes an image or an initrd: a guest that cannot start is an error here, not at boot.

Every check can fail, and each has a test in which it does.
"""

from __future__ import annotations

from osbuilder.arch import Arch
from osbuilder.errors import RootfsError, TreeError
from osbuilder.pid1 import Init
from osbuilder.rootfs.agent import describe_machine, fits
from osbuilder.rootfs.elf import parse_elf
from osbuilder.rootfs.init import find_unit
from osbuilder.tree import Tree
from osbuilder.tree.entry import Entry, Kind

_MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")


def check_input(tree: Tree) -> None:
    """Refuse a tree that is no root filesystem. Raises RootfsError."""
    if len(tree) <= 1:
        raise RootfsError(
            "the root filesystem is empty: expected packages, got no file", hint="Name packages or another tree."
        )
    if not any(tree.exists(folder) for folder in ("usr/bin", "bin", "usr/sbin", "sbin")):
        found = ", ".join(tree.children("")[:8])
        raise RootfsError(
            f"this is no root filesystem: expected usr/bin or bin in it, got {found}",
            hint="The archive's names must start at the root (./usr, not ROOT/usr).",
        )


def check_agent_name(tree: Tree, name: str, *, init: Init, brought: Tree) -> None:
    """Refuse an agent that is called like something of the packages in a tree. Raises RootfsError.

    One that brings its unit, among the files `brought` with it, is meant to replace what the packages have of it.
    """
    unit, program = f"{name}.service", f"usr/bin/{name}"
    if find_unit(brought, unit) is not None:
        return
    taken = program if tree.exists(program) else find_unit(tree, unit) if init is Init.SYSTEMD else None
    if taken is not None:
        raise RootfsError(
            f"the agent cannot be called {name}: expected a name that no package has, got that of /{taken}",
            hint=f"Rename its file, or bring it in an archive with a {unit} of its own: that replaces the packages'.",
        )


def check_output(tree: Tree, *, init: Init, arch: Arch, agent_path: str) -> None:
    """Refuse a tree whose guest could not start. Raises RootfsError, the first of the checks that fails."""
    check_mount_points(tree)
    _check_agent(tree, agent_path, arch)
    if init is Init.AGENT:
        _check_console(tree)
        _check_init(tree, "init")
    elif not _leads_to_systemd(tree):
        raise RootfsError(
            f"/sbin/init is not systemd: it leads to /{_check_init(tree, 'sbin/init')}",
            hint="Install the distribution's systemd as init (Debian: systemd-sysv), or use --init agent.",
        )
    _check_machine(tree, _check_init(tree, "sbin/init"), arch)


def check_mount_points(tree: Tree) -> None:
    """Refuse a tree that lacks a folder which whoever starts it mounts on. Raises RootfsError."""
    for folder in _MOUNT_POINTS:
        entry = tree.find(folder)
        if entry is None or entry.kind is not Kind.DIR:
            raise RootfsError(
                f"no folder /{folder} to mount on: got {entry.kind.value if entry else 'nothing'}",
                hint="A read-only root cannot make it later: add it to the tree.",
            )


def _check_machine(tree: Tree, name: str, arch: Arch) -> None:
    """Refuse an init for another architecture: what a tree that a user brings holds, nobody else has looked at."""
    try:
        elf = parse_elf(tree.get(name).content.read())
    except ValueError:
        return  # a script, whose interpreter the kernel looks for
    if not fits(elf, arch):
        raise RootfsError(
            f"the init is for another architecture (/{name}): expected {arch.name}, got {describe_machine(elf)}",
            hint="Name the architecture of the tree (--arch).",
        )


def _check_init(tree: Tree, path: str) -> str:
    """Return the name that an init path leads to."""
    try:
        name = tree.resolve(path)
    except TreeError as error:
        raise RootfsError(
            f"no init: /{path} leads nowhere ({error.message})",
            hint="Install an init (Debian: systemd-sysv), or use --init agent.",
        ) from error
    _check_executable(name, tree.get(name), "init")
    return name


def _check_executable(name: str, entry: Entry, what: str) -> None:
    if entry.kind is not Kind.FILE or not entry.mode & 0o111:
        got = entry.kind.value if entry.kind is not Kind.FILE else f"mode {entry.mode:04o}"
        raise RootfsError(
            f"the {what} cannot be executed (/{name}): expected an executable file, got {got}",
            hint="Give it mode 0755.",
        )


def _leads_to_systemd(tree: Tree) -> bool:
    return _check_init(tree, "sbin/init").rpartition("/")[2] == "systemd"


def _check_console(tree: Tree) -> None:
    entry = tree.find("dev/console")
    if entry is None or entry.kind is not Kind.CHAR or entry.device != (5, 1):
        raise RootfsError(
            "no /dev/console for the agent as init: expected the character device 5:1, "
            f"got {entry.kind.value if entry else 'nothing'}",
            hint="Without it an initrd's init has no standard streams and dies at its first message.",
        )


def _check_agent(tree: Tree, path: str, arch: Arch) -> None:
    entry = tree.find(path)
    if entry is None:
        raise RootfsError(f"no agent in the root filesystem: expected it at {path}", hint="Build it in (--agent).")
    _check_executable(path.lstrip("/"), entry, "agent")
    try:
        elf = parse_elf(entry.content.read())
    except ValueError as error:
        raise RootfsError(
            f"the agent cannot be executed ({path}): expected an ELF executable, got {error}",
            hint=f"Build it for {arch.name}.",
        ) from None
    if not fits(elf, arch):
        raise RootfsError(
            f"the agent is for another architecture ({path}): expected {arch.name}, got {describe_machine(elf)}",
            hint=f"Build it for {arch.name}.",
        )
    if elf.interpreter:
        _check_interpreter(tree, elf.interpreter, path)


def _check_interpreter(tree: Tree, interpreter: str, agent: str) -> None:
    try:
        tree.resolve(interpreter)
    except TreeError:
        raise RootfsError(
            f"the agent cannot start ({agent}): it is linked dynamically and asks for {interpreter}, "
            "which this root filesystem does not have",
            hint="Link the agent statically, or use a distribution with its C library.",
        ) from None
