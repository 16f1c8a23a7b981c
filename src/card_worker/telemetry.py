"""Logging. No line has the body of a message or the value of a field."""

import logging
import sys

import structlog
from structlog.typing import Processor

QUIET = {
    # Celery's lines repeat ours, and would show results and messages.
    "celery.app.trace": logging.CRITICAL,
    "celery.worker.strategy": logging.WARNING,
    "celery.pool": logging.INFO,
    "celery.redirected": logging.WARNING,
    # Logs a traceback for each remote control message with wrong arguments.
    "kombu.pidbox": logging.CRITICAL,
    "alembic": logging.WARNING,
    "tornado.access": logging.WARNING,
}

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def configure_logs(*, as_json: bool, level: int = logging.INFO) -> None:
    """Write all log lines, including those of libraries, to stderr in one format."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    last: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)
