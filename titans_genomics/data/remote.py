"""Files on HTTP and FTP servers, from a given byte on, and their faults told apart: what may pass and what will not."""

from __future__ import annotations

import ftplib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from titans_genomics import __version__

ATTEMPTS = 5
"""Attempts in a row that bring nothing new before a download is given up."""
PAUSE = 1.0
"""Seconds before the second attempt; before each further one twice as many."""

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP: what may be gone in a moment

T = TypeVar("T")


class DroppedError(Exception):
    """No connection, or one that broke; ``again`` is false when another attempt would not help."""

    def __init__(self, message: str, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class RefusedError(Exception):
    """The server's answer is no."""


class MissingError(RefusedError):
    """The server has no such file."""


@dataclass(frozen=True)
class Reply:
    """A server that is about to send a file from byte ``start`` on (0 when it did not go into the request).

    ``total`` is the size of the whole file in bytes; ``validator`` changes when the file does. None: not said.
    """

    url: str
    read: Callable[[int], bytes]
    close: Callable[[], object]
    start: int
    total: int | None
    validator: str | None

    def get(self) -> bytes:
        """The next bytes; none at the end."""
        with _network(self.url):
            return self.read(_BLOCK)


def ask(url: str, have: int, validator: str | None) -> Reply:
    """Ask for a file from byte ``have`` on, if ``validator`` still holds, else from the start."""
    with _network(url):
        return (_ask_ftp if url.lower().startswith("ftp:") else _ask_http)(url, have, validator)


def _ask_http(url: str, have: int, validator: str | None) -> Reply:
    headers = {"User-Agent": f"titans-genomics/{__version__}", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):  # complete already
            return Reply(url, lambda size: b"", error.close, have, have, validator)
        return _ask_http(url, 0, None)
    etag = response.headers.get("ETag")
    stamp = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    start = 0
    if response.status == 206:
        start = have
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-") or stamp not in (None, validator):
            response.close()
            return _ask_http(url, 0, None)
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    return Reply(url, response.read1, response.close, start, total, stamp or (validator if start else None))


def _ask_ftp(url: str, have: int, validator: str | None) -> Reply:
    parts = urlsplit(url)
    path = unquote(parts.path)
    ftp = ftplib.FTP(timeout=_TIMEOUT)
    try:
        ftp.connect(parts.hostname or "", parts.port or ftplib.FTP_PORT)
        ftp.login()
        ftp.voidcmd("TYPE I")
        size = changed = None
        with suppress(ftplib.error_perm):  # commands that not every server knows
            size = ftp.size(path)
            changed = ftp.sendcmd(f"MDTM {path}")
        stamp = f"{size} {changed}" if size is not None and changed else None
        start = have if have and stamp is not None and stamp == validator else 0
        if start and start == size:
            return Reply(url, lambda block: b"", ftp.close, start, size, stamp)
        try:
            connection = ftp.transfercmd(f"RETR {path}", start or None)
        except ftplib.error_perm as error:
            if not start or str(error).startswith("550"):
                raise
            start = 0  # a server without REST
            connection = ftp.transfercmd(f"RETR {path}")
    except BaseException:
        ftp.close()
        raise

    def read(block: int) -> bytes:
        received = connection.recv(block)
        if not received:
            connection.close()
            ftp.voidresp()
        return received

    def close() -> None:
        connection.close()
        ftp.close()

    return Reply(url, read, close, start, size, stamp)


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Faults of the network as one line: `DroppedError` for what may pass, `RefusedError` for what will not."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        said = f"HTTP {error.code} {error.reason}".strip()
        if error.code in _PASSING:
            raise DroppedError(f"{url}: {said}") from None
        if error.code in (404, 410):
            raise MissingError(f"{url}: there is no such file ({said})") from None
        why = "the server wants a login" if error.code in (401, 403, 407) else "the server refuses it"
        raise RefusedError(f"{url}: {why} ({said})") from None
    except ftplib.error_perm as error:
        said = " ".join(str(error).split())
        if said.startswith("550"):
            raise MissingError(f"{url}: there is no such file ({said})") from None
        raise RefusedError(f"{url}: the server refuses it ({said})") from None
    except http.client.InvalidURL as error:
        raise RefusedError(f"{url}: not a valid URL ({error})") from None
    except (OSError, EOFError, http.client.HTTPException, ftplib.Error) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        said = " ".join(str(reason).split()) or type(reason).__name__
        if isinstance(reason, socket.gaierror):
            said, again = f"the host is not known, or there is no network ({said})", False
        else:
            again = not isinstance(reason, ssl.SSLCertVerificationError | str)
        raise DroppedError(f"{url}: {said}", again) from None


def text(url: str) -> str:
    """A small text file."""

    def attempt() -> str:
        with closing(ask(url, 0, None)) as reply:
            content = b"".join(iter(reply.get, b""))
        if reply.total is not None and len(content) < reply.total:
            raise DroppedError(f"{url}: the connection ended early")
        return content.decode("utf-8", errors="replace")

    return patiently(attempt)


def patiently(attempt: Callable[[], T], size: Callable[[], int] = lambda: 0) -> T:
    """The result of ``attempt``, made again after connections that broke as long as ``size`` grows."""
    failures, furthest = 0, size()
    while True:
        try:
            return attempt()
        except DroppedError as error:
            if size() > furthest:
                failures, furthest = 0, size()
            failures += 1
            if not error.again or failures >= ATTEMPTS:
                raise
            time.sleep(PAUSE * 2 ** (failures - 1))
