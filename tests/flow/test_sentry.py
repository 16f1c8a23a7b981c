"""Defects reach Sentry, and nothing else does."""

import gzip
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import structlog

from card_worker import defects as reporting
from tests.flow import defects
from tests.flow.processes import PARTS, until
from tests.flow.system import System


@contextmanager
def sentry() -> Iterator[tuple[str, list[str]]]:
    """Run a server that takes events as Sentry does; give its DSN and what it has got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_zipped = self.headers.get("Content-Encoding") == "gzip"
            got.append((gzip.decompress(body) if is_zipped else body).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://key@127.0.0.1:{server.server_port}/1", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_defect_is_reported_once_and_without_what_messages_hold(own: System) -> None:
    defects.plant(own.engine)
    with sentry() as (dsn, got):
        worker = own.parts.run(*PARTS["worker"], name="worker", env={"SENTRY_DSN": dsn})
        own.create("before", "defect", "after")
        own.push("not JSON")
        letter = own.letter("defect")
        until(lambda: got, "the report")
        worker.stop()
    events = [json.loads(each.splitlines()[2]) for each in got]
    # The group of all messages, and the message alone, five times.
    assert len(events) == 1
    (event,) = events
    types = [each["type"] for each in event["exception"]["values"]]
    assert letter.detail is not None
    assert types[-1] == letter.detail.splitlines()[0]
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    assert len(frames) > 1
    assert not [frame for frame in frames if "vars" in frame]
    assert not [each for each in event["exception"]["values"] if each["value"]]
    assert not event.keys() & {"request", "extra", "user", "modules"}
    for private in ("T00000001", "planted", str(own.database_url)):
        assert private not in json.dumps(event)


def test_a_wrong_dsn_ends_the_start(own: System) -> None:
    worker = own.parts.run(*PARTS["worker"], env={"SENTRY_DSN": "nonsense"})
    relay = own.parts.run(*PARTS["relay"], env={"SENTRY_DSN": "nonsense"})
    for part in (worker, relay):
        assert part.ended() == 1
        assert part.said.splitlines()[-1] == "card_worker: SENTRY_DSN: is not a DSN of Sentry"


def test_without_the_extra_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with structlog.testing.capture_logs() as logged:
        reporting.start_reporting()
        assert logged == []
        monkeypatch.setenv("SENTRY_DSN", "http://key@127.0.0.1:1/1")
        reporting.start_reporting()
        reporting.log_defect(ValueError("text"), messages=1)
    assert logged[0]["install"] == "pip install 'card-worker[sentry]'"
    assert logged[1]["at"] == "unknown"
