from __future__ import annotations

import pytest

from osbuilder.distro.apk.accounts import Accounts, NewGroup, NewMember, NewUser
from osbuilder.distro.apk.declared import DeclaredScript, GuestPath, Owner, ScriptKind
from osbuilder.distro.apk.scripts import Applets, Folder, Script, apply, effects_of, read_script, triggered
from osbuilder.errors import RootfsError
from osbuilder.tree import Tree

DAY = 20613


def _tree() -> Tree:
    tree = Tree()
    tree.add_file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nold:x:100:100::/:/bin/sh\n", parents_mode=0o755)
    tree.add_file("etc/group", b"root:x:0:root\nusers:x:100:\nnogroup:x:65533:\n")
    tree.add_file("etc/shadow", b"root:*::0:::::\n", mode=0o640, gid=42)
    return tree


def _applied(text: str, tree: Tree | None = None) -> Tree:
    tree = tree or _tree()
    apply(tree, Accounts(tree, epoch=DAY * 86400 + 5), read_script(text))
    return tree


def test_a_system_user_gets_what_busybox_would_give_it() -> None:
    tree = _applied(
        "#!/bin/sh\n\naddgroup -S chrony 2>/dev/null\n"
        "adduser -S -D -H -h /dev/null -s /sbin/nologin -G chrony -g chrony chrony 2>/dev/null\nexit 0\n"
    )
    assert tree.read_bytes("etc/group").splitlines()[-1] == b"chrony:x:101:chrony"
    assert tree.read_bytes("etc/passwd").splitlines()[-1] == b"chrony:x:101:101:chrony:/dev/null:/sbin/nologin"
    assert tree.read_bytes("etc/shadow").splitlines()[-1] == f"chrony:!:{DAY}:0:99999:7:::".encode()
    assert (tree.get("etc/shadow").mode, tree.get("etc/shadow").gid) == (0o640, 42)


def test_options_in_one_word_numbers_and_homes_are_understood() -> None:
    tree = _applied("addgroup -S -g 70 postgres\nadduser -SDu 70 -h /var/lib/postgres -G postgres postgres || true\n")
    assert tree.read_bytes("etc/passwd").splitlines()[-1] == (
        b"postgres:x:70:70:Linux User,,,:/var/lib/postgres:/sbin/nologin"
    )
    assert (tree.get("var/lib/postgres").uid, tree.get("var/lib/postgres").gid) == (70, 70)


def test_a_user_without_a_group_is_nobodys() -> None:
    assert (
        _applied("adduser -S -D -H lone")
        .read_bytes("etc/passwd")
        .endswith(b"lone:x:101:65533:Linux User,,,:/home/lone:/sbin/nologin\n")
    )


def test_accounts_that_exist_are_left_alone() -> None:
    tree = _tree()
    before = tree.read_bytes("etc/passwd"), tree.read_bytes("etc/group")
    _applied("addgroup -S -g 7 users\nadduser -S -H -G users old\n", tree)
    assert (tree.read_bytes("etc/passwd"), tree.read_bytes("etc/group")) == before


def test_a_user_joins_a_group_once() -> None:
    tree = _applied("addgroup old users\naddgroup old users >/dev/null 2>&1\n")
    assert b"users:x:100:old\n" in tree.read_bytes("etc/group")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("addgroup old wheel", "user old cannot join group wheel: /etc/group has no such group"),
        ("adduser -S -H -G wheel new", "user new cannot be added: there is no group wheel"),
        ("addgroup -S -g 100 new", r"group new cannot be added to /etc/group: no free number \(asked for 100\)"),
    ],
)
def test_an_account_that_cannot_be_made_is_an_error(text: str, message: str) -> None:
    with pytest.raises(RootfsError, match=message):
        _applied(text)


def test_without_an_account_file_the_package_that_brings_it_is_named() -> None:
    with pytest.raises(RootfsError, match="group new cannot be added: there is no /etc/group") as caught:
        _applied("addgroup -S new", Tree())
    assert "alpine-baselayout-data" in caught.value.hint


