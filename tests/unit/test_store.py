"""The store publishes whole artifacts or none, notices damage, and keeps what targets need."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from osbuilder.errors import StoreError
from osbuilder.store import Artifact, Store, explain, remove_tree, runs_in, total_bytes
from tests.loopback import Made, make_room, nothing_of_it_stays

KEY = "1" * 64
OTHER = "2" * 64
NOBODY = 65534


def publish(
    store: Store,
    key: str = KEY,
    *,
    content: bytes = b"bytes",
    inputs: dict[str, str] | None = None,
    facts: dict[str, str] | None = None,
    name: str = "file",
) -> Artifact:
    with store.lock(key), store.workspace(key, "tea/pour") as space:
        (space.out / name).write_bytes(content)
        return store.publish(space, key=key, ident="tea/pour", body={"facts": facts or {}, "input_keys": inputs or {}})


def test_a_published_artifact_is_found_with_its_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    published = publish(store)
    found = store.find(KEY)
    assert found is not None
    assert found.digest == published.digest
    assert found.path("file").read_bytes() == b"bytes"
    assert store.intact(found)


def test_the_same_files_have_the_same_digest_under_different_keys(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert publish(store, KEY).digest == publish(store, OTHER).digest
    assert publish(store, OTHER, content=b"else").digest != publish(store, KEY).digest


def test_a_build_that_fails_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail() -> None:
        with store.workspace(KEY, "tea/pour") as space:
            (space.out / "file").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.find(KEY) is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_link_that_a_build_left_is_refused_and_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    theirs = tmp_path / "id_rsa"
    theirs.write_text("secret")
    theirs.chmod(0o600)
    refusal = r"refused \(.*/out/policy\): expected a file, got a symbolic link"
    with store.workspace(KEY, "tea/pour") as space:
        (space.out / "policy").symlink_to(theirs)
        with pytest.raises(StoreError, match=refusal) as caught:
            store.publish(space, key=KEY, ident="tea/pour", body={})
    assert "/out" in caught.value.hint
    assert theirs.stat().st_mode & 0o777 == 0o600
    assert list(store.artifacts()) == []


@pytest.mark.parametrize(("make", "kind"), [(Path.mkdir, "a folder"), (os.mkfifo, "a pipe")])
def test_what_is_no_file_is_no_part_of_an_artifact(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    store = Store(tmp_path)
    with store.workspace(KEY, "tea/pour") as space:
        make(space.out / "cup")
        with pytest.raises(StoreError, match=f"expected a file, got {kind}"):
            store.publish(space, key=KEY, ident="tea/pour", body={})
    assert list(store.artifacts()) == []


def test_a_truncated_file_is_not_an_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = publish(store).path("file")
    path.chmod(0o644)
    path.write_bytes(b"byte")
    assert store.find(KEY) is None


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    path = artifact.path("file")
    path.chmod(0o644)
    path.write_bytes(b"Bytes")
    found = store.find(KEY)
    assert found is not None
    assert not store.intact(found)


def test_damage_that_keeps_the_stat_is_noticed_by_a_thorough_look(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    path = artifact.path("file")
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.write(b"B")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.intact(artifact)
    assert not store.intact(artifact, thorough=True)


def test_a_copied_store_is_verified_once_and_then_trusted(tmp_path: Path) -> None:
    artifact = publish(Store(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    store = Store(tmp_path / "b")
    path = tmp_path / "b" / "objects" / KEY / "file"
    os.utime(path, (1, 1))
    found = store.find(KEY)
    assert found is not None
    assert found.digest == artifact.digest
    assert store.intact(found)
    assert store.intact(found)


def test_threads_may_verify_one_artifact_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    written = threading.Barrier(2, timeout=20)
    monkeypatch.setattr("os.fsync", lambda _: written.wait())
    with ThreadPoolExecutor(max_workers=2) as pool:
        looks = [pool.submit(store.intact, artifact, thorough=True) for _ in range(2)]
        assert [look.result() for look in looks] == [True, True]
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["file", "manifest.json", "stat.json"]


def test_what_a_killed_build_left_is_swept_unless_somebody_holds_its_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (KEY, OTHER, "c" * 64):
        (tmp_path / "tmp" / key / "out").mkdir(parents=True)
    forgotten: list[tuple[str, Path]] = []
    runs_in("kettle", tmp_path / "tmp" / KEY)

    def forget(engine: str, folder: Path) -> bool:
        forgotten.append((engine, folder))
        return True

    with store.lock(OTHER):
        store.sweep(forget)
    assert forgotten == [("kettle", tmp_path / "tmp" / KEY)]
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [OTHER]


def test_what_a_killed_build_left_in_a_store_of_its_own_is_swept_by_its_own_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = tmp_path / "tmp" / "again-1"
    inner = Store(folder)
    for key in (KEY, OTHER):
        (folder / "tmp" / key).mkdir()
        runs_in("kettle", folder / "tmp" / key)
    runs_in("pot", inner.root)
    forgotten: list[tuple[str, str]] = []

    def forget(engine: str, left: Path) -> bool:
        assert left.is_dir()
        forgotten.append((engine, left.name))
        return True

    store.sweep(forget)
    assert forgotten == [("kettle", KEY), ("kettle", OTHER), ("pot", "again-1")]
    assert not folder.exists()


def test_what_is_kept_of_a_failed_build_stays_until_it_is_built_again_or_the_store_is_collected(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(text: str) -> None:
        with store.lock(KEY), store.workspace(KEY, "tea/pour") as space:
            assert list(space.out.iterdir()) == []
            (space.out / text).touch()
            space.keep()

    for text in ("first", "second"):
        fail(text)
        store.sweep(lambda engine, folder: True)
        assert [path.name for path in (tmp_path / "tmp" / KEY / "out").iterdir()] == [text]
    assert store.kept() == (tmp_path / "tmp" / KEY,)
    with store.alone():
        store.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_collect_keeps_what_a_target_needs_and_its_inputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "a" * 64)
    publish(store, "b" * 64, inputs={"base": "a" * 64})
    publish(store, "c" * 64)
    store.remember("tea/pour", "b" * 64)
    removed, freed = store.collect()
    assert removed == 1
    assert freed > 0
    assert {artifact.key[0] for artifact in store.artifacts()} == {"a", "b"}


def test_nothing_is_removed_while_a_build_is_under_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.in_use(), pytest.raises(StoreError, match="a build is under way"), store.alone():
        pass
    with store.alone():
        assert store.collect() == (0, 0)


def test_who_needs_a_store_that_somebody_has_alone_is_told_before_waiting(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told: list[str] = []
    with contextlib.ExitStack() as tidying:
        tidying.enter_context(store.alone())

        def hear() -> None:
            told.append("it waits")
            tidying.close()

        with store.in_use(hear), store.in_use(hear):
            assert told == ["it waits"]


def test_verifying_drops_what_is_truncated_and_what_is_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key, content in (("a" * 64, b"byte"), ("b" * 64, b"Bytes"), ("c" * 64, b"bytes")):
        path = publish(store, key).path("file")
        path.chmod(0o644)
        path.write_bytes(content)
    assert store.drop_damaged() == 2
    assert [artifact.key[0] for artifact in store.artifacts()] == ["c"]


def test_a_scratch_folder_goes_with_its_process_or_with_the_next_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    forgotten: list[str] = []

    def forget(engine: str, folder: Path) -> bool:
        forgotten.append(folder.name)
        return True

    with store.scratch("boot-1") as folder:
        runs_in("kettle", folder)
        store.sweep(forget)
        assert folder.exists()
    assert not folder.exists()
    for name in ("boot-2", KEY):
        (tmp_path / "tmp" / name).mkdir()
        runs_in("kettle", tmp_path / "tmp" / name)
    store.sweep(forget)
    assert sorted(forgotten) == sorted(["boot-2", KEY])
    # Its name is never used again, a key is.
    assert [path.name for path in (tmp_path / "locks").iterdir()] == [KEY]


@contextlib.contextmanager
def an_ordinary_user() -> Iterator[Path]:
    """Be somebody whom permissions keep out; yields a folder of theirs."""
    folder = Path(tempfile.mkdtemp(prefix="osbuilder-test-"))
    was = os.geteuid()
    if was == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(was)
        shutil.rmtree(folder)


def test_verifying_drops_what_cannot_be_read_and_goes_on() -> None:
    with an_ordinary_user() as folder:
        store = Store(folder)
        publish(store, "a" * 64).path("file").chmod(0)
        publish(store, "b" * 64)
        assert store.drop_damaged() == 1
        assert [artifact.key[0] for artifact in store.artifacts()] == ["b"]


def test_a_disk_that_does_not_give_a_file_back_is_damage_and_a_process_without_descriptors_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    failure = errno.EIO

    def fail(path: Path) -> str:
        raise OSError(failure, os.strerror(failure), str(path))

    monkeypatch.setattr("osbuilder.store.sha256_file", fail)
    assert not store.intact(artifact, thorough=True)
    failure = errno.EMFILE
    with pytest.raises(OSError, match="Too many open files"):
        store.intact(artifact, thorough=True)


def test_folders_that_forbid_it_are_removed_too() -> None:
    with an_ordinary_user() as folder:
        for name in ("top", "top/none", "top/none/inner", "top/read"):
            (folder / name).mkdir()
            (folder / name / "file").write_text("")
        (folder / "kept").mkdir(mode=0o500)
        (folder / "top" / "link").symlink_to(folder / "kept")
        for name, mode in (("top/none", 0), ("top/read", 0o500), ("top", 0o100)):
            (folder / name).chmod(mode)
        remove_tree(folder / "top")
        assert [path.name for path in folder.iterdir()] == ["kept"]
        assert (folder / "kept").stat().st_mode & 0o777 == 0o500
        remove_tree(folder / "missing")


def test_a_lock_that_is_held_is_not_given_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("x"), store.lock("x", wait=False) as held:
        assert not held
    with store.lock("x", wait=False) as held:
        assert held


def test_a_store_that_is_a_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="the store cannot be used") as caught:
        Store(tmp_path / "store")
    assert "OSBUILDER_STORE" in caught.value.hint


def test_a_full_disk_says_what_is_free_and_how_to_free_some(tmp_path: Path) -> None:
    error = explain(OSError(errno.ENOSPC, "No space left on device", "/x/file"), "tea/pour cannot be built", tmp_path)
    assert "the disk is full" in error.message
    assert "MiB are free" in error.message
    assert "inv cache --gc" in error.hint


def test_only_what_is_wrong_below_a_store_is_mended_by_another_store(tmp_path: Path) -> None:
    def told(*paths: Path | None) -> str:
        name, other = (str(path) if path else None for path in (*paths, None)[:2])
        return explain(OSError(errno.EACCES, "Permission denied", name, None, other), "no tea", tmp_path).hint

    for paths in ((tmp_path / "tmp",), (Path("/elsewhere/cup"), tmp_path / "tmp"), (Path("bare-name"),), (None,)):
        assert "OSBUILDER_STORE" in told(*paths)
    assert told(Path("/elsewhere/cup")) == ""


def test_a_file_that_is_gone_meanwhile_takes_no_room(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(bytes(range(256)) * 64)
    assert total_bytes([tmp_path / "gone", there]) == there.stat().st_blocks * 512


def test_an_unknown_file_of_an_artifact_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"tea/pour\) has no file 'nothing'"):
        publish(Store(tmp_path)).path("nothing")


def test_tests_leave_nothing_of_their_mirrors_and_a_users_target_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    publish(store, "a" * 64)
    for ident in ("tea/pour", "tea/drink"):
        store.remember(ident, "a" * 64)
    theirs = Store.publish
    with nothing_of_it_stays(Made(tmp_path)):
        publish(store, "b" * 64, facts={"mirror": "http://127.0.0.1:1/tea"})
        publish(store, "c" * 64, inputs={"leaves": "b" * 64})
        publish(store, "d" * 64, inputs={"water": "a" * 64})
        for ident, key in (("tea/pour", "c"), ("tea/drink", "d"), ("tea/spill", "b")):
            store.remember(ident, key * 64)
        with monkeypatch.context() as patch:  # another process, which has a mirror on loopback too
            patch.setattr(Store, "publish", theirs)
            publish(store, "e" * 64, facts={"mirror": "http://127.0.0.1:2/tea"})
    assert {artifact.key[0] for artifact in store.artifacts()} == {"a", "d", "e"}
    refs = {str(path.relative_to(tmp_path / "refs")): path.read_text()[0] for path in tmp_path.glob("refs/*/*")}
    assert refs == {"tea/pour": "a", "tea/drink": "d"}


def test_large_builders_go_where_the_disk_is_nearly_full_unpacked_ones_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    builder, other = publish(store, "a" * 64, content=bytes(1 << 20), name="builder.tar"), publish(store, "b" * 64)
    large, small = (store.folder("trees") / (name * 64) for name in "cd")
    for tree, size in ((large, 1 << 20), (small, 1 << 10)):
        tree.mkdir()
        (tree / "file").write_bytes(bytes(size))
    monkeypatch.setattr("tests.loopback._LARGE_BYTES", 1 << 20)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    everything = {builder.folder, other.folder, large, small}
    usage = shutil.disk_usage(tmp_path)
    for room, left in (
        ([6], everything),
        ([5, 6], everything - {large}),
        ([5, 5], everything - {large, builder.folder}),
    ):
        free = iter(room)
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage._replace(free=next(free) << 30))
        make_room(tmp_path)
        assert {path for path in everything if path.is_dir()} == left


def test_between_tests_only_unpacked_builders_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    builder = publish(store, "a" * 64, content=bytes(1 << 20), name="builder.tar")
    tree = store.folder("trees") / ("c" * 64)
    tree.mkdir()
    (tree / "file").write_bytes(bytes(1 << 20))
    monkeypatch.setattr("tests.loopback._LARGE_BETWEEN_TESTS_BYTES", 1 << 20)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1")
    usage = shutil.disk_usage(tmp_path)
    for free_gib, there in ((3, True), (2, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free_gib << 30: usage._replace(free=free))
        make_room(tmp_path, between_tests=True)
        assert tree.is_dir() is there
    assert builder.folder.is_dir()
