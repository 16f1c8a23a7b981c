"""A wire between a client and a server that can go dead without either being told."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread


class Wire:
    """Passes bytes both ways. What is connected when it is cut stays open, and silent."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cuts = 0
        self._ends: list[socket.socket] = []
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let the connections there are go silent. New ones are well."""
        self._cuts += 1

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    Thread(
                        target=self._pass, args=(source, target, self._cuts), daemon=True
                    ).start()

    def _pass(self, source: socket.socket, target: socket.socket, cuts: int) -> None:
        with suppress(OSError), source:
            while data := source.recv(65536):
                if cuts == self._cuts:
                    target.sendall(data)
            if cuts == self._cuts:
                target.shutdown(socket.SHUT_WR)


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    """Give a wire to a port of this machine."""
    made = Wire(port)
    try:
        yield made
    finally:
        made.close()
