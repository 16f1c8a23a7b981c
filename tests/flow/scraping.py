"""What worker, relay and reconcile serve over HTTP, as Prometheus and an orchestrator read it."""

import re
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from card_worker.embedded.launching import PORTS
from tests.flow.processes import Part

METRICS_PORT = f"{PORTS.start}-{PORTS.stop - 1}"
Series = tuple[str, frozenset[tuple[str, str]]]
"""A name and the labels with their values."""
Scrape = dict[Series, float]


def port_in(log: str) -> int | None:
    """Return the port that a part has logged; None before it has."""
    found = re.search(r"metrics served.*port=(\d+)", log)
    return found and int(found[1])


def get(part: Part | int, path: str) -> tuple[int, str]:
    """Return status and body of a page of a part that was started with METRICS_PORT, or a port."""
    if isinstance(part, Part):
        part.says("metrics served")
    port = port_in(part.said) if isinstance(part, Part) else part
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def scrape(*parts: Part) -> Scrape:
    """Return all metrics of parts of which each has others, without those of the process itself."""
    found: Scrape = {}
    for part in parts:
        status, text = get(part, "/metrics")
        assert status == 200
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                if name.startswith("card_worker_"):
                    found[name, frozenset(labels.items())] = value
    return found


def value(scraped: Scrape, name: str, **labels: str) -> float | None:
    """Return the value of a metric without its beginning `card_worker_`."""
    return scraped.get((f"card_worker_{name}", frozenset(labels.items())))
