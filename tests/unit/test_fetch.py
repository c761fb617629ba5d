"""Downloads as far as they need no network: pins, file URLs, full disks, parts, progress."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import threading
import types
from pathlib import Path
from typing import Any, NoReturn

import pytest

from osbuilder import download
from osbuilder.errors import FetchError, Interrupted, StoreError, VerificationError
from osbuilder.fetch import FetchSettings, Source, fetch
from osbuilder.partfile import PartFile, Sha256
from osbuilder.progress import BarProgress, LineProgress, progress_for
from tests.silence import SilentProgress

DATA = bytes(range(256)) * 1000
PIN = hashlib.sha256(DATA).hexdigest()
SETTINGS = FetchSettings()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    path = tmp_path / "a mirror" / "f.tar"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "f.tar"


def get(target: Path, *urls: str, settings: FetchSettings = SETTINGS, **pins: Any) -> Path:
    source = Source(**{"name": "f.tar", "urls": urls, "sha256": PIN, **pins})
    return fetch(source, target, settings=settings, progress=SilentProgress())


# --- pins and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"sha256": PIN.upper()}, "sha256 of f.tar: expected 64 lower-case hexadecimal digits"),
        ({"sha256": PIN[:-1]}, "sha256 of f.tar: expected 64 lower-case hexadecimal digits"),
        ({"urls": ()}, "urls of f.tar: expected at least one"),
        ({"urls": ("ftp://user:secret@host/f",)}, "expected https, http or file, got 'ftp://host/f'"),
        ({"urls": ("/a/path",)}, "expected https, http or file, got '/a/path'"),
        ({"size_bytes": -1}, "size_bytes of f.tar: expected 1 to"),
        ({"size_bytes": 11, "max_bytes": 10}, "size_bytes of f.tar: expected 1 to 10, got 11"),
    ],
)
def test_a_malformed_pin_is_refused(pins: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**{"name": "f.tar", "urls": ("https://host/f",), "sha256": PIN, **pins})


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"read_timeout_s": 0}, {"connect_timeout_s": -1}, {"backoff_s": -1}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least one attempt and positive times"):
        FetchSettings(**wrong)


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("http://mirror.example/f", "", True),
        ("https://mirror.example/f", "", False),
        ("http://mirror.example/f", "mirror.example", False),
        ("http://mirror.example/f", "localhost, .Example", False),
        ("http://mirror.example/f", "ror.example", True),
        ("http://mirror.example:8080/f", "mirror.example:8080", False),
        ("http://mirror.example/f", "*", False),
    ],
)
def test_a_proxy_serves_its_scheme_except_for_the_hosts_of_no_proxy(url: str, no_proxy: str, proxied: bool) -> None:
    proxies = download._proxies(url, {"http_proxy": "http://proxy:3128", "no_proxy": no_proxy})
    assert proxies == ({"http": "http://proxy:3128"} if proxied else {})


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7.0),
        ("86400", 60.0),
        ("Sun, 22 Nov 2026 00:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 00:00:00 GMT", 0.0),
        ("soon", None),
        ("\u00b2", None),  # a digit, and no number
        ("", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms_and_capped(
    text: str, wait_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osbuilder.download.time.time", lambda: 1795305600.0)  # 2026-11-22 00:00:00 UTC
    response: Any = types.SimpleNamespace(headers={"Retry-After": text})
    assert download._retry_after_s(response) == wait_s


# --- file URLs -----------------------------------------------------------------------------------------


def test_a_file_url_is_copied_and_verified_like_any_mirror(mirror: Path, target: Path) -> None:
    assert get(target, mirror.as_uri()) == target
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["f.tar"]


def test_what_is_there_is_not_asked_for_again(target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(DATA)
    assert get(target, "https://host/f.tar") == target


def test_a_local_file_with_other_bytes_is_refused_and_nothing_is_kept(mirror: Path, target: Path) -> None:
    mirror.write_bytes(b"other")
    with pytest.raises(VerificationError, match=f"expected sha256 {PIN}, got {hashlib.sha256(b'other').hexdigest()}"):
        get(target, mirror.as_uri())
    assert list(target.parent.iterdir()) == []


def test_a_file_url_of_another_host_is_refused(target: Path) -> None:
    with pytest.raises(FetchError, match="expected a file of this host, got the host 'elsewhere'"):
        get(target, "file://elsewhere/f.tar")


def test_a_local_file_of_another_size_is_refused_before_it_is_copied(mirror: Path, target: Path) -> None:
    with pytest.raises(FetchError, match="expected 5 bytes, 256000 are announced"):
        get(target, mirror.as_uri(), size_bytes=5)


# --- disks ---------------------------------------------------------------------------------------------------------


def test_a_download_that_cannot_fit_is_refused_before_it_starts(
    mirror: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(StoreError) as caught:
        get(target, mirror.as_uri())
    assert caught.value.message == f"no space left for {target}: 256,000 bytes more are needed, 1,000 are free"
    assert "inv cache --gc" in caught.value.hint


def test_a_disk_that_fills_up_keeps_what_came(mirror: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.write, 0

    def write(descriptor: int, data: bytes) -> int:
        nonlocal written
        if written >= 150_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(descriptor, data[:50_000])
        written += count
        return count

    monkeypatch.setattr("osbuilder.partfile.os.write", write)
    with pytest.raises(StoreError, match="no space left for"):
        get(target, mirror.as_uri())
    assert 150_000 <= written < len(DATA)
    assert target.with_name("f.tar.part").read_bytes() == DATA[:written]
    assert not target.exists()


def test_a_folder_that_cannot_be_made_is_a_store_error(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file", encoding="utf-8")
    with pytest.raises(StoreError, match=r"downloads/f\.tar"):
        get(tmp_path / "downloads" / "f.tar", mirror.as_uri())


# --- parts ---------------------------------------------------------------------------------------------------------


def never() -> NoReturn:
    raise AssertionError("nobody else holds this part")


def leave_part(target: Path, data: bytes, record: object) -> None:
    target.parent.mkdir(exist_ok=True)
    target.with_name("f.tar.part").write_bytes(data)
    target.with_name("f.tar.part.json").write_text(json.dumps(record), encoding="utf-8")


def test_a_part_of_the_same_pin_is_adopted(target: Path) -> None:
    leave_part(target, DATA[:1000], {"pin": f"sha256 {PIN}", "origin": "https://host/f", "validator": '"v1"'})
    with PartFile.locked(target, proof=Sha256(PIN), wait=never) as part:
        assert (part.size_bytes, part.origin, part.validator) == (1000, "https://host/f", '"v1"')
        assert part.spliced
        part.write(DATA[1000:])
        assert part.whole
        part.publish()
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("record", [{"pin": f"sha256 {'0' * 64}", "origin": "", "validator": ""}, {}, [], "junk", None])
def test_a_part_of_another_pin_or_with_a_damaged_record_is_thrown_away(target: Path, record: object) -> None:
    leave_part(target, DATA[:1000], record)
    with PartFile.locked(target, proof=Sha256(PIN), wait=never) as part:
        assert (part.size_bytes, part.spliced) == (0, False)
    assert list(target.parent.iterdir()) == []


def test_a_part_that_was_complete_when_its_process_died_is_published_without_any_request(target: Path) -> None:
    target.parent.mkdir()
    target.with_name("f.tar.part").write_bytes(DATA)
    assert get(target, "https://host/f.tar") == target
    assert [path.name for path in target.parent.iterdir()] == ["f.tar"]


def test_an_interrupted_download_keeps_its_part(mirror: Path, target: Path) -> None:
    class Impatient(SilentProgress):
        def advance(self, count_bytes: int) -> None:
            raise KeyboardInterrupt

    source = Source(name="f.tar", urls=(mirror.as_uri(),), sha256=PIN)
    with pytest.raises(KeyboardInterrupt):
        fetch(source, target, settings=SETTINGS, progress=Impatient())
    assert target.with_name("f.tar.part").stat().st_size == 64 << 10
    assert not target.exists()
    get(target, mirror.as_uri())


def test_a_stopped_download_ends_at_its_next_block_and_keeps_what_came(mirror: Path, target: Path) -> None:
    stop = threading.Event()
    stop.set()
    source = Source(name="f.tar", urls=(mirror.as_uri(),), sha256=PIN)
    with pytest.raises(Interrupted, match=r"the download of f\.tar was stopped"):
        fetch(source, target, settings=SETTINGS, progress=SilentProgress(), stop=stop)
    assert target.with_name("f.tar.part").stat().st_size == 64 << 10


# --- progress ------------------------------------------------------------------------------------------------------


def test_lines_tell_each_tenth_and_where_a_resumed_download_began() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.start("f.tar", 40 << 20, 20 << 20)
    for _ in range(20):
        progress.advance(1 << 20)
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "f.tar: 40.0 MiB, 20.0 MiB there already",
        "f.tar: 24.0 MiB (60%)",
        "f.tar: 28.0 MiB (70%)",
        "f.tar: 32.0 MiB (80%)",
        "f.tar: 36.0 MiB (90%)",
        "f.tar: 40.0 MiB (100%)",
    ]


def test_lines_of_an_unknown_size_come_every_16_mib() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.start("f.tar", None)
    for _ in range(33):
        progress.advance(1 << 20)
    assert stream.getvalue() == "f.tar: size unknown\nf.tar: 16.0 MiB\nf.tar: 32.0 MiB\n"


def test_a_bar_is_for_terminals_only_and_leaves_its_notes() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_for(io.StringIO()), LineProgress)
    stream = Terminal()
    progress = progress_for(stream)
    assert isinstance(progress, BarProgress)
    progress.start("f.tar", 100)
    progress.advance(50)
    progress.note("again in 1 s")
    progress.finish()
    assert "f.tar" in stream.getvalue()
    assert "again in 1 s\n" in stream.getvalue()


# --- without a pin -------------------------------------------------------------------------------------------------


def test_what_proves_itself_needs_no_pin_and_is_fetched_anew_each_time(mirror: Path, target: Path) -> None:
    url = mirror.as_uri()
    assert get(target, url, sha256=None).read_bytes() == DATA
    mirror.write_bytes(b"another signature")
    assert get(target, url, sha256=None).read_bytes() == b"another signature"
    mirror.unlink()
    with pytest.raises(FetchError, match=r"cannot download f\.tar:\n"):
        get(target, url, sha256=None)


def test_what_an_earlier_process_left_of_something_unpinned_is_not_continued(mirror: Path, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("f.tar.part").write_bytes(b"half")
    assert get(target, mirror.as_uri(), sha256=None).read_bytes() == DATA


class Signed:
    """A proof that is no sha256: the file ends in what it has to."""

    pin = "a signature at the end"

    def problem(self, path: Path) -> str:
        return "" if path.read_bytes().endswith(b"signed") else "its signature is wrong"


def test_a_file_may_be_proven_otherwise_than_by_a_sha256(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.write_bytes(b"data")
    good.write_bytes(b"data signed")
    source = Source(name="f.tar", urls=(bad.as_uri(), good.as_uri()), proof=Signed())
    target = fetch(source, tmp_path / "target", settings=FetchSettings(), progress=SilentProgress())
    assert target.read_bytes() == b"data signed"
    alone = Source(name="f.tar", urls=(bad.as_uri(),), proof=Signed())
    with pytest.raises(
        VerificationError, match=r"(?s)cannot download f\.tar \(a signature at the end\).*its signature is wrong"
    ):
        fetch(alone, tmp_path / "other", settings=FetchSettings(), progress=SilentProgress())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good", "target"]
