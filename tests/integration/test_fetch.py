"""Downloads against real servers with scripted faults, real processes, real TLS and a really full disk."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from osbuilder.errors import FetchError, Interrupted, OfflineError, StoreError, UsageError, VerificationError
from osbuilder.fetch import FetchSettings, Source, fetch
from tests.servers import FaultyServer, Reply, closed_url, make_certificate
from tests.silence import SilentProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = random.Random(1).randbytes(600_000)
HTML = b"<html><body>Please log in</body></html>"
QUICK = FetchSettings(attempts=3, backoff_s=0.01)
IMPATIENT = FetchSettings(read_timeout_s=1, attempts=2, backoff_s=0.01)  # only where a server hangs: hosts are slow


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "f.tar"


class Notes(SilentProgress):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done_bytes: list[int] = []

    def start(self, name: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        self.done_bytes.append(done_bytes)

    def note(self, message: str) -> None:
        self.lines.append(message)


def get(target: Path, *urls: str, settings: FetchSettings = QUICK, data: bytes = DATA, **pins: Any) -> Notes:
    source = Source(name="f.tar", urls=urls, sha256=hashlib.sha256(data).hexdigest(), **pins)
    notes = Notes()
    assert fetch(source, target, settings=settings, progress=notes) == target
    assert target.read_bytes() == data
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name]
    return notes


def refusal(target: Path, *urls: str, settings: FetchSettings = QUICK, **pins: Any) -> FetchError:
    source = Source(name="f.tar", urls=urls, sha256=hashlib.sha256(DATA).hexdigest(), **pins)
    with pytest.raises(FetchError) as caught:
        fetch(source, target, settings=settings, progress=SilentProgress())
    assert not target.exists()
    return caught.value


# --- the plain road ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [Reply(body=DATA), Reply(body=DATA, announce=False), Reply(body=DATA, chunked=True)])
def test_a_file_arrives_whole_however_its_end_is_marked(server: FaultyServer, target: Path, reply: Reply) -> None:
    get(target, server.serve("/f", reply))
    assert server.seen("/f")[0].headers["Accept-Encoding"] == "identity"


def test_a_file_that_is_there_is_not_fetched_again(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA))
    get(target, url)
    get(target, url)
    assert len(server.seen("/f")) == 1


def test_a_file_that_is_there_and_was_damaged_is_fetched_again(server: FaultyServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"damaged")
    get(target, server.serve("/f", Reply(body=DATA)))


def test_bytes_are_kept_as_the_server_stores_them_even_if_it_calls_them_encoded(
    server: FaultyServer, target: Path
) -> None:
    get(target, server.serve("/f", Reply(body=DATA, headers={"Content-Encoding": "gzip"})))


# --- mirrors -------------------------------------------------------------------------------------------------------


def test_a_dead_first_mirror_is_left_for_the_second(server: FaultyServer, target: Path) -> None:
    notes = get(target, closed_url("/f"), server.serve("/f", Reply(body=DATA)))
    assert sum("cannot connect: Connection refused; again in" in line for line in notes.lines) == 2
    assert notes.lines[-1].endswith("cannot connect: Connection refused (3 attempts)")


def test_a_client_error_is_not_retried(server: FaultyServer, target: Path) -> None:
    get(target, server.serve("/gone", Reply(status=404)), server.serve("/f", Reply(body=DATA)))
    assert len(server.seen("/gone")) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
def test_a_passing_error_is_retried_at_the_same_mirror(server: FaultyServer, target: Path, status: int) -> None:
    get(target, server.serve("/f", Reply(status=status), Reply(status=status), Reply(body=DATA)))
    assert len(server.seen("/f")) == 3


def test_retry_after_is_waited_for(server: FaultyServer, target: Path) -> None:
    start = time.monotonic()
    notes = get(target, server.serve("/f", Reply(status=503, headers={"Retry-After": "1"}), Reply(body=DATA)))
    assert time.monotonic() - start >= 1
    assert notes.lines[0].endswith("HTTP 503 Service Unavailable; again in 1 s")


def test_when_all_fail_each_mirror_is_listed_with_its_reason(server: FaultyServer, target: Path) -> None:
    dead, gone = closed_url("/f"), server.serve("/gone", Reply(status=410))
    broken = server.serve("/broken", Reply(status=500))
    error = refusal(target, dead, gone, broken)
    assert not isinstance(error, VerificationError)
    assert error.message.splitlines() == [
        f"cannot download f.tar (sha256 {hashlib.sha256(DATA).hexdigest()}):",
        f"  {dead}: cannot connect: Connection refused (3 attempts)",
        f"  {gone}: HTTP 410 Gone",
        f"  {broken}: HTTP 500 Internal Server Error (3 attempts)",
    ]
    assert error.hint
    assert list(target.parent.iterdir()) == []


def test_a_host_that_does_not_exist_is_named(target: Path) -> None:
    assert "http://no-such-host.invalid/f: cannot connect: " in refusal(target, "http://no-such-host.invalid/f").message


# --- hangs and truncation ------------------------------------------------------------------------------------------


def test_a_server_that_never_answers_is_given_up(server: FaultyServer, target: Path) -> None:
    hanging = server.serve("/hang", Reply(hang_before_headers=True))
    notes = get(target, hanging, server.serve("/f", Reply(body=DATA)), settings=IMPATIENT)
    assert notes.lines[-1].endswith("/hang: no answer within 1 s (2 attempts)")


def test_a_body_that_stalls_is_noticed_and_resumed(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA, send_bytes=400_000, hang=True), Reply(body=DATA))
    notes = get(target, url, settings=IMPATIENT)
    assert "nothing came for 1 s, at " in notes.lines[0]
    first, second = server.seen("/f")
    assert (first.range, second.sent_bytes) == (None, len(DATA) - notes.done_bytes[1])
    assert second.range == f"bytes={notes.done_bytes[1]}-"
    assert second.headers["If-Range"]
    assert notes.done_bytes[1] > 300_000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_truncated_body_is_resumed_where_it_ended(server: FaultyServer, target: Path, chunked: bool) -> None:
    cut = Reply(body=DATA, send_bytes=300_000, chunked=chunked)
    get(target, server.serve("/f", cut, Reply(body=DATA)))
    start = int((server.seen("/f")[1].range or "").removeprefix("bytes=").rstrip("-"))
    assert 200_000 < start <= 300_000
    assert server.seen("/f")[1].sent_bytes == len(DATA) - start


def test_a_truncated_body_without_a_length_is_noticed_by_the_pinned_size(server: FaultyServer, target: Path) -> None:
    cut = Reply(body=DATA, send_bytes=300_000, announce=False)
    get(target, server.serve("/f", cut, Reply(body=DATA)), size_bytes=len(DATA))
    assert server.seen("/f")[1].range == "bytes=300000-"


def test_what_one_mirror_began_another_completes(server: FaultyServer, target: Path) -> None:
    first = server.serve("/first", Reply(body=DATA, send_bytes=300_000), Reply(status=404))
    get(target, first, server.serve("/second", Reply(body=DATA)))
    assert server.seen("/second")[0].range == "bytes=300000-"
    assert "If-Range" not in server.seen("/second")[0].headers


def test_attempts_that_bring_much_do_not_count_as_failures(server: FaultyServer, target: Path) -> None:
    data = random.Random(2).randbytes(6 << 20)
    url = server.serve("/f", Reply(body=data, send_bytes=5 << 18))
    get(target, url, data=data, settings=FetchSettings(attempts=1, backoff_s=0))
    assert len(server.seen("/f")) == 5


def test_a_server_that_never_gets_further_is_given_up(server: FaultyServer, target: Path) -> None:
    error = refusal(target, server.serve("/f", Reply(body=DATA, send_bytes=0)))
    assert "the connection ended early, at 0 of 600000 bytes (3 attempts)" in error.message


# --- ranges --------------------------------------------------------------------------------------------------------


def test_a_server_without_ranges_starts_from_the_beginning(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA, send_bytes=300_000, ranges=False), Reply(body=DATA, ranges=False))
    get(target, url)
    assert server.seen("/f")[1].sent_bytes == len(DATA)


@pytest.mark.parametrize("lie", ["bytes 0-599999/600000", "bytes 299999-599999/600000", "nonsense", "bytes=300000-"])
def test_a_wrong_content_range_starts_from_the_beginning(server: FaultyServer, target: Path, lie: str) -> None:
    get(target, server.serve("/f", Reply(body=DATA, send_bytes=300_000), Reply(body=DATA, content_range=lie)))
    assert [seen.range for seen in server.seen("/f")] == [None, "bytes=300000-", None]


def test_a_file_that_changed_between_two_responses_is_fetched_whole(server: FaultyServer, target: Path) -> None:
    old = bytes(len(DATA))
    get(target, server.serve("/f", Reply(body=old, send_bytes=300_000), Reply(body=DATA)))
    assert server.seen("/f")[1].sent_bytes == len(DATA)


def test_a_part_that_turns_out_wrong_is_fetched_whole_before_the_mirror_is_blamed(
    server: FaultyServer, target: Path
) -> None:
    cut = Reply(body=bytes(len(DATA)), send_bytes=300_000, etag=False)
    notes = get(target, server.serve("/f", cut, Reply(body=DATA, etag=False)))
    assert [seen.range for seen in server.seen("/f")] == [None, "bytes=300000-", None]
    assert "what was resumed did not verify, from the beginning" in notes.lines[1]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA + DATA, send_bytes=700_000, etag=False), Reply(body=DATA, etag=False))
    get(target, url)
    assert [seen.range for seen in server.seen("/f")] == [None, "bytes=700000-", None]


# --- wrong bytes ---------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_not_kept_and_the_next_mirror_is_tried(server: FaultyServer, target: Path) -> None:
    bad = server.serve("/bad", Reply(body=b"x" * 1000))
    notes = get(target, bad, server.serve("/f", Reply(body=DATA)))
    assert len(server.seen("/bad")) == 1
    assert "expected sha256" in notes.lines[0]


def test_wrong_bytes_everywhere_say_what_was_expected_what_came_and_from_where(
    server: FaultyServer, target: Path
) -> None:
    url = server.serve("/f", Reply(body=b"x" * 1000))
    error = refusal(target, url)
    assert isinstance(error, VerificationError)
    came = hashlib.sha256(b"x" * 1000).hexdigest()
    assert error.message.splitlines()[1] == (f"  {url}: expected sha256 {hashlib.sha256(DATA).hexdigest()}, got {came}")
    assert list(target.parent.iterdir()) == []


def test_html_instead_of_the_file_is_called_so(server: FaultyServer, target: Path) -> None:
    portal = Reply(body=HTML, headers={"Content-Type": "text/html; charset=utf-8"})
    url = server.serve("/f", portal)
    assert refusal(target, url).message.endswith("; it is text/html: a captive portal or an error page?")
    error = refusal(target, url, size_bytes=len(DATA))
    assert error.message.endswith(
        f"expected 600000 bytes, {len(HTML)} are announced; it is text/html: a captive portal or an error page?"
    )


def test_a_file_above_the_limit_is_refused_before_it_is_fetched(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA))
    assert "expected at most 1000 bytes, 600000 are announced" in refusal(target, url, max_bytes=1000).message


def test_an_endless_body_is_cut_off_at_the_limit(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=bytes(8 << 20), announce=False))
    assert "expected at most 100000 bytes, got more" in refusal(target, url, max_bytes=100_000).message
    assert server.seen("/f")[0].sent_bytes < 8 << 20
    assert list(target.parent.iterdir()) == []


# --- redirects, proxies, TLS ---------------------------------------------------------------------------------------


def test_a_redirect_is_followed_with_its_range(server: FaultyServer, target: Path) -> None:
    server.serve("/real", Reply(body=DATA, send_bytes=300_000), Reply(body=DATA))
    get(target, server.serve("/f", Reply(status=302, headers={"Location": "/real"})))
    assert [seen.range for seen in server.seen("/real")] == [None, "bytes=300000-"]


@pytest.mark.parametrize("location", ["http://[x/", "http://127.0.0.1:notaport/f"])
def test_a_redirect_to_no_address_is_left_for_the_next_mirror(
    server: FaultyServer, target: Path, location: str
) -> None:
    bad = server.serve("/bad", Reply(status=302, headers={"Location": location}))
    settings = FetchSettings(backoff_s=0, proxies={"no_proxy": "localhost"})
    get(target, bad, server.serve("/f", Reply(body=DATA)), settings=settings)


def test_a_portals_page_does_not_cost_what_has_come(server: FaultyServer, target: Path) -> None:
    cut = Reply(body=DATA, send_bytes=300_000)
    portal = Reply(body=HTML, headers={"Content-Type": "text/html"}, ranges=False)
    bad = server.serve("/bad", cut, portal)
    get(target, bad, server.serve("/f", Reply(body=DATA)), size_bytes=len(DATA))
    assert server.seen("/f")[0].range == "bytes=300000-"


def test_a_redirect_to_itself_ends(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(status=302, headers={"Location": "/f"}))
    assert "redirects more than 10 times" in refusal(target, url).message


def test_a_redirect_to_a_file_of_this_host_is_refused(server: FaultyServer, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    url = server.serve("/f", Reply(status=302, headers={"Location": (tmp_path / "secret").as_uri()}))
    assert "redirects from http to file:///" in refusal(target, url).message


def test_the_proxy_of_the_settings_is_used_and_that_of_the_environment_is_not(
    server: FaultyServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", closed_url())
    server.serve("http://mirror.invalid/f", Reply(body=DATA))
    get(target, "http://mirror.invalid/f", settings=FetchSettings(proxies={"http_proxy": server.url}))
    target.unlink()
    direct = FetchSettings(proxies={"http_proxy": closed_url(), "no_proxy": "localhost, 127.0.0.1"})
    get(target, server.serve("/f", Reply(body=DATA)), settings=direct)


def test_a_dead_proxy_is_named_as_the_culprit(target: Path) -> None:
    settings = FetchSettings(attempts=1, proxies={"http_proxy": closed_url()})
    error = refusal(target, "http://mirror.invalid/f", settings=settings)
    assert error.message.endswith("the proxy failed: Connection refused")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_a_certificate_of_nobody_is_refused_unless_the_settings_trust_it(certificate: Path, target: Path) -> None:
    with FaultyServer(certificate=certificate) as server:
        url = server.serve("/f", Reply(body=DATA))
        message = refusal(target, url).message
        assert message.endswith(
            "its certificate is not trusted (self-signed certificate); ca_bundle names others to trust"
        )
        get(target, url, settings=FetchSettings(ca_bundle=Path(f"{certificate}.crt")))


def test_a_redirect_from_https_to_http_is_refused(certificate: Path, server: FaultyServer, target: Path) -> None:
    plain = server.serve("/f", Reply(body=DATA))
    with FaultyServer(certificate=certificate) as secure:
        url = secure.serve("/f", Reply(status=302, headers={"Location": plain}))
        error = refusal(target, url, settings=FetchSettings(ca_bundle=Path(f"{certificate}.crt")))
    assert f"redirects from https to {plain}, which is refused" in error.message
    assert server.seen("/f") == []


def test_a_ca_bundle_that_is_not_there_is_a_usage_error(target: Path, tmp_path: Path) -> None:
    source = Source(name="f.tar", urls=("https://127.0.0.1/f",), sha256="0" * 64)
    with pytest.raises(UsageError, match="ca_bundle: no such file"):
        fetch(source, target, settings=FetchSettings(ca_bundle=tmp_path / "none"), progress=SilentProgress())


# --- processes -----------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from osbuilder.fetch import FetchSettings, Source, fetch
from osbuilder.progress import LineProgress
url, sha256, target = sys.argv[1:]
source = Source(name="f.tar", urls=(url,), sha256=sha256)
fetch(source, Path(target), settings=FetchSettings(attempts=1), progress=LineProgress(sys.stdout))
"""


