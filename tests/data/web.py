"""An http server on the loopback interface whose faults the tests choose."""

from __future__ import annotations

import collections
import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path


class Web:
    """Serves a folder. `faults[name]`: the faults of a file, one per request, in order:

    "503", "404", ... that status; "drop" a reset connection, "truncate" an orderly end, "stall" silence, each after
    half of the bytes. `after_fault` is called after such a half, before the connection ends. `served` counts requests
    and `sent` bytes, by name. `version`: the ETag of every file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.ranges = folder, True
        self.faults: dict[str, list[str]] = collections.defaultdict(list)
        self.served: collections.Counter[str] = collections.Counter()
        self.sent: collections.Counter[str] = collections.Counter()
        self.stalled, self.resume = threading.Event(), threading.Event()
        self.url, self.version = "", ""
        self.after_fault: Callable[[], object] = lambda: None


class _Server(http.server.ThreadingHTTPServer):
    web: Web

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet: the tests close connections on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web, name = self.server.web, self.path.strip("/").partition("?")[0]
        web.served[name] += 1
        fault = web.faults[name].pop(0) if web.faults[name] else ""
        path = web.folder / name
        if fault.isdigit() or not path.is_file():
            self.send_error(int(fault or 404))
            return
        data, start = path.read_bytes(), 0
        wanted, etag = self.headers.get("Range"), f'"{web.version}"'
        if wanted and web.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(HTTPStatus.OK)
        if web.version:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self._send(name, data[start:], fault)

    def _send(self, name: str, body: bytes, fault: str) -> None:
        web, part = self.server.web, body[: len(body) // 2] if fault else body
        self.wfile.write(part)
        web.sent[name] += len(part)
        if not fault:
            return
        self.close_connection = True
        web.after_fault()
        if fault == "stall":
            web.stalled.set()
            web.resume.wait(60)
        if fault == "drop":  # a reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Web]:
    """Runs a server of that folder on a free port."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.web = web = Web(folder)
        web.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            web.resume.set()
            server.shutdown()
            thread.join()
