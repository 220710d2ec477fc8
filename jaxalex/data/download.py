"""Downloads one file over HTTPS: resumes a broken download, and checks the file before it gets its name."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxalex.errors import RunError, UsageError
from jaxalex.system import files

_CHUNK = 1 << 16


class _NetworkError(Exception):
    """A failure of the network, to tell it from one of the disk: in Python both are OSError."""


def download(url: str, destination: Path, *, size: int, md5: str, timeout: float = 10.0) -> Path:
    """Downloads ``url`` to ``destination``, with a progress bar on stderr.

    The bytes are written to ``destination`` + ``.part``, which is renamed once its MD5 has been checked. A later call
    resumes from a ``.part`` that was left behind; a file that exists and is right is not downloaded again. After a
    broken connection the call tries again if that connection brought new bytes, and otherwise fails.

    Args:
      url: ``https:``, or ``http:`` on this machine itself.
      destination: a file name; its folder is created.
      size: of the file, in bytes.
      md5: of the file, in hexadecimal.
      timeout: seconds without an answer or a byte after which the connection counts as broken.

    Returns:
      ``destination``.

    Raises:
      UsageError: there is no connection, the file is not the expected one, or the folder cannot be written to; or the
        name of either file is a link, a pipe …, which is not followed, emptied or waited for.
      RunError: the disk failed or is full.
    """
    from tqdm import tqdm

    _check_url(url)
    part = destination.with_name(destination.name + ".part")
    try:
        if files.kind(destination, follow=True) is not None:
            with files.open_regular(destination) as whole:
                if _md5(whole) == md5:
                    return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=size, desc=destination.name, unit="B", unit_scale=True, mininterval=0.5)
        with bar, files.open_to_append(part) as file:
            try:
                _fetch(url, file, size, timeout, bar)
            finally:
                file.flush()
                if os.fstat(file.fileno()).st_size == 0:
                    part.unlink()
            file.seek(0)
            found = _md5(file)
        if found != md5:
            part.unlink()
            raise UsageError(f"{url} sent a wrong file (MD5 {found}, expected {md5}); it was removed")
        part.replace(destination)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"cannot write {destination}: {error.strerror}") from error
    except OSError as error:
        raise RunError(f"failed to write {destination}: {error.strerror or error}") from error
    return destination


def _fetch(url: str, file: IO[bytes], size: int, timeout: float, bar: Any) -> None:
    """Downloads what ``file`` still lacks of its ``size`` bytes."""
    if file.tell() > size:  # what was left behind belongs to another file
        _restart(file)
    while (start := file.tell()) < size:
        reason = "the connection ended"
        try:
            with _open(url, start, timeout) as response:
                _check_length(url, response, start, size)
                if response.status != http.client.PARTIAL_CONTENT:
                    _restart(file)  # the server sends all of it
                for chunk in _chunks(response):
                    if file.tell() + len(chunk) > size:
                        _restart(file)
                        raise UsageError(f"{url} is longer than the published {size:,} bytes")
                    file.write(chunk)
                    bar.update(file.tell() - bar.n)
        except _NetworkError as error:
            reason = str(error)
        if file.tell() <= start:
            raise UsageError(f"cannot download {url} ({reason}, {file.tell():,} of {size:,} bytes here)")


def _restart(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "jaxalex"} | ({"Range": f"bytes={start}-"} if start else {})
    handlers: list[urllib.request.BaseHandler] = [_CheckedRedirect()]
    if urllib.parse.urlsplit(url).scheme == "http":
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's own server
    opener = urllib.request.build_opener(*handlers)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open(url, 0, timeout)
        raise _NetworkError(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _NetworkError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(str(error) or type(error).__name__) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)  # read() would lose the bytes that arrived before a timeout
        except (OSError, http.client.HTTPException) as error:
            raise _NetworkError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        yield chunk


def _check_length(url: str, response: http.client.HTTPResponse, start: int, size: int) -> None:
    """Refuses another file (a login page, a new version) before downloading it."""
    if response.status == http.client.PARTIAL_CONTENT:
        offered, expected = response.getheader("Content-Range"), f"bytes {start}-{size - 1}/{size}"
    else:
        offered, expected = response.getheader("Content-Length", str(size)), str(size)
    if offered != expected:
        raise UsageError(f"{url} is not the published file: it offers {offered} bytes, expected {expected}")


def _md5(file: io.BufferedReader | io.BufferedRandom) -> str:
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) not in {
        ("http", "127.0.0.1"),
        ("http", "localhost"),
        ("http", "::1"),
    }:
        raise UsageError(f"{url} is neither https nor on this machine")


class _CheckedRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
