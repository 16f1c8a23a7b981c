"""Serves the metrics of this process, and whether it works, over HTTP in threads of its own.

/metrics   what this process has counted; in a worker also the state that all processes share
/healthz   503 if the process should be restarted
/readyz    503 if its servers don't answer
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import accumulate
from operator import attrgetter
from socketserver import TCPServer
from threading import Thread
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from card_worker import metrics
from card_worker.health import Health
from card_worker.metrics import NoPort

REQUEST_S_MAX = 5.0

T = TypeVar("T")
Check = Callable[[], str | None]
"""Returns what is wrong, in one line; None if nothing is."""

log = structlog.get_logger(__name__)


def serve(
    host: str,
    ports: range,
    *,
    part: str,
    health: Health,
    ready: Check,
    gauges: Callable[[], Iterable[Metric]] = lambda: (),
) -> None:
    """Count from now on, and serve on the first free port until the process ends. Raises NoPort.

    `gauges` are called for each request of the metrics, in a thread, and so is `ready`.
    """
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collector(part, gauges))
    checks: dict[str, Check] = {"/healthz": health.problem, "/readyz": ready}

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S_MAX
        server_version, sys_version = "card_worker", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._reply(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif path in checks:
                problem = checks[path]()
                self._reply(200 if problem is None else 503, f"{problem or 'ok'}\n".encode())
            else:
                self._reply(404, b"there are /metrics, /healthz and /readyz\n")

        def _reply(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log no requests."""

    server = _listen(host, ports, Handler)
    # The port is free when this process ends, also if its children don't yet.
    os.register_at_fork(after_in_child=server.socket.close)
    metrics.turn_on()
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics served", host=host, port=server.server_address[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True  # a restart needs the same port at once

    def handle_error(self, *_: object) -> None:
        """Ignore clients that went away."""

    def server_bind(self) -> None:
        # HTTPServer's own would look up the name of the host, which may take long.
        TCPServer.server_bind(self)


def _listen(host: str, ports: range, handler: type[BaseHTTPRequestHandler]) -> _Server:
    try:
        ((family, *_), *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NoPort(f"CARD_WORKER_METRICS_HOST: {error.strerror or error}") from None
    server_of = type("_Server", (_Server,), {"address_family": family})
    why = ""
    for port in ports:
        try:
            server: _Server = server_of((host, port), handler)
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRNOTAVAIL:
                raise NoPort(f"CARD_WORKER_METRICS_HOST: {why}") from None
        else:
            return server
    raise NoPort(f"CARD_WORKER_METRICS_PORT: no port can be used ({why})")


class _Collector:
    """What prometheus_client asks for the metrics."""

    def __init__(self, part: str, gauges: Callable[[], Iterable[Metric]]) -> None:
        self._part, self._gauges = part, gauges

    def collect(self) -> Iterator[Metric]:
        this = (self._part, version("card-worker"))
        yield gauge("card_worker_info", "This process: always 1.", {this: 1}, "part", "version")
        gauges = list(self._gauges())  # first, because a failure of theirs is counted
        counts, stamps = metrics.counted()
        for metric in metrics.COUNTERS:
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            values = _of(metric, counts) or ({} if metric.labels else {(): 0})
            for labels, value in values.items():
                counter.add_metric(labels, value)
            yield counter
        for metric in metrics.STAMPS:
            yield gauge(metric.name, metric.help, _of(metric, stamps), *metric.labels)
        for each in filter(attrgetter("sum"), metrics.HISTOGRAMS):
            upper = [*(str(float(bound)) for bound in each.bounds), "+Inf"]
            histogram = HistogramMetricFamily(each.name, each.help)
            buckets = list(zip(upper, accumulate(each.counts), strict=True))
            histogram.add_metric((), buckets, each.sum)
            yield histogram
        yield from gauges


def gauge(
    name: str, help: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> GaugeMetricFamily:
    """Return a gauge with its values by the values of its labels."""
    family = GaugeMetricFamily(name, help, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _of(metric: metrics.Metric, values: Mapping[metrics.Key, T]) -> dict[tuple[str, ...], T]:
    return {labels: value for (of, labels), value in values.items() if of == metric}
