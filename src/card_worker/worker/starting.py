"""What a worker and beat check before they start, and how they begin: logs, metrics, limits."""

from collections.abc import Callable, Sequence
from typing import Any

from celery import signals
from redis.exceptions import RedisError

from card_worker import metrics
from card_worker.contracts.commands import QUEUES, SWEEPS
from card_worker.defects import start_reporting
from card_worker.file_store import FileStore
from card_worker.pauses import Pauses, keep_trying
from card_worker.settings import LogFormat, Settings, WrongSetting, load_settings
from card_worker.sinks import connect
from card_worker.storage.engine import reading
from card_worker.storage.errors import is_retryable, needs_operator
from card_worker.storage.schema import SchemaOutdated, check
from card_worker.telemetry import configure_logs
from card_worker.transport.access import Access, Refused, check_access, consuming, publishing
from card_worker.worker import beat, default_queue, grouping, remote_control, tracing
from card_worker.worker.messages import TASKS
from card_worker.worker.process import engine, health
from card_worker.worker.tracing import NoTraces

PAUSE_S_MAX = 5.0


@signals.setup_logging.connect
def _on_setup_logging(loglevel: int, **_: Any) -> None:
    configure_logs(as_json=load_settings().log_format is LogFormat.JSON, level=loglevel)
    start_reporting()


@signals.worker_init.connect
def _on_worker_init(**_: Any) -> None:
    """Refuse to start on a database that is not migrated; restrict remote control."""
    grouping.spare_cycle_search()
    remote_control.restrict()
    settings = load_settings()
    # Celery sets logs up later, but this may wait and say so.
    configure_logs(as_json=settings.log_format is LogFormat.JSON)
    broker, also = settings.broker(), settings.also_consume
    lists = sorted({*QUEUES.values(), *([also] if also else [])})
    try:
        if settings.metrics_port is not None:
            _serve_metrics(settings, settings.metrics_port.all, lists)
        _check_files_url()
        if settings.traces:
            tracing.check()
        _try_until_available("database unavailable", _check_schema)
        _check_broker(consuming(lists, db=broker.db))
    except (SchemaOutdated, WrongSetting, Refused, NoTraces, metrics.NoPort) as reason:
        raise SystemExit(f"card_worker: {reason}") from None
    if also is None:
        with connect(broker) as redis:
            default_queue.warn_of_ours(redis, TASKS)


def _serve_metrics(settings: Settings, ports: range, queues: Sequence[str]) -> None:
    # Imported here, as it takes a quarter of a second.
    from card_worker.shared_state import SharedState, serve_worker  # noqa: PLC0415

    servers = settings.database(), settings.broker(), settings.events()
    state = SharedState(*servers, stream=settings.event_stream, queues=queues)
    serve_worker(settings.metrics_host, ports, health(), state)


@signals.celeryd_after_setup.connect
def _on_worker_setup(instance: Any, **_: Any) -> None:
    if load_settings().also_consume is not None:
        default_queue.consume_too(instance.app.amqp.queues)


@signals.beat_init.connect
def _on_beat_init(**_: Any) -> None:
    try:
        _check_broker(publishing([QUEUES[sweep] for sweep in SWEEPS]))
    except Refused as reason:
        raise SystemExit(f"card_worker: {reason}") from None
    beat.end_between_tasks()


def _check_broker(access: Access) -> None:
    """Wait for the broker. Raises Refused if a refusal is permanent."""
    with connect(load_settings().broker()) as redis:
        _try_until_available("broker unavailable", lambda: check_access(redis, access))


def _try_until_available(event: str, work: Callable[[], None]) -> None:
    keep_trying(
        work,
        event,
        pauses=Pauses(first_s=0.2, max_s=PAUSE_S_MAX),
        is_retryable=lambda error: isinstance(error, RedisError) or is_retryable(error),
        is_alarming=needs_operator,
    )


def _check_schema() -> None:
    with reading(engine()) as connection:
        check(connection)
    engine().dispose()  # a pool that forks from here must not inherit connections


def _check_files_url() -> None:
    try:
        FileStore(load_settings().files_url).check()
    except (ImportError, ValueError) as error:
        # No library is installed for this scheme. The error's text may contain a password.
        raise WrongSetting(f"CARD_WORKER_FILES_URL: {type(error).__name__}") from None
