"""Small HTTP and FTP servers that can cut connections, for the tests of downloads."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What a server has and how it behaves.

    ``cuts`` and ``statuses`` are used up from the left, one per answer: bytes after which the connection ends (None:
    never), and HTTP statuses other than 200 (0: as usual).
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    stamps: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    pause: float = 0.0  # seconds after every 10,000 bytes
    wrong_range: bool = False
    heeds_if_range: bool = True
    modified: str = "20240101000000"
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path (or FTP command) and first byte asked for
    base: str = ""

    def send(self, write, content: bytes) -> bool:
        """Send ``content``; False when the connection is to be cut."""
        cut = self.cuts.pop(0) if self.cuts else None
        sent = content if cut is None else content[:cut]
        for i in range(0, len(sent), 10_000):
            write(sent[i : i + 10_000])
            time.sleep(self.pause)
        return cut is None


def _http_handler(site: Site):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.close_connection = True
            wanted = self.headers.get("Range")
            site.asked.append((self.path, wanted))
            status = site.statuses.pop(0) if site.statuses else 0
            content = site.files.get(self.path)
            if status or content is None:
                self.send_error(status or 404)
                return
            if content.startswith(b"->"):
                self.send_response(302)
                self.send_header("Location", content[2:].decode())
                self.end_headers()
                return
            start = 0
            holds = not site.heeds_if_range or self.headers.get("If-Range") in site.stamps.values()
            if wanted and site.ranges and holds:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                start = 0 if site.wrong_range else start
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            for name, value in site.stamps.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if not site.send(self.wfile.write, content[start:]):
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def _ftp_handler(site: Site):
    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(line.encode() + b"\r\n")

        def handle(self):
            start, listener = 0, socket.create_server(("127.0.0.1", 0))
            self.say("220 ready")
            while line := self.rfile.readline().decode().strip():
                command, _, rest = line.partition(" ")
                site.asked.append((command, rest))
                content = site.files.get(rest)
                if command == "USER":
                    self.say("331 password please")
                elif command in ("PASS", "TYPE"):
                    self.say("230 fine")
                elif command == "PASV":
                    high, low = divmod(listener.getsockname()[1], 256)
                    self.say(f"227 passive (127,0,0,1,{high},{low})")
                elif command == "REST" and site.ranges:
                    start = int(rest)
                    self.say("350 from there")
                elif command in ("SIZE", "MDTM", "RETR") and content is None:
                    self.say("550 no such\tfile")
                elif command == "SIZE" and site.stamps:
                    self.say(f"213 {len(content)}")
                elif command == "MDTM" and site.stamps:
                    self.say(f"213 {site.modified}")
                elif command == "RETR":
                    self.say("150 here it comes")
                    connection, _ = listener.accept()
                    with connection:
                        whole = site.send(connection.sendall, content[start:])
                    self.say("226 done" if whole else "426 cut")
                    start = 0
                else:
                    self.say("502 not known here")

    return Handler


@contextmanager
def _running(server, site: Site, scheme: str) -> Iterator[Site]:
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    site.base = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def http_site() -> Iterator[Site]:
    """A running HTTP server."""
    site = Site()
    return _running(ThreadingHTTPServer(("127.0.0.1", 0), _http_handler(site)), site, "http")


def ftp_site() -> Iterator[Site]:
    """A running FTP server."""
    site = Site()
    return _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _ftp_handler(site)), site, "ftp")
