"""A connection to a database that breaks in the middle of a commit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """Passes bytes on to a server of this machine, and cuts connections at a COMMIT.

    Attributes:
        cuts: Asked at each COMMIT of a client: None passes it on; "before" cuts the connection
            instead of it; "after" lets the server do it, and cuts before the client has its answer;
            "unseen" does the same and leaves the server's side open, as a broken network does.
        n_cut: How often it has cut.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.cuts: Callable[[], str | None] = lambda: None
        self.n_cut = 0
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()
        for server in self._kept:
            server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                cut = self.cuts() if b"COMMIT" in data else None
                if cut is not None:
                    self.n_cut += 1
                    self._cut(cut, data, client, server)
                    return
                server.sendall(data)
        _close(client, server)

    def _cut(self, cut: str, data: bytes, client: socket.socket, server: socket.socket) -> None:
        # From here on nothing is read out of the client's socket, so `_answers` must not write.
        client.shutdown(socket.SHUT_RDWR)
        if cut != "before":
            server.sendall(data)
        if cut == "unseen":
            self._kept.append(server)
            return
        server.shutdown(socket.SHUT_WR)  # the server does what it was sent, then it sees the end

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                with suppress(OSError):  # a client that is cut off hears nothing
                    client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for end in sockets:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