def child(url: str, target: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", CHILD, url, hashlib.sha256(DATA).hexdigest(), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_part(target: Path, size_bytes: int) -> None:
    part = target.with_name("f.tar.part")
    for _ in range(1500):
        if part.exists() and part.stat().st_size >= size_bytes:
            return
        time.sleep(0.02)
    raise AssertionError("the download never came so far")


@pytest.mark.parametrize("end", ["kill", "interrupt"])
def test_what_a_killed_process_left_is_resumed_by_the_next(server: FaultyServer, target: Path, end: str) -> None:
    url = server.serve("/f", Reply(body=DATA, send_bytes=400_000, hang=True), Reply(body=DATA))
    with child(url, target) as process:
        wait_for_part(target, 300_000)
        process.send_signal({"kill": 9, "interrupt": 2}[end])
    assert process.returncode != 0
    assert not target.exists()
    there = target.with_name("f.tar.part").stat().st_size
    notes = get(target, url)
    assert notes.done_bytes == [there]
    first, second = server.seen("/f")
    assert second.range == f"bytes={there}-"
    assert first.headers.get("Range") is None
    assert second.sent_bytes == len(DATA) - there


def test_two_processes_that_want_one_file_fetch_it_once(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA, delay_s=0.05))
    with child(url, target) as first:
        wait_for_part(target, 1)
        with child(url, target) as second:
            said = second.communicate(timeout=60)[0]
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert said == "f.tar: another process downloads it, waiting\n"
    assert [seen.sent_bytes for seen in server.seen("/f")] == [len(DATA)]
    assert target.read_bytes() == DATA
    assert sorted(path.name for path in target.parent.iterdir()) == ["f.tar"]


