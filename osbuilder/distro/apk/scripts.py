"""Install scripts, which never run: what they would do is read from them, or declared by the recipe.

A script that holds nothing but what `read_script` knows (system users and groups, folders, busybox's links) is read and
its effects are applied, whatever the guest's architecture. Any other script that would run must be declared in the
recipe, for what it does is not known: an installation that leaves it out in silence may not work, and one that runs it
is a foreign program with the rights of the builder. So it is an error that names the script.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from osbuilder.distro.apk.accounts import Accounts, NewGroup, NewMember, NewUser
from osbuilder.distro.apk.declared import DeclaredScript, Owner, ScriptKind
from osbuilder.errors import RootfsError
from osbuilder.tree import Tree
from osbuilder.tree.entry import Kind

APPLET_LISTS: Final = "etc/busybox-paths.d"

# What may follow a command without changing what it does where it succeeds.
_TAIL: Final = re.compile(r"\s*(?:[12]?>\s*/dev/null|2>&1|\|\|\s*(?:true|:|exit [01]))\s*$")
_SHELL: Final = re.compile(r"[$`;&|<>()*?\[\]{}~\\!]")
_VALUED: Final = {"addgroup": "g", "adduser": "hgsGuk"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """`mkdir -p`."""

    path: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Applets:
    """`busybox --install -s`: a link to the program for each name of its list that is not taken."""

    program: str


Effect = NewGroup | NewUser | NewMember | Folder | Applets | Owner


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script that installing a package would run."""

    package: str
    kind: ScriptKind
    text: str


def triggered(patterns: Iterable[str], folders: Iterable[str]) -> bool:
    """Whether a trigger for these patterns (/usr/lib/*) fires for folders that were written (usr/lib/x)."""
    names = [f"/{folder}" for folder in folders]
    # A star stays in one part, as in apk.
    return any(
        fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
        for pattern in (each.lstrip("+") for each in patterns)
        for name in names
    )


def effects_of(script: Script, declared: Sequence[DeclaredScript]) -> tuple[Effect, ...]:
    """Return what a script amounts to: as the recipe says, else as it can be read. Raises RootfsError for neither."""
    for entry in declared:
        if entry.package == script.package and script.kind in entry.kinds:
            return (*([Applets(program=entry.applets.text)] if entry.applets else []), *entry.owners)
    try:
        return read_script(script.text)
    except ValueError as error:
        raise RootfsError(
            f"the {script.kind.value} script of {script.package} is not known: scripts are never run, and {error}",
            hint="Leave the package out, or say in the recipe under apk.scripts what the script amounts to.",
        ) from None


def read_script(text: str) -> tuple[Effect, ...]:
    """Return the effects of a script whose every line is known. Raises ValueError that quotes the first other line."""
    found: list[Effect] = []
    for line in text.replace("\\\n", " ").splitlines():
        command = "" if line.lstrip().startswith("#") else line.strip()
        while _TAIL.search(command):
            command = _TAIL.sub("", command)
        if not command or command in ("exit 0", ":", "true", "set -e"):
            continue
        try:
            if _SHELL.search(command):
                raise ValueError(command)
            found += _read_command(shlex.split(command))
        except ValueError:
            raise ValueError(f"this line of it is new: {line.strip()}") from None
    return tuple(found)


def _read_command(words: list[str]) -> list[Effect]:
    if words[0] == "/bin/busybox" and words[1:] == ["--install", "-s"]:
        return [Applets(program=words[0])]
    if words[0] in ("busybox", "/bin/busybox"):
        words = words[1:]
    program = words[0].rpartition("/")[2]
    if program == "mkdir" and words[1:2] == ["-p"] and all(path.startswith("/") for path in words[2:]):
        return [Folder(path=path) for path in words[2:]]
    if program not in _VALUED:
        raise ValueError(program)
    options, names = _options(words[1:], _VALUED[program])
    if program == "addgroup" and not options and len(names) == 2:
        return [NewMember(user=names[0], group=names[1])]
    if "S" not in options or len(names) != 1:
        raise ValueError(program)
    if program == "addgroup":
        return [NewGroup(name=names[0], gid=int(options["g"]) if "g" in options else None)]
    return [_new_user(options, names[0])]


def _new_user(options: dict[str, str], name: str) -> NewUser:
    if set(options) - set("SDHhsGgu"):
        raise ValueError(name)
    given = {
        field: options[letter]
        for letter, field in (("G", "group"), ("g", "gecos"), ("s", "shell"))
        if letter in options
    }
    return NewUser(
        name=name,
        uid=int(options["u"]) if "u" in options else None,
        home=options.get("h", f"/home/{name}"),
        make_home="H" not in options,
        **given,
    )


def _options(words: list[str], valued: str) -> tuple[dict[str, str], list[str]]:
    """Split words into options, by letter, and names, as getopt does for letters of which `valued` take a value."""
    options: dict[str, str] = {}
    names: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            names.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in valued:
                options[letter] = letters or (rest.pop(0) if rest else "")
                letters = ""
            else:
                options[letter] = ""
    return options, names


def apply(tree: Tree, accounts: Accounts, effects: Iterable[Effect]) -> None:
    """Apply effects to a tree, in order. Raises RootfsError for one that cannot be applied."""
    for effect in effects:
        match effect:
            case NewGroup():
                accounts.add_group(effect)
            case NewUser():
                accounts.add_user(effect)
            case NewMember():
                accounts.add_member(effect)
            case Folder():
                if not tree.exists(effect.path):
                    tree.add_dir(effect.path, parents_mode=0o755)
            case Applets():
                _link_applets(tree, effect.program)
            case Owner():
                _set_owner(tree, accounts, effect)


def _link_applets(tree: Tree, program: str) -> None:
    """Link a program under the names of its list, as `busybox --install -s` does: what is there stays."""
    listing = f"{APPLET_LISTS}/{program.rpartition('/')[2]}"
    if not tree.exists(listing):
        raise RootfsError(
            f"the links to {program} cannot be made: its package has no list of them (/{listing})",
            hint="Take busybox from Alpine 3.18 or newer.",
        )
    for line in tree.read_bytes(listing).decode().split():
        folder = line.strip("/").rpartition("/")[0]
        # A name whose folder is not there is passed over, as by busybox itself.
        if tree.exists(folder) and not tree.exists(line):
            tree.add_symlink(line, program)


def _set_owner(tree: Tree, accounts: Accounts, owner: Owner) -> None:
    path = owner.path.text
    if not tree.exists(path):
        return
    uid, gid = accounts.uid(owner.user), accounts.gid(owner.group)
    if uid is None or gid is None:
        raise RootfsError(f"{path} cannot be given to {owner.user}:{owner.group}: there is no such user or group")
    if tree.get(path).kind is not Kind.SYMLINK:
        tree.chown(path, uid=uid, gid=gid)
