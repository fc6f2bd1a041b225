"""HTTP whose answers do not wait: 22 ms for a tag on `mlflow server --workers 2`, not 68.

A server that sends an answer's header and body apart, without TCP_NODELAY, sends the body when the
header is acknowledged (RFC 896), and on a connection that is kept open Linux does that after 40 ms.
asyncio sets the option only on sockets that say their protocol, and those that uvicorn hands to its
workers do not. Fewer requests are no help: what an event logs is one already.
"""

import socket

from urllib3.connection import HTTPConnection
from urllib3.response import HTTPResponse

_getresponse = HTTPConnection.getresponse


def acknowledge_at_once() -> None:
    """Let all of this process's requests do so: `requests` has no place for it."""
    if hasattr(socket, "TCP_QUICKACK"):  # Linux
        HTTPConnection.getresponse = _getresponse_at_once  # type: ignore[method-assign]


def _getresponse_at_once(self: HTTPConnection) -> HTTPResponse:
    if self.sock is not None:  # the option holds for one answer
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return _getresponse(self)
