from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from urllib3.connectionpool import HTTPConnectionPool

from sweep.tracking import fast_http


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *values: object) -> None:
        pass


class Recorder:
    """A socket that notes what it is asked."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.calls: list[object] = []

    def setsockopt(self, *option: Any) -> None:
        self.calls.append(option)
        self._inner.setsockopt(*option)

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._inner, name)


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="Linux alone lets it be chosen")
def test_answers_on_a_connection_that_is_kept_are_acknowledged_at_once(address: str) -> None:
    fast_http.install()
    host, _, port = address.removeprefix("http://").partition(":")
    connection: Any = HTTPConnectionPool.ConnectionCls(host, int(port))
    connection.connect()
    connection.sock = recorder = Recorder(connection.sock)
    for _ in range(2):
        connection.request("POST", "/", body=b"{}")
        assert connection.getresponse().data == b"ok"
    connection.close()
    acknowledged = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    calls = [call for call in recorder.calls if call in ("sendall", "makefile", acknowledged)]
    assert calls[-3:] == ["sendall", acknowledged, "makefile"]
    assert calls.count(acknowledged) == 2
