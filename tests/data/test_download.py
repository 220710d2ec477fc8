"""The downloader against a real server on this machine: good, cut, lying, stalling, wrong."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jaxalex.data.download import download
from jaxalex.errors import RunError, UsageError

CONTENT = os.urandom(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.resumes else 0
        if server.status != 200:
            self.send_error(server.status)
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.claims is not False:
            self.send_header("Content-Length", str(server.claims or len(body)))
        self.end_headers()
        limit = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[:limit])
        self.wfile.flush()
        if server.stalls:
            server.released.wait(30)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.content, server.ranges, server.cuts, server.resumes = CONTENT, [], [], True
    server.status, server.claims, server.stalls, server.redirect = 200, None, False, ""
    server.released = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, folder, timeout=5.0):
    return download(server.url, folder / "d" / "archive.tar.gz", size=len(CONTENT), md5=MD5, timeout=timeout)


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_whole_file(server, tmp_path, capsys):
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["archive.tar.gz"]
    shown = capsys.readouterr()
    assert "archive.tar.gz" in shown.err  # the progress bar
    assert shown.out == ""


def test_file_that_is_there_is_not_fetched_again(server, tmp_path):
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert server.ranges == [None]


def test_wrong_file_under_the_name_is_replaced(server, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "archive.tar.gz").write_bytes(b"old")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_cut_connection_goes_on_where_it_was(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_part_of_an_earlier_run_is_used(server, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "archive.tar.gz.part").write_bytes(CONTENT[:200_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=200000-"]


@pytest.mark.parametrize("left_behind", [CONTENT[:1000], CONTENT, CONTENT + b"more"])
def test_server_without_ranges_and_odd_parts(server, tmp_path, left_behind):
    server.resumes = False
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "archive.tar.gz.part").write_bytes(left_behind)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["archive.tar.gz"]


def test_cut_again_and_again_ends(server, tmp_path):
    server.resumes = False
    server.cuts = [1000] * 100
    with pytest.raises(UsageError, match=r"1,000 of 300,000 bytes"):
        fetch(server, tmp_path)
    assert names(tmp_path) == ["archive.tar.gz.part"]
    assert len(server.ranges) == 2


@pytest.mark.parametrize("claims", [299_999, 300_001, 17])
def test_wrong_length_is_refused_at_once(server, tmp_path, claims):
    server.claims = claims
    with pytest.raises(UsageError, match=f"not the published file: it offers {claims} bytes, expected 300000"):
        fetch(server, tmp_path)
    assert "archive.tar.gz" not in names(tmp_path)


def test_login_page_does_not_cost_what_came_before(server, tmp_path):
    part = tmp_path / "d" / "archive.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:200_000])
    server.content, server.resumes = b"<html>please log in</html>", False
    with pytest.raises(UsageError, match="not the published file"):
        fetch(server, tmp_path)
    assert part.read_bytes() == CONTENT[:200_000]


@pytest.mark.parametrize("content", [CONTENT[:299_000], CONTENT * 2])
def test_wrong_length_that_is_not_announced(server, tmp_path, content):
    server.content, server.claims, server.resumes = content, False, False
    with pytest.raises(UsageError, match=r"299,000 of 300,000|longer than the published 300,000"):
        fetch(server, tmp_path)
    assert "archive.tar.gz" not in names(tmp_path)


def test_wrong_bytes_are_removed(server, tmp_path):
    server.content = bytes(len(CONTENT))
    with pytest.raises(UsageError, match=f"wrong file .*expected {MD5}.*removed"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []
    server.content = CONTENT
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_wrong_bytes_keep_what_was_there(server, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "archive.tar.gz").write_bytes(b"the user's own")
    server.content = bytes(len(CONTENT))
    with pytest.raises(UsageError, match="wrong file"):
        fetch(server, tmp_path)
    assert (tmp_path / "d" / "archive.tar.gz").read_bytes() == b"the user's own"


@pytest.mark.parametrize("sent", [0, 100_000])
def test_stalled_connection_is_an_error_and_keeps_what_came(server, tmp_path, sent):
    server.cuts, server.stalls = [sent, 0], True
    begin = time.monotonic()
    with pytest.raises(UsageError, match=f"timed out, {sent:,} of 300,000 bytes"):
        fetch(server, tmp_path, timeout=0.3)
    assert time.monotonic() - begin < 5
    assert names(tmp_path) == (["archive.tar.gz.part"] if sent else [])


def test_status_is_told(server, tmp_path):
    server.status = 503
    with pytest.raises(UsageError, match="HTTP 503 Service Unavailable"):
        fetch(server, tmp_path)
    assert len(server.ranges) == 1


def test_no_connection_fails_at_once(tmp_path):
    with socket.socket() as free:  # a port on which nobody listens
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        begin = time.monotonic()
        with pytest.raises(UsageError, match="refused"):
            download(url, tmp_path / "x", size=1, md5=MD5)
        assert time.monotonic() - begin < 5
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://www.example.com/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "x"])
def test_only_https_or_this_machine(tmp_path, url):
    with pytest.raises(UsageError, match="neither https nor on this machine"):
        download(url, tmp_path / "x", size=1, md5=MD5)


@pytest.mark.parametrize("target", ["http://www.example.com/x", "file:///etc/passwd"])
def test_redirect_cannot_leave_https(server, tmp_path, target):
    server.redirect = target
    with pytest.raises(UsageError, match=r"neither https|HTTP 302"):
        fetch(server, tmp_path)


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "d").write_text("a file")
    with pytest.raises(UsageError, match="cannot write"):
        fetch(server, tmp_path)


def test_full_disk(server, tmp_path, full_disk):
    with full_disk(), pytest.raises(RunError, match=r"failed to write .*archive\.tar\.gz: File too large"):
        fetch(server, tmp_path)
    assert "archive.tar.gz" not in names(tmp_path)


def test_what_lies_under_the_temporary_name_is_neither_followed_nor_waited_for(server, tmp_path):
    (tmp_path / "d").mkdir()
    part, victim = tmp_path / "d" / "archive.tar.gz.part", tmp_path / "victim"
    victim.write_text("mine")
    for make, kind in (
        (lambda: part.symlink_to(victim), "a symbolic link"),
        (lambda: os.mkfifo(part), "a named pipe"),
        (part.mkdir, "a folder"),
        (lambda: os.link(victim, part), "a second name"),
    ):
        make()
        with pytest.raises(UsageError, match=rf"archive.tar.gz.part: (is|has) {kind}"):
            fetch(server, tmp_path)
        part.rmdir() if part.is_dir() else part.unlink()
    os.mkfifo(tmp_path / "d" / "archive.tar.gz")
    with pytest.raises(UsageError, match=r"archive.tar.gz: is a named pipe"):
        fetch(server, tmp_path)
    assert victim.read_text() == "mine"


def test_what_was_prepared_when_a_process_was_killed_is_removed_a_day_later(tmp_path):
    from jaxalex.data.cifar10 import tfds_reader
    from jaxalex.data.splits import ImageSet, Published

    old, new, other = (
        tmp_path / "cifar10" / f"incomplete.{name}" for name in ("ABC123_3.0.2", "ABC124_3.0.2", "x_3.0.2")
    )
    for folder in (old, new, other):
        folder.mkdir(parents=True)
        (folder / "half").write_text("")
    for folder in (old, other):
        os.utime(folder, (time.time() - 90_000,) * 2)
    some = ImageSet(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int32))
    tfds_reader.prepare(tmp_path, Published("cifar10", "", some, some, tuple("0123456789")))
    assert [folder.exists() for folder in (old, new, other)] == [False, True, True]
