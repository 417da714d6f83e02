"""A relay between a sink and Postgres that reads the protocol: it knows which statement of a transaction is under way.

At a moment that a test names it calls the test back, in the thread that relays: whoever is killed or frozen there has
gone exactly so far. The sink needs no hook for it and knows nothing of it.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

# before: the server has not got the statement; inside: it has half of a COPY's data, or the statement, and its answer
# is not back; after: it has answered, and the sink has not got the answer.
Phase = Literal["before", "inside", "after"]

_NOT_A_STARTUP = (80877103, 80877104)  # the client asks for TLS, for GSS


@dataclass(slots=True)
class Trap:
    """Springs once: at the phase of the statement that begins with `words`, when it comes for the `turn`th time."""

    words: str
    phase: Phase
    action: Callable[[], None]
    turn: int = 1
    # Then both connections end, and nothing more is relayed.
    cuts: bool = True
    sprung: threading.Event = field(default_factory=threading.Event)

    def is_for(self, statement: str, phase: Phase) -> bool:
        if self.sprung.is_set() or phase != self.phase or not statement.lower().startswith(self.words):
            return False
        self.turn -= 1
        return self.turn == 0


class PostgresRelay:
    """Listens on `port`; every connection is relayed to the real server, past the trap that is set."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.trap: Trap | None = None
        self.statements: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            _Connection(self, client, server).start()


class _Connection:
    def __init__(self, relay: PostgresRelay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._client = client
        self._server = server
        self._named: dict[bytes, str] = {}
        self._statement = ""

    def start(self) -> None:
        threading.Thread(target=self._until_closed, args=[self._begin], daemon=True).start()

    def _begin(self) -> None:
        while True:
            head = _exactly(self._client, 8)
            length, code = struct.unpack(">II", head)
            self._server.sendall(head + _exactly(self._client, length - 8))
            if code not in _NOT_A_STARTUP:
                break
            self._client.sendall(_exactly(self._server, 1))
        threading.Thread(target=self._until_closed, args=[self._from_server], daemon=True).start()
        self._from_client()

    def _until_closed(self, target: Callable[[], None]) -> None:
        with suppress(OSError, EOFError):
            target()
        self._close()

    def _close(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _moment(self, phase: Phase) -> None:
        trap = self._relay.trap
        if trap is not None and trap.is_for(self._statement, phase):
            trap.action()
            if trap.cuts:
                self._close()
            trap.sprung.set()
            if trap.cuts:
                raise EOFError

    def _from_client(self) -> None:
        while True:
            kind = _exactly(self._client, 1)
            (length,) = struct.unpack(">I", _exactly(self._client, 4))
            body = _exactly(self._client, length - 4)
            message = kind + struct.pack(">I", length) + body
            if kind == b"P":
                name, text = body.split(b"\0")[:2]
                self._named[name] = text.decode().strip()
            elif kind == b"B":
                self._statement = self._named[body.split(b"\0")[1]]
            elif kind == b"Q":
                self._statement = body[:-1].decode().strip()
            begins = kind in (b"Q", b"E")
            if begins:
                self._relay.statements.append(self._statement)
                self._moment("before")
            is_copy = self._statement.lower().startswith("copy")
            if kind == b"d" and length > 100:
                self._server.sendall(message[: length // 2])
                self._moment("inside")
                self._server.sendall(message[length // 2 :])
            else:
                self._server.sendall(message)
                if not is_copy and kind in (b"Q", b"S"):
                    self._moment("inside")

    def _from_server(self) -> None:
        while True:
            kind = _exactly(self._server, 1)
            head = _exactly(self._server, 4)
            body = _exactly(self._server, struct.unpack(">I", head)[0] - 4)
            if kind == b"C":
                self._moment("after")
            self._client.sendall(kind + head + body)


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
