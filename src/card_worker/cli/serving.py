"""Metrics and health checks of commands that keep running."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from card_worker.cli.console import refuse
from card_worker.health import Health
from card_worker.metrics import NoPort
from card_worker.redis_url import RedisAddress
from card_worker.settings import Settings

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def serve_metrics(
    settings: Settings,
    part: str,
    servers: Mapping[str, RedisAddress] | None = None,
    *,
    stalled_s: float,
    gauges: "Callable[[], Iterable[Metric]]" = lambda: (),
) -> None:
    """Serve metrics and health checks of this process, if a port for them is set.

    It is ready while the database and `servers` answer. Raises Exit if no port can be used.
    """
    if settings.metrics_port is None:
        return
    from card_worker.exporter import serve
    from card_worker.shared_state import readiness

    health = Health(stalled_s)
    ready = readiness(health, settings.database(), servers or {})
    host, ports = settings.metrics_host, settings.metrics_port.all
    try:
        serve(host, ports, part=part, health=health, ready=ready, gauges=gauges)
    except NoPort as error:
        raise refuse(str(error), code=2) from None
