"""Celery's remote control, restricted to inspection, and robust against malformed messages.

Whoever may publish commands may also publish to the remote control channel. So a worker can be
inspected, but not be changed; all other messages are ignored.
"""

from time import monotonic
from typing import Annotated, Any, Literal

import structlog
from celery.worker import pidbox
from celery.worker.consumer.control import Control
from celery.worker.control import Panel, nok
from kombu.message import Message
from pydantic import BaseModel, Field, ValidationError

ALLOWED = frozenset(
    [
        *("active", "active_queues", "clock", "conf", "ping", "query_task", "registered"),
        *("report", "reserved", "revoked", "scheduled", "stats"),
        # Monitors enable events with these.
        *("enable_events", "heartbeat"),
    ]
)
CLOCK_MAX = 2**53
IGNORED_LOG_S = 5.0

Text = Annotated[str, Field(max_length=255)]

log = structlog.get_logger(__name__)


class _ReplyTo(BaseModel):
    exchange: Text
    routing_key: Text


class _Request(BaseModel):
    """A remote control message."""

    method: Text
    arguments: dict[str, Any] | None = None
    destination: list[Text] | None = None
    pattern: Text | None = None
    matcher: Literal["glob"] | None = None  # a regular expression could run for very long
    reply_to: _ReplyTo | None = None
    ticket: Text | None = None


def restrict() -> None:
    """Refuse every command that is not allowed."""
    for name in Panel.data:
        if name not in ALLOWED:
            Panel.data[name] = _refuse


def _refuse(_: object, **__: Any) -> dict[str, str]:
    refusal: dict[str, str] = nok("this worker can be inspected, but not changed")
    return refusal


class _Pidbox(pidbox.Pidbox):  # type: ignore[misc]  # Celery has no types
    """Celery's mailbox; ignores malformed messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ignored, self._logged_at = 0, float("-inf")

    def start(self, c: Any) -> None:
        super().start(c)
        self.consumer.on_decode_error = lambda _, error: self._ignore(type(error).__name__)

    def on_message(self, body: Any, message: Message) -> None:
        try:
            request = _Request.model_validate(body, strict=True)
        except ValidationError as error:
            self._ignore(f"{error.error_count()} parts are wrong")
            return
        if request.method not in Panel.data:
            self._ignore("there is no such command")
            return
        replies = self.node.mailbox.reply_exchange.name
        if request.reply_to is not None and request.reply_to.exchange != replies:
            self._ignore("the reply would go elsewhere")
            return
        clock = message.headers.get("clock")
        is_clock = isinstance(clock, int) and 0 <= clock < CLOCK_MAX
        message.headers["clock"] = clock if is_clock else 0
        self._forward_clock()
        try:
            self.node.handle_message(request.model_dump(), message)
        except self.c.connection_errors:
            raise
        except Exception as error:
            self._ignore(type(error).__name__)

    def _ignore(self, why: str) -> None:
        """Log at most one line per IGNORED_LOG_S."""
        self._ignored += 1
        if monotonic() - self._logged_at > IGNORED_LOG_S:
            log.warning("remote control messages ignored", messages=self._ignored, reason=why)
            self._ignored, self._logged_at = 0, monotonic()


class RemoteControl(Control):  # type: ignore[misc]
    """Celery's bootstep for remote control, with this module's mailbox."""

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.box = _Pidbox(c)
        self.start, self.stop, self.shutdown = self.box.start, self.box.stop, self.box.shutdown