def test_a_waiting_process_goes_on_where_a_killed_one_stopped(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f", Reply(body=DATA, send_bytes=400_000, hang=True), Reply(body=DATA))
    with child(url, target) as first:
        wait_for_part(target, 300_000)
        with child(url, target) as second:
            assert second.stdout is not None
            assert "waiting" in second.stdout.readline()
            first.kill()
            second.communicate(timeout=60)
    assert second.returncode == 0
    assert target.read_bytes() == DATA
    assert (server.seen("/f")[1].range or "").startswith("bytes=")


@pytest.mark.parametrize("reply", [Reply(body=DATA, delay_s=0.2), Reply(status=503, headers={"Retry-After": "60"})])
def test_a_download_is_stopped_from_another_thread_without_waiting(
    server: FaultyServer, target: Path, reply: Reply
) -> None:
    stop = threading.Event()
    source = Source(name="f.tar", urls=(server.serve("/f", reply),), sha256=hashlib.sha256(DATA).hexdigest())
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(Interrupted):
        fetch(source, target, settings=QUICK, progress=SilentProgress(), stop=stop)
    assert time.monotonic() - start < 5
    timer.join()


# --- a full disk ---------------------------------------------------------------------------------------------------

ON_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", sys.argv[3]], check=True)
from osbuilder.errors import StoreError
from osbuilder.fetch import FetchSettings, Source, fetch
from tests.silence import SilentProgress
target = Path(sys.argv[3], "f.tar")
try:
    fetch(Source(name="f.tar", urls=(sys.argv[1],), sha256=sys.argv[2]), target,
          settings=FetchSettings(), progress=SilentProgress())
except StoreError as err:
    print(err.message)
    print(sorted(path.name for path in target.parent.iterdir()))
"""


@pytest.mark.parametrize("announce", [True, False])
def test_a_full_disk_is_a_clear_error_with_figures(server: FaultyServer, tmp_path: Path, announce: bool) -> None:
    namespaces = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this host gives no user namespaces")
    url = server.serve("/f", Reply(body=DATA, announce=announce))
    argv = [*namespaces, sys.executable, "-c", ON_SMALL_DISK, url, hashlib.sha256(DATA).hexdigest(), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    figures = "600,000 bytes more are needed, 262,144 are free" if announce else "0 bytes are free"
    assert said[0] == f"no space left for {tmp_path}/f.tar: {figures}"
    assert "'f.tar'" not in said[1]


def test_a_folder_in_the_place_of_the_file_is_a_clear_error(server: FaultyServer, tmp_path: Path) -> None:
    source = Source(name="f.tar", urls=(server.serve("/f", Reply(body=DATA)),), sha256="0" * 64)
    with pytest.raises(StoreError, match="cannot be read as a downloaded file: Is a directory"):
        fetch(source, tmp_path, settings=QUICK, progress=SilentProgress())


def test_offline_nothing_is_asked_for_and_what_is_there_is_taken(server: FaultyServer, target: Path) -> None:
    url = server.serve("/f.tar", Reply(body=DATA))
    offline = dataclasses.replace(QUICK, offline=True)
    source = Source(name="f.tar", urls=(url,), sha256=hashlib.sha256(DATA).hexdigest())
    with pytest.raises(OfflineError, match=r"f\.tar is not in the store, .* no network") as caught:
        fetch(source, target, settings=offline, progress=SilentProgress())
    assert "inv fetch" in caught.value.hint
    assert server.seen("/f.tar") == []
    get(target, url)
    assert fetch(source, target, settings=offline, progress=SilentProgress()) == target
    assert len(server.seen("/f.tar")) == 1
