"""A stand-in for the hub's HTTP API, as far as an upload asks for it; no mock of its client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "Secret" * 6
MINE = ("me", "my-team")
"""Where the token may write."""


@dataclass
class Hub:
    """What the hub knows."""

    address: str
    role: str = "write"
    private: dict[str, bool] = field(default_factory=dict)
    """By repository."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By repository and path."""
    large: dict[str, bytes] = field(default_factory=dict)
    """By digest."""


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve it until the end."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            hub.large[self.path.rpartition("/")[2]] = content
            assert hashlib.sha256(content).hexdigest() in hub.large
            self._send(200, {})

        def _answer(self, body: bytes) -> None:
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._send(401, {"error": "Invalid username or password."})
            else:
                self._send(*answer(hub, self.path.split("?")[0], body))

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(hub: Hub, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """What it says to a client whose token it knows."""
    if path == "/api/whoami-v2":
        return 200, {"name": "me", "auth": {"accessToken": {"role": hub.role}}}
    if path.endswith(("/commit/main",)):
        return _commit(hub, path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
    asked = json.loads(body)
    if path == "/api/repos/create":
        return _create(hub, asked)
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if path.endswith("/preupload/main"):
        modes = [_mode(file["path"]) for file in asked["files"]]
        return 200, {"files": modes}
    if path.endswith(".git/info/lfs/objects/batch"):
        return 200, {"transfer": "basic", "objects": [_place(hub, o) for o in asked["objects"]]}
    return 404, {"error": f"no {path}"}


def _create(hub: Hub, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    repo = f"{asked['organization']}/{asked['name']}"
    if asked["organization"] not in MINE:
        return 403, {"error": f"You may not create a model under {asked['organization']}"}
    if repo in hub.private:
        return 409, {"error": "You already created this model repo"}
    hub.private[repo] = asked.get("visibility") == "private"
    return 200, {"url": f"{hub.address}/{repo}"}


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


def _place(hub: Hub, wanted: dict[str, Any]) -> dict[str, Any]:
    href = {"href": f"{hub.address}/lfs/{wanted['oid']}"}
    return {**wanted, "actions": {"upload": href}}


def _commit(hub: Hub, repo: str, body: bytes) -> tuple[int, dict[str, Any]]:
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            hub.files[f"{repo}/{value['path']}"] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            hub.files[f"{repo}/{value['path']}"] = hub.large[value["oid"]]
    return 200, {"commitUrl": f"{hub.address}/{repo}/commit/1", "commitOid": "1" * 40}
