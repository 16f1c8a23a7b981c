"""A TCP proxy for tests: it can stop forwarding, hold replies back, cut connections, speak TLS.

With it a test makes a server silent without stopping it: connections stay open, and what is sent on
them is accepted by the kernel, as with a hung server or a firewall that drops packets.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

CHUNK_BYTES = 64 * 1024

Result = TypeVar("Result")


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port`. Its methods work from any thread.

    With `tls`, clients speak TLS to the proxy, which speaks plain TCP to the server.
    """

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target_port = target_port
        self.port = 0
        self.accepted = 0
        """Number of connections accepted so far."""
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._requests_pass = asyncio.Event()
        self._replies_pass = asyncio.Event()

    def start(self) -> None:
        """Begin to accept connections; the port is chosen once."""
        self._thread.start()
        self.resume()
        self._call(self._listen)

    def stop(self) -> None:
        """Close all connections and the port."""
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def pause(self) -> None:
        """Forward nothing in either direction; connections stay open and new ones are accepted."""
        self._set(requests=False, replies=False)

    def hold_replies(self) -> None:
        """Forward requests, but no replies: the server does what it is asked, unheard."""
        self._set(requests=True, replies=False)

    def resume(self) -> None:
        """Forward again, beginning with what was held back."""
        self._set(requests=True, replies=True)

    def cut(self) -> None:
        """Close all connections; new ones are accepted."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Close all connections and the port, as a server that is down."""
        self._call(self._close)

    def accept(self) -> None:
        """Open the port again after `refuse`."""
        self._call(self._listen)

    def _set(self, *, requests: bool, replies: bool) -> None:
        async def change() -> None:
            for passes, event in ((requests, self._requests_pass), (replies, self._replies_pass)):
                if passes:
                    event.set()
                else:
                    event.clear()

        self._call(change)

    def _call(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        server_writer: asyncio.StreamWriter | None = None
        try:
            # The connection to the server waits, too: a paused proxy looks like a silent server.
            await self._requests_pass.wait()
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port
            )
            self._writers.add(server_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, server_writer, self._requests_pass))
                both.create_task(self._forward(server_reader, writer, self._replies_pass))
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            pass
        finally:
            for each in (writer, server_writer):
                if each is not None:
                    each.transport.abort()
                    self._writers.discard(each)
            self._tasks.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await passes.wait()
            writer.write(data)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            await passes.wait()
            writer.transport.abort()
        raise ConnectionResetError


@contextmanager
def proxy(target_port: int, *, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy to 127.0.0.1:`target_port`; close it afterwards."""
    running = Proxy(target_port, tls=tls)
    running.start()
    try:
        yield running
    finally:
        running.stop()