def test_applets_are_linked_where_nothing_is_and_the_folder_exists() -> None:
    tree = _tree()
    tree.add_file("etc/busybox-paths.d/busybox", b"/bin/ls\n/bin/mount\n/opt/bin/x\nsbin/init\n", parents_mode=0o755)
    tree.add_file("bin/mount", b"real", parents_mode=0o755)
    tree.add_dir("sbin")
    _applied("#!/bin/busybox sh\n/bin/busybox --install -s || exit 1\n", tree)
    assert (tree.get("bin/ls").target, tree.get("sbin/init").target) == ("/bin/busybox", "/bin/busybox")
    assert tree.read_bytes("bin/mount") == b"real"
    assert not tree.exists("opt/bin/x")


def test_a_busybox_without_a_list_of_its_links_is_an_error() -> None:
    with pytest.raises(RootfsError, match=r"its package has no list of them \(/etc/busybox-paths.d/busybox\)"):
        _applied("/bin/busybox --install -s")


def test_folders_are_made() -> None:
    assert read_script('/bin/busybox mkdir -p "/bin" /var/lib/x\n') == (Folder(path="/bin"), Folder(path="/var/lib/x"))


@pytest.mark.parametrize(
    "line",
    [
        "rc-update add x",
        "addgroup -S $NAME",
        "addgroup -S x; rm -rf /",
        "addgroup -S `id`",
        "adduser -S x && touch /etc/x",
        "mkdir -p relative",
        "mkdir /x",
        "adduser x",
        "adduser -S -K x=1 x",
        "cat > /etc/x <<EOF",
        'addgroup -S "x',
        "exit 1",
        "if true; then",
    ],
)
def test_a_script_with_any_other_line_is_not_understood(line: str) -> None:
    with pytest.raises(ValueError, match="this line of it is new"):
        read_script(f"#!/bin/sh\naddgroup -S x\n{line}\nexit 0\n")


UNKNOWN = Script(package="toy", kind=ScriptKind.POST_INSTALL, text="#!/bin/sh\nmake-it-so\n")


def test_a_script_that_is_neither_understood_nor_declared_is_an_error_that_names_it() -> None:
    with pytest.raises(RootfsError, match=r"the post-install script of toy is not known.*new: make-it-so") as caught:
        effects_of(UNKNOWN, ())
    assert "apk.scripts" in caught.value.hint


def test_the_recipe_says_what_a_script_amounts_to() -> None:
    owner = Owner(path=GuestPath.parse("/etc/shadow"), user="root", group="users")
    declared = DeclaredScript(
        package="toy", kinds=(ScriptKind.POST_INSTALL,), why="x", applets=GuestPath("/bin/busybox"), owners=(owner,)
    )
    assert effects_of(UNKNOWN, (declared,)) == (Applets(program="/bin/busybox"), owner)
    tree = _tree()
    apply(tree, Accounts(tree, epoch=0), (owner,))
    assert tree.get("etc/shadow").gid == 100


def test_a_declaration_is_for_its_package_and_kind_only() -> None:
    other = DeclaredScript(package="toy", kinds=(ScriptKind.TRIGGER,), why="x")
    with pytest.raises(RootfsError, match="is not known"):
        effects_of(UNKNOWN, (other,))


def test_effects_are_values_that_can_be_compared() -> None:
    assert read_script("addgroup -S a\nadduser -S -H a\naddgroup a b") == (
        NewGroup(name="a"),
        NewUser(name="a", home="/home/a", make_home=False),
        NewMember(user="a", group="b"),
    )


@pytest.mark.parametrize(
    ("patterns", "fires"),
    [
        (["/bin"], True),
        (["/usr/lib/*"], True),
        (["/usr/*"], False),
        (["+/usr/lib/x"], True),
        (["/lib/modules/*"], False),
    ],
)
def test_a_trigger_fires_for_a_folder_that_was_written(patterns: list[str], fires: bool) -> None:
    assert triggered(patterns, ["bin", "usr/lib/x"]) is fires
