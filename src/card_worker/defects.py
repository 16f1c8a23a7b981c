"""Defects: logged, and reported to Sentry if SENTRY_DSN is set.

Neither shows the text of an error, which may quote rows or messages. The dead letter has it.
"""

import os
import sys
import traceback
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from card_worker import metrics

REPORT_S = 60.0
"""Seconds for which a defect at the same place is not reported again."""

_reported: dict[tuple[str, str], float] = {}

log = structlog.get_logger(__name__)


def start_reporting() -> None:
    """Connect to Sentry if SENTRY_DSN is set. Raises SystemExit if that is not a DSN."""
    if not os.environ.get("SENTRY_DSN"):
        return
    try:
        import sentry_sdk  # noqa: PLC0415  # an extra
        from sentry_sdk.integrations import atexit, excepthook  # noqa: PLC0415
    except ImportError:
        log.warning("defects not reported", install="pip install 'card-worker[sentry]'")
        return
    try:
        sentry_sdk.init(
            before_send=_without_texts,
            # Others send logs, local variables, arguments or results.
            default_integrations=False,
            integrations=[
                atexit.AtexitIntegration(lambda *_: None),
                excepthook.ExcepthookIntegration(),
            ],
            include_local_variables=False,
            max_breadcrumbs=0,
        )
    except ValueError:
        raise SystemExit("card_worker: SENTRY_DSN: is not a DSN of Sentry") from None


def log_defect(defect: Exception, *, messages: int) -> None:
    """Log the type and the place of a defect, count it and report it."""
    metrics.count(metrics.DEFECTS)
    log.error("defect", error=type(defect).__name__, at=_place(defect), messages=messages)
    report(defect)


def report(defect: BaseException) -> None:
    """Report a defect to Sentry, if this process or the settings of Celery have connected to it."""
    if (sentry := sys.modules.get("sentry_sdk")) is None:
        return
    key, now = (type(defect).__name__, _place(defect)), monotonic()
    if now - _reported.get(key, float("-inf")) >= REPORT_S:
        _reported[key] = now
        sentry.capture_exception(defect, tags=structlog.contextvars.get_contextvars())


def _place(defect: BaseException) -> str:
    frames = traceback.extract_tb(defect.__traceback__)
    if not frames:  # raised in another process
        return "unknown"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}"


def _without_texts(event: Any, _: Any) -> Any:
    for exception in event.get("exception", {}).get("values", ()):
        exception["value"] = ""
    return event
