"""MLflow as a library: what it is set to, and how its requests go out."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from sweep.tracking.client import client_of


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers whatever it is asked, on a connection that is kept."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="Linux alone lets it be chosen")
def test_each_answer_is_acknowledged_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[object] = []
    monkeypatch.setattr(
        socket.socket, "setsockopt", lambda _, *option: options.append(option), raising=False
    )
    client = client_of(address)
    for number in range(3):
        client.set_tag("run", "key", str(number))
    assert options.count((socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)) == 3


def test_it_reports_to_nobody_and_its_warnings_are_not_ours() -> None:
    code = """if True:
        import logging
        from sweep.tracking.mlflow_tracker import MlflowTracker
        from sweep.tracking.client import client_of
        client_of("http://127.0.0.1:9")
        from mlflow.telemetry import get_telemetry_client
        print(get_telemetry_client(), logging.getLogger("mlflow").isEnabledFor(logging.ERROR))
    """
    # MLflow is silent by itself where the environment looks like that of a test.
    plain = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain
    )
    assert done.stdout == "None False\n"
